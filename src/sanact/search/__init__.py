"""Which layers to sanitize, with what, and how strongly: proposed by Optuna, decided by the judge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sanact.search.asked import Scanning, Searching, takes

if TYPE_CHECKING:
    from sanact.report.search import Search
    from sanact.search.study import Study

__all__ = ["search", "sensitivity"]


@takes(Searching)
def search(*given: Any, **named: Any) -> Study:
    """Search the plans of sanitizers for those that keep most accuracy, on clean images and under attack.

        found = sanact.search(model, validation, sanitizers=["mask", "median"], trials=100, unseen=test)
        defended = sanact.defend(model, found.best)

    The arguments are the fields of `Searching`, and those of `Scanning`.
    Raises ValueError for a space without a layer or a sanitizer, for an ``out`` that holds the study of something else, for
    images that are in ``data`` and in ``unseen``, where no plan and no attack changes the objective, and where all trials
    fail.  A trial that fails is kept with its error.  ImportError without Optuna: pip install 'sanact[search]'.
    """
    from sanact.search.study import run_search

    return run_search(Searching(*given, **named))


@takes(Scanning)
def sensitivity(*given: Any, **named: Any) -> Search:
    """Sanitize each layer alone, at each strength: what it costs of clean accuracy, and what it buys under attack.

    The arguments are the fields of `Scanning`.
    Raises ValueError as `search` does.
    """
    from sanact.search.study import run_scan

    return run_scan(Scanning(*given, **named))
