"""What docs/defenses.md tells people to write."""

from __future__ import annotations

import re
from pathlib import Path

import torch

GUIDE = Path(__file__).parents[2] / "docs" / "defenses.md"


def test_the_guide_does_what_it_says():
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(code, str(GUIDE), "exec"), names)
    x = torch.linspace(0, 1, 784).reshape(1, 1, 28, 28)
    logits = {name: names[name](x) for name in ("model", "squeezed", "both", "hardened")}
    assert all(value.shape == (1, 10) for value in logits.values())
    assert len({value.sum().item() for value in logits.values()}) == 4
    posterized = names["defend"](names["model"], names["Posterized"](4))
    torch.testing.assert_close(posterized(x), names["model"]((x * 3).round() / 3))
