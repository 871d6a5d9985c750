from __future__ import annotations

import pytest
import torch

from sanact.device import pick_device


def test_auto_is_cuda_where_there_is_one():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_device_by_name():
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", ""])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=f"device must be auto, cpu, or one that is there, got '{name}'"):
        pick_device(name)


def test_a_name_that_is_right_is_not_suggested():
    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    with pytest.raises(ValueError, match="got 'cuda'") as error:
        pick_device("cuda")
    assert "did you mean" not in str(error.value)
