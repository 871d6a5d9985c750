"""Each sanitizer beside a copy of its input, and beside other libraries; its overhead in networks; the cost of patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import scipy.ndimage
import skimage.filters
import skimage.restoration
import torch
from kornia.filters import median_blur
from torch import Tensor, nn

from benchmarks.inputs import activations, images, network
from benchmarks.measure import Job, Options, Race, Row
from sanact import Mask, MedianFilter, NonLocalMeans, Sanitizer, sanitize
from sanact.models.resnet import ResNet18

EXAMPLES = 32
PATCHES = (3, 5, 7, 11)
MARGIN = 4  # how far borders reach into a map: half the window and half the patch of non-local means


@dataclass(frozen=True)
class Layout:
    """How a library likes its maps: to there, and what it returns back to a tensor of the shape of ``a``."""

    to: Callable[[Tensor], Any]
    back: Callable[[Any, Tensor], Tensor]


def _four(a: Tensor) -> np.ndarray:
    return np.ascontiguousarray(a.contiguous().reshape(-1, 4, *a.shape[2:]).permute(0, 2, 3, 1).numpy())


TENSOR = Layout(lambda a: a, lambda out, a: out)
ARRAY = Layout(lambda a: a.contiguous().numpy(), lambda out, a: torch.as_tensor(out).reshape(a.shape))
MAPS = Layout(lambda a: a.contiguous().numpy().reshape(-1, *a.shape[2:]), lambda out, a: torch.tensor(out).reshape(a.shape))
FOURS = Layout(_four, lambda out, a: torch.tensor(np.stack(out)).permute(0, 3, 1, 2).reshape(a.shape))
BYTES = Layout(
    lambda a: MAPS.to((a * (255 / a.max())).round().byte()), lambda out, a: MAPS.back(np.stack(out), a) * (a.max() / 255)
)

Peers = dict[str, tuple[Callable[[Any], Any], Layout]]


def fixed_mask(a: Tensor) -> tuple[Sanitizer, Peers]:
    def opencv(maps: np.ndarray) -> Any:
        return cv2.threshold(maps.reshape(len(maps), -1), 0.3, 0, cv2.THRESH_TOZERO)[1]

    return Mask(0.3, "fixed"), {"OpenCV threshold": (opencv, ARRAY)}


def mask(a: Tensor) -> tuple[Sanitizer, Peers]:
    def formula(a: Tensor) -> Tensor:
        return a * (a.abs() >= 0.3 * a.abs().amax((2, 3), keepdim=True))

    return Mask(0.3, "max"), {"one line of torch": (formula, TENSOR)}


def median(a: Tensor) -> tuple[Sanitizer, Peers]:
    scipy_median = partial(scipy.ndimage.median_filter, size=(1, 1, 3, 3), mode="mirror")
    skimage_median = partial(skimage.filters.median, footprint=np.ones((1, 1, 3, 3)), mode="mirror")
    return MedianFilter(3), {
        "kornia": (partial(median_blur, kernel_size=3), TENSOR),
        "SciPy": (scipy_median, ARRAY),
        "scikit-image": (skimage_median, ARRAY),
        "OpenCV": (lambda fours: [cv2.medianBlur(four, 3) for four in fours], FOURS),
    }


def non_local_means(a: Tensor) -> tuple[Sanitizer, Peers]:
    h = 0.5 * float(a.std())
    skimage_means = partial(skimage.restoration.denoise_nl_means, patch_size=3, patch_distance=3, h=h, fast_mode=True)
    opencv_means = partial(
        cv2.fastNlMeansDenoising, dst=None, h=h * 255 / float(a.max()), templateWindowSize=3, searchWindowSize=7
    )
    return NonLocalMeans(h, 3, 7, unit="absolute"), {
        "scikit-image fast mode": (lambda maps: np.stack([skimage_means(one) for one in maps]), MAPS),
        "OpenCV, 8 bits": (lambda maps: [opencv_means(one) for one in maps], BYTES),
    }


FILTERS: dict[str, Callable[[Tensor], tuple[Sanitizer, Peers]]] = {
    "mask, fixed": fixed_mask,
    "mask": mask,
    "median 3x3": median,
    "non-local means 3x3 in 7x7": non_local_means,
}
KERNELS = {
    "mask, fixed": Mask(0.3),
    "mask, max": Mask(0.3, "max"),
    "mask, max_all": Mask(0.3, "max_all"),
    "mask, quantile": Mask(0.6, "quantile"),
    "mask, mean_std": Mask(0.5, "mean_std"),
    "median 3x3": MedianFilter(3),
    "median 5x5": MedianFilter(5),
    "median 7x7": MedianFilter(7),
    "nl-means 3x3 in 3x3": NonLocalMeans(window_size=3),
    "nl-means 3x3 in 7x7": NonLocalMeans(window_size=7),
}
ATTACHED = {
    **{name: sanitizer for name, sanitizer in KERNELS.items() if name.startswith("mask")},
    "median": MedianFilter(),
    "nl-means, window 3": NonLocalMeans(window_size=3),
    "nl-means, window 7": NonLocalMeans(window_size=7),
}


def races(options: Options) -> list[Race]:
    layers = activations(min(EXAMPLES, options.examples))
    return [
        *(race for layer, a in layers.items() for race in _kernels(layer, a, options.rounds)),
        *(race for name in FILTERS for layer, a in layers.items() for race in _filters(name, layer, a, options.rounds)),
        _overhead("mnist-cnn", network(), next(images(options.examples).batches(options.examples)).x, options.rounds),
        _overhead("resnet18:width=64", ResNet18().eval(), _pictures(min(EXAMPLES, options.examples)), options.rounds),
        _patches(layers["conv1"], options.rounds),
    ]


def _kernels(layer: str, a: Tensor, rounds: int) -> tuple[Race, Race]:
    """One race forward, and one of the backward passes alone, each beside torch's copy of the same tensor."""
    copied, ones = torch.empty_like(a), torch.ones_like(a)
    copy = Job(lambda a: copied[: len(a)].copy_(a), (a,))
    forward = {name: Job(torch.no_grad()(sanitizer), (a,)) for name, sanitizer in KERNELS.items()}
    backward = {name: Job(_backward(sanitizer, a), (ones,)) for name, sanitizer in KERNELS.items()}
    facts = {"layer": layer, "shape": list(a.shape)}
    return (
        Race(
            table="kernels", facts=facts | {"pass": "forward"}, column="kernel", jobs={"copy_": copy, **forward}, rounds=rounds
        ),
        Race(
            table="kernels",
            facts=facts | {"pass": "backward"},
            column="kernel",
            jobs={"copy_": copy, **backward},
            rounds=rounds,
        ),
    )


def _backward(sanitizer: Sanitizer, a: Tensor) -> Callable[[Tensor], Tensor]:
    """The backward pass of a forward pass that was made before, for the gradient of the output."""
    a = a.detach().requires_grad_()
    out = sanitizer(a)

    def pull(gradient: Tensor) -> Tensor:
        gradient = gradient if gradient.shape == out.shape else gradient[:1].expand(out.shape)  # of a warm-up
        return torch.autograd.grad(out, a, gradient, retain_graph=True)[0]

    return pull


def _filters(name: str, layer: str, a: Tensor, rounds: int) -> tuple[Race, Race]:
    """One race forward, and one forward and backward for those that have a gradient."""
    sanitizer, peers = FILTERS[name](a)
    facts = {"sanitizer": name, "layer": layer, "shape": list(a.shape)}
    libraries: Peers = {"sanact": (sanitizer, TENSOR), **peers}
    inside = (..., slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))

    def difference(library: str, result: Any) -> Row:
        """From ours, inside the maps: borders are extended in as many ways as there are libraries."""
        off = (libraries[library][1].back(result, a) - sanitizer(a))[inside].abs()
        return {"difference": float(off.max() / a.max()) if off.numel() else None}

    forward = {library: Job(call, (layout.to(a),)) for library, (call, layout) in libraries.items()}
    both = {
        library: Job(partial(_gradient, call), (a, torch.ones_like(a)))
        for library, (call, layout) in libraries.items()
        if layout is TENSOR
    }
    return (
        Race(
            table="sanitizers",
            facts=facts | {"pass": "forward"},
            column="library",
            jobs=forward,
            rounds=rounds,
            describe=difference,
        ),
        Race(table="sanitizers", facts=facts | {"pass": "forward and backward"}, column="library", jobs=both, rounds=rounds),
    )


def _gradient(call: Callable[[Tensor], Tensor], a: Tensor, ones: Tensor) -> Tensor:
    a = a.detach().requires_grad_()
    return torch.autograd.grad(call(a), a, ones)[0]


def _overhead(title: str, model: nn.Module, x: Tensor, rounds: int) -> Race:
    """A network with nothing attached, and with each sanitizer on all layers."""
    defended = {name: sanitize(model, sanitizer) for name, sanitizer in ATTACHED.items()}
    jobs = {name: Job(torch.no_grad()(net), (x,)) for name, net in {"nothing": model, **defended}.items()}
    facts = {"network": title, "examples": len(x)}
    return Race(table="overhead", facts=facts, column="attached", jobs=jobs, rounds=rounds)


def _pictures(count: int) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _patches(a: Tensor, rounds: int) -> Race:
    jobs = {str(size): Job(NonLocalMeans(patch_size=size), (a,)) for size in PATCHES}
    return Race(table="patches", facts={"shape": list(a.shape)}, column="patch", jobs=jobs, rounds=rounds)
