"""A run on a time axis, as a trace viewer draws it: iterations and what held them by rank, requests in lanes, counters.

Here it is chosen what is drawn and from when to when; how it is written down is for ``perfetto`` and ``chrome_trace``.
Times are whole nanoseconds since the run began. An iteration is drawn from the end of the one before it, where they
overlap; a request is a slice named by its id, with its phases inside. Lanes are used again, and never overlap.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from batchscope.ledger.explain import Recorded
from batchscope.ledger.histories import Histories, recorded_id
from batchscope.ledger.instants import began_at, instant_to_time
from batchscope.ledger.iteration_lines import Floats, Ints, Mask, numbers
from batchscope.ledger.request_parts import PHASES
from batchscope.text import shown

COUNTERS = {
    "running requests": "running_requests",
    "waiting requests": "waiting_requests",
    "scheduled tokens": "scheduled_tokens",
    "KV cache usage": "kv_cache_usage",
}
"""Counter tracks of a rank, and the column of each."""
KINDS = ("decode", "prefill", "prefill and decode")
"""What an iteration computed: the names of its slices."""
_LONGEST_NAME = 120
_NANOSECONDS = 1e9
_LONGEST = 1e9
"""Seconds: longer than any run; in nanoseconds an int64 holds it."""
_LATEST = 9e9
"""Seconds that an int64 holds in nanoseconds; what is later than ``_LONGEST`` is not drawn."""


class Track(NamedTuple):
    """A row of the viewer; ``parent``: the place of its group in ``Trace.tracks``, None at the top."""

    name: str
    parent: int | None = None
    counter: bool = False


class Slices(NamedTuple):
    """Slices: on which track, from when to when, name (a place in ``Trace.names``), 1 = inside another one."""

    track: Ints
    begin: Ints
    end: Ints
    name: Ints
    depth: Ints


class Counts(NamedTuple):
    """A counter's value from an instant on."""

    track: Ints
    at: Ints
    value: Floats

    def take(self, chosen: Mask | Ints) -> Counts:
        """Some of them, or all in another order."""
        return Counts(self.track[chosen], self.at[chosen], self.value[chosen])


class Trace(NamedTuple):
    """All that is drawn, of ``drawn_requests`` requests. ``left_out``: what its reader is to know, a sentence each."""

    tracks: tuple[Track, ...]
    names: tuple[str, ...]
    slices: Slices
    counts: Counts
    began: float
    """Wall clock at 0, in Unix seconds."""
    drawn_requests: int
    of_events: int
    """How many there were before the first ones in time were chosen."""
    left_out: tuple[str, ...]

    @property
    def events(self) -> int:
        """Beginnings and ends of slices, and values of counters."""
        return 2 * len(self.slices.begin) + len(self.counts.at)


class Window(NamedTuple):
    """What is asked for: seconds since the run began, ids of requests (None: all), and how many events at most."""

    begin: float = 0.0
    end: float = float("inf")
    requests: frozenset[str] | None = None
    max_events: int = 1_000_000


def trace(run: Recorded, window: Window | None = None) -> Trace:
    """The part of ``run`` in ``window``; of more events than allowed the first ones in time, and it says so."""
    window = window or Window()
    iterations = run.iterations()
    histories = Histories(run.requests(), iterations, run.spans())
    began = began_at(run.headers[0])
    drawing = _Drawing(histories, iterations, began)
    low, high = (round(min(each, _LONGEST) * _NANOSECONDS) for each in (window.begin, window.end))
    requests = drawing.requests(_chosen(histories, window, began))
    if window.requests is not None and len(requests.begin):
        low, high = max(low, int(requests.begin.min())), min(high, int(requests.end.max()))
    parts = (drawing.iterations(), requests)
    slices = _clipped(Slices(*map(np.concatenate, zip(*parts, strict=True))), low, high)
    counts = _changes(drawing.counts(), low, high if len(slices.begin) else low)  # of no time there are none
    of_events = 2 * len(slices.begin) + len(counts.at)
    slices, counts, told = _at_most(slices, counts, window.max_events)
    used, names = np.unique(slices.name, return_inverse=True)
    return Trace(
        tracks=_used_tracks(drawing.tracks, slices),
        names=tuple(drawing.names[name] for name in used.tolist()),
        slices=slices._replace(name=names.astype(np.int64)),
        counts=counts,
        began=instant_to_time(run.headers[-1], began).timestamp(),
        drawn_requests=int(np.count_nonzero(used >= drawing.common_names)),
        of_events=of_events,
        left_out=(*told, *_untold(histories, began)),
    )


def _chosen(histories: Histories, window: Window, began: float) -> Ints:
    """The requests that are asked for and live in the window."""
    since = histories.ticks.origin - began
    begin, end = (histories.ticks.seconds(histories.instants[name]) + since for name in ("arrived_at", "finished_at"))
    rows = histories.told[(begin[histories.told] < window.end) & (end[histories.told] > window.begin)]
    if window.requests is None:
        return rows
    asked = {recorded_id(name) for name in window.requests}
    ids = histories.requests.column("request_id").take(rows).to_pylist() if len(rows) else []
    wanted = [
        row
        for row, name in zip(rows.tolist(), ids, strict=True)
        if name in asked or f"#{histories.number[row]}" in asked
    ]
    return np.array(wanted, dtype=np.int64)


def _used_tracks(tracks: list[Track], slices: Slices) -> tuple[Track, ...]:
    """Lanes come last: without those in which nothing is left."""
    counters = [place for place, track in enumerate(tracks) if track.counter]
    return tuple(tracks[: max([int(slices.track.max(initial=-1)), *counters]) + 1])


def _untold(histories: Histories, began: float) -> Iterable[str]:
    missing = len(histories.requests) - len(histories.told)
    if missing:
        yield f"{missing:,} of {len(histories.requests):,} requests have no instants, and are not drawn"
    begin, end = (numbers(histories.requests, name)[histories.told] - began for name in ("arrived_at", "finished_at"))
    drawable = (end > np.maximum(begin, 0.0)) & (begin < _LONGEST)
    if outside := int(np.count_nonzero(~drawable)):
        yield (
            f"{outside:,} of {len(histories.requests):,} requests took no time, or none after the run's start, "
            "by their instants, and are not drawn"
        )
    if not histories.has_spans:
        yield "not recorded: spans: a request's phases are by its instants alone, preemptions are not drawn"


class _Drawing:
    """Makes tracks and names as they are needed."""

    def __init__(self, histories: Histories, iterations: pa.Table, began: float) -> None:
        self.histories = histories
        self._before = histories.ticks.origin - began  # what ticks count from, since the run began
        self.tracks: list[Track] = []
        self.names: list[str] = [*PHASES, *KINDS, *histories.lines.limiters]
        self.common_names = len(self.names)  # behind them each request has its own
        lines = histories.lines
        self._columns = {
            name: numbers(iterations, name)[lines.rows]
            for name in (*COUNTERS.values(), "prefill_tokens", "prefill_requests", "request_count", "rank")
        }
        self._places = np.zeros(len(lines), dtype=np.int64)  # the place of each one's line among the groups
        self._groups: list[int] = []
        for place, (first, end) in enumerate(zip(lines.first, [*lines.first[1:], len(lines)], strict=False)):
            self._places[first:end] = place
            self._groups.append(self._track(f"rank {self._columns['rank'][first]:.0f}"))
        self._rows = {name: [self._track(name, group) for group in self._groups] for name in ("iterations", "held by")}
        self._counters = {name: [self._track(name, group, counter=True) for group in self._groups] for name in COUNTERS}

    def _track(self, name: str, parent: int | None = None, *, counter: bool = False) -> int:
        self.tracks.append(Track(name, parent, counter))
        return len(self.tracks) - 1

    def _nanoseconds(self, ticks: Ints) -> Ints:
        seconds = (self.histories.ticks.seconds(ticks) + self._before).clip(-_LATEST, _LATEST)
        return np.rint(seconds * _NANOSECONDS).astype(np.int64)

    def iterations(self) -> Slices:
        """Each iteration's own time; and what stopped its attempt to admit, as long as it is the same."""
        lines = self.histories.lines
        prefills = (self._columns["prefill_tokens"] > 0) | (self._columns["prefill_requests"] > 0)
        decodes = self._columns["request_count"] > np.nan_to_num(self._columns["prefill_requests"])
        kinds = len(PHASES) + np.where(prefills, np.where(decodes, 2, 1), 0)
        ran = self._slices("iterations", self._places, lines.ends - lines.own, lines.ends, kinds)
        held, changes = lines.holding(), np.ones(len(lines), dtype=np.bool_)
        idle = np.append(True, held.end[:-1] < held.begin[1:]) if len(lines) else changes
        changes[1:] = (np.diff(held.code) != 0) | (np.diff(self._places) != 0) | idle[1:]
        firsts = np.flatnonzero(changes)
        lasts = np.append(firsts[1:], len(lines))[: len(firsts)] - 1
        names = len(PHASES) + len(KINDS) + held.code[firsts]
        stopped = self._slices("held by", self._places[firsts], held.begin[firsts], held.end[lasts], names)
        return Slices(*map(np.concatenate, zip(ran, stopped, strict=True)))

    def _slices(self, rows: str, places: Ints, begin: Ints, end: Ints, names: Ints) -> Slices:
        tracks = np.array(self._rows[rows], dtype=np.int64)[places]
        return Slices(
            tracks, self._nanoseconds(begin), self._nanoseconds(end), names.astype(np.int64), np.zeros_like(begin)
        )

    def counts(self) -> Counts:
        """What each iteration counts, from its start on."""
        at = self._nanoseconds(self.histories.lines.starts)
        found = []
        for name, column in COUNTERS.items():
            values = self._columns[column]
            told = np.isfinite(values)
            tracks = np.array(self._counters[name], dtype=np.int64)[self._places]
            found.append(Counts(tracks[told], at[told], values[told]))
        return Counts(*map(np.concatenate, zip(*found, strict=True)))

    def requests(self, rows: Ints) -> Slices:
        """A slice a request in a lane, and its phases inside."""
        instants, ids = self.histories.instants, self.histories.requests.column("request_id")
        rows = rows[np.argsort(instants["arrived_at"][rows], kind="stable")]
        begin, end = (self._nanoseconds(instants[name][rows]) for name in ("arrived_at", "finished_at"))
        lanes = _lanes(begin.tolist(), end.tolist())
        group = self._track("requests")
        width = len(str(max(lanes, default=0) + 1))
        tracks = [self._track(f"lane {lane + 1:0{width}}", group) for lane in range(max(lanes, default=-1) + 1)]
        names = len(self.names) + np.arange(len(rows))
        self.names += [shown(name or "", _LONGEST_NAME) for name in ids.take(rows).to_pylist()] if len(rows) else []
        track = np.array(tracks, dtype=np.int64)[np.array(lanes, dtype=np.int64)] if lanes else begin
        outer = Slices(track, begin, end, names, np.zeros_like(begin))
        place = np.zeros(len(self.histories.requests), dtype=np.int64)
        place[rows] = np.arange(len(rows))
        inner = [outer] + [
            Slices(
                track[place[pieces.row]], self._nanoseconds(pieces.begin), self._nanoseconds(pieces.end),
                pieces.phase, np.ones_like(pieces.begin),
            )
            for pieces in self.histories.phases(rows)
        ]  # fmt: skip
        return Slices(*map(np.concatenate, zip(*inner, strict=True)))


def _lanes(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """A lane for each, in the order of their beginnings: the lowest that is free by then."""
    taken: list[tuple[int, int]] = []
    free: list[int] = []
    found, made = [], 0
    for begin, end in zip(begins, ends, strict=True):
        while taken and taken[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(taken)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, made = made, made + 1
        heapq.heappush(taken, (end, lane))
        found.append(lane)
    return found


def _clipped(slices: Slices, low: int, high: int) -> Slices:
    """What lies in the window; what takes no time is not drawn."""
    clipped = slices._replace(begin=np.maximum(slices.begin, low), end=np.minimum(slices.end, high))
    return _some(clipped, clipped.end > clipped.begin)


def _some(slices: Slices, chosen: Mask) -> Slices:
    return Slices(*(column[chosen] for column in slices))


def _at_most(slices: Slices, counts: Counts, most: int) -> tuple[Slices, Counts, list[str]]:
    """The first ones in time, and a word for it."""
    events = 2 * len(slices.begin) + len(counts.at)
    if events <= most:
        return slices, counts, []
    instants = np.concatenate((slices.begin, counts.at))
    weights = np.concatenate((np.full(len(slices.begin), 2), np.ones(len(counts.at), dtype=np.int64)))
    order = np.argsort(instants, kind="stable")
    place = int(np.cumsum(weights[order]).searchsorted(most, side="right"))
    until = int(instants[order][place])
    kept = _clipped(_some(slices, slices.begin < until), 0, until)
    left = counts.take(counts.at < until)
    seconds = until / _NANOSECONDS
    told = (
        f"{events:,} events, and at most {most:,} are written: it ends at {seconds:,.3f} s of the run; "
        f"--from {seconds:.3f} goes on there, --max-events writes more, --request draws only some"
    )
    return kept, left, [told]


def _changes(counts: Counts, low: int, high: int) -> Counts:
    """What holds at ``low``, and until ``high`` each value that differs from the one before on its track."""
    counts = counts.take(np.lexsort((counts.at, counts.track)))
    counts = counts._replace(at=np.maximum(counts.at, low))
    last = np.ones(len(counts.at), dtype=np.bool_)  # of those at one instant
    last[:-1] = (np.diff(counts.track) != 0) | (np.diff(counts.at) != 0)
    counts = counts.take(last & (counts.at < high))
    kept = np.ones(len(counts.at), dtype=np.bool_)
    kept[1:] = (np.diff(counts.track) != 0) | (np.diff(counts.value) != 0)
    return counts.take(kept)
