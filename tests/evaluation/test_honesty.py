"""A model that answers by other things than the image, or whose gradient says something else, is seen; an honest one is not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sanact import SAP, sanitize
from sanact.evaluation.honesty import answers, draws_of, slopes, won
from sanact.parts import Part
from tests.evaluation.test_judge import images, tiny

X, Y = images(20).images.x, torch.from_numpy(images(20).labels)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = tiny()


class BatchMean(Wrapped):
    """Normalizes by the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x - x.mean() + 0.5)


class Remembers(Wrapped):
    """Answers as it answered the first image nearby."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.answer(image) for image in x])

    def answer(self, image: Tensor) -> Tensor:
        for other, logits in self.seen:
            if float((image - other).detach().abs().max()) < 0.3:
                return logits
        self.seen.append((image.clone(), self.network(image[None])[0]))
        return self.seen[-1][1]


class Drifts(Wrapped):
    """Each answer is a little larger than the last."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return (1 + 0.01 * self.calls) * self.network(x)


class BySixes(Wrapped):
    """Answers otherwise where the number of images is a multiple of six."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) * (1 if len(x) % 6 else 2)


class Watched(Wrapped):
    """Answers otherwise where gradients are recorded."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x if torch.is_grad_enabled() else x - 0.1)


WAYS = {"the batch", "earlier queries", "whether gradients are recorded"}


def told(model: nn.Module) -> dict[str, float]:
    model.eval()
    return dict(answers(model, copy.deepcopy(model), X, 0.05))


def test_an_honest_model_answers_by_the_image_alone():
    assert all(figure < 1e-5 for figure in told(tiny()).values()) and set(told(tiny())) == WAYS


def test_what_else_an_answer_depends_on_is_named():
    assert told(BatchMean())["the batch"] > 1e-3
    assert told(BySixes())["the batch"] > 1e-3
    assert told(Watched())["whether gradients are recorded"] > 1e-3
    assert told(Remembers())["earlier queries"] > 1e-3
    assert told(Drifts())["earlier queries"] > 1e-3


def test_random_parts_draw_again_what_they_drew_and_their_batch_is_left_out():
    found = told(sanitize(tiny(), SAP()))
    assert set(found) == WAYS - {"the batch"} and max(found.values()) < 1e-5


class Fickle(Part):
    """Takes one class for the next, in a tenth of its draws."""

    randomized = True

    def __init__(self, share: float = 0.1) -> None:
        super().__init__()
        self.share = share
        self.rewind()

    def rewind(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def forward(self, logits: Tensor) -> Tensor:
        wrong = torch.rand(len(logits), 1, generator=self._generator) < self.share
        return torch.where(wrong, logits.roll(1, 1), logits)


def test_a_random_model_is_won_where_it_mostly_errs():
    rarely, mostly = (nn.Sequential(tiny(), Fickle(share)).eval() for share in (0.1, 0.9))
    assert draws_of(rarely) == 10 and draws_of(tiny()) == 1
    assert not won(rarely, X, Y).any() and won(mostly, X, Y).all()


def test_slopes_of_a_random_model_are_of_the_same_draws():
    model = nn.Sequential(tiny(), Fickle(0.5)).eval()
    assert max(dict(slopes(model, X, Y, 0.1)).values()) < 0.2


def with_backward(change):
    """The network, whose gradient at the image is changed."""

    class Changed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return change(gradient)

    class Lies(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            return self.network(Changed.apply(x))

    return Lies().eval()


class OwnStep(Wrapped):
    """Shifts the image by what it thinks of it and of its mirror image, and looks again: autograd sees the last look only."""

    def forward(self, x: Tensor) -> Tensor:
        shift = 6 * (self.network(x) - self.network(x.flip(-1))).detach()[:, :1, None, None]
        return self.network(x + shift)


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda g: -g, 1.5),
        (lambda g: g.roll(3, -1), 0.6),
        (lambda g: torch.randn(g.shape, generator=torch.Generator().manual_seed(1)), 0.6),
        (lambda g: 5 * g, 0.7),
        (lambda g: 0 * g, 0.9),
    ],
    ids=["flipped", "rolled", "random", "stretched", "zero"],
)
def test_a_gradient_that_lies_is_seen(change, least):
    assert dict(slopes(with_backward(change), X, Y, 0.1))["random directions"] > least


def test_a_gradient_that_lies_away_from_the_images_or_later_is_seen():
    class Near(Wrapped):
        """Right at the images, which are known."""

        def forward(self, x: Tensor) -> Tensor:
            far = (x.detach()[:, None] - X).abs().flatten(2).amax(2).amin(1) > 0.02
            logits = self.network(x)
            return torch.where(far[:, None], 2 * logits.detach() - logits, logits)

    calls = []

    def later(gradient: Tensor) -> Tensor:
        calls.append(1)
        return gradient if len(calls) <= 8 else -gradient

    for model in (Near().eval(), with_backward(later)):
        assert dict(slopes(model, X, Y, 0.1))["random directions"] > 1.5


def test_a_step_of_the_models_own_without_a_gradient_is_seen():
    assert dict(slopes(OwnStep().eval(), X, Y, 0.1))["random directions"] > 0.5


def test_an_honest_gradient_agrees_and_a_linear_model_exactly():
    for model, most in ((tiny(), 0.2), (nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval().double(), 1e-6)):
        x, y = X.to(next(model.parameters()).dtype), Y.clamp_max(1)
        figures = dict(slopes(model, x, y, 0.1))
        assert set(figures) == {"random directions", "its own steps"} and max(figures.values()) < most


def test_the_slope_is_that_of_a_quadratic_at_the_middle_of_both_steps():
    """m(x) = Σ x² - 1: central differences of a quadratic are exact, and a gradient of half of it is half wrong."""

    class Quadratic(nn.Module):
        def __init__(self, share: float) -> None:
            super().__init__()
            self.share = share

        def forward(self, x: Tensor) -> Tensor:
            square = x.flatten(1).square().sum(1)
            square = self.share * square + (1 - self.share) * square.detach()
            return torch.stack([torch.ones_like(square), square], dim=1)

    y = torch.zeros(20, dtype=torch.long)
    for share, error in ((1.0, 0.0), (0.5, 0.5), (0.1, 0.9)):
        figures = dict(slopes(Quadratic(share).eval(), X.double(), y, 0.1))
        assert figures == pytest.approx({"random directions": error, "its own steps": error}, abs=1e-6)
