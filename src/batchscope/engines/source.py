"""What an engine's sources have in common: calls are only logged, and what they change changes as a whole.

An engine calls in the loops that serve every request, so a call appends what it was given to a log; checks, durations
and rows happen in bulk when the collector drains. What a source remembers is copied before each drain: one that cannot
be read to its end, or that an exception ends (Ctrl-C), leaves what was there before.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from batchscope.configuration import SchedulerLimits
from batchscope.reasons import RejectReason, Tally
from batchscope.recording.producer import EventLog
from batchscope.records import SchedulerMetrics
from batchscope.rows import Gaps, Rows
from batchscope.tracking.forward import attached


class Remembered:
    """What a source remembers from drain to drain; subclasses add to it. ``rejected`` counts by reason."""

    def __init__(self) -> None:
        self.rejected = Tally()


Memory = TypeVar("Memory", bound=Remembered)
Event = TypeVar("Event")


class EngineSource(abc.ABC, Generic[Event, Memory]):
    """Drained by ``collector``: a ``SchedulerMetricsCollector``, or anything with the ``SchedulerMetrics`` methods.

    ``empty`` makes what is remembered of nothing. Subclasses log calls, for one thread at a time, as engines call.
    """

    def __init__(
        self, collector: SchedulerMetrics, empty: Callable[[], Memory], *, most_events: int, relief_bytes: int = 1 << 20
    ) -> None:
        self._definitions: dict[str, str] = getattr(collector, "definitions", {})
        self._log: EventLog[Event] = EventLog(most_events, relief_bytes)
        self._empty = empty
        self._memory = self._before = empty()
        self._shared = attached(collector, self)  # type: ignore[arg-type]  # what it lacks subclasses have
        self._log.relieved_by(self._shared)
        self.clock = self._shared.clock
        self._limits = self._shared.limits

    @abc.abstractmethod
    def _rows(self, events: list[Event]) -> list[Rows | Gaps]:
        """What ``events`` say; all that it remembers is in ``_memory``."""

    @abc.abstractmethod
    def _unreadable(self, error: Exception) -> None:
        """An event cannot be read: count it."""

    def _reject(self, reason: str, count: int = 1) -> None:
        """Count what the drain refuses; what calls do is ``_log.misused``."""
        self._memory.rejected.add(reason, count)

    # What the collector asks for, under the drain's lock.

    def drain(self) -> list[Rows | Gaps]:
        """Rows of everything recorded so far; see ``Source.drain``."""
        return self._log.drain(self)

    def remember(self) -> None:
        """See ``Derives``."""
        self._before = self._memory

    def derive(self, events: list[Event]) -> list[Rows | Gaps]:
        """See ``Derives``."""
        return self._translated(events)

    def _translated(self, events: list[Event]) -> list[Rows | Gaps]:
        """An event that cannot be read does not cost the ones beside it."""
        before = self._memory
        self._memory = copy.deepcopy(before)
        try:
            with np.errstate(invalid="ignore"):
                return self._rows(events)
        except Exception as error:  # noqa: BLE001  (whatever an engine gave)
            self._memory = before
            if len(events) <= 1:
                self._unreadable(error)
                return []
        half = len(events) // 2
        return [*self._translated(events[:half]), *self._translated(events[half:])]

    def abandon(self, events: list[Event]) -> None:
        """See ``Derives``."""
        self._memory = copy.deepcopy(self._before)
        if events:
            self._reject(RejectReason.INTERRUPTED, len(events))

    def set_limits(self, limits: SchedulerLimits) -> None:
        """What is drained from now on is measured against these."""
        self._limits = limits

    def reset(self) -> None:
        """Count anew."""
        self._memory.rejected.clear()
        self._log.misused.clear()

    def after_fork(self) -> None:
        """In a child process: empty. The parent's requests are the parent's."""
        self._log.forget()
        self._memory = self._before = self._empty()
