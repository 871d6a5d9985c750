"""Figures inside a page, in the page's own colours, light or dark."""

from __future__ import annotations

import io
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's own colour of text
THEME: dict[Any, Any] = {key: INK for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")}


def as_svg(figure: Figure, description: str) -> Markup:
    """A figure as SVG for a page: text and lines in the page's own colour, on a transparent background."""
    file = io.StringIO()
    with rc_context({"svg.hashsalt": description}):
        figure.patch.set_alpha(0)
        for panel in figure.axes:
            panel.patch.set_alpha(0)
        figure.savefig(file, format="svg", metadata={"Date": None})
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor").replace("#000000", "currentColor")
    label = Markup('<svg role="img" aria-label="{}" ').format(description)
    return label + Markup(drawn.removeprefix("<svg "))
