"""Many engines in one view: which come first, which are meant, how it stands with all of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from batchscope.errors import MergeError
from batchscope.scraping.table import Quantity
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.terminal.engine import Engine, Shown
from batchscope.views.board import Latency
from batchscope.views.samples import shown_percentiles
from batchscope.views.verdict import State

MERGED = "all engines"
_UNWELL = {State.GONE: 0, "down": 0, State.STALLED: 1, State.STALE: 2, "unknown": 2}
_WELL = 3
_DIGITS = re.compile(r"(\d{1,18})")
_ORDER = ("down", *State)


def worst_first(one: Shown) -> tuple[object, ...]:
    """Gone, stalled, stale; then by the share that missed its SLO, in whole per cent; then by lost slot-seconds."""
    attainment, lost = (math.nan, math.nan) if one.figures is None else (
        one.figures.attainment[0], one.figures.lost_slot_seconds,
    )  # fmt: skip
    missed = 0 if math.isnan(attainment) else round(100 * (1 - attainment))
    return _UNWELL.get(one.state, _WELL), -missed, -_known(lost), _in_order(one.name)


def _known(value: float | None) -> float:
    return -math.inf if value is None or math.isnan(value) else value


def _largest(figure: Callable[[Shown], float | None]) -> Callable[[Shown], tuple[object, ...]]:
    def key(one: Shown) -> tuple[object, ...]:
        return -_known(None if one.figures is None else figure(one)), _in_order(one.name)

    return key


def _waiting(one: Shown) -> float | None:
    return one.figures.snapshot.gauges.requests_waiting if one.figures else None


def _tokens(one: Shown) -> float:
    return one.figures.whole.recent.output_tokens if one.figures else math.nan


def first_token(one: Shown) -> Latency | None:
    """The time to the first token, of the last minute where any was observed in it."""
    return None if one.figures is None else one.figures.now.latencies.get(Quantity.TIME_TO_FIRST_TOKEN)


def _first_token(one: Shown) -> float:
    latency = first_token(one)
    told = shown_percentiles(latency) if latency is not None else []
    return told[-1][1].interval[1] if told else math.nan


def _usage(one: Shown) -> float:
    return one.figures.whole.kv_cache.highest if one.figures else math.nan


def _in_order(name: str) -> tuple[object, ...]:
    """As people count: e2 before e10."""
    return tuple((part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in _DIGITS.split(name[:300]))


def _shared(names: Sequence[str], marks: str) -> str:
    """What all begin with, up to one of ``marks``."""
    first, last = min(names), max(names)
    same = next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    return first[: max(first.rfind(mark, 0, same) for mark in marks) + 1]


def short_names(names: Sequence[str]) -> list[str]:
    """Without the begin and the end that all of them share: 200 paths of one host, 200 hosts of one domain."""
    if len(names) < 2:
        return list(names)
    begin = _shared(names, "/")
    ends = [name[len(begin) :][::-1] for name in names]
    end = _shared(ends, "/:.")
    short = [one[len(end) :][::-1] for one in ends]
    return short if all(short) else list(names)


SORTS: dict[str, Callable[[Shown], tuple[object, ...]]] = {
    "worst": worst_first,
    "name": lambda one: _in_order(one.name),
    "waiting": _largest(_waiting),
    "tokens": _largest(_tokens),
    "TTFT": _largest(_first_token),
    "KV": _largest(_usage),
}
"""What a fleet can be sorted by; the largest first, but for names."""


def ranked(engines: Iterable[Shown], sort: str = "worst", wanted: str = "") -> list[Shown]:
    """Those whose name, address or state has ``wanted`` in it, in order."""
    meant = wanted.casefold()
    kept = [one for one in engines if not meant or meant in f"{one.name} {one.address} {one.state}".casefold()]
    return sorted(kept, key=SORTS[sort])


def states(engines: Sequence[Shown]) -> str:
    """How many are in which state, the worst first: ``2 gone, 1 stalled, 197 live``."""
    found = Counter(str(one.state) for one in engines)
    known = [state for state in dict.fromkeys(map(str, _ORDER)) if state in found]
    rest = [state for state in found if state not in known]
    return ", ".join(f"{found[state]} {state}" for state in (*known, *rest))


def mergeable(engines: Iterable[Engine]) -> list[MetricsSnapshot]:
    """Of those that tell what merging needs."""
    return [snapshot for snapshot in (engine.mergeable() for engine in engines) if snapshot is not None]


def merged(snapshots: Sequence[MetricsSnapshot]) -> MetricsSnapshot | str:
    """One of all, its histograms merged, not averaged; or why they do not merge."""
    try:
        return MetricsSnapshot.merge(*snapshots)
    except MergeError as error:
        return str(error)
