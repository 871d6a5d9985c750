"""What an attacker knows, and the usual budgets."""

from __future__ import annotations

from typing import Literal

Knowledge = Literal["oblivious", "white-box", "adaptive"]
Effort = Literal["quick", "standard", "thorough"]  # of the adaptive attacker
Radius = float | Literal["usual"]  # in L2, for attacks that seek the nearest example

KNOWLEDGE: dict[Knowledge, str] = {
    "oblivious": "crafted on the undefended model and replayed: the attacker does not know of the defense",
    "white-box": "crafted on the defended model through its own gradients",
    "adaptive": "the worst case per example over everything that an attacker who knows the defense would try",
}

USUAL = {"Linf": 8 / 255, "L2": 0.5}  # in the literature
USUAL_OF = {"digits": {"Linf": 0.3, "L2": 2.0}, "mnist": {"Linf": 0.3, "L2": 2.0}}


def usual_eps(data: str, norm: Literal["Linf", "L2"] = "Linf") -> float:
    """The usual budget for attacks on a data set, in input units."""
    return USUAL_OF.get(data, USUAL)[norm]


def l2_budget(radius: Radius | None, data: str) -> float | None:
    """A radius as a number; "usual" becomes that of the data set."""
    return usual_eps(data, "L2") if radius == "usual" else radius
