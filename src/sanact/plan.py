"""Plans: which sanitizer goes after which layers of a model.  Attach them, save them, and see what they change."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor, fx, nn

from sanact.attaching import attached, channel_counts, channels_last
from sanact.faithful import probe
from sanact.files import replacing
from sanact.graph import Layer, find_layers, likely_shape, trace
from sanact.models import build_model
from sanact.nonlinear import LAYERS
from sanact.notebook import html_table
from sanact.parts import Part, bypass, removable
from sanact.preserve import copied, preserved
from sanact.sanitizers import SANITIZERS, Sanitizer, sanitizers_of
from sanact.spec import make, parse
from sanact.untraced import Untraced
from sanact.values import BATCH_SIZE, shown
from sanact.wrapping import unwrapped

Plan = Mapping[str, Sanitizer]


class SanitizedModel(nn.Module):
    """A network with sanitizers after some of its layers; made by `sanitize`.

    forward: x as the network takes it → its logits.
    It is an ordinary module, which deep-copies, pickles, compiles, and exports.  Inside is a copy of the network as a graph of
    operations, with the sanitizers among them.  Where such a graph would not compute the same as the network, the copy runs
    the network's own code, with the sanitizers behind its modules; see `untraced.Untraced`.

    plan: pattern → configuration of the sanitizer, as JSON would hold it.
    left_out: layers that "*" left alone, because no nonlinearity was found between them and the next layer.
    """

    def __init__(
        self,
        network: fx.GraphModule | Untraced,
        plan: dict[str, dict[str, Any]],
        architecture: str = "",
        left_out: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.architecture = architecture or type(network).__name__  # a copy of the graph loses it
        self.plan = plan
        self.left_out = list(left_out)
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def save_pretrained(self, folder: Path | str, *, verdict: Any = None) -> None:
        """Write to a folder what `push_to_hub` uploads; `from_pretrained` reads it."""
        self._as_repository(str(folder), verdict).save_pretrained(folder, config=self._facts)

    def push_to_hub(self, repo_id: str, *, verdict: Any = None, **how: Any) -> str:
        """Upload weights, plan and a model card to the Hugging Face Hub; returns the address of the commit.

        verdict: the judge's verdict for the card: a result of `sanact.evaluate`, or Markdown.  With None, the card says that
            the model was not judged.
        how: arguments of huggingface_hub's `ModelHubMixin.push_to_hub`: private, token, branch, commit_message, …
        """
        return str(self._as_repository(repo_id, verdict).push_to_hub(repo_id, config=self._facts, **how))

    @classmethod
    def from_pretrained(
        cls, repo_id: Path | str, model: nn.Module | str, *, example: Tensor | None = None, **how: Any
    ) -> SanitizedModel:
        """Read what `push_to_hub` or `save_pretrained` wrote, as a network in evaluation mode.

        repo_id: on the Hub, or a folder.  model, example: as for `load`; model may be a name, see `build_model`.
        how: revision, token, cache_dir, … for huggingface_hub's mixin.
        """
        from sanact.sharing import Repository

        network = build_model(model) if isinstance(model, str) else model
        made: Any = Repository.from_pretrained(repo_id, read=lambda path: load(path, network, example=example), **how)
        return made  # type: ignore[no-any-return]

    @property
    def _facts(self) -> dict[str, Any]:
        return {"architecture": self.architecture, "plan": self.plan}

    def _as_repository(self, name: str, verdict: Any) -> Any:
        from sanact.sharing import Repository, card

        written = getattr(verdict, "to_markdown", lambda: verdict or "It was not judged: nothing is known of its robustness.")()
        facts = {"architecture": self.architecture}
        facts |= {f"sanitized on `{layer}`": f"`{part!r}`" for layer, part in self.sanitizers.items()}
        usage = f'import sanact\n\nmodel = sanact.SanitizedModel.from_pretrained("{name}", model=…)  # a {self.architecture}'
        return Repository(self.save, card(f"{self.architecture}, sanitized", facts, usage, written))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights of this network, or of the undefended one under its own names; then sanitizers keep their own.

        Raises RuntimeError for weights that do not fit, like PyTorch.
        """
        own = self.state_dict()
        front = "network.body." if isinstance(self.network, Untraced) else "network."
        if own.keys() & state_dict.keys() or not any(front + name in own for name in state_dict):
            return super().load_state_dict(state_dict, strict, assign)
        held = {id(value) for part in self.sanitizers.values() for value in part.state_dict(keep_vars=True).values()}
        kept = {name: value for name, value in self.state_dict(keep_vars=True).items() if id(value) in held}
        return super().load_state_dict(kept | {front + name: value for name, value in state_dict.items()}, strict, assign)

    @property
    def sanitizers(self) -> dict[str, Sanitizer]:
        """The sanitizers by the layer whose activation they clean, in the order of execution."""
        return {part.where: part for part in sanitizers_of(self)}

    def save(self, path: Path | str) -> None:
        """Write weights and plan to one safetensors file.  The plan is JSON in its header."""
        with replacing(path) as temporary:
            save_model(self.network, str(temporary), metadata={"plan": json.dumps(self.plan)})

    def __repr__(self) -> str:
        lines = [f"  ({layer}): {sanitizer!r}" for layer, sanitizer in self.sanitizers.items()]
        if self.left_out:
            lines.append(f"  not sanitized, because they look linear: {', '.join(self.left_out)}")
        return "\n".join([f"SanitizedModel({self.architecture}, sanitizing", *lines, ")"])

    def _repr_html_(self) -> str:
        rows = [[layer, repr(sanitizer)] for layer, sanitizer in self.sanitizers.items()]
        rows += [[layer, "none: it looks linear"] for layer in self.left_out]
        return html_table(f"{self.architecture}, sanitized", ["layer", "sanitizer"], rows)


def sanitize(model: nn.Module, plan: Sanitizer | Plan | str, *, example: Tensor | None = None) -> SanitizedModel:
    """Attach sanitizers to a copy of ``model``.  The model itself does not change.

    plan: a sanitizer, for every hidden activation of a convolution or linear layer, after its nonlinearity.  Or patterns of
        layer names, each with its sanitizer: ``{"conv*": Mask(0.2), "fc7": MedianFilter(3)}``; as text, like on the command
        line: ``"conv*=mask:0.2; fc7=median:3"``.  A pattern is a name, a glob, or a regular expression after ``re:``, which
        must match the whole name.  ``"*"`` hits the same places as a sanitizer alone.  Any other pattern also hits linear
        layers (those without a nonlinearity) at their own output.
    example: an input, (N, C, H, W), of which only the shape counts.  None takes the shape from the model, or finds one.

    Each place gets its own copy of the sanitizer.  Pooling and output layers are never sanitized.
    With its sanitizers bypassed, the copy must have the model's logits and input gradients; this is checked on one random
    image and on several.  Raises ValueError, and attaches nothing, if a pattern matches no hidden layer, if two patterns hit
    one place, if the model is sanitized already, if an activation is neither (N, C, H, W) nor (N, F), or if no exact copy can
    be made.
    """
    model = unwrapped(model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model must be an nn.Module, got {type(model).__name__}")
    if sanitized := sanitizers_of(model):
        raise ValueError(f"the model is sanitized already ({sanitized[0]}); pass the undefended model, and one plan for all")
    patterns = as_plan(plan)
    traced = trace(model, example)
    layers = find_layers(traced)
    hits = _hits(layers, patterns)
    x = probe(model, example)
    last = channels_last(traced, x, {place: activation_name(layers, place)[0] for place in hits})
    channels = channel_counts(traced, x, last)
    parts = {}
    for place in [node for node in traced.graph.nodes if node in hits]:
        parts[place] = copy.deepcopy(patterns[hits[place]]).train(traced.training)
        parts[place].where = activation_name(layers, place)[0]
        parts[place].channels_last = last[place]
        parts[place].made_for(channels.get(place, 0), x)
    left_out = [layer.name for layer in layers if layer.place is not None and not layer.after and layer.place not in hits]
    network = attached(model, traced, parts, x)
    return SanitizedModel(network, plan_to_dict(patterns), type(model).__name__, left_out if "*" in patterns else ())


def load(path: Path | str, model: nn.Module, *, example: Tensor | None = None) -> SanitizedModel:
    """Read what `SanitizedModel.save` wrote, as a network in evaluation mode.

    model: an undefended network of the same architecture; its weights are not used, and it is left as it was found.
    Raises ValueError for a missing or corrupt file, or weights of another architecture.
    """
    path = Path(path)
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
        plan = plan_from_dict(json.loads(metadata["plan"]))
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"'{path}' is not a sanitized model written by save(): {type(error).__name__}: {error}") from error
    defended = sanitize(_with_weights(unwrapped(model), path), plan, example=example)
    try:
        load_model(defended.network, str(path))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"the weights in '{path}' do not fit {type(model).__name__}: {error}") from error
    return defended.eval()


def _with_weights(model: nn.Module, path: Path) -> nn.Module:
    """A copy of the model with those weights of a file that fit: the original network, to compare the sanitized copy with."""
    twin = copied(model)
    weights = {name.removeprefix("body."): value for name, value in load_file(path).items()}
    with contextlib.suppress(RuntimeError):  # weights of another architecture, which `load` reports later
        twin.load_state_dict(weights, strict=False)
    return twin


def as_plan(plan: Sanitizer | Plan | str) -> Plan:
    """A plan as patterns with sanitizers; TypeError for anything else, ValueError for an empty plan."""
    patterns = read_plan(plan) if isinstance(plan, str) else plan
    patterns = {"*": patterns} if isinstance(patterns, Sanitizer) else patterns
    if not isinstance(patterns, Mapping) or not all(
        isinstance(pattern, str) and isinstance(part, Sanitizer) for pattern, part in patterns.items()
    ):
        raise TypeError(f"a plan must be a sanitizer, its text, or map patterns to sanitizers, got {plan!r}")
    if not patterns:
        raise ValueError("a plan must have at least one pattern, got none")
    return patterns


def plan_to_dict(plan: Sanitizer | Plan) -> dict[str, dict[str, Any]]:
    return {pattern: sanitizer.config for pattern, sanitizer in as_plan(plan).items()}


def plan_from_dict(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Sanitizer]:
    """The inverse of `plan_to_dict`; ValueError for an unknown sanitizer or argument, TypeError for anything else."""
    if not isinstance(configs, Mapping) or not all(isinstance(config, Mapping) for config in configs.values()):
        raise TypeError(f"a plan must map patterns to {{name: …, argument: …}}, got {shown(configs)}")
    if nameless := [pattern for pattern, config in configs.items() if "name" not in config]:
        raise ValueError(f"a sanitizer must have a name, got none for the pattern '{nameless[0]}'")
    return {pattern: make("sanitizer", SANITIZERS, **config) for pattern, config in configs.items()}


def read_plan(text: str, made: Callable[[Any], Any] | None = None) -> Any:
    """A plan from text, with semicolons between its parts, or from a JSON file in the form of `plan_to_dict`.

    made: makes the plan from the content of the file; None is `plan_from_dict`.
    """
    if not text.endswith(".json"):
        return parse_plan([part.strip() for part in text.split(";") if part.strip()] or [text])
    try:
        plan = (made or plan_from_dict)(json.loads(Path(text).read_text(encoding="utf-8"), object_pairs_hook=_once))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"'{text}' holds no plan, {{pattern: {{name: …, argument: …}}}}: {error}") from error
    if not plan:
        raise ValueError(f"'{text}' holds no plan: it has no pattern")
    return plan


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names must differ: of two equal ones, Python would silently keep the last."""
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"'{twice[0]}' is given twice")
    return dict(pairs)


def parse_plan(texts: Iterable[str]) -> dict[str, Sanitizer]:
    """A plan as on the command line, each part ``[PATTERN=]NAME[:ARGUMENT,…]``: ``conv*=mask:0.3,reading=mean_std``."""
    plan: dict[str, Sanitizer] = {}
    names = "|".join(SANITIZERS)
    for text in texts:
        match = re.fullmatch(rf"(?P<pattern>.+)=(?P<sanitizer>(?:{names})(?::[^:]*)?)", text)
        pattern, sanitizer = (match["pattern"], match["sanitizer"]) if match else ("*", _without_pattern(text))
        if pattern in plan:
            raise ValueError(f"two sanitizers for the pattern '{pattern}', the second is '{text}'")
        plan[pattern] = parse("sanitizer", SANITIZERS, sanitizer)
    return plan


def _without_pattern(text: str) -> str:
    """``PATTERN=NAME:…`` without its pattern, so that the message about a mistyped name is about the name."""
    head, colon, rest = text.partition(":")
    return head.rpartition("=")[2] + colon + rest


@dataclass(frozen=True)
class ListedLayer:
    """A convolution or linear layer, for a table.

    shape: of its output, without the batch.  role, hidden: see `graph.Layer`.  sanitizer: what the plan attaches, or "".
    """

    name: str
    type: str
    shape: tuple[int, ...] | None
    role: str
    hidden: bool
    sanitizer: str


def list_layers(
    model: nn.Module, plan: Sanitizer | Plan | str | None = None, *, example: Tensor | None = None
) -> list[ListedLayer]:
    """The convolution and linear layers of ``model`` in the order of execution, and what ``plan`` attaches to each.

    example: an input, (N, C, H, W), from which output shapes are found.  None takes the input shape from the model.
    """
    model = unwrapped(model)
    layers = find_layers(trace(model, example))
    patterns = {} if plan is None else as_plan(plan)
    hits = _hits(layers, patterns)
    shapes = _output_shapes(model, example)
    return [
        ListedLayer(
            layer.name,
            layer.type,
            shapes.get(layer.name),
            layer.role,
            layer.hidden,
            repr(patterns[hits[layer.place]]) if layer.place in hits else "",
        )
        for layer in layers
    ]


def _output_shapes(model: nn.Module, example: Tensor | None) -> dict[str, tuple[int, ...]]:
    if example is None:
        if (shape := likely_shape(model)) is None:
            return {}
        parameter = next(model.parameters())
        example = torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype)
    shapes: dict[str, tuple[int, ...]] = {}
    handles = [
        module.register_forward_hook(lambda m, inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])}))
        for name, module in model.named_modules()
        if isinstance(module, LAYERS)
    ]
    try:
        with preserved(model), torch.no_grad():
            model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def calibrate(defended: SanitizedModel, images: Tensor, *, batch_size: int = 500) -> None:
    """Show clean images to the sanitizers that need them, layer by layer.  Each sees the output of those before it.

    images: (N, C, H, W) as the network takes them, of training data; N ≥ 1.  The network runs in evaluation mode.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"calibration needs a tensor of floats, got {kind}")
    if len(images) == 0:
        raise ValueError("calibration needs at least one image, got none")
    if not images.isfinite().all():
        raise ValueError("calibration needs finite images, got NaN or infinity")
    batch_size = BATCH_SIZE(batch_size, "batch_size", "calibrate")
    parts = list(defended.sanitizers.values())
    with preserved(defended), torch.no_grad():
        defended.eval()
        for number, sanitizer in enumerate(parts):
            if sanitizer.needs_data:
                with bypass(parts[number:]):
                    sanitizer.calibrate(_inputs(defended, sanitizer, torch.split(images, batch_size)))


def _inputs(defended: nn.Module, sanitizer: nn.Module, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    seen: list[Tensor] = []
    handle = sanitizer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        for batch in batches:
            try:
                defended(batch)
            except RuntimeError as error:
                shape = tuple(batch.shape)
                raise ValueError(f"calibration needs images that the network takes, got {shape}: {error}") from error
            yield seen.pop()
    finally:
        handle.remove()


@torch.no_grad()
def changed(defended: nn.Module, x: Tensor) -> dict[Part, float]:
    """The share of elements that each active part changes on x, from 0 to 1.  A part with 0 does nothing.

    The network runs in evaluation mode.  Parts whose output has another shape than their input are left out.
    """
    shares: dict[Part, float] = {}

    def compare(part: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(inputs[0], Tensor) and inputs[0].shape == output.shape:
            shares[part] = float((output != inputs[0]).float().mean())

    parts = [part for part in removable(defended) if not part.bypassed]
    handles = [part.register_forward_hook(compare) for part in parts]
    try:
        with preserved(defended):
            defended.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
    return shares


def _hits(layers: list[Layer], patterns: Iterable[str]) -> dict[Any, str]:
    """The places to sanitize, each with the single pattern that hits it."""
    hits: dict[Any, str] = {}
    for pattern in patterns:
        for layer in matching(layers, pattern):
            if (other := hits.setdefault(layer.place, pattern)) != pattern:
                raise ValueError(
                    f"two sanitizers for one activation: the patterns '{other}' and '{pattern}' both hit '{layer.name}'"
                )
    return hits


def matching(layers: list[Layer], pattern: str) -> list[Layer]:
    """The layers with a hidden activation that the pattern matches; ValueError if there are none."""
    if pattern == "*":
        matching = [layer for layer in layers if layer.hidden]
    else:
        try:
            expression = re.compile(pattern[3:] if pattern.startswith("re:") else translate(pattern))
        except re.error as error:
            raise ValueError(f"'{pattern}' is not a regular expression: {error}") from error
        matching = [layer for layer in layers if layer.place is not None and expression.fullmatch(layer.name)]
    if not matching:
        names = ", ".join(layer.name for layer in layers if layer.place is not None)
        inner = f"*.{pattern}"  # the network may lie inside another module, as timm's do
        hint = any(fnmatchcase(layer.name, inner) for layer in layers if layer.place is not None)
        outputs = ", ".join(layer.name for layer in layers if layer.place is None)
        raise ValueError(
            f"the pattern '{pattern}' matches no hidden convolution or linear layer"
            + f"; did you mean '{inner}'?" * hint
            + f"; there are: {names or 'none'}"
            + (f" (not {outputs}: output layers are left alone)" if outputs else "")
        )
    return matching


def activation_name(layers: list[Layer], place: fx.Node) -> tuple[str, Layer]:
    """The name of a hidden activation, and its layer; if several layers share it, the last one."""
    owner = [layer for layer in layers if layer.place is place][-1]
    once = sum(layer.name == owner.name for layer in layers) == 1
    return owner.name if once else f"{owner.name} ({place})", owner
