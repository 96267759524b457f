"""What both of SGLang's sources share: which figures SGLang's calls are, and the times to a first schedule or token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan
from typing import Any, TypeVar

import numpy as np

from batchscope.configuration import SloTargets
from batchscope.engines.hooks import Hooks
from batchscope.engines.sglang.definitions import DEFINITIONS
from batchscope.engines.source import EngineSource, Remembered
from batchscope.engines.values import fit, numbers, refuse, start_rows
from batchscope.reasons import RejectReason
from batchscope.recording.producer import LiveRequests, SourceCounts
from batchscope.records import SchedulerMetrics
from batchscope.rows import Rows, StartColumn

_MOST_EVENTS = 1 << 15
Call = tuple[int, tuple[Any, ...]]
"""Which of a source's calls it was, and its raw values, the instant first."""
Memory = TypeVar("Memory", bound=Remembered)


class SglangSource(EngineSource[Call, Memory]):
    """Logs ``Call`` events. ``hooks`` guards what SGLang calls; what it caught is counted as ``integration_failed``.

    Subclasses say which rows their calls are.
    """

    def __init__(self, collector: SchedulerMetrics, empty: Callable[[], Memory]) -> None:
        self.hooks = Hooks("SGLang")
        self._failures_before = 0
        super().__init__(collector, empty, most_events=_MOST_EVENTS)
        self._definitions.update(DEFINITIONS)

    def _unreadable(self, error: Exception) -> None:
        self.hooks.caught(error)

    # What the collector asks for, under the drain's lock.

    def live(self, now: float, targets: Sequence[SloTargets]) -> LiveRequests:  # noqa: ARG002
        """Nobody that this process would know of."""
        return LiveRequests(0, None, nan, (0,) * len(targets))

    def counts(self) -> SourceCounts:
        """Counts since the last reset."""
        rejected, dropped = self._log.counts(self._memory.rejected)
        failures = self.hooks.failures - self._failures_before
        if failures:
            rejected[RejectReason.INTEGRATION_FAILED] = failures
        return SourceCounts(self._received, 0, rejected, dropped)

    @property
    def _received(self) -> int:
        """Requests that the source counts."""
        return 0

    def reset(self) -> None:
        """Count anew."""
        super().reset()
        self._failures_before = self.hooks.failures

    def after_fork(self) -> None:
        """In a child process: empty."""
        super().after_fork()
        self._failures_before = self.hooks.failures

    def _starts(self, entries: Sequence[tuple[Any, ...]], column: StartColumn) -> list[Rows]:
        """START rows of (instant, duration) entries, a block or none; durations that cannot be are refused."""
        values = numbers(entries, 2, self._reject)
        durations = values[:, 1]
        refuse(durations, np.isnan(durations), RejectReason.NOT_A_NUMBER, self._reject)
        fit(durations, self._reject)
        rows = start_rows(values[:, 0], durations, column, self.request_class)
        return [rows] if len(rows.values) else []

    @property
    def request_class(self) -> float:
        """The code of a request that says no class: SGLang's never do."""
        return float(self._shared.class_codes.get(None, self._shared.other_class))


def values_of(events: Sequence[Call], call: int) -> list[tuple[Any, ...]]:
    """The values of all calls of one kind, in their order."""
    return [values for which, values in events if which == call]
