"""MagNet: against SciPy's divergence and naive formulas, its parts, and where it leads to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor, nn

from sanact import PGD
from sanact.autoencoders import load_autoencoders
from sanact.data import Data
from sanact.defenses import MagNet, defend
from sanact.defenses.magnet import MagNetDetector, jensen_shannon
from sanact.parts import bypass, removable
from sanact.transforms import Reformer
from tests.conftest import load_or_skip


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(144, 3)).eval()


@pytest.fixture(scope="module")
def train() -> Data:
    x = next(load_or_skip("mnist", "train").sample(200).batches(200)).x[:, :, 8:20, 8:20]
    return Data.from_tensors(x, small()(x).argmax(1), classes=("a", "b", "c"))


def test_the_divergence_is_scipys():
    z, w = 3 * draw(6, 4), 3 * draw(6, 4, seed=1)
    expected = [jensenshannon(p, q) ** 2 for p, q in zip(z.softmax(1).numpy(), w.softmax(1).numpy(), strict=True)]
    np.testing.assert_allclose(jensen_shannon(z, w), expected, rtol=1e-9)
    far = torch.tensor([[0.0, -1e4]], dtype=torch.float64).requires_grad_()
    found = jensen_shannon(far, far.detach().flip(1))
    assert found.item() == pytest.approx(np.log(2))
    assert bool(torch.autograd.grad(found.sum(), far)[0].isfinite().all())


def test_it_classifies_what_the_reformer_makes_and_refuses_what_the_autoencoders_change(train):
    model, pair, x = small(), load_autoencoders("mnist"), next(train.batches(200)).x
    for divergence in (False, True):
        defended = defend(model, MagNet(divergence=divergence), train)
        with torch.no_grad():
            logits, reformed = defended(x), pair.pooled(x)
            expected = [((x - reformed) ** 2).mean((1, 2, 3)), (x - pair.plain(x)).abs().mean((1, 2, 3))]
            if divergence:
                pairs = [[(z / t).softmax(1).double() for z in (model(x), model(reformed))] for t in (10, 40)]
                expected += [torch.tensor([jensenshannon(*both) ** 2 for both in zip(*pair, strict=True)]) for pair in pairs]
            torch.testing.assert_close(logits[:, :-1], model(reformed))
        typical = [np.quantile(score, 0.95) for score in expected]
        highest = np.max([score / t for score, t in zip(expected, typical, strict=True)], axis=0)
        refused = (logits.argmax(1) == 3).numpy()
        assert refused.sum() == 10 and highest[refused].min() > highest[~refused].max()
        np.testing.assert_allclose(defended.detector.score(defended.network, x, model(reformed)).detach(), highest, rtol=1e-3)
        with bypass(removable(defended)):
            assert torch.equal(defended(x), model(x))


def test_the_gradient_of_its_scores_is_that_of_finite_differences(train):
    defended = defend(small(), MagNet(divergence=True), train).double()
    x = (0.2 + 0.6 * torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0)).double()).requires_grad_()
    detector = defended.detector
    assert torch.autograd.gradcheck(lambda x: detector.scores(defended.network, x, defended.network(x)), x, atol=1e-6)


def test_sizes_that_pooling_does_not_divide_keep_their_shape():
    assert Reformer()(torch.rand(2, 1, 7, 5)).shape == (2, 1, 7, 5)


def test_other_channels_and_unknown_autoencoders_are_refused():
    with pytest.raises(ValueError, match="images must have 1 channels, got 3"):
        Reformer()(torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match="autoencoders must be one of mnist, or a file, got 'minst'"):
        defend(small(), MagNet(autoencoders="minst"), Data.from_tensors(torch.rand(3, 1, 8, 8), torch.zeros(3).long()))


def test_what_its_files_are_is_in_the_key():
    assert len(MagNet().files) == 16 and MagNet(autoencoders="none").files == ""


def test_reformed_digits_are_classified_and_large_changes_are_refused(net):
    data, test = load_or_skip("mnist", "train").sample(300), next(load_or_skip("mnist", "test").sample(100).batches(100))
    defended = defend(net, MagNet(), data)
    found = PGD(eps=0.3, steps=10)(net, test.x, test.y)
    with torch.no_grad():
        clean, attacked = (defended(x).argmax(1) for x in (test.x, found))
    assert (clean == test.y).sum() >= 85 and (attacked == 10).sum() >= 90
    assert MagNetDetector(load_autoencoders("mnist"), False).config == {"name": "MagNetDetector", "divergence": False}
