"""Generative classifiers against the formula in NumPy, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sanact.data import Data
from sanact.defenses import GenerativeLogits, defend
from sanact.defenses.generative_logits import LATENT, DeepBayes, Evidence, Improbable
from sanact.objectives import Step
from tests.conftest import load_or_skip


def small(draws: int = 3) -> DeepBayes:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DeepBayes(pixels=16, classes=3, draws=draws).double().eval().requires_grad_(False)


X = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def normal(z: np.ndarray, mean: np.ndarray | float, std: np.ndarray | float) -> float:
    """log of the normal density, up to a constant that cancels."""
    return float((-((z - mean) ** 2) / (2 * std**2) - np.log(std * np.ones_like(z))).sum())


def joint(model: DeepBayes, image: np.ndarray, label: int, noise: np.ndarray) -> float:
    """log of the mean weight p(z) p(y | z) p(x | z, y) / q(z | x, y) over the samples."""
    w = {name: value.numpy() for name, value in model.state_dict().items()}
    hidden = np.maximum(w["from_image.weight"] @ image + w["from_image.bias"] + w["from_class.weight"][:, label], 0)
    cause = w["cause.weight"] @ hidden + w["cause.bias"]
    mean, std = cause[:LATENT], np.exp(cause[LATENT:])
    weights = []
    for one in noise:
        z = mean + std * one
        answer = w["label.2.weight"] @ np.maximum(w["label.0.weight"] @ z + w["label.0.bias"], 0) + w["label.2.bias"]
        inner = w["from_cause.weight"] @ z + w["from_cause.bias"] + w["with_class.weight"][:, label]
        drawn = 1 / (1 + np.exp(-(w["image.weight"] @ np.maximum(inner, 0) + w["image.bias"])))
        likelihood = -((image - drawn) ** 2).sum()
        class_given_cause = answer[label] - np.log(np.exp(answer).sum())
        weights.append(normal(z, 0.0, 1.0) - normal(z, mean, std) + class_given_cause + likelihood)
    return float(np.log(np.mean(np.exp(weights))))


def test_the_logits_are_joint_likelihoods_sample_by_sample():
    model = small()
    expected = [[joint(model, x.flatten().numpy(), label, model.noise.numpy()) for label in range(3)] for x in X]
    np.testing.assert_allclose(model(X).numpy(), expected, rtol=1e-9)


def test_in_training_it_is_the_evidence_lower_bound_of_one_sample():
    model = small().train()
    torch.manual_seed(3)
    loss, logits = Evidence()(Step(model, model, X, torch.tensor([0, 2, 1, 0]), 1.0, torch.Generator()))
    torch.manual_seed(3)
    noise = torch.randn(4, 3, LATENT, dtype=torch.float64).numpy()
    expected = [[joint(model, x.flatten().numpy(), k, noise[i, k][None]) for k in range(3)] for i, x in enumerate(X)]
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-9)
    assert loss.item() == pytest.approx(-np.mean([expected[i][k] for i, k in enumerate([0, 2, 1, 0])]) / 16)


def test_more_samples_bound_the_likelihood_more_tightly():
    images = torch.rand(1, 1, 4, 4).double().expand(500, 1, 4, 4)
    torch.manual_seed(0)
    single = float(small().train()(images).mean())  # of 500 draws of one sample
    assert single < float(small(500)(images[:1]).mean())


def test_a_gradient_passes():
    assert torch.autograd.gradcheck(small(), X[:1].clone().requires_grad_())


def test_it_refuses_images_that_are_unlikely_under_every_class():
    model = small().float()
    x = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    logits = model(x)
    scores = Improbable().score(model, x, logits)
    torch.testing.assert_close(scores, -logits.exp().sum(1).log())
    detector = Improbable()
    detector.fit(model, Data.from_tensors(x, logits.argmax(1), classes=("a", "b", "c")))
    assert int((scores > detector.threshold).sum()) == 10


def test_our_weights_classify(net):
    batch = next(load_or_skip("mnist", "test").sample(100).batches(100))
    plain = defend(net, GenerativeLogits())
    assert int((plain(batch.x).argmax(1) == batch.y).sum()) >= 75
    refusing = defend(net, GenerativeLogits(detect=True), load_or_skip("mnist", "train").sample(200))
    noise = torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert bool((refusing(noise).argmax(1) == 10).all())
    assert int((refusing(batch.x).argmax(1) == 10).sum()) <= 15


def test_it_takes_shape_and_classes_from_the_undefended_network():
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Linear(12, 7)

        def forward(self, x: Tensor) -> Tensor:
            return self.logits(x.flatten(1))

    made = GenerativeLogits().architecture(Tiny(), torch.zeros(1, 3, 2, 2)).eval()
    assert made(torch.rand(2, 3, 2, 2)).shape == (2, 7)
    with pytest.raises(ValueError, match="shape of the images cannot be found out: pass example"):
        GenerativeLogits().architecture(Tiny())


def test_bad_input():
    with pytest.raises(ValueError, match="draws must be a whole number ≥ 1, got 0"):
        GenerativeLogits(draws=0)
    with pytest.raises(ValueError, match="detect must be True or False, got 1"):
        GenerativeLogits(detect=1)
