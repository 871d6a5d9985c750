"""The state of a training on disk, whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sanact.content import content
from sanact.files import replacing


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write the state of a training with its identity and a hash of it, whole or not at all."""
    saved = io.BytesIO()  # so that a full disk raises an error in Python
    torch.save({**state, "digest": content(dict(state)).hex()}, saved)
    with replacing(path) as temporary:
        temporary.write_bytes(saved.getbuffer())


def read_checkpoint(path: Path, identity: str, decides: str) -> dict[str, Any]:
    """The state of a training; ValueError for a broken file or another training.  decides: what identifies a training."""
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # a broken file may raise any error
        raise ValueError(f"'{path}' holds no training to continue, delete it to begin again: {error}") from error
    if not isinstance(state, dict) or state.get("identity") != identity:
        raise ValueError(f"'{path}' is of a training with another {decides}: delete it to begin again")
    if state.pop("digest", "") != content(state).hex():
        raise ValueError(f"'{path}' is not as it was written: delete it to begin again")
    return state
