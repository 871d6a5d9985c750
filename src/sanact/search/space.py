"""The search space: for each layer no sanitizer or one of several, its variant, and its strength."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn

from sanact.defenses import DEFENSES, Defense
from sanact.defenses.candidate import IMAGE, Candidate
from sanact.plan import sanitize
from sanact.sanitizers import SANITIZERS, Mask, Sanitizer
from sanact.spec import make, parse
from sanact.values import shown

NONE = "none"
DIGITS = 3  # significant digits of a strength, as many as a plan needs


@dataclass(frozen=True)
class Dial:
    """The number that sets the strength of a sanitizer or another defense, and the range to search.

    log: whether to search on a logarithmic scale.  step: for whole numbers, from ``low`` on; None for real ones.
    settings: the other arguments.  usual: whether it is searched if the user named no settings.
    """

    argument: str
    low: float
    high: float
    log: bool = False
    step: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    usual: bool = True

    def levels(self, count: int) -> list[float]:
        """This many values from ``low`` to ``high``, evenly spaced; for whole numbers, no more than there are."""
        if self.low == self.high:
            return [self.low]
        if self.step:
            count = min(count, int((self.high - self.low) / self.step) + 1)
        shares = [i / (count - 1) for i in range(count)] if count > 1 else [0.5]
        return list(dict.fromkeys(self.at(share) for share in shares))

    def at(self, share: float) -> float:
        """The value at this share of the way from ``low`` to ``high``."""
        if self.low == self.high:
            return self.low
        if self.step:
            return self.low + self.step * round(share * (self.high - self.low) / self.step)
        if self.log:
            return rounded(math.exp((1 - share) * math.log(self.low) + share * math.log(self.high)))
        return rounded((1 - share) * self.low + share * self.high)

    def share(self, value: float) -> float:
        """The inverse of `at`, for a range that is not a single value."""
        low, high, value = (math.log(one) if self.log else one for one in (self.low, self.high, value))
        return (value - low) / (high - low)

    @property
    def variant(self) -> str:
        """A name that tells the dials of one sanitizer apart."""
        return ",".join(str(value) for value in self.settings.values()) or "usual"


def _readings(**ranges: tuple[float, float, bool, bool]) -> list[Dial]:
    return [
        Dial("strength", low, high, log, settings={"reading": reading}, usual=usual)
        for reading, (low, high, log, usual) in ranges.items()
    ]


DIALS: dict[str, list[Dial]] = {
    "mask": _readings(
        fixed=(0.05, 3, True, True),
        max=(0.02, 0.7, False, True),
        mean_std=(-0.5, 2, False, True),
        max_all=(0.02, 0.7, False, False),
        quantile=(0.1, 0.95, False, False),
        calibrated=(-0.5, 2, False, False),
    ),
    "median": [Dial("kernel_size", 3, 7, step=2)],
    "nl-means": [Dial("h", 0.1, 4, log=True, settings={"window_size": 3})],
    "mean-sparse": [Dial("alpha", 0.05, 2, log=True)],
    "k-wta": [Dial("share", 0.02, 0.7, log=True, settings={"over": over}) for over in ("volume", "map")],
    "sap": [Dial("draws", 0.1, 10, log=True)],
    "ash": [Dial("percentile", 10, 95, settings={"variant": variant}) for variant in ("p", "b", "s")],
    "smooth-mask": [Dial("strength", 0.05, 3, log=True)],
    "soft-shrink": [Dial("strength", 0.02, 1, log=True)],
    "denoise": [Dial("strength", 0.02, 1, log=True)],
    "feature-squeezing": [Dial("bits", 1, 8, step=1)],
    "jpeg": [Dial("quality", 10, 95, step=5)],
    "tv-minimization": [Dial("strength", 0.005, 0.3, log=True)],
    "random-resize-pad": [Dial("share", 0.5, 0.95)],
    "crop-rescale": [Dial("share", 0.5, 0.95)],
    "sparse-fourier": [Dial("share", 0.02, 0.5, log=True)],
    "region-voting": [Dial("eps", 0.01, 0.4, log=True)],
    "smoothing": [Dial("sigma", 0.05, 1, log=True)],
}
KNOWN: dict[str, Any] = {name: kind for name, kind in {**SANITIZERS, **DEFENSES}.items() if name in DIALS}


class Trial(Protocol):
    """The part of Optuna's trials that is used here."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int: ...


class Single(NamedTuple):
    """One sanitizer on one layer."""

    layer: str
    sanitizer: str
    variant: str
    argument: str
    value: float


@dataclass(frozen=True)
class Space:
    """layers: their names, in the order of execution; `IMAGE` comes first if a defense of the image is searched.
    dials: by sanitizer, and by defense.
    """

    layers: tuple[str, ...]
    dials: Mapping[str, tuple[Dial, ...]]

    @classmethod
    def of(cls, model: nn.Module, sanitizers: Iterable[str], layers: Iterable[str], example: Tensor) -> Space:
        """The space of a model; example: one of its inputs.

        Raises ValueError if no sanitizer is named, no layer for one, or a pattern matches no hidden layer.
        """
        dials: dict[str, tuple[Dial, ...]] = {}
        for name, own in map(_dials, sanitizers):
            dials[name] = tuple({dial.variant: dial for dial in (*dials.get(name, ()), *own)}.values())
        if not dials:
            raise ValueError(f"a space of plans must have a sanitizer, got none; there are: {', '.join(DIALS)} (search)")
        before = (IMAGE,) if dials.keys() & DEFENSES.keys() else ()
        if not dials.keys() & SANITIZERS.keys():
            return cls(before, dials)
        names = [name for pattern in layers for name in _activations(model, pattern, example)]
        if not names:
            raise ValueError("a space of plans must have a layer, got no pattern; '*' means all hidden layers (search)")
        every = _activations(model, "*", example)
        place = {name: every.index(name) if name in every else len(every) for name in names}
        return cls((*before, *sorted(place, key=place.__getitem__)), dials)

    def options(self, layer: str) -> dict[str, tuple[Dial, ...]]:
        """The sanitizers or defenses that can be put there."""
        known = DEFENSES if layer == IMAGE else SANITIZERS
        return {name: dials for name, dials in self.dials.items() if name in known}

    def suggest(self, trial: Trial) -> Candidate:
        """The candidate that Optuna proposes, perhaps empty; only chosen sanitizers have a strength."""
        plan = {}
        for layer in self.layers:
            name = trial.suggest_categorical(layer, [NONE, *self.options(layer)])
            if name != NONE:
                plan[layer] = self._part(trial, layer, name)
        return plan

    def _part(self, trial: Trial, layer: str, name: str) -> Sanitizer | Defense:
        variants = {dial.variant: dial for dial in self.dials[name]}
        key = f"{layer}: {name}"
        variant = trial.suggest_categorical(key, list(variants)) if len(variants) > 1 else next(iter(variants))
        dial, key = variants[variant], f"{key} {variant}"
        if dial.low == dial.high:
            return made(name, dial, dial.low)
        if dial.step:
            return made(name, dial, trial.suggest_int(key, int(dial.low), int(dial.high), step=dial.step))
        return made(name, dial, trial.suggest_float(key, dial.low, dial.high, log=dial.log))

    def params(self, singles: Iterable[Single]) -> dict[str, Any]:
        """The parameters that Optuna would have to propose for a plan of these."""
        proposed: dict[str, Any] = dict.fromkeys(self.layers, NONE)
        for layer, name, variant, _, value in singles:
            dial = next(dial for dial in self.dials[name] if dial.variant == variant)
            proposed[layer] = name
            if len(self.dials[name]) > 1:
                proposed[f"{layer}: {name}"] = variant
            if dial.low != dial.high:
                proposed[f"{layer}: {name} {variant}"] = int(value) if dial.step else value
        return proposed

    def candidate(self, singles: Iterable[Single]) -> Candidate:
        chosen = {single.layer: single for single in singles}
        dials = {(name, dial.variant): dial for name, own in self.dials.items() for dial in own}
        return {
            layer: made(chosen[layer].sanitizer, dials[chosen[layer][1:3]], chosen[layer].value)
            for layer in self.layers
            if layer in chosen
        }

    def neighbour(self, params: Mapping[str, Any], draw: np.random.Generator) -> dict[str, Any]:
        """The same proposal with one layer, drawn at random, changed.

        If it has a sanitizer, it gets a nearby strength (about a tenth of the range away) with probability 1/2.  Otherwise it
        gets another sanitizer, variant and strength, or none.
        """
        layer = str(draw.choice(self.layers))
        if params[layer] != NONE and draw.random() < 0.5:
            return {**params, **self._nearby(layer, params, draw)}
        options = [(name, dial) for name, dials in self.options(layer).items() for dial in dials]
        kept = {key: value for key, value in params.items() if key != layer and not key.startswith(f"{layer}: ")}
        if params[layer] != NONE and draw.random() < 1 / (1 + len(options)):
            return kept | {layer: NONE}
        name, dial = options[draw.integers(len(options))]
        single = Single(layer, name, dial.variant, dial.argument, dial.at(draw.random()))
        return kept | {key: value for key, value in self.params([single]).items() if key.partition(": ")[0] == layer}

    def _nearby(self, layer: str, params: Mapping[str, Any], draw: np.random.Generator) -> dict[str, Any]:
        """The number of a layer's sanitizer, slightly changed; empty if there is none to choose."""
        name = params[layer]
        for dial in self.dials[name]:
            key = f"{layer}: {name} {dial.variant}"
            if key in params:
                share = min(max(dial.share(params[key]) + 0.1 * draw.standard_normal(), 0.0), 1.0)
                return {key: int(dial.at(share)) if dial.step else dial.at(share)}
        return {}

    def singles(self, levels: int) -> Iterator[Single]:
        """Each sanitizer on each layer alone, at this many strengths."""
        for layer in self.layers:
            for name, dials in self.options(layer).items():
                for dial in dials:
                    for value in dial.levels(levels):
                        yield Single(layer, name, dial.variant, dial.argument, value)

    @property
    def config(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "layers": list(self.layers),
            "sanitizers": {
                name: {dial.variant: [dial.argument, dial.low, dial.high, *sorted(dial.settings.items())] for dial in dials}
                for name, dials in self.dials.items()
            },
        }


def made(name: str, dial: Dial, value: float) -> Sanitizer | Defense:
    """The sanitizer or defense at this strength."""
    part: Sanitizer | Defense = KNOWN[name](**{**dial.settings, dial.argument: int(value) if dial.step else rounded(value)})
    return part


def rounded(value: float) -> float:
    """Rounded to `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def _dials(text: str) -> tuple[str, tuple[Dial, ...]]:
    """What to search for a sanitizer or defense; its text may fix some arguments: ``mask:reading=max``."""
    name = text.partition(":")[0].strip()
    given: dict[str, Any] = parse("sanitizer", {one: partial(_named, one) for one in KNOWN}, text)
    dial = DIALS[name][0]
    part = make("sanitizer", KNOWN, name, **{dial.argument: int(dial.low) if dial.step else dial.low, **given})
    apart = {key for dial in DIALS[name] for key in dial.settings} if len(DIALS[name]) > 1 else set()
    if dial.argument in given:  # a strength alone means what it means in a plan
        given = {key: value for key, value in part.config.items() if key in apart} | given
    chosen = {key: value for key, value in given.items() if key in apart}
    fitting = [dial for dial in DIALS[name] if (chosen.items() <= dial.settings.items() if chosen else dial.usual)]
    return name, tuple(_settled(dial, given) for dial in fitting)


def _named(sanitizer: str, *values: Any, **named: Any) -> dict[str, Any]:
    """The arguments by name."""
    return dict(inspect.signature(KNOWN[sanitizer]).bind_partial(*values, **named).arguments)


def _settled(dial: Dial, given: Mapping[str, Any]) -> Dial:
    settings = {**dial.settings, **{key: value for key, value in given.items() if key != dial.argument}}
    low, high = (given[dial.argument],) * 2 if dial.argument in given else (dial.low, dial.high)
    return Dial(dial.argument, low, high, dial.log, dial.step, settings, dial.usual)


def _activations(model: nn.Module, pattern: str, example: Tensor) -> list[str]:
    """A layer for each hidden activation that a pattern matches; if several layers share one, a plan can name only one."""
    if not isinstance(pattern, str):
        raise TypeError(f"a layer must be named by a pattern, got {shown(pattern)} (search)")
    found = sanitize(model, {pattern: Mask()}, example=example).sanitizers
    return list(dict.fromkeys(name.partition(" (")[0] for name in found))
