"""Every sanitizer is tested twice: with the compiled kernels, and in plain torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from sanact.kernels import at_work, plain_torch


@pytest.fixture(params=["compiled", "plain torch"], autouse=True)
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "compiled" and not at_work().startswith("compiled"):
        pytest.skip(f"the kernels at work are {at_work()}")
    with plain_torch() if request.param == "plain torch" else nullcontext():
        yield
