"""Whether the Hugging Face Hub can be reached; its own libraries would try for half a minute before they say that it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from unittest.mock import patch

ANSWER = 5.0  # seconds that the Hub has to answer whether it has something


def is_on_hub(name: str, kind: Literal["data set", "model"]) -> bool:
    """Whether the Hub has it; False if the Hub does not answer.

    Raises ValueError if the Hub answers that it has no such thing.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        api = HfApi()
        (api.dataset_info if kind == "data set" else api.model_info)(name, timeout=ANSWER)
    except RepositoryNotFoundError as error:
        raise ValueError(f"the Hub has no {kind} '{name}', or only a private one (hf auth login)") from error
    except HfHubHTTPError:
        return True  # the Hub answers, so whoever loads it will report the problem
    except Exception:  # a network may raise any error
        return False
    return True


@contextmanager
def offline() -> Iterator[None]:
    """For the block, make no request to the Hub."""
    import huggingface_hub

    with patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True):
        yield
