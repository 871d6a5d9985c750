"""The joint detector of feature squeezing: its score by hand, and attackers whom a saturated score does not stop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sanact.defenses.detector import Refusing
from sanact.defenses.feature_squeezing import SqueezingDetector, change, divergence
from sanact.evaluation.adaptive import Adaptive
from sanact.gradients import gradient, gradient_choices
from sanact.transforms import BitDepth, MedianSmoothing


class Two(nn.Module):
    """Two pixels decide, and are sure of it: the first near the threshold of one bit, the second far from it."""

    def forward(self, x: Tensor) -> Tensor:
        lead = 50 * (x[:, 0, 0, 0] + 4 * x[:, 0, 0, 1] - 0.9)
        return torch.stack([-lead, lead], 1)


@pytest.fixture
def model() -> nn.Module:
    detector = SqueezingDetector([BitDepth(1)])
    detector.threshold, detector.scale = torch.tensor(0.05), torch.tensor(20.0)
    return Refusing(Two(), detector).eval()


def test_the_score_is_the_largest_change_of_probabilities():
    x, network = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0)), Two()
    squeezers = [BitDepth(2), MedianSmoothing(2)]
    score = SqueezingDetector(squeezers).score(network, x, network(x))
    for i in range(4):
        answers = [network(image)[i].softmax(0).tolist() for image in (x, *(squeezer(x) for squeezer in squeezers))]
        changes = [sum(abs(p - q) for p, q in zip(answers[0], other, strict=True)) for other in answers[1:]]
        assert score[i].item() == pytest.approx(max(changes), abs=1e-6)


def test_the_divergence_has_a_gradient_where_probabilities_saturate():
    sure = torch.tensor([[[200.0, 0.0, 1.0]], [[0.0, 200.0, 1.0]]])  # of two classes, (2, 1, 3)
    for function, moves in ((change, False), (divergence, True)):
        pair = sure.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(pair).sum(), pair)
        assert bool((slope != 0).any()) == moves
    pair = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    p, q = pair.softmax(2)
    torch.testing.assert_close(divergence(pair), (p * (p / q).log() + q * (q / p).log()).sum(1))
    assert divergence(pair[:1].expand(2, 4, 3)).abs().max() < 1e-6


def test_an_attacker_in_l2_brings_both_answers_to_another_class(model):
    """The image alone changes class by its second pixel; to be accepted, the first has to cross the threshold, too."""
    x = torch.full((4, 1, 5, 5), 0.1)
    x[:, 0, 0, 0] = torch.tensor([0.38, 0.39, 0.4, 0.41])
    y = torch.zeros(4, dtype=torch.long)
    assert gradient_choices(model) == ["exact", "identity", "divergence", "sigmoid"]
    with gradient(model, "divergence"):
        there = model(x.clone().requires_grad_())
    torch.testing.assert_close(there, model(x))
    assert all("divergence" in name for name in Adaptive(eps=0.2, norm="L2", effort="quick").credited(model, x, y).by)
