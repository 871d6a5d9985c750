"""Published defenses, each a frozen dataclass that makes a defended network of an undefended one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sanact.data import Data
from sanact.defenses.adp import ADP
from sanact.defenses.adversarial_training import PGDAdversarialTraining
from sanact.defenses.base import Card, Defense
from sanact.defenses.chain import Chain, as_defense, split
from sanact.defenses.crop_rescale import CropEnsemble
from sanact.defenses.deep_cloak import DeepCloak
from sanact.defenses.distillation import DefensiveDistillation
from sanact.defenses.ecoc import ECOC
from sanact.defenses.ensemble_training import EnsembleAdversarialTraining
from sanact.defenses.feature_squeezing import FeatureSqueezing
from sanact.defenses.filter_statistics import FilterStatistics
from sanact.defenses.gat import GAT
from sanact.defenses.generative_logits import GenerativeLogits
from sanact.defenses.gradient_regularization import UnifiedGradientRegularization
from sanact.defenses.input_gradient import InputGradientRegularization
from sanact.defenses.interval_training import IntervalTraining
from sanact.defenses.jpeg import JPEGCompression
from sanact.defenses.kwta_network import KWTANetwork
from sanact.defenses.lid import LocalIntrinsicDimensionality
from sanact.defenses.magnet import MagNet
from sanact.defenses.naive_training import NaiveAdversarialTraining
from sanact.defenses.odds import OddsAreOdd
from sanact.defenses.pixel_defend import PixelDefend
from sanact.defenses.quilting import ImageQuilting
from sanact.defenses.random_resize_pad import RandomResizingPadding
from sanact.defenses.region_voting import RegionVoting
from sanact.defenses.sanitizing import Sanitizing
from sanact.defenses.smoothing import Smoothing
from sanact.defenses.sparse_fourier import SparseFourierTransform
from sanact.defenses.thermometer import Thermometer
from sanact.defenses.trained import Trained
from sanact.defenses.transforming import Transforming
from sanact.defenses.tv_minimization import TotalVariationMinimization

DEFENSES: dict[str, type[Defense]] = {
    "pgd-at": PGDAdversarialTraining,
    "naive-at": NaiveAdversarialTraining,
    "ensemble-at": EnsembleAdversarialTraining,
    "unified-gradient": UnifiedGradientRegularization,
    "input-gradient": InputGradientRegularization,
    "distillation": DefensiveDistillation,
    "k-wta-net": KWTANetwork,
    "feature-squeezing": FeatureSqueezing,
    "pixel-defend": PixelDefend,
    "magnet": MagNet,
    "filter-statistics": FilterStatistics,
    "lid": LocalIntrinsicDimensionality,
    "odds": OddsAreOdd,
    "region-voting": RegionVoting,
    "deep-cloak": DeepCloak,
    "ecoc": ECOC,
    "adp": ADP,
    "gat": GAT,
    "generative-logits": GenerativeLogits,
    "random-resize-pad": RandomResizingPadding,
    "jpeg": JPEGCompression,
    "tv-minimization": TotalVariationMinimization,
    "quilting": ImageQuilting,
    "crop-rescale": CropEnsemble,
    "sparse-fourier": SparseFourierTransform,
    "thermometer": Thermometer,
    "ibp": IntervalTraining,
    "smoothing": Smoothing,
}

__all__ = [
    "GenerativeLogits",
    "GAT",
    "ADP",
    "DEFENSES",
    "ECOC",
    "Card",
    "Chain",
    "CropEnsemble",
    "DeepCloak",
    "Defense",
    "DefensiveDistillation",
    "EnsembleAdversarialTraining",
    "FeatureSqueezing",
    "ImageQuilting",
    "FilterStatistics",
    "InputGradientRegularization",
    "JPEGCompression",
    "KWTANetwork",
    "LocalIntrinsicDimensionality",
    "MagNet",
    "NaiveAdversarialTraining",
    "OddsAreOdd",
    "IntervalTraining",
    "PGDAdversarialTraining",
    "PixelDefend",
    "RandomResizingPadding",
    "RegionVoting",
    "Sanitizing",
    "SparseFourierTransform",
    "Thermometer",
    "TotalVariationMinimization",
    "Smoothing",
    "Trained",
    "Transforming",
    "UnifiedGradientRegularization",
    "as_defense",
    "defend",
    "split",
]


def defend(model: nn.Module, defense: Any, data: Data | None = None, *, example: Tensor | None = None) -> nn.Module:
    """A defended copy of ``model``; the model itself does not change.

    defense: a `Defense`, a sanitizer, a plan, a transform, a function (model) or (model, data) → module, or text as on the
        command line, ``"feature-squeezing:bits=1"``; or a list of these, in the order in which images pass them.
    data: clean training images, for a defense that learns from them.
    example: an image, (1, C, H, W), for a model whose input shape cannot be found out.
    Raises TypeError for anything else, and ValueError as the defense does.
    """
    return as_defense(defense)(model, data, example=example)
