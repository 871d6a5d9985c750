"""The tutorial runs as it stands, stays short, and ends with a report."""

from __future__ import annotations

import runpy
from pathlib import Path

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial" / "timm_to_report.py"


def test_the_tutorial_goes_from_a_timm_model_to_a_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = runpy.run_path(str(TUTORIAL))
    assert "<td>Mask(" in made["defended"]._repr_html_()
    assert "<th>zeros after sanitizing</th>" in made["recording"]._repr_html_()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "resnet10t on 20 images of digits" in page and "the adversarial example, and their difference" in page


def test_the_tutorial_is_shorter_than_30_lines():
    lines = [line for line in TUTORIAL.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert len(lines) < 30, len(lines)
