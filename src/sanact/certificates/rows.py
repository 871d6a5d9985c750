"""Rows of a certificate: one per example and radius."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sanact.evaluation.statistics import Accuracy, wilson
from sanact.values import POSITIVE, shown

NAME = "certificates"  # the folder beside the judge's rows
SCHEMA = pa.schema(
    [
        ("index", pa.int64()),  # position in the split
        ("label", pa.int32()),
        ("prediction", pa.int32()),  # on the clean image; -1 where the model abstains
        ("eps", pa.float64()),  # of the ball
        ("bound", pa.float64()),  # intervals: the least lead of the label in the ball; smoothing: the certified radius
        ("certified", pa.bool_()),  # whether the prediction is the label in the whole ball
    ]
)


def budgets(eps: Sequence[float], where: str) -> list[float]:
    """Radii, each positive and given once; ValueError otherwise, and for an empty list."""
    found = [POSITIVE(one, "eps", where) for one in eps]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"eps must be at least one radius, each given once, got {shown(list(eps))} ({where})")
    return found


def at(table: pa.Table, eps: float) -> pa.Table:
    """The rows at one radius; ValueError if there are none."""
    found = table.filter(pc.equal(table["eps"], eps))
    if not len(found):
        raise ValueError(f"no rows at eps {eps}; there are: {', '.join(map(str, np.unique(table['eps'].to_numpy())))}")
    return found


def certified(table: pa.Table, eps: float) -> Accuracy:
    """The certified accuracy at a radius, with Wilson's interval."""
    found = at(table, eps)
    return wilson(int(pc.sum(found["certified"]).as_py()), len(found))


def clean(table: pa.Table, eps: float) -> Accuracy:
    """The accuracy on clean images; abstaining counts as wrong."""
    found = at(table, eps)
    return wilson(int(pc.sum(pc.equal(found["prediction"], found["label"])).as_py()), len(found))
