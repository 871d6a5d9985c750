"""What training minimizes: the loss on images or on adversarial examples of them, with or without a penalty."""

from sanact.objectives.adversarial import Adversarial
from sanact.objectives.base import Objective, Step
from sanact.objectives.boxed import Boxed
from sanact.objectives.gradient_penalty import GradientPenalty
from sanact.objectives.linearized import Linearized
from sanact.objectives.mixed import Mixed
from sanact.objectives.narrowing import Narrowing
from sanact.objectives.tempered import Tempered
from sanact.objectives.through import Through, through

__all__ = [
    "Adversarial",
    "Boxed",
    "GradientPenalty",
    "Linearized",
    "Mixed",
    "Narrowing",
    "Objective",
    "Step",
    "Tempered",
    "Through",
    "through",
]
