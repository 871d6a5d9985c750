"""Saved models on the Hugging Face Hub, through huggingface_hub's mixin, each with a card."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download

T = TypeVar("T")

WEIGHTS = "model.safetensors"


class Repository(ModelHubMixin):
    """A model as a repository on the Hub.

    save: writes the weights to a path.  card: Markdown, the README.  `push_to_hub` and `save_pretrained` are the mixin's.
    """

    def __init__(self, save: Callable[[Path], None], card: str) -> None:
        self.save, self.card = save, card

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory / WEIGHTS)

    def generate_model_card(self, *given: Any, **named: Any) -> ModelCard:
        return ModelCard(self.card)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, read: Callable[[Path], T], **how: Any) -> T:  # type: ignore[override]
        """The result of ``read`` on the weights, from a local folder or a repository on the Hub."""
        local = Path(model_id) / WEIGHTS
        known = {key: value for key, value in how.items() if key in ("revision", "cache_dir", "force_download", "token")}
        return read(local if os.path.isdir(model_id) else Path(hf_hub_download(model_id, WEIGHTS, **known)))


def card(title: str, facts: Mapping[str, str], usage: str, verdict: str) -> str:
    """A model card: the model, how to load it, and the judge's verdict."""
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return (
        "---\nlibrary_name: sanact\ntags:\n- sanact\n- adversarial-robustness\n---\n\n"
        f"# {title}\n\n{listed}\n\n```python\n{usage}\n```\n\n## Verdict\n\n{verdict.strip()}\n"
    )
