"""Local intrinsic dimensionality: against naive loops, a known dimension, and scikit-learn's regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from sanact import PGD
from sanact.data import Data
from sanact.defenses import LocalIntrinsicDimensionality, defend
from sanact.defenses.layers import layer_outputs, won_by
from sanact.defenses.lid import LIDDetector, lid
from sanact.gradients import gradient_choices
from sanact.parts import bypass, removable
from tests.conftest import load_or_skip
from tests.reference import detectors as naive


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 3)).eval()


def images(n: int, seed: int = 0) -> Data:
    x = draw(n, 1, 6, 6, seed=seed).float().sigmoid()
    return Data.from_tensors(x, small()(x).argmax(1), classes=("a", "b", "c"))


def test_it_is_the_formula_in_loops():
    a, among = draw(7, 5), draw(20, 5, seed=1)
    for k in (2, 6, 20):
        np.testing.assert_allclose(lid(a, among, k), naive.lid(a.numpy(), among.numpy(), k), rtol=1e-9)
    np.testing.assert_allclose(lid(a.float(), among.float(), 6), naive.lid(a.numpy(), among.numpy(), 6), rtol=1e-3)


@pytest.mark.parametrize("dimensions", [1, 2, 4])
def test_points_spread_evenly_over_a_plane_have_its_dimension(dimensions):
    generator = torch.Generator().manual_seed(0)
    plane = draw(dimensions, 12)
    among = (2 * torch.rand(4000, dimensions, generator=generator, dtype=torch.float64) - 1) @ plane
    points = (torch.rand(200, dimensions, generator=generator, dtype=torch.float64) - 0.5) @ plane
    assert float(lid(points, among, 50).mean()) == pytest.approx(dimensions, rel=0.08)


def test_its_gradient_is_that_of_finite_differences():
    a = draw(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: lid(a, draw(9, 4, seed=1), 5), a)


def test_points_that_are_their_own_neighbours_have_finite_dimensions_and_gradients():
    among = torch.cat([draw(5, 4), torch.zeros(6, 4)]).float()
    a = among.clone().requires_grad_()
    found = lid(a, among, 3)
    (slope,) = torch.autograd.grad(found.sum(), a)
    assert bool(found.isfinite().all()) and bool(slope.isfinite().all())


def test_more_neighbours_than_points_are_refused():
    with pytest.raises(ValueError, match="neighbours must be at most the 4 points that they are among, got 5"):
        lid(draw(2, 3), draw(4, 3), 5)
    with pytest.raises(ValueError, match="neighbours must be at most reference, the images that they are among, 10, got 20"):
        LocalIntrinsicDimensionality(reference=10)


def test_the_regression_is_scikit_learns():
    normal, adversarial = draw(40, 3), draw(30, 3, seed=1) + 1
    detector = LIDDetector(2).double()
    detector.regress(normal, adversarial)
    x, y = torch.cat([normal, adversarial]).numpy(), np.repeat([0, 1], [40, 30])
    scaler = StandardScaler().fit(x)
    expected = LogisticRegression(class_weight="balanced").fit(scaler.transform(x), y).decision_function(scaler.transform(x))
    detector.dimensions = lambda outputs: outputs[0]
    np.testing.assert_allclose(detector.judge([torch.from_numpy(x)]), expected, rtol=1e-9)


def test_a_detector_is_fitted_to_both_kinds_of_images():
    with pytest.raises(ValueError, match="must be fitted to normal and to adversarial images, got 0 and 3"):
        LIDDetector(2).regress(draw(0, 2), draw(3, 2))
    with pytest.raises(ValueError, match="needs clean and adversarial images to be fitted on, and PGD.* won none of the 60"):
        won_by(small(), images(60), PGD(eps=1e-6, steps=1), "here")
    with pytest.raises(ValueError, match="needs twice as many images as reference, 30, got 50"):
        defend(small(), LocalIntrinsicDimensionality(neighbours=5, reference=30), images(50))


def test_the_score_is_of_the_image_alone_and_looks_at_each_layer_in_the_pass_that_makes_the_logits():
    model = small()
    detected = defend(model, LocalIntrinsicDimensionality(neighbours=5, reference=30, eps=0.2), images(200))
    x = next(images(9, seed=3).batches(9)).x
    together, alone = detected(x), torch.cat([detected(one) for one in x.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(together[:, :-1], model(x))
    with layer_outputs(model, (nn.Conv2d, nn.Linear)) as outputs:
        model(x)
    torch.testing.assert_close(outputs, [model[0](x), model(x)])
    assert detected.detector.dimensions(outputs).shape == (9, 2)
    with bypass(removable(detected)):
        assert torch.equal(detected(x), model(x))
    assert gradient_choices(detected) == ["exact"]
    assert not any(module._forward_hooks for module in detected.modules())


def test_a_network_without_layers_to_look_at_is_refused():
    with pytest.raises(ValueError, match="layers of the kind Conv2d or Linear, and Flatten has none"):
        LIDDetector(2).outputs_of(nn.Flatten(), torch.zeros(1, 1, 2, 2))


def test_it_detects_examples_of_attackers_who_do_not_know_of_it(net):
    train, test = load_or_skip("mnist", "train").sample(260), next(load_or_skip("mnist", "test").sample(60).batches(60))
    detected = defend(net, LocalIntrinsicDimensionality(reference=100, steps=5), train)
    found = PGD(eps=0.3, steps=10)(net, test.x, test.y)
    refused = [detected(x).argmax(1) == 10 for x in (test.x, found)]
    assert refused[0].sum() <= 12 and refused[1].sum() >= 20
