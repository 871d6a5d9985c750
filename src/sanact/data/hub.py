"""Data sets of the Hugging Face Hub; a missing one is reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from unittest.mock import patch

from sanact.online import is_on_hub, offline

if TYPE_CHECKING:
    import datasets


def from_hub(name: str) -> Mapping[str, datasets.Dataset]:
    """All splits of a data set on the Hub; if the Hub cannot be reached, those downloaded before.

    Raises ValueError if the Hub has no such data set, or cannot be reached and nothing was downloaded; and whatever
    `datasets` raises.
    """
    import datasets

    if not datasets.config.HF_HUB_OFFLINE and is_on_hub(name, "data set"):
        return dict(datasets.load_dataset(name))
    with offline(), patch.object(datasets.config, "HF_HUB_OFFLINE", True):
        try:
            return dict(datasets.load_dataset(name))
        except Exception as error:  # `datasets` raises a dozen kinds
            raise ValueError(f"the Hub cannot be reached, and no data set '{name}' was downloaded before") from error
