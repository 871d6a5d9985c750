"""What is drawn of activations and distances is what the files hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sanact.report.inside import (
    Strip,
    activation_strips,
    distance_curves,
    draw,
    read_arrays,
    read_distances,
    read_strips,
    write_arrays,
    write_strips,
)

FACTS = {
    "data": {"name": "mnist", "split": "test", "index": [7]},
    "model": "mnist-cnn",
    "attack": {"name": "pgd", "eps": 0.3, "norm": "Linf", "steps": 40, "restarts": 1},
    "effort": "quick",
    "seed": 3,
    "plan": {"conv1": {"name": "mask", "strength": 0.3}},
    "plans": {"mask": {"conv1": {"name": "mask", "strength": 0.3}}},
}


def strips() -> list[Strip]:
    random = np.random.default_rng(0)
    maps = [{"input": random.random((4, 4)).astype("float32"), "fc": random.random((5, 2)).astype("float32")} for _ in range(3)]
    distances = [{"input": 0.0, "fc": 0.0}, {"input": 0.5, "fc": 1.25}, {"input": 0.5, "fc": 0.25}]
    words = [("legitimate", "0"), ("white-box", "9"), ("noise", "0")]
    return [Strip(*word, *rest) for word, *rest in [(w, m, d) for w, m, d in zip(words, maps, distances, strict=True)]]


def test_every_image_is_a_row_of_maps_and_every_other_but_the_first_has_its_difference():
    drawn = strips()
    panels = activation_strips(drawn).axes
    shown = [panel.images[0].get_array() for panel in panels]
    expected = [drawn[0].maps]
    for strip in drawn[1:]:
        expected += [strip.maps, {layer: strip.maps[layer] - drawn[0].maps[layer] for layer in strip.maps}]
    for found, maps in zip(shown, [row[layer] for row in expected for layer in ("input", "fc")], strict=True):
        np.testing.assert_allclose(found, maps)
    assert [panel.get_title() for panel in panels[:2]] == ["input", "fc"]
    assert [panel.get_xlabel() for panel in panels if panel.get_xlabel()] == ["0.50", "1.25", "0.50", "0.25"]
    assert panels[2].get_ylabel() == "white-box\n→ 9"


def test_rows_of_a_layer_share_their_scale():
    panels = activation_strips(strips()).axes
    for column in (0, 1):
        own = [panel.images[0].get_clim() for panel in panels[column::2]]
        assert own[0] == own[1] == own[3]
        assert own[2] == own[4]
        assert own[2][0] == -own[2][1]


@pytest.mark.parametrize("layers", [3, 19])
def test_an_image_in_colour_and_the_words_of_many_layers_have_room(layers):
    random = np.random.default_rng(0)
    names = ["input", *(f"blocks.{i}.shortcut.0" for i in range(1, layers))] if layers > 8 else ["input", "conv1", "conv2"]
    drawn = []
    for title in ("legitimate", "adaptive"):
        maps = {name: random.random((8, 8, 3) if name == "input" else (4, 4)).astype("float32") for name in names}
        drawn.append(Strip(title, "n01443537 automobile", maps, dict.fromkeys(names, 0.123)))
    figure = activation_strips(drawn)
    panels = figure.axes
    np.testing.assert_array_equal(panels[0].images[0].get_array(), drawn[0].maps["input"])
    difference = (drawn[1].maps["input"] - drawn[0].maps["input"]).mean(2)
    np.testing.assert_allclose(panels[2 * layers].images[0].get_array(), difference, rtol=1e-5)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    words = [panel.yaxis.label for panel in panels if panel.get_ylabel()] + [p.title for p in panels if p.get_title()]
    boxes = [word.get_window_extent(canvas.get_renderer()) for word in words]
    assert all(figure.bbox.padded(1).contains(*corner) for box in boxes for corner in (box.min, box.max))
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


def test_strips_come_back_from_their_file(tmp_path):
    write_strips(tmp_path / "fig.npz", strips(), FACTS)
    found, facts = read_strips(tmp_path / "fig.npz")
    assert facts["seed"] == 3
    for a, b in zip(found, strips(), strict=True):
        assert (a.title, a.prediction, a.distances) == (b.title, b.prediction, b.distances)
        for layer in b.maps:
            np.testing.assert_array_equal(a.maps[layer], b.maps[layer])
    figure, caption, tables = draw(tmp_path / "fig.npz")
    assert len(figure.axes) == 10
    assert "Image 7 of mnist (test), after PGD-40, Linf 0.3" in caption
    assert "conv1=mask:strength=0.3" in caption
    assert tables == []


@pytest.fixture
def distances(tmp_path):
    """Of two images, three curves over two layers."""
    rows = [
        (i, defense, examples, layer, base + i, 2.0 * base, 0.0)
        for base, (defense, examples) in enumerate([("none", "white-box"), ("mask", "oblivious"), ("mask", "adaptive")], 1)
        for layer in ("input", "conv1")
        for i in range(2)
    ]
    names = ("index", "defense", "examples", "layer", "relative", "rms", "direction")
    write_arrays(tmp_path / "fig7.npz", dict(zip(names, zip(*rows, strict=True), strict=True)), FACTS)
    return tmp_path / "fig7.npz"


def test_curves_go_through_the_means_with_their_intervals(distances):
    curves, _ = read_distances(distances)
    assert {key: [m.value for m in curve.values()] for key, curve in curves.items()} == {
        ("none", "white-box"): [1.5, 1.5],
        ("mask", "oblivious"): [2.5, 2.5],
        ("mask", "adaptive"): [3.5, 3.5],
    }
    (panel,) = distance_curves(curves).axes
    assert panel.get_title(loc="left") == "mask"
    assert [(list(line.get_xdata()), list(line.get_ydata()), line.get_linestyle()) for line in panel.lines] == [
        (["input", "conv1"], [1.5, 1.5], "--"),
        (["input", "conv1"], [2.5, 2.5], ":"),
        (["input", "conv1"], [3.5, 3.5], "-"),
    ]
    half = 12.706204736 * np.sqrt(0.5) / np.sqrt(2)  # Student's quantile with one degree of freedom
    edges = {round(float(y), 4) for y in panel.collections[0].get_paths()[0].vertices[:, 1]}
    assert edges == {round(1.5 - half, 4), round(1.5 + half, 4)}


def test_no_panel_cuts_its_curves_off(distances):
    curves, _ = read_distances(distances)
    panels = distance_curves({("median", "oblivious"): curves["none", "white-box"], **curves}).axes
    assert len(panels) == 2
    for panel in panels:
        low, high = panel.get_ylim()
        assert low == 0 and high > curves["mask", "adaptive"]["conv1"].high


def test_another_kind_of_distance_is_drawn_when_asked_for(distances):
    figure, caption, tables = draw(distances, "rms")
    assert list(figure.axes[0].lines[2].get_ydata()) == [6.0, 6.0]
    assert "Mean root mean square distance" in caption
    assert [table.title.partition(":")[0] for table in tables] == ["none", "mask"]
    assert [table.columns for table in tables] == [["white-box"], ["oblivious", "adaptive"]]
    assert tables[1].rows == {layer: ["4.000 ± 0.000", "6.000 ± 0.000"] for layer in ("input", "conv1")}
    with pytest.raises(ValueError, match="kind 'far'; there are: relative, rms, direction"):
        draw(distances, "far")


def test_a_file_of_something_else_is_refused(tmp_path, distances):
    (tmp_path / "text.npz").write_text("no arrays")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name in ("text", "other", "missing"):
        with pytest.raises(ValueError, match=f"{name}.npz' holds no arrays of sanact"):
            read_arrays(tmp_path / f"{name}.npz")
    with pytest.raises(ValueError, match="holds no strips"):
        read_strips(distances)
