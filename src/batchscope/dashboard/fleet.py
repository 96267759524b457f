"""Several engines in one table, the worst first: how each stands, and what held its batch over the last ten minutes.

What is told of an engine is of the last minute: differences of counts between two looks, ten seconds apart at least.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from batchscope.background import forked
from batchscope.dashboard.counts import LIMITERS
from batchscope.dashboard.figures import WINDOW, figures
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.text import readable, shown
from batchscope.views.numbers import MISSING, amount, count, duration, percent
from batchscope.views.palette import LIMITERS as MARKS
from batchscope.views.samples import MAX, tells
from batchscope.views.verdict import State, Verdict, verdict
from batchscope.views.words import limiter_name

if TYPE_CHECKING:
    from batchscope.publishing.liveness import Processes

MOST_ENGINES = 256
STRIP = 60
"""Looks that a strip shows: ten minutes."""
_MINUTE = 7
RULE = "worst first: gone, stalled, share of requests that missed their SLO, slot-seconds lost in the last minute"
_NOTHING = " "
_SHORT_NAME = 12


@runtime_checkable
class EngineReader(Protocol):
    """A source that is the merge of several engines, and tells of each."""

    def snapshots(self) -> Sequence[tuple[MetricsSnapshot, bool]]:
        """Each engine's own snapshot, and whether it lives."""


@runtime_checkable
class LivingSource(Protocol):
    """A source that knows who of its processes lives."""

    def processes(self) -> Processes:
        """Who does, and how many are gone."""


class _Counted(NamedTuple):
    """Of an engine at one look: what adds up over time."""

    busy: tuple[float, ...]
    lost: tuple[float, ...]
    used: float
    slots: float
    met: int
    missed: int


class _Engine:
    """What is remembered of one: the looks of a minute, and the letters of ten."""

    __slots__ = ("looks", "strip")

    def __init__(self) -> None:
        self.looks: deque[_Counted] = deque(maxlen=_MINUTE)
        self.strip: deque[str] = deque(maxlen=STRIP)

    def look(self, now: _Counted) -> None:
        before = self.looks[-1] if self.looks else None
        self.strip.append(_NOTHING if before is None else _letter(now, before))
        self.looks.append(now)

    def minute(self, now: _Counted) -> _Counted:
        """What came in the last minute; everything, before there was one, or where counting began anew."""
        first = self.looks[0] if self.looks else None
        if first is None or sum(now.busy) < sum(first.busy):
            return now
        return _less(now, first)


class Engines:
    """The engines of one source. Safe to use from any number of threads."""

    def __init__(self) -> None:
        self._engines: dict[str, _Engine] = {}
        self._whole = _Engine()
        self._lock = threading.Lock()
        forked(self)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def look(self, found: Iterable[tuple[MetricsSnapshot, bool]], whole: MetricsSnapshot) -> None:
        """Remember how all stand, and their merge: call it every ten seconds."""
        with self._lock:
            self._whole.look(_counted(whole))
            present = {snapshot.instance_id: (snapshot, lives) for snapshot, lives in found}
            self._engines = {name: one for name, one in self._engines.items() if name in present}
            for name, (snapshot, lives) in list(present.items())[:MOST_ENGINES]:
                engine = self._engines.setdefault(name, _Engine())
                if lives:
                    engine.look(_counted(snapshot))
                else:
                    engine.strip.append(_NOTHING)

    def table(self, found: Sequence[tuple[MetricsSnapshot, bool]], whole: MetricsSnapshot) -> bytes:
        """All engines, worst first, and all of them together: merged, not averaged."""
        with self._lock:
            anybody = not found or any(lives for _, lives in found)
            together = {**_row(self._whole, whole, lives=anybody), "name": "all together"}
            rows = [
                _row(self._engines.get(snapshot.instance_id, _Engine()), snapshot, lives=lives)
                for snapshot, lives in found[:MOST_ENGINES]
            ]
        rows.sort(key=lambda row: row["order"])
        living = sum(lives for _, lives in found)
        return msgspec.json.encode(
            {
                "rule": RULE,
                "all": together,
                "engines": rows,
                "total": len(found),
                "living": living,
                "gone": len(found) - living,
            }
        )


def _row(engine: _Engine, snapshot: MetricsSnapshot, *, lives: bool) -> dict[str, Any]:
    last = engine.minute(_counted(snapshot))
    judged = verdict(snapshot, gone=not lives)
    rated = last.met + last.missed
    attained = last.met / rated if rated else math.nan
    busy, lost = sum(last.busy), sum(last.lost)
    most = max(range(len(LIMITERS)), key=last.busy.__getitem__)
    ranked = {State.GONE: 0, State.STALLED: 1}.get(judged.state, 2)
    return {
        "id": snapshot.instance_id,
        "name": readable(shown(_name(snapshot), 60)),
        "state": str(judged.state),
        "batch": percent(last.used / last.slots if last.slots > 0 else math.nan),
        "held": f"{limiter_name(LIMITERS[most])} {percent(last.busy[most] / busy)}" if busy > 0 else MISSING,
        "lost": amount(lost) if last.slots > 0 else MISSING,
        "waiting": count(snapshot.gauges.requests_waiting) if lives else MISSING,
        "ttft": _ttft(snapshot) if lives else MISSING,
        "slo": f"{percent(attained)}, n={count(rated)}" if rated else MISSING,
        "strip": "".join(engine.strip),
        "order": [ranked, attained if rated else 1.0, -lost, snapshot.instance_id],
    }


def details(snapshot: MetricsSnapshot, lives: bool) -> bytes:
    """One engine: its verdict and its figures."""
    judged: Verdict = verdict(snapshot, gone=not lives)
    texts = {readable(place): text for place, text in figures(snapshot).items() if "errors_by_type" not in place}
    said = {"state": str(judged.state), "sentence": judged.sentence}
    return msgspec.json.encode(
        {"id": snapshot.instance_id, "name": readable(shown(_name(snapshot), 60)), "verdict": said, "texts": texts}
    )


def _name(snapshot: MetricsSnapshot) -> str:
    """Its labels, and where there are none the instance."""
    labels = ", ".join(f"{name}={value}" for name, value in snapshot.labels.items())
    return labels or snapshot.instance_id[:_SHORT_NAME]


def _ttft(snapshot: MetricsSnapshot) -> str:
    """p95 of the last minute with its n; of too few the maximum."""
    window = snapshot.windowed.get(WINDOW)
    summary = window.summaries.get("time_to_first_token") if window else None
    if summary is None or not summary.count:
        return MISSING
    if tells("p95", summary.count):
        return f"{duration(summary.p95)}, n={count(summary.count)}"
    return f"{MAX} {duration(summary.max)}, n={count(summary.count)}"


def _counted(snapshot: MetricsSnapshot) -> _Counted:
    totals = snapshot.totals

    def by_limiter(values: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(values.get(name, 0.0) for name in LIMITERS)

    results = totals.slo_requests.values()
    return _Counted(
        by_limiter(totals.busy_seconds_by_limiter),
        by_limiter(totals.lost_slot_seconds_by_limiter),
        0.0 if math.isnan(totals.used_slot_seconds) else totals.used_slot_seconds,
        0.0 if math.isnan(totals.slot_seconds) else totals.slot_seconds,
        sum(result.get("met", 0) for result in results),
        sum(result.get("missed", 0) for result in results),
    )


def _less(now: _Counted, before: _Counted) -> _Counted:
    def each(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(max(0.0, mine - its) for mine, its in zip(one, other, strict=True))

    return _Counted(
        each(now.busy, before.busy), each(now.lost, before.lost), max(0.0, now.used - before.used),
        max(0.0, now.slots - before.slots), max(0, now.met - before.met), max(0, now.missed - before.missed),
    )  # fmt: skip


def _letter(now: _Counted, before: _Counted) -> str:
    """Of the limiter that held it longest since the look before; a blank of none."""
    busy = _less(now, before).busy
    return MARKS[LIMITERS[busy.index(max(busy))]].letter if max(busy) > 0 else _NOTHING
