"""Statistics of convolution filters: against NumPy, SciPy and scikit-learn, and the cascade they make."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn

from sanact import PGD
from sanact.data import Data
from sanact.defenses import FilterStatistics, defend
from sanact.defenses.filter_statistics import FilterDetector, Stage, mean_filter, percentiles, spread_percentiles
from sanact.gradients import gradient, gradient_choices
from sanact.parts import bypass, removable
from tests.conftest import load_or_skip


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        return nn.Sequential(*layers).eval()


def images(n: int, seed: int = 0) -> Data:
    x = draw(n, 1, 8, 8, seed=seed).float().sigmoid()
    return Data.from_tensors(x, small()(x).argmax(1), classes=("a", "b", "c"))


def test_the_statistics_are_numpys_percentiles_and_scikit_learns_components():
    clean, output = draw(10, 3, 5, 4), draw(6, 3, 5, 4, seed=1)
    places = output.flatten(2).numpy()
    expected = [np.percentile(places, share, axis=2) for share in (0, 25, 50, 75, 100)]
    whitened = PCA(whiten=True).fit(clean.permute(0, 2, 3, 1).reshape(-1, 3).numpy())
    coefficients = [whitened.transform(image.T) for image in places]
    expected.append(np.stack([np.abs(of).mean(0) for of in coefficients]))
    np.testing.assert_allclose(Stage(clean).statistics(output, percentiles), np.concatenate(expected, 1), rtol=1e-9, atol=1e-12)


def test_components_that_only_rounding_tells_apart_are_left_out():
    """Eight channels of one input and two taps vary in two directions; the rest is rounding, blown up to size 1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolution = nn.Conv2d(1, 8, (1, 2))
    x = draw(20, 1, 6, 6).float().relu()
    with torch.no_grad():
        stage, outputs = Stage(convolution(x)), [convolution(image) for image in (x, x + 1e-6)]
    assert stage.spread.shape == (2,) and stage.components.shape == (2, 8)
    before, after = (stage.statistics(output, percentiles) for output in outputs)
    assert before.shape == (20, 42)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=0)  # a millionth of gray moves no statistic


def test_a_stage_decides_as_scikit_learns_machine_and_passes_on_99_percent_of_the_adversarial():
    normal, adversarial = draw(60, 5), draw(200, 5, seed=1) + 0.7
    stage = Stage(draw(4, 2, 3, 3))
    stage.fit(normal, adversarial)
    x, y = torch.cat([normal, adversarial]).numpy(), np.repeat([0, 1], [60, 200])
    machine = make_pipeline(StandardScaler(), SVC(kernel="linear", class_weight="balanced")).fit(x, y)
    ours, theirs = stage.decide(torch.from_numpy(x)).numpy(), machine.decision_function(x)
    np.testing.assert_allclose(ours - ours[0], theirs - theirs[0], atol=1e-9)
    assert (ours[60:] > 0).sum() == 198


def test_the_mean_filter_is_scipys():
    x = draw(2, 3, 6, 5)
    np.testing.assert_allclose(mean_filter(x), uniform_filter(x.numpy(), size=(1, 1, 3, 3), mode="mirror"), atol=1e-12)


def test_its_gradient_is_that_of_finite_differences():
    stage = Stage(draw(4, 2, 3, 3))
    stage.fit(draw(20, 12), draw(20, 12, seed=1) + 1)
    output = draw(2, 2, 3, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda output: stage(output, percentiles), output)


def test_attackers_may_spread_percentiles_over_places_that_are_nearly_as_high():
    flat = torch.full((1, 1, 4, 5), 0.3, dtype=torch.float64)
    flat[0, 0, 0] = 1.0
    for function, moved in ((percentiles, 2), (spread_percentiles, 15)):
        leaf = flat.clone().requires_grad_()
        found = function(leaf)
        torch.testing.assert_close(found.detach()[0, :3], torch.full((3,), 0.3, dtype=torch.float64))
        (slope,) = torch.autograd.grad(found[0, 1], leaf)
        assert int((slope > 1e-9).sum()) == moved and slope.sum().item() == pytest.approx(1)


@pytest.fixture(scope="module")
def detected() -> nn.Module:
    return defend(small(), FilterStatistics(eps=0.2), images(300))


def test_an_image_is_suspicious_if_all_stages_find_it_so(detected):
    detector, x = detected.detector, next(images(40, seed=3).batches(40)).x
    outputs = detector.outputs_of(small(), x)
    assert [len(output[0]) for output in outputs] == [3, 4] and len(detector.stages) == 2
    decisions = torch.stack([stage(output, percentiles) for stage, output in zip(detector.stages, outputs, strict=True)])
    with torch.no_grad():
        logits = detected(x)
    torch.testing.assert_close(logits[:, 3] - logits[:, :3].amax(1), detector.scale * (decisions.amin(0) - detector.threshold))
    torch.testing.assert_close(logits[:, :3], small()(x).detach())


def test_its_answers_are_the_same_through_either_gradient(detected):
    x, slopes = next(images(5, seed=4).batches(5)).x, []
    assert gradient_choices(detected) == ["exact", "spread"]
    for choice in ("exact", "spread"):
        leaf = x.clone().requires_grad_()
        with gradient(detected, choice):
            logits = detected(leaf)
        torch.testing.assert_close(logits.detach(), detected(x).detach())
        slopes.append(torch.autograd.grad(logits[:, 3].sum(), leaf)[0])
    assert not torch.allclose(*slopes)


def test_a_stage_that_leaves_no_clean_image_is_the_last():
    x, detector = next(images(60).batches(60)).x, FilterDetector()
    detector.learn(small(), x, 1 - x.round())
    assert len(detector.stages) == 1


def test_suspicious_images_are_classified_after_the_filter(detected):
    correcting, x = (
        defend(small(), FilterStatistics(eps=0.2, correct=True), images(300)),
        next(images(200, seed=3).batches(200)).x,
    )
    with torch.no_grad():
        suspicious = detected(x).argmax(1) == 3
        expected = torch.where(suspicious[:, None], small()(mean_filter(x)), small()(x))
        torch.testing.assert_close(correcting(x), expected)
        assert 0 < int(suspicious.sum()) < 40 and not correcting.refuses
        with bypass(removable(correcting)):
            assert torch.equal(correcting(x), small()(x))


def test_it_is_fitted_to_both_kinds_of_images():
    x = next(images(20).batches(20)).x
    with pytest.raises(ValueError, match="must be fitted to normal and to adversarial images, got 0 and 20"):
        FilterDetector().learn(small(), x[:0], x)
    with pytest.raises(ValueError, match="must be fitted to normal and to adversarial images, got 4 and 0"):
        Stage(draw(4, 2, 3, 3)).fit(draw(4, 2), draw(0, 2))
    with pytest.raises(ValueError, match="layers of the kind Conv2d, and Sequential has none"):
        FilterDetector().learn(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), x, x)


def test_it_detects_examples_of_attackers_who_do_not_know_of_it(net):
    train, test = load_or_skip("mnist", "train").sample(200), next(load_or_skip("mnist", "test").sample(50).batches(50))
    detected = defend(net, FilterStatistics(steps=5), train)
    found = PGD(eps=0.3, steps=10)(net, test.x, test.y)
    with torch.no_grad():
        refused = [detected(x).argmax(1) == 10 for x in (test.x, found)]
    assert refused[0].sum() <= 10 and refused[1].sum() >= 40
