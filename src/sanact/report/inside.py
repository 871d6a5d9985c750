"""Figures of the inside of a network, from files alone: activations as strips of maps, distances as curves."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from sanact.evaluation.rows import part
from sanact.evaluation.statistics import Mean, mean
from sanact.files import replacing
from sanact.report.figures import COLOURS, LINES
from sanact.report.results import attack_title, plan_text
from sanact.report.tables import Listing

COLUMN = 3.5  # inches: the width of one of two columns
SMALL = 6  # points
MANY = 8  # layers: with more, their names do not fit side by side
HEADER = "sanact"
INPUT = "input"
NAMES = {
    "relative": "relative distance",
    "rms": "root mean square distance",
    "direction": "distance of directions",
}


@dataclass(frozen=True)
class Strip:
    """One image inside the network.  prediction: the predicted class.

    maps: one (H, W) per layer; the image first, (H, W, 3) if it is in colour.
    distances: of the whole activation from that of the legitimate image, relative to its norm; by layer.
    """

    title: str
    prediction: str
    maps: Mapping[str, npt.NDArray[np.float32]]
    distances: Mapping[str, float]


def as_maps(activation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(C, H, W) feature maps unchanged; a vector (F,) as one map, as square as possible."""
    if activation.ndim == 3:
        return activation
    height = next(h for h in range(int(activation.size**0.5), 0, -1) if activation.size % h == 0)
    return activation.reshape(1, -1, height)


def write_arrays(path: Path, arrays: Mapping[str, npt.ArrayLike], facts: Mapping[str, Any]) -> None:
    """Write arrays, and the facts about how they were made, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        everything: dict[str, Any] = {HEADER: np.array(json.dumps(facts)), **arrays}
        np.savez_compressed(file, **everything)


def read_arrays(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Read what `write_arrays` wrote; ValueError for any other file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
            return arrays, json.loads(str(arrays.pop(HEADER)))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"'{path}' holds no arrays of sanact: {type(error).__name__}: {error}") from error


def write_strips(path: Path, strips: Sequence[Strip], facts: Mapping[str, Any]) -> None:
    arrays = {f"{i}/{layer}": maps for i, strip in enumerate(strips) for layer, maps in strip.maps.items()}
    words = [{"title": strip.title, "prediction": strip.prediction, "distances": dict(strip.distances)} for strip in strips]
    write_arrays(path, arrays, {**facts, "strips": words})


def read_strips(path: Path) -> tuple[list[Strip], dict[str, Any]]:
    """The strips, and how they were made; ValueError for a file without strips."""
    arrays, facts = read_arrays(path)
    if "strips" not in facts:
        raise ValueError(f"'{path}' holds no strips of activations")
    strips = [
        Strip(**words, maps={layer: arrays[f"{i}/{layer}"] for layer in words["distances"]})
        for i, words in enumerate(facts["strips"])
    ]
    return strips, facts


def activation_strips(strips: Sequence[Strip]) -> Figure:
    """One column per layer, one row per image; below all images but the first, the difference from the first.

    The maps of a layer share one scale, from black to white.  So do their differences, from blue through white (0) to red;
    for a colour image the difference is the mean over its channels.
    Below a difference: the distance of the whole activation, relative to the norm of the first image's.
    """
    layers = list(strips[0].maps)
    rows, many = 2 * len(strips) - 1, len(layers) > MANY
    upright = not many and all(len(strip.prediction) < 8 for strip in strips)  # the words at the left
    words: dict[str, Any] = {} if upright else {"rotation": 0, "ha": "right", "va": "center"}
    width, names = (2 * COLUMN, 0.05 * max(map(len, layers))) if many else (COLUMN, 0.15)
    side = (width - (0.25 if upright else 0.6)) / len(layers)  # of a panel with the gap to the next
    figure = Figure(figsize=(width, (side + 0.07) * rows + names), layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01))
    panels = figure.subplots(rows, len(layers), squeeze=False)
    for column, layer in enumerate(layers):
        first = strips[0].maps[layer]
        top = max(float(strip.maps[layer].max()) for strip in strips) or 1.0
        differences = [_gray(strip.maps[layer] - first) for strip in strips]
        most = max(float(np.abs(difference).max()) for difference in differences) or 1.0
        for number, strip in enumerate(strips):
            own = panels[max(2 * number - 1, 0)][column]
            own.imshow(strip.maps[layer], cmap="gray", vmin=min(0.0, float(first.min())), vmax=top, aspect="auto")
            if number:
                below = panels[2 * number][column]
                below.imshow(differences[number], cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
                below.set_xlabel(f"{strip.distances[layer]:.2f}", fontsize=SMALL, labelpad=1)
        panels[0][column].set_title(layer, fontsize=SMALL, pad=2, rotation=90 if many else 0)
    for number, strip in enumerate(strips):
        panels[max(2 * number - 1, 0)][0].set_ylabel(
            f"{strip.title}\n→ {strip.prediction}", fontsize=SMALL, labelpad=2, **words
        )
        if number:
            panels[2 * number][0].set_ylabel("difference", fontsize=SMALL, labelpad=2, **words)
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[], box_aspect=1)
        panel.spines[:].set_linewidth(0.3)
    return figure


def _gray(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return pixels.mean(2) if pixels.ndim == 3 else pixels


Curves = dict[tuple[str, str], dict[str, Mean]]


def read_distances(path: Path, kind: str = "relative") -> tuple[Curves, dict[str, Any]]:
    """The mean distance by layer for each defense and kind of examples, and how they were made."""
    arrays, facts = read_arrays(path)
    if kind not in arrays or kind not in NAMES:
        raise ValueError(f"'{path}' holds no distances of kind '{kind}'; there are: {', '.join(NAMES)}")
    keys = list(zip(arrays["defense"].tolist(), arrays["examples"].tolist(), arrays["layer"].tolist(), strict=True))
    curves: Curves = {}
    for key in dict.fromkeys(keys):
        defense, examples, layer = key
        own = np.array([other == key for other in keys])
        curves.setdefault((defense, examples), {})[layer] = mean(arrays[kind][own])
    return curves, facts


def distance_curves(curves: Curves, kind: str = "relative") -> Figure:
    """Mean distance over layers, one panel per defense, with the undefended network; bands are 95 % intervals."""
    defenses = [defense for defense in dict.fromkeys(defense for defense, _ in curves) if defense != "none"]
    figure = Figure(figsize=(COLUMN, 1.5 * len(defenses) + 0.6), layout="constrained")
    panels = figure.subplots(len(defenses), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for panel, defense, colour in zip(panels, defenses, COLOURS[1:], strict=False):
        for (own, examples), curve in curves.items():
            if own in ("none", defense):
                _curve(panel, curve, COLOURS[0] if own == "none" else colour, STYLES[examples])
        panel.set_title(defense, fontsize=SMALL + 1, loc="left", pad=2, color=colour)
        panel.tick_params(labelsize=SMALL, length=2)
        if max(map(len, curves.values())) > MANY:
            panel.tick_params(axis="x", labelrotation=90)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(bottom=0)  # shared by all; set last, because it stops their autoscaling
    figure.supylabel(NAMES[kind], fontsize=SMALL + 1)
    panels[-1].set_xlabel("layer", fontsize=SMALL + 1)
    handles = [Line2D([], [], color=COLOURS[0], label="undefended"), Line2D([], [], color="#777777", label="sanitized")]
    known = dict.fromkeys(examples for _, examples in curves)
    handles += [Line2D([], [], color="#777777", linestyle=STYLES[examples], label=examples) for examples in known]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=SMALL)
    return figure


STYLES: dict[str, Any] = {**LINES, "noise": (0, (1, 4))}


def _curve(panel: Any, curve: Mapping[str, Mean], colour: str, style: Any) -> None:
    layers, means = list(curve), list(curve.values())
    panel.plot(layers, [m.value for m in means], color=colour, linestyle=style, linewidth=1, marker="o", markersize=2)
    panel.fill_between(layers, [m.low for m in means], [m.high for m in means], color=colour, alpha=0.15, linewidth=0)


class Drawing(NamedTuple):
    """A figure, its caption, and the numbers in it."""

    figure: Figure | None
    caption: str
    tables: list[Listing]


def draw(path: Path, kind: str = "relative") -> Drawing:
    """The figure for a file of strips or of distances.  kind: of distance."""
    _, facts = read_arrays(path)
    if "strips" in facts:
        strips, facts = read_strips(path)
        return Drawing(activation_strips(strips), _strips_caption(strips, facts), [])
    curves, facts = read_distances(path, kind)
    tables = _distance_tables(curves, kind, facts)
    return Drawing(distance_curves(curves, kind), _distances_caption(curves, kind, facts), tables)


def _strips_caption(strips: Sequence[Strip], facts: Mapping[str, Any]) -> str:
    layers = [layer for layer in strips[0].maps if layer != INPUT]
    return (
        f"Hidden activations of {facts['model']}, sanitized by: {plan_text(facts['plan'])}. "
        f"Image {facts['data']['index'][0]} of {facts['data']['name']} ({part(facts['data'])}), after "
        f"{attack_title(facts['attack'])} ({_settings(facts)}), and after noise of the same L2 norm. For "
        f"{', '.join(layers)} the feature map that is most active on the legitimate image, the same in every row; vectors are "
        "folded into maps. Arrows: the predicted class. Below each difference: the distance of the whole activation from the "
        "legitimate one, relative to its norm."
    )


def _distances_caption(curves: Curves, kind: str, facts: Mapping[str, Any]) -> str:
    last = list(next(iter(curves.values())))[-1]
    ends = [f"{defense}, {examples} {curve[last].value:.3f}" for (defense, examples), curve in curves.items()]
    plans = "; ".join(f"{name}: {plan_text(plan)}" for name, plan in facts["plans"].items())
    return (
        f"Mean {NAMES[kind]} between the activations of an image and of its adversarial example, by layer of {facts['model']}, "
        f"on {len(facts['data']['index'])} images of {facts['data']['name']} ({part(facts['data'])}): "
        f"{attack_title(facts['attack'])} ({_settings(facts)}) on the undefended network (white-box), replayed on the "
        "sanitized one (oblivious), and the worst case of an attacker who knows of it (adaptive), who goes no further than "
        f"needed; noise has the L2 norm of the first. Bands: 95 % intervals. At {last}: {'; '.join(ends)}. Plans: {plans}."
    )


def _settings(facts: Mapping[str, Any]) -> str:
    attack = [f"{key} {value}" for key, value in facts["attack"].items() if key not in ("name", "eps", "norm", "steps")]
    return ", ".join([*attack, f"seed {facts['seed']}", f"effort {facts['effort']}"])


def _distance_tables(curves: Curves, kind: str, facts: Mapping[str, Any]) -> list[Listing]:
    """The means behind the curves, with their intervals: one table per defense, one row per layer."""
    tables = []
    for name in dict.fromkeys(defense for defense, _ in curves):
        own = {examples: curve for (defense, examples), curve in curves.items() if defense == name}
        layers = next(iter(own.values()))
        n = next(iter(layers.values())).n
        title = (
            f"{name}: {NAMES[kind]} from the legitimate image, {attack_title(facts['attack'])}\n"
            f"{facts['model']} on {n:,} images of {facts['data']['name']} ({part(facts['data'])}), means with 95 % intervals"
        )
        rows = {
            layer: [f"{m.value:.3f} ± {m.high - m.value:.3f}" for m in (curve[layer] for curve in own.values())]
            for layer in layers
        }
        tables.append(Listing(title, list(own), rows, first="layer"))
    return tables
