"""How a producer with a state of its own (a tracker) and a collector know each other: two small protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import NamedTuple, Protocol, runtime_checkable

from batchscope.configuration import SchedulerLimits, SloTargets
from batchscope.recording.rings import ProducerContext
from batchscope.rows import Gaps, Rows


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
