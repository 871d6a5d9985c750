"""Certificates in Linf by interval bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from sanact.bounds import Bounds
from sanact.certificates.rows import SCHEMA, budgets
from sanact.checks import check_inputs, check_mode, logits_of
from sanact.data import Data
from sanact.parts import parts_of
from sanact.preserve import copied
from sanact.progress import progress_bar
from sanact.values import BATCH_SIZE

ROUNDING = 1e-9  # of the logits, in float64


@torch.no_grad()
def by_intervals(
    model: nn.Module, data: Data, eps: Sequence[float], *, batch_size: int = 100, device: str = "cpu", progress: bool = False
) -> pa.Table:
    """Whether any image within eps in Linf, and in [0, 1], can be put into another class: rows as `rows.SCHEMA`.

        certified  ⇔  min_{j ≠ y} lower bound of z_y - z_j  >  0

    model: in evaluation mode, with or without a defense inside.  Computed in float64; rounding errors are not bounded.
    An image that is not certified may still be robust: bounds grow with depth, unless the network was trained for them.
    Raises ValueError for an operation without bounds, with its name; for a part that was never trained; if the bounds do not
    contain the model's own logits; and like an attack, for a model and its images.
    """
    radii, who = budgets(eps, "certify"), "certify"
    BATCH_SIZE(batch_size, "batch_size", who)
    check_mode(model, who)
    if untrained := [part for part in parts_of(model) if part.untrained]:
        raise ValueError(f"{untrained[0]} has strengths to be learned, which were never trained (certify)")
    model = copied(model).to(device).double()
    example = next(data[:1].batches(1)).x.to(device).double()
    bounds, tables = Bounds(model, example), []
    with progress_bar("certifying", len(data) * len(radii), show=progress) as advance:
        for batch in data.batches(batch_size):
            x, y = batch.x.to(device).double(), batch.y.to(device)
            check_inputs(x, y, who)
            logits = logits_of(model, x, y, who)
            predicted, leads = logits.argmax(1), logits.gather(1, y[:, None]) - logits
            for radius in radii:
                lead = bounds.margins((x - radius).clamp_min(0), (x + radius).clamp_max(1), y)
                if bool((lead > leads + ROUNDING * logits.abs().amax()).any()):
                    raise ValueError(
                        f"the bounds do not hold the logits of {type(model).__name__} itself: its graph is another network; "
                        "its forward method decides in Python, or a hook changes what a module returns (certify)"
                    )
                least = lead.scatter(1, y[:, None], torch.inf).amin(1)
                holds = (least > 0) & (predicted == y)
                columns = [batch.index, batch.y, predicted.cpu(), np.full(len(x), radius), least.cpu(), holds.cpu()]
                arrays = [pa.array(np.asarray(one), field.type) for one, field in zip(columns, SCHEMA, strict=True)]
                tables.append(pa.table(arrays, SCHEMA))
                advance(len(x))
    return pa.concat_tables(tables)
