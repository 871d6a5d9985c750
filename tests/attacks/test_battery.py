"""What every attack in ATTACKS must do, whatever it computes."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sanact.attacks import ATTACKS, CW, Attack, BudgetedAttack, GradientAttack, Suite
from sanact.attacks.projections import l2_norm
from sanact.attacks.suite import StageWarning
from sanact.data import Batch
from tests.conftest import Linear

EPS = {"Linf": 0.3, "L2": 5.0, "L1": 25.0}
QUICK: dict[str, dict[str, Any]] = {
    "cw": {"search_steps": 2, "steps": 30, "step_size": 0.2, "initial_c": 10.0},
    "apgd": {"steps": 25},
    "square": {"queries": 150},
    "fab": {"steps": 10, "targets": 2},
    "rays": {"queries": 400},
    "autoattack": {"steps": 5, "targets": 2, "queries": 20},
}
ALL: list[Attack] = [
    kind(eps=EPS[norm], norm=norm, **QUICK.get(name, {}))
    for name, kind in ATTACKS.items()
    if issubclass(kind, BudgetedAttack)
    for norm in kind.norms
]
ALL += [kind(**QUICK.get(name, {})) for name, kind in ATTACKS.items() if not issubclass(kind, BudgetedAttack)]


def title(attack: Attack) -> str:
    return f"{attack.name}-{attack.budget[0]}"


def each(attacks: list[Attack]) -> Any:
    return pytest.mark.parametrize("attack", attacks, ids=title)


GRADIENT = [attack for attack in ALL if isinstance(attack, GradientAttack)]
TARGETED = [replace(attack, targeted=True) for attack in ALL if attack.name not in ("ilcm", "rays", "autoattack")]
BALL = [attack for attack in ALL if isinstance(attack, BudgetedAttack)]


@pytest.fixture
def model() -> nn.Module:
    """Five classes, smooth, float64, with modules whose training flag matters and a parameter that is frozen."""
    generator = torch.Generator().manual_seed(3)
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 5)
    ).double()
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2
    layers[0].bias.requires_grad_(False)
    return layers.eval()


@pytest.fixture
def batch(model: nn.Module) -> tuple[Tensor, Tensor]:
    """12 images with black and white pixels, and what the model takes them for."""
    x = (1.4 * torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64) - 0.2).clamp(0, 1)
    return x, model(x).argmax(1)


def distance(adversarial: Tensor, x: Tensor, norm: str) -> Tensor:
    return (adversarial - x).flatten(1).norm(p={"Linf": torch.inf, "L2": 2, "L1": 1}[norm], dim=1)


def generators(index: Tensor) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + int(i)) for i in index]


@each([*ALL, *TARGETED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_result_is_a_valid_image_inside_the_ball(attack, model, batch, dtype):
    x, y = batch[0].to(dtype), batch[1]
    before = x.clone()
    adversarial = attack(model.to(dtype), x, y)
    assert adversarial.shape == x.shape and adversarial.dtype == dtype and not adversarial.requires_grad
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    norm, eps = attack.budget
    assert eps is None or distance(adversarial, x, norm).max() <= eps * (1 + 1e-6)
    assert torch.equal(x, before)


def trace(model: nn.Module) -> list[object]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [[module.training, *(len(getattr(module, kind)) for kind in hooks)] for module in model.modules()]
    parameters = [[parameter.requires_grad, parameter.grad] for parameter in model.parameters()]
    return [modules, parameters, {name: value.tolist() for name, value in model.state_dict().items()}]


@each(ALL)
def test_leaves_the_model_as_it_was(attack, model, batch):
    before = trace(model)
    attack(model, *batch)
    assert trace(model) == before


def fails(attack: Attack, kind: type[Exception], message: str) -> AbstractContextManager[object]:
    """What a model without a gradient does to an attack: an error; a suite goes on with its other stages, and warns."""
    return pytest.warns(StageWarning, match=message) if isinstance(attack, Suite) else pytest.raises(kind, match=message)


@each(ALL)
def test_leaves_the_model_as_it_was_after_an_error_inside_it(attack, model, batch):
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) > isinstance(attack, Suite):  # which looks at the images before its first stage
            raise KeyError("inside")

    model[2].register_forward_hook(fail)
    before = trace(model)
    with fails(attack, KeyError, "inside"):
        attack(model, *batch)
    assert trace(model) == before
    assert torch.is_grad_enabled()


@each(ALL)
def test_computes_no_gradients_of_the_parameters(attack, model, batch):
    wanted: set[bool] = set()
    model.register_forward_hook(lambda *_: wanted.update(parameter.requires_grad for parameter in model.parameters()))
    attack(model, *batch)
    assert wanted == {False}


@each(ALL)
def test_global_random_state_is_untouched(attack, model, batch):
    before = torch.get_rng_state()
    attack(model, *batch)
    assert torch.equal(torch.get_rng_state(), before)


@each(ALL)
def test_same_seed_same_result(attack, model, batch):
    first, second = (attack(model, *batch, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(attack(model, *batch), attack(model, *batch, generator=torch.Generator().manual_seed(0)))


@each([*ALL, *(attack.for_replay() for attack in GRADIENT)])
@pytest.mark.parametrize("sizes", [[1] * 12, [5, 7]], ids=["one by one", "two batches"])
def test_an_example_does_not_depend_on_its_batch(attack, model, batch, sizes):
    x, y = batch
    together = attack(model, x, y, generator=generators(torch.arange(12)))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for part in order.split(sizes):
        torch.testing.assert_close(attack(model, x[part], y[part], generator=generators(part)), together[part])


@each(ALL)
def test_takes_any_callable(attack, model, batch):
    assert torch.equal(attack(lambda x: model(x), *batch), attack(model, *batch))


@each(ALL)
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8], ids=str)
def test_takes_labels_of_any_integer_type(attack, model, batch, dtype):
    x, y = batch
    assert torch.equal(attack(model, x, y.to(dtype)), attack(model, x, y))


@each(ALL)
def test_memory_layout_does_not_matter(attack, model, batch):
    x, y = batch
    torch.testing.assert_close(attack(model, x.mT.contiguous().mT, y), attack(model, x, y))


@each(ALL)
def test_takes_an_empty_batch(attack, model):
    assert attack(model, torch.empty(0, 1, 6, 6).double(), torch.empty(0, dtype=torch.long)).shape == (0, 1, 6, 6)


@each(ALL)
def test_fools_our_network(attack, net: nn.Module, images: Batch):
    missed = net(attack(net, images.x, images.y)).argmax(1) != images.y
    assert missed.double().mean() >= (0.3 if attack.name == "fgsm" else 0.7)


@each(TARGETED)
def test_targeted_reaches_its_targets(attack, net: nn.Module, images: Batch):
    targets = (images.y + 1) % 10
    reached = net(attack(net, images.x, targets)).argmax(1) == targets
    assert reached.double().mean() >= (0.05 if attack.name in ("fgsm", "square") else 0.4)


@each(GRADIENT)
def test_early_stop_changes_nothing_about_who_is_fooled(attack, net: nn.Module, images: Batch):
    close = replace(attack, eps=attack.eps / 3)
    early, late = (a(net, images.x, images.y) for a in (close, close.for_replay()))
    assert torch.equal(net(early).argmax(1) == images.y, net(late).argmax(1) == images.y)


@each(BALL)
def test_an_example_already_misclassified_comes_back_unchanged(attack, model, batch):
    x, y = batch
    wrong = torch.arange(12) < 4
    adversarial = attack(model, x, torch.where(wrong, (y + 1) % 5, y))
    assert torch.equal(adversarial[wrong], x[wrong])
    assert not torch.equal(adversarial[~wrong], x[~wrong])


@each([attack for attack in TARGETED if isinstance(attack, BudgetedAttack)])
def test_an_example_already_at_its_target_comes_back_unchanged(attack, model, batch):
    x, y = batch
    assert torch.equal(attack(model, x, y), x)


@each([attack.for_replay() for attack in GRADIENT])
def test_each_example_has_the_budget_it_was_given(attack, linear: Linear, points: Tensor):
    eps = torch.linspace(0, 0.2, len(points))
    y = linear(points).argmax(1)
    torch.testing.assert_close(distance(attack(linear, points, y, eps=eps), points, attack.norm), eps.double())


@each([*BALL, *(replace(a, step_size=0.1) for a in GRADIENT if hasattr(a, "step_size"))])
def test_no_budget_returns_the_input(attack, model, batch):
    x, y = batch
    assert torch.equal(attack(model, x, y, eps=torch.zeros(12)), x)


@each([*ALL, *TARGETED])
def test_config_makes_it_again(attack):
    config = attack.config
    again = ATTACKS[config.pop("name")](**config)
    assert again == attack and hash(again) == hash(attack)


@each(ALL)
def test_is_frozen(attack):
    with pytest.raises(FrozenInstanceError):
        attack.targeted = True


@each([*GRADIENT, *(a for a in TARGETED if isinstance(a, GradientAttack))])
@pytest.mark.parametrize(("share", "succeeds"), [(1.05, True), (0.99, False)], ids=["outside", "inside"])
def test_succeeds_just_beyond_the_boundary_and_not_before(attack, linear, points, share, succeeds):
    predicted = linear(points).argmax(1)
    y = 1 - predicted if attack.targeted else predicted
    attack = replace(attack, steps=100) if attack.norm == "L1" else attack  # it spends the first 60 % of them outside the ball
    adversarial = attack(linear, points, y, eps=share * linear.distance(points, attack.norm))
    assert ((linear(adversarial).argmax(1) != predicted) == succeeds).all()


@pytest.mark.parametrize("targeted", [False, True])
def test_cw_finds_the_nearest_adversarial_point(linear, points, targeted):
    predicted = linear(points).argmax(1)
    adversarial = CW(targeted=targeted, initial_c=0.1, steps=300)(linear, points, 1 - predicted if targeted else predicted)
    assert (linear(adversarial).argmax(1) != predicted).all()
    ratio = l2_norm(adversarial - points) / linear.distance(points, "L2")
    assert ratio.min() >= 1 and ratio.max() < 1.03


# Models as people have them.


@each(ALL)
def test_a_model_may_write_into_its_input(attack, model, batch):
    x, y = batch
    shifted = nn.Sequential(InPlace(), model).eval()
    y = shifted(x.clone()).argmax(1)
    before = x.clone()
    adversarial = attack(shifted, x, y)
    assert torch.equal(x, before)
    assert torch.equal(adversarial, attack(lambda x: model(3 * (x - 0.5)), x, y))


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).mul_(3)


@each([*ALL, *TARGETED, *(replace(a, loss="dlr") for a in GRADIENT)])
@pytest.mark.parametrize("classes", [2, 3])
def test_classes_left_out_with_minus_infinity_are_as_good_as_with_a_large_number(attack, model, batch, classes):
    x, _ = batch
    infinite, large = (
        lambda x, value=value: model(x).masked_fill(torch.arange(5) >= classes, value) for value in (-torch.inf, -1e4)
    )
    y = infinite(x).topk(2, dim=1).indices[:, int(attack.targeted)]
    won, truth = ((large(attack(kind, x, y)).argmax(1) == y) == attack.targeted for kind in (infinite, large))
    assert won.sum() >= truth.sum()


@each(ALL)
def test_infinite_gradients_stop_nobody(attack, model, batch):
    """At black pixels the root has an infinite slope; a smooth twin, whose root begins a little above 0, has not."""
    x, _ = batch
    steep, smooth = (lambda x, lift=lift: model((x + lift).sqrt()) for lift in (0.0, 1e-3))
    y = smooth(x).argmax(1)
    x, y = x[steep(x).argmax(1) == y], y[steep(x).argmax(1) == y]
    if isinstance(attack, BudgetedAttack):
        attack = replace(attack, eps=attack.eps / 3)
    left, truth = ((kind(attack(kind, x, y)).argmax(1) == y).sum() for kind in (steep, smooth))
    assert (x == 0).any() and len(x) > 5 and left <= truth + 1


@each(ALL)
@pytest.mark.parametrize("scale", [1e30, 1e-30], ids=["huge", "tiny"])
def test_the_scale_of_the_logits_is_no_defense(attack, linear: Linear, points: Tensor, scale):
    """The margin is what is climbed: beyond 1e30 the cross-entropy is flat, as it should be."""
    if attack.name == "cw" and scale < 1:
        pytest.skip("its objective weighs logits against distances, by a c of at most 1e10")
    if isinstance(attack, GradientAttack):
        attack = replace(attack, loss="margin")
    x, y = points.float(), linear(points).argmax(1)
    plain, scaled = (lambda x, scale=scale: scale * linear(x.double()).float() for scale in (1, scale))
    left, truth = ((plain(attack(kind, x, y)).argmax(1) == y).sum() for kind in (scaled, plain))
    assert left <= truth < len(x)


@each(ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_logits_may_have_another_dtype_than_images(attack, model, batch, dtype):
    x, y = batch[0].float(), batch[1]
    model = model.float()
    adversarial = attack(lambda x: model(x).to(dtype), x, y)
    won, truth = ((model(found).argmax(1) != y).sum() for found in (adversarial, attack(model, x, y)))
    assert adversarial.dtype == torch.float32 and won >= truth - 2


@each(ALL)
def test_inference_mode_changes_nothing(attack, model, batch):
    x, y = batch
    expected = attack(model, x, y)
    with torch.inference_mode():
        assert torch.equal(attack(model, x, y), expected)
        made = x.clone(), y.clone()
        assert torch.equal(attack(model, *made), expected)
    assert torch.equal(attack(model, *made), expected)


@each(ALL)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*not supported")
def test_takes_torchscript(attack, model, batch, frozen):
    script = torch.jit.script(model)
    script = torch.jit.freeze(script) if frozen else copy.deepcopy(script)
    torch.testing.assert_close(attack(script, *batch), attack(model, *batch))


@each(ALL)
def test_takes_images_a_rounding_outside(attack, model, batch):
    x, y = batch
    off = x + 5e-8 * (x == 1) - 3e-8 * (x == 0)
    assert off.max() > 1 and off.min() < 0
    assert torch.equal(attack(model, off, y), attack(model, x, y))


# Bad input: what came, what is allowed, and which attack.


@each(ALL)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x + 0.5, y), ValueError, r"x must lie in \[0, 1\], got \[0\.5, 1\.5\]"),
        (lambda x, y: (x - 0.5, y), ValueError, r"x must lie in \[0, 1\], got \[-0\.5, 0\.5\]"),
        (lambda x, y: (x * torch.nan, y), ValueError, r"x must lie in \[0, 1\], got \[nan, nan\]"),
        (lambda x, y: (x.long(), y), TypeError, r"x must be of a float dtype, got torch\.int64"),
        (
            lambda x, y: (x.half(), y),
            TypeError,
            r"x must be torch\.float32 or torch\.float64, got torch\.float16, .*half precision",
        ),
        (lambda x, y: (x.bfloat16(), y), TypeError, r"x must be torch\.float32 or torch\.float64, got torch\.bfloat16"),
        (lambda x, y: (x.numpy(), y), TypeError, "x must be a tensor, got ndarray"),
        (lambda x, y: (x, y.double()), TypeError, r"y must hold class indices, got torch\.float64"),
        (lambda x, y: (x, y[:, None]), ValueError, r"x must be \(N, C, H, W\) and y \(N,\), got \(12, 1, 6, 6\) and \(12, 1\)"),
        (lambda x, y: (x, torch.full_like(y, 5)), ValueError, r"y must lie in 0\.\.4, got 5\.\.5"),
        (lambda x, y: (x, torch.full_like(y, -1)), ValueError, r"y must lie in 0\.\.4, got -1\.\.-1"),
    ],
    ids=[
        "above 1",
        "below 0",
        "nan",
        "integer x",
        "half x",
        "bfloat x",
        "array x",
        "float y",
        "shape of y",
        "y too large",
        "y negative",
    ],
)
def test_bad_examples(attack, model, batch, change, error, message):
    with pytest.raises(error, match=rf"{message}.*\(attack '{attack.name}'\)"):
        attack(model, *change(*batch))


@each(ALL)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda z: z * torch.nan, "the model returned NaN logits for 12 of 12 examples"),
        (lambda z: z[:, :, None], r"the model must return logits \(12, classes\), got \(12, 5, 1\)"),
        (lambda z: z[:3], r"the model must return logits \(12, classes\), got \(3, 5\)"),
        (lambda z: z[:, :1], r"two logits or more .*, got \(12, 1\): with a single column"),
        (lambda z: z[:, 0], r"two logits or more .*, got \(12,\): with a single column"),
        (lambda z: z / 0, r"the model returned \+inf logits for 12 of 12 examples|NaN"),
    ],
    ids=["nan", "rank", "length", "one column", "no column", "infinite"],
)
def test_bad_models(attack, model, batch, wrong, message):
    with pytest.raises(ValueError, match=rf"{message}.*\(attack '{attack.name}'\)"):
        attack(lambda x: wrong(model(x)), *batch)


@each(ALL)
@pytest.mark.parametrize(
    "wrap", [lambda z: (z, z), lambda z: {"logits": z}, lambda z: z.detach().numpy(), lambda z: z.argmax(1)]
)
def test_refuses_outputs_that_are_no_logits(attack, model, batch, wrap):
    with pytest.raises(TypeError, match=rf"the model must return (a tensor of )?logits.* got .*\(attack '{attack.name}'\)"):
        attack(lambda x: wrap(model(x)), *batch)


@each(ALL)
@pytest.mark.parametrize("generator", [3, "seed", [1] * 12], ids=str)
def test_refuses_generators_that_are_none(attack, model, batch, generator):
    with pytest.raises(
        TypeError, match=rf"generator must be a torch\.Generator, or a list of them.*\(attack '{attack.name}'\)"
    ):
        attack(model, *batch, generator=generator)


@each([attack for attack in ALL if attack.name not in ("square", "rays")])
def test_refuses_a_model_that_detaches_its_input(attack, model, batch):
    with fails(attack, ValueError, "logits are detached from its input: no gradient leads back"):
        attack(lambda x: model(x.detach()), *batch)


@each([attack for attack in ALL if attack.name not in ("square", "rays")])
def test_refuses_gradients_that_are_nan(attack, model, batch):
    met = {"autoattack": "(apgd|fab)"}.get(attack.name, attack.name)
    with fails(attack, ValueError, rf"the gradient of the loss is NaN for 12 of 12 examples.*\(attack '{met}'\)"):
        attack(lambda x: (z := model(x)) + (z - z.detach()).abs().sqrt(), *batch)


@each(ALL)
def test_refuses_a_model_in_training_mode(attack, model, batch):
    model[4].train()
    with pytest.raises(ValueError, match=rf"evaluation mode, got training mode in '4' .*\(attack '{attack.name}'\)"):
        attack(model, *batch)


@each(ALL)
def test_refuses_a_wrong_number_of_generators(attack, model, batch):
    with pytest.raises(ValueError, match=rf"one per example: 12, got 1 \(attack '{attack.name}'\)"):
        attack(model, *batch, generator=generators(torch.arange(1)))


@each(ALL)
def test_warns_of_probabilities(attack, model, batch):
    with pytest.warns(UserWarning, match="probabilities in place of logits"):
        attack(nn.Sequential(model, nn.Softmax(1)).eval(), *batch)
