"""On which images an experiment runs."""

from __future__ import annotations

import numpy as np
import pytest

from sanact.data import load_data
from sanact.experiments import Setting
from tests.conftest import load_or_skip


@pytest.mark.parametrize("part", ["validation", "test"])
def test_only_some_classes(part, tmp_path):
    load_or_skip("mnist", "test")
    images = Setting(data="mnist", out=tmp_path, examples=10, classes=("3", "8")).images(part)
    assert sorted(images.labels.tolist()) == [3] * 5 + [8] * 5 and images.chosen == ("3", "8")


def test_validation_images_are_those_that_training_held_out(tmp_path):
    load_or_skip("mnist", "test")
    everything = load_data("mnist", "train")
    held_out, rest = everything.split_off(len(everything) // 12, seed=0)
    images = Setting(data="mnist", out=tmp_path).images("validation")
    assert len(images) == 1000 and set(images.index) <= set(held_out.index) and not set(images.index) & set(rest.index)
    assert np.bincount(images.labels).min() > 80
