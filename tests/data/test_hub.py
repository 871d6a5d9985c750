"""The Hub is asked once: what it has not, and a network that is down, are told at once."""

from __future__ import annotations

import datasets
import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image

from sanact.data import load_data


class Hub:
    """Answers in place of the Hub, and counts how often it is asked."""

    def __init__(self, answer: Exception | None) -> None:
        self.answer, self.asked = answer, 0

    def dataset_info(self, name: str, timeout: float) -> None:
        self.asked += 1
        assert timeout <= 10
        if self.answer:
            raise self.answer


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("SANACT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def with_answer(answer: Exception | None = None) -> Hub:
        made = Hub(answer)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
        return made

    return with_answer


def not_found() -> RepositoryNotFoundError:
    error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    Exception.__init__(error, "404")
    return error


def test_a_name_that_the_hub_does_not_know_is_not_asked_for_again(hub, monkeypatch):
    asked = hub(not_found())
    monkeypatch.setattr(datasets, "load_dataset", lambda name: pytest.fail(f"asked for {name}"))
    with pytest.raises(ValueError, match="no data set 'me/fotos': .*the Hub has no data set"):
        load_data("me/fotos")
    assert asked.asked == 1


def test_without_a_network_only_what_was_downloaded_is_looked_for(hub, monkeypatch):
    asked, states = hub(OSError("no route")), []

    def load(name: str):
        states.append((datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE))
        raise ConnectionError(f"Couldn't reach {name}")

    before = huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ValueError, match="no data set 'me/photos': .*the Hub cannot be reached, and no data"):
        load_data("me/photos")
    assert asked.asked == 1 and states == [(True, True)]
    assert (False, before) == (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)


def test_what_is_there_is_loaded(hub, monkeypatch):
    hub()
    made = datasets.Dataset.from_dict({"image": [Image.new("L", (4, 4))] * 2, "label": [0, 1]})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(test=made))
    assert load_data("me/photos").labels.tolist() == [0, 1]
