"""What a view remembers of one engine: its last look, the minute before, and a cell of history for each look.

All in bounded memory: marks to compare with, spaced so that a window has a dozen of them, and a few hundred cells.
Time is an argument: seconds of one clock of the view's own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from functools import cached_property
from math import nan
from typing import NamedTuple

import msgspec

from batchscope.records import BatchLimiter
from batchscope.scraping.table import Quantity
from batchscope.statistics.snapshot import Histograms, MetricsSnapshot
from batchscope.statistics.summaries import RequestStatistics
from batchscope.terminal.sources import Look
from batchscope.views.board import Board, board
from batchscope.views.recent import same_life, since
from batchscope.views.verdict import STALE_INTERVALS, State, Verdict, state_of, verdict

DISTRIBUTIONS = {60.0: "1m", 300.0: "5m"}
WINDOWS = tuple(DISTRIBUTIONS)
"""Seconds that a view can be about."""
_MARKS = 12
CELLS = 600
RESTARTED_SECONDS = 5.0
"""For so long a restart is the state; then its figures are those of any live engine."""


class Cell(NamedTuple):
    """What happened between two looks, at ``begin`` and ``end``; ``unanswered``: for how long before nobody answered.

    ``limiter``: what held the batch longest, empty where nothing ran or nobody told; ``busy``: of the time, how much.
    ``full``: of the places, how many were used, by busy time.
    """

    begin: float
    end: float
    unanswered: float
    limiter: str
    reported: bool
    busy: float
    full: float
    tokens_per_second: float
    running: int | None
    waiting: int | None


class Shown(NamedTuple):
    """An engine as a view shows it at one instant; immutable, so that a paused view keeps what it shows."""

    name: str
    address: str
    state: str
    age: float
    interval: float
    error: str
    figures: Figures | None
    cells: Sequence[Cell]
    at: float
    window: float = WINDOWS[0]

    @property
    def told(self) -> Verdict | None:
        """The verdict in its words; None of what never answered."""
        if self.figures is None:
            return None
        one = self.figures
        return verdict(
            one.snapshot, age=self.age, interval=self.interval, gone=self.state == State.GONE,
            before=one.before, recent=one.recent, still_seconds=one.still_seconds, ended=one.ended,
        )  # fmt: skip

    @property
    def fresh(self) -> bool:
        """Whether its figures are of now: from stale on nothing looks live."""
        return self.state not in {State.STALE, State.GONE, "down", "unknown"}


class Figures:
    """What one look said, computed when it is asked for and once."""

    def __init__(
        self, look: Look, recent: MetricsSnapshot | None, before: MetricsSnapshot | None, *, ended: bool = False
    ) -> None:
        self.snapshot, self.scraped, self.still_seconds, self.notes = look
        self.recent, self.before, self.ended = recent, before, ended

    @cached_property
    def whole(self) -> Board:
        """Since the engine started; of a scraped page its rates and latencies are of the time between two looks."""
        return board(self.scraped or self.snapshot)

    @cached_property
    def now(self) -> Board:
        """Of the last minute where that is known."""
        return self.whole if self.recent is None or self.scraped is not None else board(self.recent)

    @cached_property
    def lost_slot_seconds(self) -> float:
        """Places that stood empty although there was work, x seconds; ``nan`` where nobody knows."""
        snapshot = self.recent or self.snapshot
        idle = {BatchLimiter.DEMAND, BatchLimiter.UNKNOWN}
        lost = {name: value for name, value in snapshot.iteration_stats.lost_slot_seconds.items() if name not in idle}
        return sum(value for value in lost.values() if value > 0) if lost else nan

    @cached_property
    def attainment(self) -> tuple[float, int]:
        """Of the class that fares worst, and of how many requests; of the last minute where any finished in it."""
        for one in (self.now, self.whole):
            if rated := [slo for slo in one.slo if not math.isnan(slo.attainment)]:
                worst = min(rated, key=lambda slo: slo.attainment)
                return worst.attainment, worst.evaluated
        return nan, 0


class Engine:
    """The memory of one engine."""

    def __init__(self, name: str, address: str, interval: float) -> None:
        self.name, self.address, self.interval = name, address, interval
        self.window = WINDOWS[0]
        self.error = ""
        self.histograms: MetricsSnapshot | None = None
        self.last: Look | None = None
        self._gone = self._ended = False
        self._at = self._seen = nan
        self._earlier: MetricsSnapshot | None = None
        self._restarted_at = -math.inf
        self._marks: dict[float, deque[tuple[float, MetricsSnapshot]]] = {window: deque() for window in WINDOWS}
        self._cells: deque[Cell] = deque(maxlen=CELLS)
        self._figures: Figures | None = None

    def looked(self, look: Look, at: float, *, ended: bool = False) -> None:
        """It answered what it was asked at ``at``. ``ended``: a run that is over; nobody asks how it stands."""
        previous = None if self.last is None else self.last.snapshot
        slim = _slim(look.snapshot)
        if previous is not None and not same_life(previous, look.snapshot):
            if state_of(look.snapshot, before=previous) is State.RESTARTED:
                self._earlier, self._restarted_at = _slim(previous), at
            for marks in self._marks.values():
                marks.clear()
        elif previous is not None:
            between = since(previous, look.snapshot)
            self._cells.append(_cell(self._at, at, at - self._seen, between, look.snapshot))
        for window, marks in self._marks.items():
            if not marks or at - marks[-1][0] >= window / _MARKS - 1e-6:
                marks.append((at, slim))
            while len(marks) > 1 and at - marks[1][0] >= window:
                marks.popleft()
        if look.snapshot.histograms:
            self.histograms = _merging(look.snapshot)
        self.last = look._replace(snapshot=_without(look.snapshot))
        self._at, self._ended, self._figures = at, ended, None
        self.seen(at)

    def seen(self, at: float) -> None:
        """It is there, and has told nothing new since the last look."""
        self._seen, self.error, self._gone = at, "", False

    def failed(self, error: str, *, late: bool = False) -> None:
        """It did not answer; ``late``: not in time, else not at all."""
        self.error, self._gone = error, not late

    def shown(self, now: float) -> Shown:
        """As it is at ``now``."""
        figures, age = self._of_now(now), now - self._seen
        return Shown(
            self.name, self.address, self._state(now, age), age, self.interval, self.error, figures,
            tuple(self._cells), now, self.window,
        )  # fmt: skip

    def _state(self, now: float, age: float) -> str:
        if self.last is None:
            return "down"
        if self._gone:
            return State.GONE
        if age > STALE_INTERVALS * self.interval:
            return State.STALE
        if now - self._restarted_at < RESTARTED_SECONDS:
            return State.RESTARTED
        return state_of(self.last.snapshot, still_seconds=self.last.still_seconds)

    def _of_now(self, now: float) -> Figures | None:
        if self.last is None:
            return None
        restarted = now - self._restarted_at < RESTARTED_SECONDS
        if self._figures is None or (self._figures.before is not None) != restarted:
            self._figures = Figures(self.last, self._recent(), self._earlier if restarted else None, ended=self._ended)
        return self._figures

    def _recent(self) -> MetricsSnapshot | None:
        marks = self._marks[self.window]
        if self.last is None or not marks:
            return None
        return since(marks[0][1], self.last.snapshot, DISTRIBUTIONS[self.window])

    def mergeable(self) -> MetricsSnapshot | None:
        """Its last counts with the histograms of a while ago, as merging wants them; None where it has none."""
        held, last = self.histograms, self.last
        if held is None or last is None or self._gone or not same_life(held, last.snapshot):
            return None
        return msgspec.structs.replace(
            last.snapshot, histograms=held.histograms, windowed_histograms=held.windowed_histograms
        )

    def choose(self, window: float, *, at_next_look: bool = False) -> None:
        """Another window; ``at_next_look``: its figures follow then, those of 200 at once take 85 ms."""
        self.window = window
        if not at_next_look:
            self._figures = None


def _without(snapshot: MetricsSnapshot) -> MetricsSnapshot:
    return msgspec.structs.replace(snapshot, histograms={}, windowed_histograms={})


_MERGED = (
    Quantity.TIME_TO_FIRST_TOKEN, Quantity.TIME_PER_OUTPUT_TOKEN, Quantity.INTER_TOKEN_LATENCY,
    Quantity.INTER_EMISSION_LATENCY, Quantity.TOTAL_TIME, Quantity.QUEUE_TIME,
)  # fmt: skip


def _merging(snapshot: MetricsSnapshot) -> MetricsSnapshot:
    """With the distributions that a view shows, and no others: 200 engines are merged every few seconds."""

    def kept(histograms: Histograms) -> Histograms:
        return {str(name): histograms[name] for name in _MERGED if name in histograms}

    windows = {name: kept(histograms) for name, histograms in snapshot.windowed_histograms.items()}
    return msgspec.structs.replace(_slim(snapshot), histograms=kept(snapshot.histograms), windowed_histograms=windows)


def _slim(snapshot: MetricsSnapshot) -> MetricsSnapshot:
    """What the difference to a later one needs: a mark lasts for minutes."""
    counted = snapshot.request_stats
    counts = RequestStatistics(
        total_requests=counted.total_requests, completed_requests=counted.completed_requests,
        failed_requests=counted.failed_requests, cancelled_requests=counted.cancelled_requests,
    )  # fmt: skip
    return msgspec.structs.replace(
        snapshot, request_stats=counts, histograms={}, windowed_histograms={}, windowed={}, means={},
        resource_stats={}, resource_facts={}, definitions={}, slo_stats={},
    )  # fmt: skip


def _cell(begin: float, end: float, unanswered: float, between: MetricsSnapshot | None, now: MetricsSnapshot) -> Cell:
    limiter, reported, busy, full, tokens = "", False, nan, nan, now.request_stats.tokens_per_second
    if between is not None:
        iterations = between.iteration_stats
        busy, full = iterations.busy_ratio, iterations.time_weighted_utilization
        held = {name: share for name, share in iterations.limited_by.items() if share > 0}
        limiter = max(held, key=held.__getitem__, default="")
        reported = iterations.limiter_reported_ratio >= 0.5
        tokens = between.totals.generation_tokens / between.elapsed_seconds
    gauges = now.gauges
    running, waiting = gauges.requests_running, gauges.requests_waiting
    return Cell(begin, end, unanswered, limiter, reported, busy, full, tokens, running, waiting)
