"""One image at a time: attack a defended and an undefended network, and show what happens inside both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from sanact.activations import Recording, distances, record
from sanact.attacks import APGD, BIM, FGSM, MIM, PGD, BudgetedAttack
from sanact.attacks.suite import Record, Stage
from sanact.checks import Model
from sanact.data import Data, pixels
from sanact.defenses import as_defense
from sanact.defenses.base import Around
from sanact.defenses.chain import links
from sanact.defenses.sanitizing import Sanitizing
from sanact.evaluation.adaptive import Adaptive, Campaign
from sanact.evaluation.threat import KNOWLEDGE, Knowledge
from sanact.plan import Plan, as_plan, plan_to_dict
from sanact.report.results import plan_text
from sanact.sanitizers import KWTA, Mask, MedianFilter, NonLocalMeans, Sanitizer, sanitizers_of
from sanact.values import OneOf, image_shape

Network = Literal["undefended", "defended"]
Kind = Literal["clean", "adversarial"]
PIXELS = 4096**2  # of an upload, at most


class Strength(NamedTuple):
    """A sanitizer with one adjustable number.  make: builds it from the number.  unit: the meaning of the number."""

    make: Callable[[float], Sanitizer]
    unit: str
    low: float
    high: float
    step: float
    usual: float


STRENGTHS: dict[str, Strength] = {
    "mask": Strength(lambda s: Mask(s, "max"), "share of the map's maximum", 0.05, 0.95, 0.05, 0.3),
    "median": Strength(lambda s: MedianFilter(int(s)), "kernel size", 3, 9, 2, 3),
    "nl-means": Strength(lambda s: NonLocalMeans(s, window_size=3), "h, in standard deviations of the map", 0.1, 5, 0.1, 1),
    "k-wta": Strength(lambda s: KWTA(s), "share that is kept", 0.02, 0.5, 0.02, 0.1),
}
BOUNDS = {  # limits for requests through a page; the sanitizers' own limits are wider
    ("median", "kernel_size"): 9,
    ("nl-means", "patch_size"): 9,
    ("nl-means", "window_size"): 15,
    ("sap", "draws"): 100.0,
}
PATTERNS = 100  # of a plan, at most
ATTACKS: dict[str, type[BudgetedAttack]] = {"fgsm": FGSM, "bim": BIM, "mim": MIM, "pgd": PGD, "apgd": APGD}


@dataclass(frozen=True, kw_only=True)
class Glance(Adaptive):
    """The adaptive attacker's first attempts: replayed examples, and a few steps with each gradient."""

    def stages(self, model: Model, record: Record) -> Iterator[Stage]:
        campaign = Campaign(self, model, record)
        yield from campaign.replays()
        yield from campaign.first_attempts()


@dataclass(frozen=True)
class View:
    """What is shown of one image, (C, H, W), of class ``label``.

    given: whether a user gave the class; otherwise it is the undefended network's prediction.
    by: the attempt that won, if any.  probabilities: of each class, by network and image.  inside: activations, likewise.
    attack: which attack crafted the example, and with what knowledge.
    """

    clean: npt.NDArray[np.float32]
    adversarial: npt.NDArray[np.float32]
    label: int
    given: bool
    attack: str
    knowledge: Knowledge
    by: str
    probabilities: dict[tuple[Network, Kind], npt.NDArray[np.float32]]
    inside: dict[tuple[Network, Kind], Recording]

    def prediction(self, network: Network, kind: Kind) -> int:
        """The likeliest class; if the image is refused, the number of classes."""
        return int(self.probabilities[network, kind].argmax())

    def distances(self, network: Network) -> dict[str, float]:
        """The distance between clean and adversarial activation, relative to the clean one's norm, by layer."""
        away = distances(self.inside[network, "clean"], self.inside[network, "adversarial"])
        return {layer: float(value[0]) for layer, value in away.items()}


class Explorer:
    """Shows images inside a network and inside the same network defended.

    model: undefended, in evaluation mode.  shape: (C, H, W) of its images.
    training: returns clean training images; called when a defense learns from them.
    layers: one for each hidden activation.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int, int], training: Callable[[], Data] | None = None) -> None:
        if sanitized := sanitizers_of(model):
            raise ValueError(f"the explorer takes an undefended model, got one with {sanitized[0]} inside")
        self.model, self.shape, self.training = model, image_shape(shape, "shape", "explorer"), training
        self._made: tuple[str, nn.Module] = ("", model)  # the last defended network, by its identity
        self._one_at_a_time = threading.Lock()  # torch.fx, while tracing, also traces the calls of other threads
        example = torch.zeros(1, *shape)
        self.layers = list(dict.fromkeys(name.partition(" (")[0] for name in record(model, example).after))
        with torch.no_grad():
            self.classes = int(model(example).shape[1])

    def plan(self, sanitizer: str, strength: float, layers: Sequence[str]) -> Plan | None:
        """One sanitizer on some of the layers; None without sanitizer or layers.  ValueError as raised by the sanitizer."""
        if sanitizer not in STRENGTHS or not layers:
            return None
        made = STRENGTHS[sanitizer].make(strength)
        return dict.fromkeys(("*",) if set(layers) == set(self.layers) else layers, made)

    def look(
        self,
        x: Tensor,
        label: int | None,
        attack: BudgetedAttack,
        defense: Any,
        knowledge: Knowledge,
        *,
        hard: bool = False,
    ) -> View:
        """Attack one image and look inside.

        x: (C, H, W) in [0, 1].  label: its class; None takes the undefended network's prediction.
        defense: anything that `sanact.defend` takes; None for none.
        attack: for the oblivious and the white-box attacker.  The adaptive one takes its norm and eps, and tries more.
        hard: whether the adaptive attacker makes all attempts of a quick effort, instead of its first few.
        Raises ValueError for a plan that costs more than `BOUNDS` allow.
        """
        OneOf(tuple(KNOWLEDGE))(knowledge, "knowledge", "explorer")
        with self._one_at_a_time:
            return self._look(x[None], label, attack, self._defended(defense), knowledge, hard)

    def _defended(self, defense: Any) -> nn.Module:
        if not defense:
            return self.model
        wanted = as_defense(defense)
        for link in links(wanted):
            if isinstance(link, Sanitizing):
                check_bounds(as_plan(link.plan))
        if (key := repr(wanted.identity)) != self._made[0]:
            data = self.training() if wanted.needs_data and self.training else None
            self._made = key, wanted(self.model, data, example=torch.zeros(1, *self.shape))
        return self._made[1]

    def _look(
        self, x: Tensor, label: int | None, attack: BudgetedAttack, defended: nn.Module, knowledge: Knowledge, hard: bool
    ) -> View:
        with torch.no_grad():
            y = torch.tensor([label]) if label is not None else self.model(x).argmax(1)
        by = ""
        if knowledge == "adaptive":
            suite = Adaptive if hard else Glance
            adversarial, (by,), _ = suite(eps=attack.eps, norm=attack.norm, effort="quick").credited(defended, x, y)
        else:
            adversarial = attack.for_replay()(self.model, x, y) if knowledge == "oblivious" else attack(defended, x, y)
        networks: dict[Network, nn.Module] = {"undefended": self.model, "defended": defended}
        images: dict[Kind, Tensor] = {"clean": x, "adversarial": adversarial}
        with torch.no_grad():
            probabilities = {
                (n, k): network(image).softmax(1)[0].float().numpy()
                for n, network in networks.items()
                for k, image in images.items()
            }
        inside = {(n, k): record(*core(network, image)) for n, network in networks.items() for k, image in images.items()}
        name = f"adaptive, {'quick effort' if hard else 'first attempts'}" if knowledge == "adaptive" else attack.name
        given = label is not None
        return View(x[0].numpy(), adversarial[0].numpy(), int(y), given, name, knowledge, by, probabilities, inside)

    def read(self, path: Path | str) -> Tensor:
        """An image from a file, in the shape the network takes.

        Raises ValueError for a file without an image, for one that is too large, or in colour for a network that takes gray.
        """
        try:
            with Image.open(path) as image:
                if (count := image.width * image.height) > PIXELS:
                    raise ValueError(
                        f"it has {image.width} x {image.height} = {count:,} pixels, at most {PIXELS:,} are allowed"
                    )
                if self.shape[0] == 1 and colourful(image):
                    raise ValueError("it is in colour, and the network takes gray images")
                array = pixels(image, "L" if self.shape[0] == 1 else "RGB", self.shape[1:])
        except UnidentifiedImageError as error:  # its message would show a path on the server
            raise ValueError(f"'{Path(path).name}' is not an image that Pillow can read") from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"'{Path(path).name}' cannot be shown: {error}") from error
        return torch.from_numpy(array.copy()).permute(2, 0, 1).float().div(255).contiguous()


def core(model: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    """The innermost network, without what is around it, and the input that it gets for an image x, (1, C, H, W)."""
    inner, seen = model, [x]
    while isinstance(inner, Around):
        inner = inner.network
    if inner is model:
        return model, x
    hook = inner.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        with torch.no_grad():
            model(x)
    finally:
        hook.remove()
    return inner, seen[:2][-1][:1]


def colourful(image: Image.Image) -> bool:
    """Whether the channels of the image differ."""
    red, green, blue = (np.asarray(channel) for channel in image.convert("RGB").split())
    return not (np.array_equal(red, green) and np.array_equal(green, blue))


def check_bounds(plan: Plan) -> None:
    """Raise ValueError for a plan that would cost a server more memory or time than one visitor may use."""
    if len(plan) > PATTERNS:
        raise ValueError(f"a plan must have at most {PATTERNS} patterns here, got {len(plan)} (explorer)")
    for part in plan.values():
        for argument, value in part.config.items():
            most = BOUNDS.get((part.name, argument), value)
            if value != most and value > most:
                raise ValueError(f"{argument} must be at most {most:g} here, got {value} ({part}, explorer)")


def written(plan: Plan | None) -> str:
    """A plan as on the command line."""
    return plan_text(plan_to_dict(plan) if plan else None)
