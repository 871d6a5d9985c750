"""The explorer's page: choose an attack and a plan, and see the inside of the network.  Needs the extra ``app``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, rc_context

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from starlette.middleware import Middleware
from torch import Tensor, nn

from sanact.data import Data
from sanact.evaluation.statistics import Mean
from sanact.evaluation.threat import KNOWLEDGE, Knowledge
from sanact.explorer import ATTACKS, STRENGTHS, Explorer, Kind, Network, View, written
from sanact.guard import Guard
from sanact.naming import read_defense
from sanact.report.drawing import THEME, as_svg
from sanact.report.inside import as_maps, distance_curves
from sanact.values import OneOf

UPLOAD = "5mb"
LONGEST = 5_000  # characters of a plan, at most
SHOWN = 24  # images to choose from
MAPS = 16  # maps shown of a layer
SIDE = 160  # pixels of a picture, at least
BARS = list(itertools.product(get_args(Network), get_args(Kind)))
UNKNOWN = "nobody knows"  # the class of an upload
AGE = 60  # seconds that a file may stay in the temporary folder
QUIET: dict[str, Any] = {"show_label": False, "allow_preview": False, "buttons": []}
LEGIBLE = ".min_value, .max_value { color: var(--body-text-color) !important } #told h2 { font-size: var(--text-lg) }"
WHOLE = (  # galleries as high as their pictures, with every caption; gradio cuts them off
    "#strip .grid-wrap, #maps .grid-wrap { height: auto !important; max-height: none; min-height: 0 } "
    "#strip .grid-container { grid-template-columns: repeat(auto-fill, minmax(100px, 1fr)) }"
)
FONTS: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # nothing is fetched


def build(
    model: nn.Module, data: Data, *, eps: float, plan: str | None = None, training: Callable[[], Data] | None = None
) -> gr.Blocks:
    """The page for a network, undefended and in evaluation mode, and images for it.

    eps: the initial budget.  plan: the initial plan, or any other defense as text; None is the mask on all layers.
    training: returns clean training images, for a defense that learns from them.
    """
    desk = _Desk(model, data, eps, training)
    title = "sanact: explore hidden activations"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(AGE, AGE)) as page:
        names = desk.explorer.layers
        image, view = gr.State(desk.chosen(0)), gr.State(None)
        gr.Markdown("# What an attack does inside the network")
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                picked = gr.Gallery(desk.gallery, columns=3, height=260, elem_id="images", **QUIET)
                uploaded = gr.UploadButton("Upload an image", file_types=["image"], type="filepath", elem_id="upload")
                label = gr.Dropdown(
                    [UNKNOWN, *desk.classes], value=UNKNOWN, label="the class of the upload", visible=False, elem_id="label"
                )
                attack = gr.Dropdown(list(ATTACKS), value="pgd", label="attack", elem_id="attack")
                norm = gr.Radio(["Linf", "L2"], value="Linf", label="norm", elem_id="norm")
                size = gr.Slider(**desk.budget("Linf"), label="eps: budget, in input units", elem_id="eps")
                knowledge = gr.Radio(list(KNOWLEDGE), value="oblivious", label="what the attacker knows", elem_id="knowledge")
                sanitizer = gr.Dropdown(["none", *STRENGTHS], value="mask", label="sanitizer", elem_id="sanitizer")
                strength = gr.Slider(**desk.strength("mask"), elem_id="strength")
                layers = gr.Dropdown(names, value=names, multiselect=True, label="layers", elem_id="layers")
                typed = gr.Textbox(
                    plan or desk.compose("mask", STRENGTHS["mask"].usual, names),
                    label="the plan, or any defense, as for the command line: edit, press Enter",
                    buttons=["copy"],
                    elem_id="plan",
                )
                harder = gr.Button("Try all that an adaptive attacker has", elem_id="harder")
            with gr.Column(scale=2, min_width=500):
                told = gr.Markdown(elem_id="told")
                with gr.Row():
                    shown = [
                        gr.Image(label=name, height=SIDE + 20, buttons=[]) for name in ("clean", "adversarial", "difference")
                    ]
                with gr.Row():
                    bars = [gr.Label(label=", ".join(key), num_top_classes=3, elem_id="-".join(key)) for key in BARS]
                gr.Markdown(
                    "Each layer of the defended network: the map that changes most, and by how much. Click one to open it."
                )
                strip = gr.Gallery(columns=6, height="auto", elem_id="strip", **QUIET)
                layer = gr.Markdown(elem_id="layer")
                maps = gr.Gallery(columns=3, height="auto", elem_id="maps", **QUIET)
                gr.Markdown("How far the adversarial image is from the clean one, layer by layer:")
                curve = gr.HTML(elem_id="curve")
        controls = [image, attack, norm, size, typed]
        outputs = [view, told, *shown, *bars, strip, layer, maps, curve]
        live, hard = [*controls, knowledge, gr.State(False)], [*controls, gr.State("adaptive"), gr.State(True)]
        run: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "minimal"}
        knobs = [sanitizer, strength, layers]
        picked.select(desk.pick, None, [image, label])
        uploaded.upload(desk.upload, uploaded, [image, label])
        label.input(desk.named, [image, label], image)
        norm.change(desk.ball, norm, size)
        sanitizer.input(desk.turned, sanitizer, strength).then(desk.compose, knobs, typed).then(desk.look, live, outputs, **run)
        gr.on([strength.input, layers.input], desk.compose, knobs, typed).then(desk.look, live, outputs, **run)
        gr.on([page.load, typed.submit], desk.look, live, outputs, **run).success(desk.followed, view, layers)
        gr.on([*(part.change for part in (image, attack, size)), knowledge.input], desk.look, live, outputs, **run)
        harder.click(lambda: "adaptive", None, knowledge).then(desk.look, hard, outputs)
        strip.select(desk.opened, view, [layer, maps])
    return cast(gr.Blocks, page)


def launch(page: gr.Blocks, *, port: int | None = None, browser: bool = True) -> str:
    """Serve the page to this machine only, in the background, until it is closed; returns its address."""
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        inbrowser=browser,
        share=False,
        quiet=True,
        max_file_size=UPLOAD,
        prevent_thread_lock=True,
        theme=gr.themes.Default(**FONTS),
        ssr_mode=False,
        css=LEGIBLE + WHOLE,
        footer_links=[],
        app_kwargs={"middleware": [Middleware(Guard)]},
    )
    return str(address)


class _Desk:
    """The actions of the page's controls: each method takes their values, and returns what to show."""

    def __init__(self, model: nn.Module, data: Data, eps: float, training: Callable[[], Data] | None) -> None:
        images = data.at_most(SHOWN)
        self.batch, self.eps = next(images.batches(len(images))), eps
        self.explorer = Explorer(model, tuple(self.batch.x.shape[1:]), training)  # type: ignore[arg-type]
        self.known = len(data.classes) == self.explorer.classes  # otherwise the network was trained on other data
        self.classes = list(data.classes) if self.known else [str(i) for i in range(self.explorer.classes)]
        labels = [data.classes[y] for y in self.batch.y.tolist()]
        self.gallery = [(_picture(x.numpy()), label) for x, label in zip(self.batch.x, labels, strict=True)]

    def chosen(self, number: int) -> tuple[Tensor, int | None]:
        return self.batch.x[number], int(self.batch.y[number]) if self.known else None

    def pick(self, event: gr.SelectData) -> tuple[Any, ...]:
        return self.chosen(int(event.index)), gr.Dropdown(value=UNKNOWN, visible=False)

    def upload(self, path: str) -> tuple[Any, ...]:
        """The image, and a question for its class; the uploaded file is deleted."""
        try:
            return (self.explorer.read(path), None), gr.Dropdown(value=UNKNOWN, visible=True)
        except ValueError as error:
            raise gr.Error(str(error), title="No image", print_exception=False) from error
        finally:
            Path(path).unlink(missing_ok=True)

    def named(self, image: tuple[Tensor, int | None], label: str) -> tuple[Tensor, int | None]:
        return image[0], self.classes.index(label) if label in self.classes else None

    def followed(self, view: View) -> list[str]:
        """The layers that a typed plan sanitizes."""
        return [layer for layer in self.explorer.layers if layer in view.inside["defended", "clean"].sanitized]

    def strength(self, sanitizer: str) -> dict[str, Any]:
        s = STRENGTHS[sanitizer]
        ends = {"minimum": s.low, "maximum": s.high, "value": s.usual, "step": s.step}
        return {**ends, "label": f"strength: {s.unit}", "interactive": True}

    def turned(self, sanitizer: str) -> Any:
        """The slider for the strength of this sanitizer."""
        return gr.Slider(**self.strength(sanitizer)) if sanitizer in STRENGTHS else gr.Slider(interactive=False)

    def ball(self, norm: str) -> Any:
        """The slider for budgets in this norm."""
        return gr.Slider(**self.budget(norm))

    def budget(self, norm: str) -> dict[str, Any]:
        usual = round(self.eps, 3) if norm == "Linf" else 1.0
        step = round(usual / 20, 5)
        return {"minimum": step, "maximum": 80 * step, "value": usual, "step": step}

    def compose(self, sanitizer: str, strength: float, layers: list[str]) -> str:
        try:
            return written(self.explorer.plan(sanitizer, strength, layers))
        except ValueError:  # the slider still belongs to another sanitizer
            return "none"

    def look(
        self,
        image: tuple[Tensor, int | None],
        attack: str,
        norm: Literal["Linf", "L2"],
        eps: float,
        plan: str,
        knowledge: Knowledge,
        hard: bool,
    ) -> tuple[Any, ...]:
        try:
            if len(plan) > LONGEST:
                raise ValueError(f"a plan must have at most {LONGEST:,} characters here, got {len(plan):,}")
            OneOf(tuple(ATTACKS))(attack, "attack", "explorer")
            defense = read_defense(plan) if plan.strip() not in ("", "none") else None
            view = self.explorer.look(*image, ATTACKS[attack](eps=eps, norm=norm), defense, knowledge, hard=hard)
        except (ValueError, TypeError, RuntimeError) as error:
            raise gr.Error(str(error), title="Not possible", print_exception=False) from error
        names = [*self.classes, "refused"]
        bars = [dict(zip(names, map(float, view.probabilities[key]), strict=False)) for key in BARS]
        first = next(iter(view.inside["defended", "clean"].after))
        told = _told(view, names, f"{norm} ≤ {eps:.3g}")
        return view, told, *_pictures(view), *bars, _strip(view), *_layer(view, first), _curve(view)

    def opened(self, view: View, event: gr.SelectData) -> tuple[Any, ...]:
        return _layer(view, list(view.inside["defended", "clean"].after)[int(event.index)])


def _told(view: View, names: Sequence[str], ball: str) -> str:
    """The result in words; a success of the defense is never told without what the attacker knew.  names: of the classes."""
    said = {key: names[view.prediction(*key)] for key in BARS}
    shown = f"on a {names[view.label]}"
    if not view.given:
        shown = f"on an image of unknown class: the undefended network's answer, {names[view.label]}, counts as right"
    return (
        f"## {view.knowledge}: {KNOWLEDGE[view.knowledge]}\n"
        f"{view.attack}, {ball}, {shown}. Undefended: {said['undefended', 'clean']} → {said['undefended', 'adversarial']}. "
        f"Defended: {said['defended', 'clean']} → {said['defended', 'adversarial']}. {_fate(view)}"
    )


def _fate(view: View) -> str:
    """The fate of the defended network."""
    before, after = (view.prediction("defended", kind) for kind in get_args(Kind))
    refusal = len(view.probabilities["undefended", "clean"])
    if before != view.label:
        return "The defended network is wrong even without an attack."
    if after not in (view.label, refusal):
        return f"The defended network is fooled{f', first by {view.by}' if view.by not in ('', 'clean') else ''}."
    held = "refuses the example" if after == refusal else "withstands"
    if view.knowledge == "adaptive":
        return f"The defended network {held}. These attempts failed, but others may succeed: the button below tries more."
    return f"The defended network {held}; switch to **adaptive** to see what an attacker who knows the defense can do."


def _pictures(view: View) -> list[npt.NDArray[np.uint8]]:
    difference = view.adversarial - view.clean
    return [_picture(view.clean), _picture(view.adversarial), _signed(difference.mean(0))]


def _strip(view: View) -> list[tuple[npt.NDArray[np.uint8], str]]:
    """Each layer of the defended network, shown by the map that the adversarial image changes most, after sanitizing."""
    tiles = []
    clean, adversarial = (view.inside["defended", kind].after for kind in ("clean", "adversarial"))
    away = view.distances("defended")
    common = os.path.commonprefix([layer.rpartition(".")[0] + "." for layer in clean]).rpartition(".")[0]
    for layer in clean:
        a, b = as_maps(clean[layer][0]), as_maps(adversarial[layer][0])
        most = np.square(b - a).sum((1, 2)).argmax()
        tiles.append((_signed(b[most] - a[most]), f"{away[layer]:.2f} {layer.removeprefix(common).lstrip('.')}"))
    return tiles


def _layer(view: View, layer: str) -> tuple[str, list[tuple[npt.NDArray[np.uint8], str]]]:
    """The most active maps of a layer: clean, adversarial and difference, before and after sanitizing."""
    clean, adversarial = (view.inside["defended", kind] for kind in ("clean", "adversarial"))
    sanitized = layer in clean.sanitized
    maps = []
    for stage in ("before", "after") if sanitized else ("after",):
        a, b = (as_maps(getattr(recording, stage)[layer][0]) for recording in (clean, adversarial))
        best = np.argsort(-np.square(as_maps(clean.before[layer][0])).sum((1, 2)), kind="stable")[:MAPS]
        top = max(float(a[best].max()), float(b[best].max()), 1e-12)
        what = f" {stage} sanitizing" if sanitized else ""
        maps.append((_gray(_montage(a[best]) / top), "clean" + what))
        maps.append((_gray(_montage(b[best]) / top), "adversarial" + what))
        maps.append((_signed(_montage(b[best] - a[best])), "difference" + what))
    words = f"**{layer}** of the defended network, {'sanitized' if sanitized else 'not sanitized'}: "
    return words + f"the {len(best)} maps that the clean image excites most", maps


def _curve(view: View) -> str:
    """Both networks, for the layers that they share, in the colours of the page."""
    away = {name: view.distances(network) for name, network in zip(("none", "defended"), get_args(Network), strict=True)}
    curves = {
        (name, str(view.knowledge)): {layer: Mean(1, value, value, value) for layer, value in own.items()}
        for name, own in away.items()
        if own.keys() == away["defended"].keys()
    }
    with rc_context(THEME):
        figure = distance_curves(curves)
    figure.set_size_inches(6, 3)
    return as_svg(figure, "How far the adversarial image is from the clean one, layer by layer")


def _montage(maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Maps (C, H, W) in rows of four, separated by a line of zeros."""
    columns = min(4, len(maps))
    padded = np.pad(maps, ((0, -len(maps) % columns), (0, 1), (0, 1)))
    rows = padded.reshape(-1, columns, *padded.shape[1:])
    montage: npt.NDArray[np.float32] = rows.transpose(0, 2, 1, 3).reshape(rows.shape[0] * rows.shape[2], -1)[:-1, :-1]
    return montage


def _picture(x: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """An image (C, H, W) in [0, 1]."""
    return _enlarged(np.round(255 * x.transpose(1, 2, 0)).astype(np.uint8).repeat(3 // x.shape[0], axis=2))


def _gray(a: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return _enlarged(np.round(255 * colormaps["gray"](np.clip(a, 0, 1))[..., :3]).astype(np.uint8))


def _signed(a: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Blue below 0, white, red above."""
    most = float(np.abs(a).max()) or 1.0
    return _enlarged(np.round(255 * colormaps["RdBu_r"](0.5 + a / most / 2)[..., :3]).astype(np.uint8))


def _enlarged(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Each pixel enlarged to a square, so that no browser blurs it."""
    times = max(1, -(-SIDE // max(pixels.shape[:2])))
    return pixels.repeat(times, axis=0).repeat(times, axis=1)
