"""Networks that can refuse an image: what attacks, judge and rows make of the logit for it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from sanact import CW, FGSM, ILCM, PGD, RayS, Square
from sanact.attacks import APGD, BIM, FAB, MIM
from sanact.checks import fooled, withstood
from sanact.data import Data
from sanact.defenses.detector import Detector, Refusing
from sanact.evaluation.adaptive import Adaptive
from sanact.evaluation.cell import Cell
from sanact.evaluation.diagnostics import diagnose
from sanact.evaluation.judge import judge
from sanact.evaluation.rows import SCHEMA, accuracy, clean_accuracy, detection, refusals
from sanact.parts import bypass, removable

EPS = 0.3
LIMIT = 0.6


class Sums(nn.Module):
    """Three logits, each the sum of its own two pixels; no input is misclassified far from the boundary."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * x.flatten(1)[:, :6].reshape(-1, 3, 2).sum(2)


class Brightness(Detector):
    """Refuses images whose last two pixels are bright on average, which has nothing to do with their class."""

    def __init__(self, limit: float = LIMIT) -> None:
        super().__init__()
        self.limit = limit
        self.threshold, self.scale = torch.tensor(limit), torch.tensor(10.0)

    def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        return x.flatten(1)[:, 6:].mean(1)


class Odd(Detector):
    """Refuses images whose first class is too likely: an attacker must be misclassified without it."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.threshold, self.scale = torch.tensor(limit), torch.tensor(1.0)

    def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        return logits[:, 0] - logits[:, 1]


def images(n: int = 24) -> tuple[Tensor, Tensor]:
    """Of class 1, which leads the others by 4, and dark where the detector looks."""
    x = torch.full((n, 1, 2, 4), 0.4)
    x.flatten(1)[:, 2:4] = 0.6
    x.flatten(1)[:, 6:] = torch.linspace(0, 0.9, n)[:, None]
    return x, torch.ones(n, dtype=torch.long)


ATTACKS = [
    FGSM(eps=EPS),
    BIM(eps=EPS),
    ILCM(eps=EPS),
    MIM(eps=EPS),
    PGD(eps=EPS),
    PGD(eps=EPS, loss="dlr"),
    APGD(eps=EPS),
    APGD(eps=EPS, loss="targeted-dlr"),
    FAB(eps=EPS),
    Square(eps=EPS, queries=500),
    RayS(eps=EPS, queries=2000),
    Adaptive(eps=EPS, effort="quick"),
]


def test_the_refusal_is_the_largest_logit_above_the_threshold_only():
    x, _ = images()
    logits = Refusing(Sums(), Brightness())(x)
    assert logits.shape == (24, 4)
    above = x.flatten(1)[:, 6:].mean(1) > LIMIT
    assert torch.equal(logits.argmax(1) == 3, above) and bool(above.any()) and not bool(above.all())


def test_withstood_leaves_an_attacker_classes_that_are_accepted():
    logits, y = torch.tensor([[1.0, 3.0, 0.0, 2.0], [5.0, 3.0, 0.0, 2.0], [5.0, 3.0, 0.0, 6.0]]), torch.tensor([1, 1, 1])
    expected = torch.tensor([[1.0, 3.0, 0.0], [5.0, 3.0, 0.0], [5.0, 6.0, 0.0]])
    torch.testing.assert_close(withstood(logits, y), expected)
    model = Refusing(Sums(), Brightness())
    assert fooled(model, logits, y).tolist() == [False, True, False]
    assert fooled(Sums(), logits[:, :3], y).tolist() == [False, True, True]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.name} {getattr(attack, 'loss', '')}")
def test_every_attack_looks_for_what_is_misclassified_and_accepted(attack):
    """Any pixel of the first six may be moved by eps, 0.3, where 0.1 would do; bright images can be made dark enough."""
    (x, y), model = images(), Refusing(Sums(), Brightness()).eval()
    found = attack(model, x, y)
    won = fooled(model, model(found), y)
    reachable = x.flatten(1)[:, 6:].mean(1) - EPS < LIMIT - 0.1
    least = 0.5 if attack.name in ("fgsm", "square") else 1.0
    assert float(won[reachable].float().mean()) >= least


def test_carlini_and_wagner_find_the_nearest_that_is_accepted_too():
    """The detector wants class 0 to lead class 1 by no more than 1: the nearest example leads by a hair, not by more."""
    x, y = images(4)
    model = Refusing(Sums(), Odd(1.0)).eval()
    found = CW(search_steps=6, steps=200, step_size=0.05)(model, x, y)
    assert bool(fooled(model, model(found), y).all())
    none = Refusing(Sums(), Odd(-20.0)).eval()  # class 1 must lead by 20, which no image of [0, 1] reaches: all are refused
    assert not bool(fooled(none, none(CW(steps=50)(none, x, y)), y).any())


def test_what_is_refused_whatever_is_done_is_won_by_nobody():
    x, y = images(4)
    model = Refusing(Sums(), Odd(-20.0)).eval()
    outcome = Adaptive(eps=EPS, effort="quick").credited(model, x, y)
    assert outcome.by == [""] * 4 and not any(outcome.failed)


def test_a_target_must_lead_the_refusal_too():
    x, _ = images(6)
    model = Refusing(Sums(), Odd(1.0)).eval()
    target = torch.zeros(6, dtype=torch.long)
    found = PGD(eps=EPS, targeted=True)(model, x, target)
    assert bool((model(found).argmax(1) == 0).all())
    unreachable = Refusing(Sums(), Odd(-20.0)).eval()
    assert not bool((unreachable(PGD(eps=EPS, targeted=True)(unreachable, x, target)).argmax(1) == 0).any())


def test_without_its_detector_the_network_refuses_nothing():
    (x, _), model = images(), Refusing(Sums(), Brightness())
    with bypass(removable(model)):
        assert not model.refuses and torch.equal(model(x), Sums()(x))
    assert model.refuses


class Set(Brightness):
    """As a defense would make it."""

    where = "the image"


def test_the_judge_tells_refused_from_right_and_wrong():
    x, y = images()
    model = Refusing(Sums(), Set()).eval()
    data = Data.from_tensors(x, y, classes=("a", "b", "c"))
    rows = judge(Cell(data=data, model=model, model_name="sums", defense=None, attack=PGD(eps=1e-3), knowledge="white-box"))
    bright = (x.flatten(1)[:, 6:].mean(1) > LIMIT).tolist()
    assert rows["clean_prediction"].to_pylist() == [~1 if one else 1 for one in bright]
    assert clean_accuracy(rows).hits == 24 - sum(bright) and refusals(rows, "clean_prediction") == sum(bright)
    assert [text == "clean" for text in rows["by"].to_pylist()] == bright
    np.testing.assert_allclose(rows["clean_score"].to_numpy(), 10 * (x.flatten(1)[:, 6:].mean(1) - LIMIT).numpy(), atol=1e-5)


def rows_of(**columns) -> pa.Table:
    n = len(columns["label"])
    filled = {"index": range(n), "linf": [0.1] * n, "l2": [0.1] * n, "by": [""] * n, "failed": [""] * n, "passes": [1] * n}
    filled |= {"clean_score": [None] * n, "score": [None] * n} | columns
    return pa.table({field.name: pa.array(filled[field.name], field.type) for field in SCHEMA}, schema=SCHEMA)


def test_clean_images_refused_are_errors_and_adversarial_ones_are_withstood_unless_the_image_itself_is_refused():
    rows = rows_of(label=[0, 0, 0, 0, 0], clean_prediction=[0, 0, 0, ~0, ~0], prediction=[0, ~2, 2, ~2, 0])
    assert clean_accuracy(rows).hits == 3
    assert accuracy(rows).hits == 3  # the first, the second, and the last, whose example is classified and accepted
    assert refusals(rows) == 2


def test_detection_is_of_examples_that_the_classifier_alone_gets_wrong():
    rows = rows_of(
        label=[0] * 4,
        clean_prediction=[0] * 4,
        prediction=[1, ~1, ~1, ~0],
        clean_score=[-4.0, -3.0, -2.0, -1.0],
        score=[-3.5, 1.0, 2.0, 9.0],
    )
    found = detection(rows)
    assert found is not None
    assert found.auroc == pytest.approx((1 + 4 + 4) / 12) and found.n == 3  # pairs in the right order, of 3 x 4
    assert found.detected == pytest.approx(200 / 3)
    assert detection(rows_of(label=[0], clean_prediction=[0], prediction=[1])) is None


def images_for(detector: Detector) -> Data:
    x = torch.rand(400, 1, 2, 4, generator=torch.Generator().manual_seed(0))
    return Data.from_tensors(x, Sums()(x).argmax(1), classes=("a", "b", "c"))


def test_the_threshold_refuses_5_percent_of_the_clean_images_it_is_set_on():
    detector, data = Brightness(), images_for(Brightness())
    detector.fit(Sums(), data)
    scores = next(data.batches(400)).x.flatten(1)[:, 6:].mean(1)
    assert int((scores > detector.threshold).sum()) == 20
    assert float(detector.threshold) == pytest.approx(float(scores.double().quantile(0.95)))


def test_refuses_a_threshold_that_refuses_nothing_or_all():
    class Constant(Brightness):
        def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
            return torch.zeros(len(x))

    class Steps(Brightness):
        def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
            return (x.flatten(1)[:, 6] > 0.5).float()

    class Broken(Brightness):
        def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
            return torch.full((len(x),), torch.nan)

    for kind in (Constant, Steps):
        with pytest.raises(ValueError, match=r"it would refuse 0 % of 400 clean images, where 5 % are wanted"):
            kind().fit(Sums(), images_for(kind()))
    with pytest.raises(ValueError, match="scores of clean images must be finite"):
        Broken().fit(Sums(), images_for(Broken()))


def test_one_that_was_never_fitted_says_so():
    class Bare(Brightness):
        def __init__(self) -> None:
            Detector.__init__(self)

    with pytest.raises(RuntimeError, match="fit it to clean images first"):
        Refusing(Sums(), Bare())(images()[0])


def test_a_detector_that_detaches_its_score_is_called_suspect():
    """The planted bug: no gradient tells the attacker how to be accepted, so that a refusal looks like robustness."""

    class Detached(Odd):
        def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
            return super().score(network, x, logits).detach()

    x, y = images(12)
    honest, masked = (Refusing(Sums(), kind(-5.0)).eval() for kind in (Odd, Detached))
    attack = PGD(eps=0.45, loss="margin", steps=100)
    left = [int((~fooled(model, model(attack(model, x, y)), y)).sum()) for model in (honest, masked)]
    assert left[0] < left[1]
    assert any(check.failed for check in diagnose(attack, masked, x, y))
