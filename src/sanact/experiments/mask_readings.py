"""Which reading of the lost mask formula comes closest to the paper's row."""

from __future__ import annotations

from dataclasses import replace

from sanact.experiments.setting import Part, Setting
from sanact.report.results import Result, results
from sanact.report.tables import Grid, grid
from sanact.sanitizers import Mask
from sanact.sanitizers.mask import Reading

# Weaker ones leave a layer unchanged: half of fc7 is zero anyway.
STRENGTHS: dict[Reading, tuple[float, ...]] = {
    "fixed": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "max": (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45),
    "max_all": (0.05, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25),
    "quantile": (0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
    "mean_std": (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
    "calibrated": (0.0, 0.25, 0.5, 0.75, 1.0, 1.25),
}


def mask_readings(setting: Setting) -> list[Grid]:
    """Each reading on all hidden activations, oblivious, at the strength that comes closest to the paper's row on validation
    images, measured on test images.  The closest reading is the first row of the table.
    """
    validation = setting.images("validation")
    paper = setting.source.paper["mask"].values()

    def row_of(mask: Mask, part: Part) -> list[Result]:
        cells = setting.cells(setting.images(part), [mask], setting.attacks(part), calibration=validation)
        found = results(setting.run(cells))
        return [replace(result, paper=figure) for result, figure in zip(found, paper, strict=True)]

    rows = []
    for reading, strengths in STRENGTHS.items():
        masks = [Mask(strength, reading) for strength in strengths]
        rows.append(row_of(min(masks, key=lambda mask: distance(row_of(mask, "validation"))), "test"))
    rows.sort(key=distance)
    return [grid([result for row in rows for result in row], "oblivious")]


def distance(row: list[Result]) -> float:
    """Mean absolute difference to the paper's figures, in points."""
    return sum(abs(result.accuracy.value - (result.paper or 0)) for result in row) / len(row)
