"""The odds are odd: against naive loops, a network whose statistics are known, and its draws."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from sanact import PGD
from sanact.attacks.suite import Record
from sanact.data import Data
from sanact.defenses import OddsAreOdd, defend
from sanact.defenses.odds import OddsDetector
from sanact.evaluation.adaptive import Adaptive, Campaign
from sanact.parts import bypass, parts_of, removable
from tests.conftest import load_or_skip
from tests.reference import detectors as naive


def small(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, 3)).eval()


def images(n: int, seed: int = 0) -> Data:
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return Data.from_tensors(x, small()(x).argmax(1), classes=("a", "b", "c"))


@pytest.fixture(scope="module")
def data() -> Data:
    return images(300)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return next(images(8, seed=1).batches(8)).x


def test_its_statistics_are_those_of_naive_loops(data, x):
    model, detector = small().double(), OddsDetector(0.3, 5)
    known = Data.from_tensors(next(data.batches(300)).x.double(), torch.from_numpy(data.labels))
    detector.learn(model, known)
    noise = torch.Generator().manual_seed(0)
    drawn = torch.stack([torch.randn(5, 1, 6, 6, generator=noise) for _ in range(308)]).double().numpy()

    def answer(image: np.ndarray) -> list[float]:
        return model(torch.from_numpy(image)[None])[0].tolist()

    clean = next(known.batches(300)).x.numpy()
    mean, std = naive.odds_moments(answer, clean, 0.3 * drawn[:300], classes=3)
    np.testing.assert_allclose(detector.mean, mean, atol=1e-6)
    np.testing.assert_allclose(detector.std, std, rtol=1e-6)
    points = x.double()
    expected = naive.odds_statistics(answer, points.numpy(), 0.3 * drawn[300:], mean, std)
    found = detector.statistics(model, points, model(points)).detach()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_of_a_linear_network_the_noise_alone_decides():
    """g(x, η) = (w_k - w_y) · η whatever x: μ is 0, σ is ‖w_k - w_y‖ times the size of the noise."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval()
    points = torch.rand(400, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model[1].bias.copy_(-(points.flatten(1) @ model[1].weight.T).mean(0))
    detector = OddsDetector(0.2, 20)
    detector.learn(model, Data.from_tensors(points, model(points).argmax(1)))
    size = 0.2 * (model[1].weight[0] - model[1].weight[1]).norm().item()
    np.testing.assert_allclose(detector.mean / size, np.zeros((2, 2)), atol=0.06)
    np.testing.assert_allclose(detector.std.fill_diagonal_(size) / size, np.ones((2, 2)), rtol=0.06)


def test_draws_do_not_depend_on_the_batch_and_begin_again(data, x):
    defended = defend(small(), OddsAreOdd(noise=0.3, draws=4), data)
    together = defended(x)
    assert not torch.allclose(together, defended(x))
    for model in (defended, copy.deepcopy(defended)):
        for part in parts_of(model):
            part.rewind()
        torch.testing.assert_close(torch.cat([model(one) for one in x.split(3)]), together)


def test_a_corrected_image_is_of_the_class_that_stands_out_most(data, x):
    refusing, correcting = (defend(small(), OddsAreOdd(noise=0.3, draws=4, correct=flag), data) for flag in (False, True))
    assert refusing.refuses and not correcting.refuses
    many = next(data.batches(300)).x
    suspicious = refusing(many).argmax(1) == 3
    assert 5 <= int(suspicious.sum()) <= 30
    with torch.no_grad():
        logits, corrected = small()(many), correcting(many)
    torch.testing.assert_close(corrected[~suspicious], logits[~suspicious])
    correcting.detector.rewind()
    statistics = correcting.detector.statistics(small(), many, logits)
    assert torch.equal(corrected[suspicious].argmax(1), statistics[suspicious].argmax(1))
    assert not bool((corrected[suspicious].argmax(1) == logits[suspicious].argmax(1)).any())
    for model in (refusing, correcting):
        with bypass(removable(model)):
            assert torch.equal(model(many), logits)


def test_attackers_have_gradients_and_average_over_fewer_draws_where_the_test_averages_itself(data, x):
    model = defend(small(), OddsAreOdd(noise=0.3, draws=4, correct=True), data)
    for model.detector.draws, passes in ((1, 10), (2, 5), (256, 1)):
        record = Record(x, -torch.ones(8), torch.zeros(8, dtype=torch.bool))
        assert Campaign(Adaptive(eps=0.1, effort="quick"), model, record).draws == passes
    for correct in (False, True):
        leaf = x.clone().requires_grad_()
        defended = defend(small(), OddsAreOdd(noise=0.3, draws=4, correct=correct), data)
        (slope,) = torch.autograd.grad(defended(leaf)[:, -1].sum(), leaf)
        assert bool(slope.isfinite().all()) and bool((slope != 0).any())


def test_missing_classes_and_noise_that_moves_nothing_are_refused(data):
    with pytest.raises(ValueError, match="images of each of the 3 classes, got .* of which none is put into class 1"):
        OddsDetector(0.1, 2).learn(small(), data[np.flatnonzero(data.labels != 1)])
    with pytest.raises(ValueError, match="noise of 1e-12 moves no logit"):
        OddsDetector(1e-12, 2).learn(small(), data)


def test_it_detects_examples_of_attackers_who_do_not_know_of_it(net):
    train, test = load_or_skip("mnist", "train").sample(120), next(load_or_skip("mnist", "test").sample(30).batches(30))
    detected = defend(net, OddsAreOdd(draws=3), train)
    found = PGD(eps=0.3, steps=10, early_stop=False)(net, test.x, test.y)
    with torch.no_grad():
        scores = [detected.detector.examine(net, x)[1] for x in (test.x, found)]
    assert roc_auc_score(np.repeat([0, 1], 30), torch.cat(scores)) > 0.75
