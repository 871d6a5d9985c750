"""One call that judges: the same cells as by hand, and a result that shows itself."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import sanact
from sanact.data import Data
from sanact.engine import run
from sanact.evaluation.cell import cells
from sanact.report.results import results

X = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
HOW = {"workers": 1, "effort": "quick"}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def images(model) -> tuple[torch.Tensor, torch.Tensor]:
    return X, model(X).argmax(1)


@pytest.fixture(scope="module")
def found(model, images) -> sanact.Evaluation:
    return sanact.evaluate(model, images, defenses=["*=mask:0.3"], attacks=["fgsm:eps=0.1"], examples=12, name="net", **HOW)


def test_judges_the_cells_that_one_would_write_by_hand(model, images, found, tmp_path):
    by_hand = cells(
        Data.of(images).sample(12),
        model,
        "net",
        [None, sanact.Mask(0.3)],
        [sanact.FGSM(eps=0.1)],
        ["oblivious", "white-box", "adaptive"],
        effort="quick",
        l2="usual",
    )
    expected = results(run(by_hand, out=tmp_path, workers=1), l2="usual")
    assert found.results == expected and len(found.paths) == 5


def test_the_table_is_of_those_who_know_most(found):
    assert found.table() == found.table("adaptive") and found.table("oblivious").title.startswith("oblivious")
    assert set(found.table().rows) == {"none", "mask"}
    text, page = str(found), found._repr_html_()
    for known in ("oblivious", "white-box", "adaptive"):
        assert f"{known}: " in text and f"<b>{known}: " in page
    assert text.index("adaptive: ") < text.index("white-box: ") and repr(found) == text and "Linf 0.1" in text


def test_frames_of_accuracies_and_of_examples(found):
    frame, examples = found.to_pandas(), found.to_pandas(examples=True)
    assert frame["accuracy"].tolist() == [result.accuracy.value for result in found.results]
    assert len(examples) == 5 * 12 and set(examples["knowledge"]) == {"oblivious", "white-box", "adaptive"}
    of = examples[(examples.defense == "mask") & (examples.knowledge == "white-box")]
    left = frame[(frame.defense == "mask") & (frame.knowledge == "white-box")]["accuracy"].item()
    assert 100 * (of.prediction == of.label).mean() == pytest.approx(left)


def test_draws_and_reports(found, tmp_path):
    assert isinstance(found.figure(), Figure)
    page = found.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "net on 12 images of data" in page and "the adversarial example, and their difference" in page


def test_rows_without_a_folder_go_with_the_result(model, images):
    result = sanact.evaluate(model, images, attacks="fgsm:eps=0.1", knowledge="white-box", examples=3, **HOW)
    (path,) = result.paths
    assert path.exists()
    del result
    gc.collect()
    assert not path.parent.exists()


def test_rows_in_a_folder_stay_and_are_not_judged_again(model, images, tmp_path, monkeypatch):
    def once():
        return sanact.evaluate(model, images, attacks="fgsm:eps=0.1", knowledge="white-box", examples=3, out=tmp_path, **HOW)

    first = once()
    monkeypatch.setattr(sanact.FGSM, "craft", lambda *given: pytest.fail("it was judged again"))
    assert once().results == first.results and first.paths[0].parent == tmp_path


def test_a_network_in_half_precision_is_computed_in_float32_and_every_title_says_so(images):
    torch.manual_seed(0)
    half = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval().half()
    result = sanact.evaluate(half, images, attacks="fgsm:eps=0.1", knowledge="white-box", examples=3, **HOW)
    assert "weights of float16, computed in float32" in result.table().title


def test_a_sanitized_network_is_judged_beside_itself_without(model, images):
    defended = sanact.sanitize(model, "mask:0.3", example=X[:1])
    result = sanact.evaluate(defended, images, attacks="fgsm:eps=0.1", knowledge="white-box", examples=6, **HOW)
    assert [one.defense for one in result.results if one.attack == "clean"] == ["none", "mask"]
    with pytest.raises(ValueError, match="the model already contains defenses .*no others can be added"):
        sanact.evaluate(defended, images, defenses="mask:0.3", **HOW)


def test_defenses_that_learn_are_given_training_images(model, images):
    with pytest.raises(ValueError, match=r"learns from clean training images, got none: give training=…"):
        sanact.evaluate(model, images, defenses=["*=mean-sparse"], **HOW)
    clean = (torch.rand(40, 1, 8, 8), torch.zeros(40, dtype=torch.long))
    asked = {"attacks": "fgsm:eps=0.1", "knowledge": "white-box", "examples": 3}
    result = sanact.evaluate(model, images, defenses=["*=mean-sparse"], training=clean, **asked, **HOW)
    assert "mean-sparse" in result.table().rows


def signs(model, x, y, eps=0.1):
    point = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(point), y).backward()
    return (x + eps * point.grad.sign()).clamp(0, 1)


def test_an_attack_of_ones_own_stands_beside_ours(model, images):
    result = sanact.judge_attack(model, images, signs, eps=0.1, examples=12, **HOW)
    own, ours = (one for one in result.results if one.attack != "clean")
    assert (own.attack, ours.attack) == ("signs, Linf 0.1", "PGD-40, Linf 0.1") and own.verdict and own.knowledge == "white-box"
    fgsm = sanact.evaluate(model, images, attacks="fgsm:eps=0.1", knowledge="white-box", examples=12, **HOW).results[1]
    assert own.accuracy == fgsm.accuracy
    with pytest.raises(ValueError, match="the attack has its own eps and norm"):
        sanact.judge_attack(model, images, sanact.FGSM(eps=0.1), eps=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attacks": ["pdg:eps=0.1"]}, r"got 'pdg'; did you mean 'pgd'\?"),
        ({"defenses": ["*=msk:0.3"]}, r"got 'msk'; did you mean 'mask'\?"),
        ({"knowledge": ["whitebox"]}, r"did you mean 'white-box'\?"),
        ({"effort": "quik"}, r"did you mean 'quick'\?"),
        ({"examples": 31}, r"examples must be in 1\.\.30, got 31"),
        ({"attacks": ["cw"], "knowledge": "adaptive", "l2": None}, "nothing to judge: no attack has a budget for the adaptive"),
    ],
)
def test_what_cannot_be_is_refused_before_any_attack(model, images, arguments, message):
    with pytest.raises(ValueError, match=message):
        sanact.evaluate(model, images, **{"workers": 1} | arguments)


def test_pandas_is_imported_when_a_frame_is_asked_for():
    script = "import sys, sanact.judging; print('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"
