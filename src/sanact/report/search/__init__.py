"""A search from the files that it has left, without a model: what was found, as tables and as pictures."""

from __future__ import annotations

from sanact.report.search.figures import course_figure, front_figure, importance_figure, pictures, scan_figure
from sanact.report.search.found import JOURNAL, JUDGED, SCAN, STUDY, Search, Trial, import_optuna, read_search
from sanact.report.search.importance import Importance, importances
from sanact.report.search.tables import card, doubt, front_table, judged_table, scan_table

__all__ = [
    "JOURNAL",
    "JUDGED",
    "SCAN",
    "STUDY",
    "Importance",
    "Search",
    "Trial",
    "card",
    "course_figure",
    "doubt",
    "front_figure",
    "front_table",
    "import_optuna",
    "importance_figure",
    "importances",
    "judged_table",
    "pictures",
    "read_search",
    "scan_figure",
    "scan_table",
]
