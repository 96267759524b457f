"""Producers with a state of their own (a tracker, an engine's source): how a collector drains them, and their log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from batchscope.configuration import SchedulerLimits, SloTargets
from batchscope.reasons import DROPPED, Tally, added_up
from batchscope.recording.rings import ProducerContext
from batchscope.rows import Gaps, Rows

_RELIEF_EVENTS = 4096
_MOST_BYTES = 1 << 24
Event = TypeVar("Event")


class LiveRequests(NamedTuple):
    """Requests in flight; ``oldest_waiting`` is the arrival of the oldest that waits (``inf`` with none).

    ``overdue`` counts, by class code, those that can no longer meet a target of theirs. ``running`` None: the
    source does not know who is in flight, and says nothing else. ``deferred`` and ``kv_cache_usage``: where the
    source is told them apart from iterations. ``by_adapter``: of each adapter the ``running`` and the ``waiting`` ones.
    """

    in_flight: int
    running: int | None
    oldest_waiting: float
    overdue: tuple[int, ...]
    deferred: int | None = None
    kv_cache_usage: float = nan
    by_adapter: Mapping[str, dict[str, int]] = {}


class EngineCounts(NamedTuple):
    """What only an engine's own statistics tell, since the source's last reset; None: never told.

    ``prefix_cache_hit_tokens`` are by where the cached keys and values were found. ``graph_tokens`` are those of steps
    that ran as captured graphs or could have, ``graph_padding_tokens`` what was computed beside them to fill a graph.
    """

    prefix_cache_queried_tokens: int | None = None
    prefix_cache_hit_tokens: Mapping[str, int] = {}
    graph_tokens: int | None = None
    graph_padding_tokens: int | None = None
    corrupted_requests: int | None = None

    def plus(self, other: EngineCounts) -> EngineCounts:
        """Both; what neither told stays untold."""
        hits = dict(self.prefix_cache_hit_tokens)
        for source, tokens in other.prefix_cache_hit_tokens.items():
            hits[source] = hits.get(source, 0) + tokens
        return EngineCounts(
            _sum(self.prefix_cache_queried_tokens, other.prefix_cache_queried_tokens),
            hits,
            _sum(self.graph_tokens, other.graph_tokens),
            _sum(self.graph_padding_tokens, other.graph_padding_tokens),
            _sum(self.corrupted_requests, other.corrupted_requests),
        )


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other


class SourceCounts(NamedTuple):
    """What a source counted since its last reset; ``received`` = finished + in flight + ``lost``."""

    received: int
    lost: int
    rejected: dict[str, int]
    dropped: int
    engine: EngineCounts = EngineCounts()


class Source(Protocol):
    """A producer that the collector drains. All methods are called under the drain's lock."""

    def drain(self) -> list[Rows | Gaps]:
        """Everything reported so far, once. The list is the source's: whoever has counted it clears it.

        What is not cleared (an exception came between) comes again, in the same objects.
        """

    def live(self, now: float, targets: Sequence[SloTargets]) -> LiveRequests:
        """Requests in flight."""

    def counts(self) -> SourceCounts:
        """Counts since the last reset."""

    def set_limits(self, limits: SchedulerLimits) -> None:
        """The engine's limits became known, or changed: what is derived from now on uses them."""

    def reset(self) -> None:
        """Count anew."""

    def after_fork(self) -> None:
        """Be empty: this is a child process."""


@runtime_checkable
class Attachable(Protocol):
    """A collector that drains sources."""

    def attach(self, source: Source) -> ProducerContext:
        """Drain ``source`` from now on; what is given back is how to record for this collector."""


class Derives(Protocol[Event]):
    """Makes rows of a log's events. ``remember`` comes before each ``derive``."""

    def remember(self) -> None:
        """Keep what an ``abandon`` needs."""

    def derive(self, events: list[Event]) -> list[Rows | Gaps]:
        """Rows of ``events``, in the order in which they were told."""

    def abandon(self, events: list[Event]) -> None:
        """``derive`` of these was ended by an exception: count them as interrupted, else as if it had not begun.

        It may be called again for the same events.
        """


class EventLog(Generic[Event]):
    """What a producer was told, until rows are made of it; and these rows, until they are counted.

    The engine's thread only appends: a list's ``append``, slice and slice deletion are atomic, with or without the
    GIL, and the drain removes only what it has copied. From 4,096 events or ``relief_bytes`` on (then at each as much
    more) the log asks to be drained; where nobody can, what is beyond ``most_events`` or 16 MiB is dropped and counted.
    ``misused`` counts the calls that were no events. ``relieved_by`` is called once, before the first event.
    """

    def __init__(self, most_events: int, relief_bytes: int = 1 << 20) -> None:
        self.misused = Tally()
        self._most = most_events
        self._relief_bytes = relief_bytes
        self._relieve: Callable[[], object] = _nobody
        self._eager = False
        self._empty()

    def _empty(self) -> None:
        self._events: list[Event] = []
        self._bytes = 0
        self._relief_at = self._relief_bytes
        self._taken: list[Event] | None = None
        self._begun = 0
        self._ready: list[Rows | Gaps] = []

    def relieved_by(self, shared: ProducerContext) -> None:
        """Who drains when the log runs full: after each event where ``shared`` is eager."""
        self._relieve, self._eager = shared.relieve, shared.eager

    def append(self, event: Event, size: int = 0, records: int = 1) -> None:
        """Producer: log an event; ``size`` in bytes of what it holds; ``records``: how many are lost where it is."""
        events = self._events
        self._bytes += size
        if len(events) >= _RELIEF_EVENTS or self._bytes >= self._relief_at:
            self._relief_at = min(self._bytes + self._relief_bytes, _MOST_BYTES)
            self._relieve()
            if len(events) >= self._most or self._bytes >= _MOST_BYTES:
                self.misused.add(DROPPED, records)
                return
        events.append(event)
        if self._eager:
            self._relieve()

    def __len__(self) -> int:
        return len(self._events)

    def undrained(self) -> list[Event]:
        """What was told and not drained yet."""
        return self._events[:]

    def drain(self, derivation: Derives[Event], *, always: bool = False) -> list[Rows | Gaps]:
        """What ``derivation`` makes of the events since the last drain; see ``Source.drain``. ``always``: also of none.

        Where an exception (Ctrl-C) ended the last drain, its events are still in the log, or their rows are there, or
        they are abandoned.
        """
        if self._taken is not None:
            self._resume(self._taken, derivation)
        events = self._events[:]
        self._bytes, self._relief_at = 0, self._relief_bytes
        if events or always:
            derivation.remember()
            self._begun = len(self._ready)
            self._taken = events
            del self._events[: len(events)]
            self._ready.extend(derivation.derive(events))
            self._taken = None
        return self._ready

    def _resume(self, taken: list[Event], derivation: Derives[Event]) -> None:
        untouched = bool(taken and self._events) and self._events[0] is taken[0]
        if not untouched and len(self._ready) == self._begun:
            derivation.abandon(taken)
        self._taken = None

    def counts(self, rejected: Mapping[str, int]) -> tuple[dict[str, int], int]:
        """What was ``rejected`` at drains or misused at calls, by reason, and how many events were dropped."""
        misused = dict(self.misused)
        dropped = misused.pop(DROPPED, 0)
        return added_up((rejected, misused)), dropped

    def forget(self) -> None:
        """Be empty: a child process."""
        self.misused.clear()
        self._empty()


def _nobody() -> None:
    """Drains a log that is not attached yet."""
