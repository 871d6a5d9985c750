"""What all attacks share: checks of their inputs, a model left as it was found, and a configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sanact.attacks.projections import Generators, Norm
from sanact.checks import Model, acceptable, check_inputs, check_mode, logits_of
from sanact.preserve import preserved
from sanact.values import POSITIVE, OneOf, Rules, Whole, apply_rules, flag, shown

STEPS = Whole(1, 100_000)
RESTARTS = Whole(1, 1_000)
QUERIES = Whole(1, 1_000_000)
TARGETS = Whole(1, 100_000)


@contextmanager
def untouched(model: Model) -> Iterator[None]:
    """For the block, no gradients except those asked for, and none for parameters; the model ends as it was found.

    A caller's torch.inference_mode is suspended for the block, because it would allow no gradients at all.
    """
    with (
        torch.inference_mode(False),
        preserved(model) if isinstance(model, nn.Module) else nullcontext(),
        torch.no_grad(),
    ):
        yield


def own_copies(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Copies: images clipped to [0, 1] and integer labels, which can be differentiated even if made in inference_mode."""
    return x.detach().clone().clamp_(0, 1), y.long().clone()


def doublings(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first, …, below last."""
    return [first << k for k in range(32) if first << k < last]


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Crafts adversarial examples against the model it is given.  The dataclass is its configuration.

    Call: model (x → logits), x (N, C, H, W) in [0, 1], y (N,) class indices → the examples, like x, in [0, 1].  x is float32 or
        float64; a model that computes in half precision converts it.
    generator: source of randomness, on the CPU.  With a list of one per example, an example's outcome does not depend on its
        batch; a single one serves the whole batch.  None draws with seed 0.
    targeted: drive the prediction to y instead of away from it.
    The result makes no claim of success: the judge predicts again.
    Raises ValueError or TypeError for a model in training mode, labels out of range, x outside [0, 1] or of half precision,
    outputs that are not logits of at least two classes, and NaN in logits or gradients.  Rounding errors beyond [0, 1] are
    clipped.  Probabilities in place of logits raise a warning.
    """

    targeted: bool = False

    rules: ClassVar[Rules] = {"targeted": flag}  # what values each field may have

    def __post_init__(self) -> None:
        apply_rules(self, str(self))

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, generator: Generators | None = None) -> Tensor:
        return self._on_guard(model, x, y, None, generator)

    def _on_guard(
        self, model: Model, x: Tensor, y: Tensor, eps: Tensor | None, generator: Generators | None, *more: Tensor | None
    ) -> Tensor:
        self._check(model, x, y, generator)
        budgets = self._budgets(x, eps)
        if not len(x):
            return x.clone()
        with untouched(model):
            return self.craft(model, *own_copies(x, y), budgets, generator or torch.Generator().manual_seed(0), *more)

    def _check(self, model: Model, x: Tensor, y: Tensor, generator: Generators | None) -> None:
        check_mode(model, str(self))
        if isinstance(x, Tensor) and x.is_floating_point() and x.element_size() < 4:
            raise TypeError(
                f"x must be torch.float32 or torch.float64, got {x.dtype}, in which rounding takes points out of the ball; "
                f"give x.float(), and let a model of half precision convert it ({self})"
            )
        check_inputs(x, y, str(self))
        each = generator if isinstance(generator, Sequence) else [generator]
        if generator is not None and not all(isinstance(one, torch.Generator) for one in each):
            raise TypeError(f"generator must be a torch.Generator, or a list of them, got {generator!r} ({self})")
        if isinstance(generator, Sequence) and len(generator) != len(x):
            raise ValueError(f"generator must be one, or one per example: {len(x)}, got {len(generator)} ({self})")

    def _budgets(self, x: Tensor, eps: Tensor | None) -> Tensor:
        """The radius of each example's ball, (N,); empty where the attack has none."""
        return torch.empty(0)

    @abstractmethod
    def craft(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        """The attack itself; called without gradient tracking.  eps is (N,), or empty where the attack has no budget."""

    def logits(self, model: Model, point: Tensor, y: Tensor, of: Tensor | None = None) -> Tensor:
        """The logits at a point, (N, K), in the form that the attack uses; see `checks.logits_of`.

        If the model can refuse, an example must also be accepted: y gets the refusal's logit where that is larger.  With a
        target, whose logit has to be the largest of all, the refusal stays as one more class, (N, K + 1).
        """
        logits = logits_of(model, point, y, self, of)
        return logits if self.targeted else acceptable(model, logits, y)

    @property
    def budget(self) -> tuple[Norm, float | None]:
        """The norm that the attack keeps small, and its bound; None if it has no bound."""
        raise NotImplementedError

    def for_replay(self) -> Self:
        """This attack in the form that crafts examples for replay on another model: without a stop at the first success."""
        return self

    @property
    def name(self) -> str:
        from sanact.attacks import ATTACKS

        return next((name for name, kind in ATTACKS.items() if kind is type(self)), type(self).__name__)

    @property
    def code(self) -> str:
        """A hash of code that its configuration does not name; "" if there is none."""
        return ""

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make this attack again, and its name in ATTACKS."""
        return {"name": self.name} | asdict(self)

    def require(self, fulfilled: bool, field: str, allowed: str) -> None:
        """Raise ValueError for a field that is out of its range."""
        if not fulfilled:
            raise ValueError(f"{field} must be {allowed}, got {shown(getattr(self, field))} ({self})")

    def __str__(self) -> str:
        return f"attack '{self.name}'"


@dataclass(frozen=True, kw_only=True)
class BudgetedAttack(Attack):
    """An attack that stays in a norm ball.

    eps: radius of the ball, > 0, in input units.  norm: one of ``norms``.
    Call: as `Attack`; eps=Tensor (N,) gives each example its own budget.
    """

    eps: float
    norm: Norm = "Linf"

    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2")
    rules: ClassVar[Rules] = {**Attack.rules, "eps": POSITIVE}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "norm", OneOf(self.norms)(self.norm, "norm", str(self)))

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        eps: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Tensor:
        return self._on_guard(model, x, y, eps, generator)

    def _budgets(self, x: Tensor, eps: Tensor | None) -> Tensor:
        if eps is None:
            eps = torch.full((len(x),), self.eps, dtype=torch.float64)
        if not isinstance(eps, Tensor):
            raise TypeError(f"eps must be a tensor, one number per example, got {type(eps).__name__} ({self})")
        if eps.shape != x.shape[:1]:
            raise ValueError(f"eps must hold one number per example, {tuple(x.shape[:1])}, got {tuple(eps.shape)} ({self})")
        if bool((bad := ~((eps >= 0) & eps.isfinite())).any()):
            raise ValueError(f"eps must be finite and ≥ 0, got {float(eps[bad][0])} ({self})")
        return eps.to(x)

    @property
    def budget(self) -> tuple[Norm, float | None]:
        return self.norm, self.eps

    @property
    def scalable(self) -> bool:
        """Whether the attack adapts to a budget other than its own eps."""
        return True
