"""A recorded run, played: its records go into a collector again, by a clock that plays, pauses and seeks.

So all that a live view shows is there, computed as it was: the collector is told what was measured, by the instants of
the run. Requests are known by their end, as the run has them; present values are those of the last iteration.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from batchscope.collector import SchedulerMetricsCollector
from batchscope.configuration import OTHER_CLASS, MetricsConfiguration, SloTargets
from batchscope.errors import DecodeError
from batchscope.records import CompletionReason, IterationResult, Outcome, RequestResult
from batchscope.simulator import VirtualClock
from batchscope.sinks import RunHeader
from batchscope.statistics.cumulative import CumulativeState
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.terminal.engine import CELLS, Engine
from batchscope.terminal.frame import Scene
from batchscope.terminal.session import Session
from batchscope.terminal.sources import Local, Look

if TYPE_CHECKING:
    from batchscope.ledger import Run

SEEK_SECONDS = 10.0
_BACK = CELLS
"""Seconds before the place to which one seeks that are looked at, too: the band's history."""
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_SEEKS = {
    "left": -SEEK_SECONDS, "right": SEEK_SECONDS, "pageup": -60.0, "pagedown": 60.0, "home": -math.inf, "end": math.inf,
}  # fmt: skip
_NOT_GIVEN = {"request_id", "inter_token_latencies", "inter_emission_latencies", "limited_by"}


class Recorded:
    """The records of a run by instant, ready to be told to a collector; ``begin`` and ``end`` on the run's clock."""

    def __init__(self, run: Run) -> None:
        self.header: RunHeader = run.header
        self.headers = run.headers
        iterations = run.iterations().sort_by("at")
        requests = run.requests().sort_by("at")
        self._iterations, self._requests = iterations.to_pylist(), requests.to_pylist()
        self._errors = [event for event in run.events().sort_by("at").to_pylist() if event["kind"] == "error"]
        instants = [row["at"] for row in (*self._iterations, *self._requests) if row["at"] is not None]
        if not instants:
            raise DecodeError(f"{run.path}: has no iteration and no request to play")
        started = self.header.started_instant
        first = min(row["started_at"] or row["at"] for row in self._iterations) if self._iterations else min(instants)
        self.begin = first if started is None else min(first, started)
        self.end = max(instants)
        self.gaps = _Gaps(run)

    def time(self, instant: float) -> dt.datetime:
        """An instant of the run's clock as the time of day that it was."""
        return self.header.anchor_time + dt.timedelta(seconds=instant - self.header.anchor_instant)

    def tell(self, collector: SchedulerMetricsCollector, until: float, place: list[int]) -> None:
        """Tell it what was recorded up to ``until``; ``place`` is where the last call ended, in each table.

        A ``reset()`` of then takes nothing from what is played: as in a report, it is the whole run.
        """
        tables = (
            (self._iterations, self._iteration),
            (self._requests, _request),
            (self._errors, _error),
        )
        for number, (rows, record) in enumerate(tables):
            while place[number] < len(rows) and (rows[place[number]]["at"] or self.begin) <= until:
                record(collector, rows[place[number]])
                place[number] += 1

    def _iteration(self, collector: SchedulerMetricsCollector, row: Mapping[str, Any]) -> None:
        limits = self.headers[row["segment"]].limits if row["segment"] < len(self.headers) else collector.limits
        if limits != collector.limits:
            collector.set_limits(limits)
        given = _given(row, IterationResult)
        given["processing_time"] = _or_nan(row["processing_time"])
        for name in ("iteration_number", "request_count", "tokens_generated", "requests_completed"):
            given[name] = row[name] or 0
        if row["limiter_reported"] and row["limited_by"]:
            given["limited_by"] = row["limited_by"]
        given |= self.gaps.until(row["at"])
        collector.record_iteration(IterationResult(**given))


def _request(collector: SchedulerMetricsCollector, row: Mapping[str, Any]) -> None:
    given = _given(row, RequestResult)
    given["processing_time"] = _or_nan(row["processing_time"])
    given["tokens_generated"] = row["tokens_generated"] or 0
    if given.get("request_class") == OTHER_CLASS:
        del given["request_class"]
    collector.record_request_completion(RequestResult(request_id=row["request_id"], **given))


def _error(collector: SchedulerMetricsCollector, row: Mapping[str, Any]) -> None:
    for _ in range(min(row["count"] or 1, 10_000)):
        collector.record_error(row["name"] or "error")


def _given(row: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """What was measured of it: what is null is not told."""
    names = set(kind.__struct_fields__) - _NOT_GIVEN
    return {name: row[name] for name in names if row.get(name) is not None}


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


class _Gaps:
    """The time between the tokens of each request, by the instant of the later one."""

    def __init__(self, run: Run) -> None:
        tokens = run.tokens()
        request, at = (tokens.column(name).to_numpy(zero_copy_only=False) for name in ("request", "at"))
        first = np.flatnonzero(np.concatenate([[True], (np.diff(request) != 0) | (np.diff(at) != 0)])[: len(at)])
        counts = np.diff(np.concatenate([first, [len(at)]]))
        gaps, same = np.diff(at[first]), np.diff(request[first]) == 0
        known = same & np.isfinite(gaps)
        later = at[first][1:][known]
        order = np.argsort(later, kind="stable")
        self._at, self._gap, self._count = later[order], gaps[known][order], counts[1:][known][order]
        self._place = 0

    def begin(self) -> None:
        """From the beginning again."""
        self._place = 0

    def until(self, instant: float) -> dict[str, Any]:
        """Those that no iteration before told of."""
        end = int(np.searchsorted(self._at, instant, side="right"))
        gaps, counts = self._gap[self._place : end], self._count[self._place : end]
        self._place = max(self._place, end)
        if not len(gaps):
            return {}
        return {"inter_emission_latencies": gaps, "inter_token_latencies": np.repeat(gaps / counts, counts)}


class Player:
    """A run at an instant: ``go_to`` it, and ``look``."""

    def __init__(self, run: Run) -> None:
        self.recorded = Recorded(run)
        self.at = self.recorded.begin
        self._begin()

    def _begin(self) -> None:
        header = self.recorded.header
        slo: Mapping[str, SloTargets] = {name: targets for name, targets in header.slo.items() if targets.declared}
        self._clock = VirtualClock(self.recorded.begin)
        self._collector = SchedulerMetricsCollector(
            MetricsConfiguration(slo=_declared(slo)), limits=self.recorded.headers[0].limits, labels=header.labels,
            role=header.role, clock=self._clock,
        )  # fmt: skip
        self._collector.engine = header.engine
        self._place = [0, 0, 0]
        self.recorded.gaps.begin()
        self.at = self.recorded.begin

    def go_to(self, instant: float, look: Callable[[MetricsSnapshot, float], None]) -> None:
        """Tell the collector all up to ``instant``; ``look`` is given each of the last minutes' seconds, then all."""
        instant = min(max(instant, self.recorded.begin), self.recorded.end)
        if instant < self.at:
            self._collector.close()
            self._begin()
        silent = max(self.at, math.floor(instant) - _BACK)
        if silent > self.at:
            self._tell(silent)
        base, since = self.snapshot(), self.at
        while self.at < instant:
            self._tell(min(math.floor(self.at) + 1.0, instant))
            if self.at < instant:
                look(_counts_of(base, self._collector.read_totals(), self.at - since), self.at)
        look(self.snapshot(), self.at)

    def _tell(self, until: float) -> None:
        self.recorded.tell(self._collector, until, self._place)
        self._clock.advance_to(until)
        self.at = until

    def snapshot(self) -> MetricsSnapshot:
        """What the collector has been told so far."""
        return self._collector.get_snapshot()

    def close(self) -> None:
        """End its collector."""
        self._collector.close()


def _counts_of(base: MetricsSnapshot, now: CumulativeState, later: float) -> MetricsSnapshot:
    """``base`` with the counts of so many seconds later: all that history needs, at a fraction of the cost."""
    by_outcome: Counter[Outcome] = Counter()
    for reason, count in now.totals.requests_by_reason.items():
        by_outcome[CompletionReason(reason).outcome] += count
    return msgspec.structs.replace(
        base,
        totals=now.totals,
        gauges=now.gauges,
        elapsed_seconds=base.elapsed_seconds + later,
        request_stats=msgspec.structs.replace(
            base.request_stats,
            total_requests=by_outcome.total(),
            completed_requests=by_outcome[Outcome.COMPLETED],
            failed_requests=by_outcome[Outcome.FAILED],
            cancelled_requests=by_outcome[Outcome.CANCELLED],
        ),
        error_stats=msgspec.structs.replace(base.error_stats, total_errors=sum(now.totals.errors_by_type.values())),
    )


def _declared(slo: Mapping[str, SloTargets]) -> SloTargets | Mapping[str, SloTargets] | None:
    if set(slo) == {"default"}:
        return slo["default"]
    return {name: targets for name, targets in slo.items() if name != OTHER_CLASS} or None


class Playing(Session):
    """A view of a run that is played; keys pause it, seek in it and change its speed."""

    def __init__(self, run: Run, *, speed: float = 1.0, **clocks: Any) -> None:
        player = Player(run)
        super().__init__([Local(run.path.name, player.snapshot)], 1.0, label="recorded", **clocks)
        self._player, self.speed, self.plays = player, speed, True
        self._last = self._clock()
        self._problems = [*run.problems]

    def start(self) -> None:
        """Begin to play."""
        self._last = self._clock()
        self._go(self._player.at + 1.0)

    def close(self) -> None:
        """End it."""
        self._player.close()

    def update(self) -> None:
        """Play what has passed since the last call."""
        now = self._clock()
        passed, self._last = now - self._last, now
        if self.plays:
            self._go(self._player.at + passed * self.speed)
        self._measure()

    def _go(self, instant: float) -> None:
        recorded, engine = self._player.recorded, self.engines[0]
        if instant < self._player.at or instant > self._player.at + 2 * CELLS:
            window = engine.window
            engine = self.engines[0] = Engine(engine.name, engine.address, engine.interval)
            engine.choose(window)
        self._player.go_to(instant, lambda snapshot, at: engine.looked(Look(snapshot), at, ended=at >= recorded.end))
        if self._player.at >= recorded.end:
            self.plays = False

    def scene(self) -> Scene:
        """As it was at the instant that is played."""
        at, recorded = self._player.at, self._player.recorded
        shown = [self.engines[0].shown(at)]
        sign = "playing" if self.plays else "paused"
        place = f"{sign} {_clock(at - recorded.begin)} of {_clock(recorded.end - recorded.begin)}, {self.speed:g}x"
        time = recorded.time(at)
        return Scene(
            shown, None, shown, None, time, 1.0, cost=self._cost, label=self.label, notes=self._problems,
            player=f"simulated, {place}" if recorded.header.simulated else f"{time:%H:%M:%S} {place}",
        )  # fmt: skip

    def press(self, key: str, character: str | None = None) -> bool:
        """As any view, and what a player has."""
        if key in {"p", "space"}:
            self._last, self.plays = self._clock(), not self.plays and self._player.at < self._player.recorded.end
        elif key in _SEEKS and not self.viewing.help:
            self._go(self._player.at + _SEEKS[key])
        elif character in {"+", "-"}:
            self._faster(1 if character == "+" else -1)
        else:
            return super().press(key, character)
        return True

    def _faster(self, by: int) -> None:
        near = min(range(len(SPEEDS)), key=lambda place: abs(SPEEDS[place] - self.speed))
        self.speed = SPEEDS[min(max(near + by, 0), len(SPEEDS) - 1)]


def _clock(seconds: float) -> str:
    whole = int(max(0.0, seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def is_run(path: Path) -> bool:
    """Whether a recorded run is there: its folder, or a root with runs."""
    return (path / "run.json").is_file() or any(path.glob("*/run.json"))


def play(path: Path, *, speed: float = 1.0) -> Playing:
    """A view of the run in ``path``; DecodeError where there is none or several, MissingExtraError without pyarrow."""
    from batchscope.ledger import open_run  # noqa: PLC0415  (an extra)

    return Playing(open_run(path), speed=speed)
