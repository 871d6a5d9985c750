"""What an attacker may differentiate in place of the sanitizers of a defended model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sanact import KWTA, PGD, Mask, MedianFilter, NonLocalMeans, Sanitizer, sanitize
from sanact.gradients import annealed, gradient, gradient_choices

A = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Steps(Sanitizer):
    """A user's own: comparisons, through which no gradient passes."""

    def sanitize(self, maps: Tensor) -> Tensor:
        return (maps > 0).to(maps.dtype)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)]
    return nn.Sequential(*layers).double().eval()


def through(model: nn.Module, choice: str) -> Tensor:
    """The gradient of the model's outputs with respect to A."""
    a = A.clone().requires_grad_()
    with gradient(model, choice):
        (found,) = torch.autograd.grad(model(a).square().sum(), a)
    return found


@pytest.mark.parametrize(
    ("made", "choices"),
    [
        (network, ["exact"]),
        (lambda: lambda x: x, ["exact"]),
        (Steps, ["exact", "identity"]),
        (lambda: sanitize(network(), MedianFilter(3)), ["exact", "identity", "mean"]),
        (lambda: sanitize(network(), Mask(0.1)), ["exact", "identity", "sigmoid", "moving sigmoid", "leaky"]),
        (
            lambda: sanitize(network(), {"0": NonLocalMeans(), "2": KWTA()}),
            ["exact", "identity", "constant weights", "mean", "sigmoid", "moving sigmoid", "leaky"],
        ),
        (
            lambda: sanitize(network(), {"0": NonLocalMeans(), "2": MedianFilter()}),
            ["exact", "identity", "constant weights", "mean"],
        ),
    ],
    ids=["undefended", "function", "own", "one", "everywhere", "mixed", "shared name"],
)
def test_choices(made, choices):
    assert gradient_choices(made()) == choices


@pytest.mark.parametrize("choice", ["sigmoid", "Exact", ""])
def test_an_unknown_choice_is_refused(choice):
    model = sanitize(network(), MedianFilter(3))
    with (
        pytest.raises(ValueError, match=f"gradient must be one of exact, identity, mean, got '{choice}'"),
        gradient(model, choice),
    ):
        pass
    with pytest.raises(ValueError, match="gradient must be one of exact, got 'identity'"), gradient(network(), "identity"):
        pass


def test_gates_close_while_the_model_is_differentiated_and_open_again():
    model = sanitize(network(), {"0": Mask(0.1), "2": MedianFilter(3)})
    mask, _ = model.sanitizers.values()
    seen = []
    with annealed(model, "sigmoid", steps=3) as closing:
        for _ in range(4):
            a = A.clone().requires_grad_()
            closing(a)
            with torch.no_grad():
                torch.testing.assert_close(closing(A), model(A))  # nobody differentiates: no step
            seen.append(mask.gate_width)
        assert mask.gradient == "sigmoid"
    assert seen == pytest.approx([0.1, 0.1 * 0.03**0.5, 0.003, 0.1])
    assert (mask.gate_width, mask.gradient) == (0.03, "exact")
    with pytest.raises(KeyError), annealed(model, "sigmoid", steps=1) as closing:
        closing(A.clone().requires_grad_())
        raise KeyError
    assert mask.gate_width == 0.03


def test_a_narrower_gate_has_another_gradient():
    model = sanitize(network(), {"0": Mask(0.1)})
    (mask,) = model.sanitizers.values()
    wide, mask.gate_width = through(model, "sigmoid"), 0.003
    assert not torch.allclose(wide, through(model, "sigmoid"))


def test_the_state_before_comes_back_also_after_an_exception():
    model = sanitize(network(), {"0": MedianFilter(3), "2": Mask(0.1)})
    first, second = model.sanitizers.values()
    first.gradient = "mean"
    with gradient(model, "leaky"):
        with pytest.raises(KeyError), gradient(model, "identity"):
            assert (first.gradient, second.gradient) == ("identity", "identity")
            raise KeyError
        assert (first.gradient, second.gradient) == ("mean", "leaky")
    assert (first.gradient, second.gradient) == ("mean", "exact")


def test_in_a_mixed_plan_each_takes_its_own_or_its_first():
    model = sanitize(network(), {"0": NonLocalMeans(), "2": Mask(0.1)})
    parts = list(model.sanitizers.values())
    for choice, expected in {
        "exact": ["exact", "exact"],
        "identity": ["identity", "identity"],
        "mean": ["mean", "sigmoid"],
        "leaky": ["constant weights", "leaky"],
    }.items():
        with gradient(model, choice):
            assert [part.gradient for part in parts] == expected


def test_one_without_surrogates_passes_gradients_as_they_are():
    model = nn.Sequential(Steps(), Mask(0.1))
    with gradient(model, "leaky"):
        assert [part.gradient for part in model] == ["identity", "leaky"]


def test_identity_through_a_network_is_the_gradient_without_sanitizers_at_the_sanitized_activations():
    """By hand: the chain rule with each sanitizer left out of it."""
    model = network()
    first, second = MedianFilter(3), Mask(0.1)
    a = A.clone().requires_grad_()
    hidden = model[1](model[0](a))
    clean = first(hidden).detach().requires_grad_()
    deeper = model[3](model[2](clean))
    cleaner = second(deeper).detach().requires_grad_()
    (back,) = torch.autograd.grad(model[5](model[4](cleaner)).square().sum(), cleaner)
    (back,) = torch.autograd.grad(deeper, clean, back)
    (expected,) = torch.autograd.grad(hidden, a, back)
    defended = sanitize(model, {"0": first, "2": second})
    torch.testing.assert_close(through(defended, "identity"), expected)
    assert not torch.allclose(through(defended, "exact"), expected)


def test_what_is_infinite_stays_so():
    a = torch.tensor([[1.0, float("inf"), 2.0, 0.5]])
    sanitizer = MedianFilter(3)
    for choice in gradient_choices(sanitizer):
        with gradient(sanitizer, choice):
            assert torch.equal(sanitizer(a.clone().requires_grad_()), sanitizer(a))


def test_without_a_gradient_it_is_an_error_and_not_zero():
    sanitizer = Steps()
    sanitizer.where = "conv1"
    a = A.clone().requires_grad_()
    out = sanitizer(a)
    assert torch.equal(out, (A > 0).double())
    with pytest.raises(RuntimeError, match=r"no gradient through sanitizer 'Steps' on 'conv1': .* 'identity' or a surrogate"):
        out.sum().backward()
    assert a.grad is None
    assert torch.equal(through(sanitizer, "identity"), 2 * (A > 0))


def test_an_attack_on_it_fails_loudly_unless_it_is_passed_by():
    defended = nn.Sequential(Steps(), network()).eval()
    x, y = torch.rand(4, 3, 6, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    attack = PGD(eps=0.1, steps=2, early_stop=False)
    with pytest.raises(RuntimeError, match="no gradient through sanitizer 'Steps'"):
        attack(defended, x, y)
    with gradient(defended, "identity"):
        assert not torch.equal(attack(defended, x, y), x)
