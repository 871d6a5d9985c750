"""Transforms of the image beside those of ART; and what each defense adds to a pass of MNIST-CNN."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import torch
from art.defences.preprocessor import (
    FeatureSqueezing,
    JpegCompression,
    SpatialSmoothing,
    SpatialSmoothingPyTorch,
    ThermometerEncoding,
    TotalVarMin,
)
from torch import Tensor, nn

from benchmarks.inputs import images, network
from benchmarks.measure import Job, Options, Race
from sanact import transforms

UNIT = (0.0, 1.0)
FEW = 10  # images of a contest that takes long
LEARNT = 1000  # clean images that defenses learn from

Peer = Callable[[np.ndarray], np.ndarray]


def squeezed(x: np.ndarray) -> np.ndarray:
    return FeatureSqueezing(clip_values=UNIT, bit_depth=4)(x)[0]


def smoothed(x: np.ndarray) -> np.ndarray:
    return SpatialSmoothing(window_size=2, channels_first=True)(x)[0]


def smoothed_by_torch(x: np.ndarray) -> np.ndarray:
    return SpatialSmoothingPyTorch(window_size=2, channels_first=True, device_type="cpu")(x)[0]


def compressed(x: np.ndarray) -> np.ndarray:
    return JpegCompression(clip_values=UNIT, quality=75, channels_first=True)(x)[0]


def encoded(x: np.ndarray) -> np.ndarray:
    return ThermometerEncoding(clip_values=UNIT, num_space=16, channels_first=True)(x)[0]


def minimized(x: np.ndarray) -> np.ndarray:
    """Channels last, as this one wants them; the iterations are those of its defaults."""
    return TotalVarMin(prob=0.5, lamb=0.03, clip_values=UNIT)(x.transpose(0, 2, 3, 1))[0]


def races(options: Options) -> list[Race]:
    x = next(images(options.examples).batches(options.examples)).x
    few = x[:FEW]
    contests: dict[str, tuple[nn.Module, dict[str, Peer], Tensor]] = {
        "4 bits": (transforms.BitDepth(4), {"ART": squeezed}, x),
        "median 2x2": (transforms.MedianSmoothing(2), {"ART": smoothed, "ART, torch": smoothed_by_torch}, x),
        "JPEG 75": (transforms.JPEG(75), {"ART": compressed}, x),
        "thermometer, 16 levels": (transforms.ThermometerEncoding(16), {"ART": encoded}, x),
        "total variation": (transforms.TVMinimization(), {"ART": minimized}, few),
    }
    return [
        *(_contest(name, *contest, options.rounds) for name, contest in contests.items()),
        _overhead(x[: 2 * FEW], options.rounds),
    ]


def _contest(name: str, ours: nn.Module, peers: dict[str, Peer], x: Tensor, rounds: int) -> Race:
    jobs = {"sanact": Job(torch.no_grad()(ours), (x,))} | {peer: Job(call, (x.numpy(),)) for peer, call in peers.items()}
    return Race(table="transforms", facts={"transform": name, "examples": len(x)}, column="library", jobs=jobs, rounds=rounds)


def _overhead(x: Tensor, rounds: int) -> Race:
    """MNIST-CNN alone, and behind or inside each defense of the landscape that can be made of it here."""
    landscape = importlib.import_module("sanact.experiments.landscape")  # the package has a function of this name, too
    clean = images(LEARNT, "train")
    jobs = {"nothing": Job(torch.no_grad()(network()), (x,))}
    for defense in landscape.defenses("mnist"):
        if "weights" in defense.config:
            continue  # another network, whose pass takes what it takes
        defended = defense(network(), clean if defense.needs_data else None)
        told = [name for name, value in defense.config.items() if value is True]
        jobs[", ".join([defense.name, *told])] = Job(torch.no_grad()(defended), (x,))
    facts = {"network": "mnist-cnn", "examples": len(x)}
    return Race(table="overhead of defenses", facts=facts, column="defense", jobs=jobs, rounds=rounds)
