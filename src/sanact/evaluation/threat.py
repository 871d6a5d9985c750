"""What an attacker knows."""

from __future__ import annotations

from typing import Literal

Knowledge = Literal["oblivious", "white-box", "adaptive"]

KNOWLEDGE: dict[Knowledge, str] = {
    "oblivious": "crafted on the undefended model and replayed: the attacker does not know of the defense",
    "white-box": "crafted on the defended model through its own gradients",
    "adaptive": "the worst case per example over everything that an attacker who knows the defense would try",
}
