"""The scan: each layer alone, at each strength, and the first plans of a study that this suggests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import numpy as np

from sanact.evaluation.statistics import paired
from sanact.files import write_text
from sanact.progress import progress_bar, say
from sanact.report.results import CLEAN
from sanact.search.desk import Desk
from sanact.search.objective import Outcome
from sanact.search.race import Hits
from sanact.search.space import Single, Space

SINGLES = 8  # of the scan, proposed first in the study


def scan(
    desk: Desk, space: Space, undefended: Hits, path: Path, *, levels: int, upto: int, progress: bool
) -> list[dict[str, Any]]:
    """Judge each sanitizer on each layer alone, and write the results to a JSON file.

    upto: images under attack.  Each entry has the fields of `Single`; hits, by figure, one digit per image; pruned: why it was
    not attacked; error: why it could not be judged.  An interrupted scan reads what it had judged.
    """
    singles, entries = list(space.singles(levels)), dict[Single, dict[str, Any]]()
    flying: dict[Future[Outcome], Single] = {}
    waiting = iter(singles)
    if progress:
        say(f"each layer alone: {len(singles)} plans, attacked on {upto} images")
    with progress_bar("each layer alone", len(singles), show=progress) as advance:
        while len(entries) < len(singles):
            while len(flying) < desk.workers and (single := next(waiting, None)) is not None:
                flying[desk.submit(space.candidate([single]), undefended=undefended, upto=upto)] = single
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                single = flying.pop(future)
                entries[single] = single._asdict() | told(future)
                advance(1)
    found = [entries[single] for single in singles]
    write_text(path, json.dumps(found))
    return found


def told(future: Future[Outcome]) -> dict[str, Any]:
    """The outcome of a plan, as JSON has it; an error is an outcome, too."""
    try:
        outcome = future.result()
    except Exception as error:
        return {"hits": {}, "pruned": "", "error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
    hits = {name: written(bits) for name, bits in outcome.hits.items()}
    more = {} if outcome.overhead is None else {"overhead": outcome.overhead}
    return {"hits": hits, "pruned": outcome.pruned, "error": "", "seconds": outcome.seconds, **more}


def written(bits: Any) -> str:
    return "".join("01"[int(bit)] for bit in bits)


def read(hits: Mapping[str, str]) -> Hits:
    return {name: np.array([digit == "1" for digit in digits], dtype=bool) for name, digits in hits.items()}


def seeds(entries: Sequence[Mapping[str, Any]], undefended: Hits, drop: float) -> Iterator[list[Single]]:
    """The first plans of a study: the best singles, and several layers together, the best layers first.

    The best singles gain most under attack, among those that gain anything and cost at most ``drop`` points on the images seen.
    Layers together are tried at their best strengths.
    """
    rated: list[tuple[float, Single]] = []
    for entry in entries:
        if not (entry["error"] or entry["pruned"]):
            gain, cost = gained(read(entry["hits"]), undefended)
            if gain > 0 and cost <= drop:
                rated.append((gain - 0.1 * cost, Single(*(entry[field] for field in Single._fields))))
    ranked = [single for _, single in sorted(rated, key=lambda one: -one[0])]
    yield from ([single] for single in ranked[:SINGLES])
    best = list({single.layer: single for single in reversed(ranked)}.values())[::-1]
    best.sort(key=ranked.index)
    yield from (best[:layers] for layers in range(2, len(best) + 1))


def gained(hits: Hits, undefended: Hits) -> tuple[float, float]:
    """Points of accuracy that a plan gains under attack, averaged over attacks, and points that it costs on clean images."""
    gains = [
        paired(undefended[name][: len(bits)], bits).difference for name, bits in hits.items() if name != CLEAN and len(bits)
    ]
    return float(np.mean(gains)) if gains else 0.0, -paired(undefended[CLEAN], hits[CLEAN]).difference
