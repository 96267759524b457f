"""How a producer with a state of its own (a tracker) and a collector know each other: two small protocols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from batchscope.configuration import SchedulerLimits, SloTargets
from batchscope.recording.events import Event
from batchscope.recording.live import LiveRequests
from batchscope.recording.rings import Recording
from batchscope.recording.rows import Gaps, Rows


class SourceCounts(NamedTuple):
    """What a source counted since its last reset; ``received`` = finished + in flight + ``lost``."""

    received: int
    lost: int
    rejected: dict[str, int]
    dropped: int


class Source(Protocol):
    """A producer that the collector drains. All methods are called under the drain's lock."""

    def drain(self) -> list[Rows | Gaps]:
        """Everything reported so far, once."""

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
class Telling(Protocol):
    """A source that keeps what it was told until it is drained: a tracker."""

    def undrained(self) -> Sequence[Event]:
        """What was reported since it was last drained, as it was said."""


@runtime_checkable
class Attachable(Protocol):
    """A collector that drains sources."""

    def attach(self, source: Source) -> Recording:
        """Drain ``source`` from now on; what is given back is how to record for this collector."""
