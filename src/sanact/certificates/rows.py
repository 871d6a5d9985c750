"""Rows of a certificate: one per example and budget."""

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
        ("index", pa.int64()),  # place in the split
        ("label", pa.int32()),
        ("prediction", pa.int32()),  # on the image as it is; -1 where it abstains
        ("eps", pa.float64()),  # of the ball
        ("bound", pa.float64()),  # intervals: the least lead of the label in the ball; smoothing: the radius that holds
        ("certified", pa.bool_()),  # whether the prediction is the label, and stays it in the whole ball
    ]
)


def budgets(eps: Sequence[float], where: str) -> list[float]:
    """Radii, each positive and there once; ValueError for others and for none."""
    found = [POSITIVE(one, "eps", where) for one in eps]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"eps must be at least one radius, each given once, got {shown(list(eps))} ({where})")
    return found


def at(table: pa.Table, eps: float) -> pa.Table:
    """The rows at one radius; ValueError where there are none."""
    found = table.filter(pc.equal(table["eps"], eps))
    if not len(found):
        raise ValueError(f"no rows at eps {eps}; there are: {', '.join(map(str, np.unique(table['eps'].to_numpy())))}")
    return found


def certified(table: pa.Table, eps: float) -> Accuracy:
    """The certified accuracy at a radius, with Wilson's interval."""
    found = at(table, eps)
    return wilson(int(pc.sum(found["certified"]).as_py()), len(found))


def clean(table: pa.Table, eps: float) -> Accuracy:
    """The accuracy on the images as they are; where it abstains, it is wrong."""
    found = at(table, eps)
    return wilson(int(pc.sum(pc.equal(found["prediction"], found["label"])).as_py()), len(found))
