"""Data sets of the Hugging Face Hub; a missing one is reported at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    import datasets

ANSWER = 5.0  # seconds that the Hub has to answer whether it has a data set


def from_hub(name: str) -> Mapping[str, datasets.Dataset]:
    """All splits of a data set on the Hub; if the Hub cannot be reached, those downloaded before.

    Raises ValueError if the Hub has no such data set, or cannot be reached and nothing was downloaded; and whatever
    `datasets` raises.
    """
    import datasets

    if datasets.config.HF_HUB_OFFLINE or _is_there(name):
        return dict(datasets.load_dataset(name))
    with _offline():
        try:
            return dict(datasets.load_dataset(name))
        except Exception as error:  # `datasets` raises a dozen kinds
            raise ValueError(f"the Hub cannot be reached, and no data set '{name}' was downloaded before") from error


def _is_there(name: str) -> bool:
    """Whether the Hub has it; False if the Hub does not answer.  `datasets` itself would retry for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=ANSWER)
    except RepositoryNotFoundError as error:
        raise ValueError(f"the Hub has no data set '{name}', or only a private one (hf auth login)") from error
    except HfHubHTTPError:
        return True  # the Hub answers, so `datasets` will report the problem
    except Exception:  # a network may raise any error
        return False
    return True


@contextmanager
def _offline() -> Iterator[None]:
    """For the block, make no request to the Hub."""
    import datasets
    import huggingface_hub

    with patch.object(datasets.config, "HF_HUB_OFFLINE", True), patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True):
        yield
