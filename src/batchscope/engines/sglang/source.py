"""What both of SGLang's sources share: logs that take raw values, and the checks of what comes out of them.

SGLang calls its metrics collectors in the loops that serve every request, so a call only appends to a list; all
else happens in bulk when the collector drains. Values that cannot be are ``nan`` from there on and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

import numpy as np
import numpy.typing as npt

from batchscope.configuration import SchedulerLimits, SloTargets
from batchscope.engines.hooks import Hooks
from batchscope.engines.sglang.definitions import DEFINITIONS
from batchscope.recording.producer import Attachable, LiveRequests, SourceCounts
from batchscope.records import SchedulerMetrics
from batchscope.rows import Floats, Gaps, RowKind, Rows, StartColumn, empty_rows
from batchscope.tracking.forward import Forward

INTEGRATION_FAILED = "integration_failed"
"""Calls of SGLang that were not understood at all, by this reason in ``rejected_records``."""
WRONG_TYPE = "wrong_type"
NOT_A_NUMBER = "not_a_number"
NEGATIVE = "negative"
INFINITE = "infinite"
_RELIEF = 4096
_MOST = 8 * _RELIEF


class Log(list[tuple[Any, ...]]):
    """Raw values of calls: appended by SGLang's thread, taken by the drain; both are atomic."""

    def take(self) -> list[tuple[Any, ...]]:
        """Everything logged so far, once."""
        entries = self[:]
        del self[: len(entries)]
        return entries


class SglangSource:
    """Drained by ``collector``: a ``SchedulerMetricsCollector``, or anything with the ``SchedulerMetrics`` methods.

    ``hooks`` guards what SGLang calls; what it caught is counted as ``integration_failed``. For one thread at a
    time, as SGLang calls. Subclasses say which rows their logs are.
    """

    def __init__(self, collector: SchedulerMetrics) -> None:
        self.hooks = Hooks("SGLang")
        self._logs: list[Log] = []
        self._rejected: dict[str, int] = {}
        self._failures_before = 0
        self._dropped = 0
        self._received = 0
        self._definitions: dict[str, str] = getattr(collector, "definitions", {})
        self._definitions.update(DEFINITIONS)
        self._prepare()
        attachable = collector if isinstance(collector, Attachable) else Forward(collector)
        self._shared = attachable.attach(self)
        self.clock = self._shared.clock

    def _prepare(self) -> None:
        """Make the logs: after this it can be drained."""

    def _new_log(self) -> Log:
        self._logs.append(Log())
        return self._logs[-1]

    def _put(self, log: Log, *entry: Any) -> None:
        if len(log) >= _RELIEF:
            self._shared.relieve()
            if len(log) >= _MOST:
                self._dropped += 1
                return
        log.append(entry)
        if self._shared.eager:
            self._shared.relieve()

    def _reject(self, reason: str, count: int = 1) -> None:
        self._rejected[reason] = self._rejected.get(reason, 0) + count

    # What the collector asks for, under the drain's lock.

    def drain(self) -> list[Rows | Gaps]:
        """Rows of everything recorded so far; entries that cannot be read are counted and left out."""
        found: list[Rows | Gaps] | None = self.hooks.guard(self._rows)
        return found or []

    def _rows(self) -> list[Rows | Gaps]:
        raise NotImplementedError

    def live(self, now: float, targets: Sequence[SloTargets]) -> LiveRequests:  # noqa: ARG002
        """Nobody that this process would know of."""
        return LiveRequests(0, None, nan, (0,) * len(targets))

    def counts(self) -> SourceCounts:
        """Counts since the last reset."""
        rejected = dict(self._rejected)
        failures = self.hooks.failures - self._failures_before
        if failures:
            rejected[INTEGRATION_FAILED] = failures
        return SourceCounts(self._received, 0, rejected, self._dropped)

    def set_limits(self, limits: SchedulerLimits) -> None:
        """None of these rows depends on limits."""

    def reset(self) -> None:
        """Count anew."""
        self._rejected.clear()
        self._failures_before = self.hooks.failures
        self._received = self._dropped = 0

    def after_fork(self) -> None:
        """In a child process: empty."""
        self.reset()
        for log in self._logs:
            log.clear()

    # Checks.

    def numbers(self, entries: Sequence[tuple[Any, ...]]) -> Floats:
        """``entries`` as float64 of shape (n, width): None is ``nan``; so is what is no number, counted."""
        try:
            return np.array(entries, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            return np.array([[self._number(value) for value in entry] for entry in entries], dtype=np.float64)

    def _number(self, value: object) -> float:
        if value is None:
            return nan
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            self._reject(WRONG_TYPE)
            return nan

    def refuse(self, values: Floats, bad: npt.NDArray[np.bool_], reason: str) -> None:
        """Make the ``bad`` ones ``nan``, in place, and count them."""
        count = int(np.count_nonzero(bad))
        if count:
            values[bad] = nan
            self._reject(reason, count)

    def fit(self, values: Floats) -> None:
        """Refuse, in place, what is negative or infinite."""
        with np.errstate(invalid="ignore"):
            self.refuse(values, values < 0, NEGATIVE)
            self.refuse(values, np.isinf(values), INFINITE)

    def starts(self, entries: Sequence[tuple[Any, ...]], column: StartColumn) -> list[Rows]:
        """START rows of (instant, duration) entries, a block or none; durations that cannot be are refused."""
        if not entries:
            return []
        values = self.numbers(entries)
        durations = values[:, 1]
        self.refuse(durations, np.isnan(durations), NOT_A_NUMBER)
        self.fit(durations)
        known = ~np.isnan(durations)
        rows = empty_rows(RowKind.START, int(np.count_nonzero(known)))
        rows[:, StartColumn.AT] = values[known, 0]
        rows[:, StartColumn.REQUEST_CLASS] = self.request_class
        rows[:, column] = durations[known]
        return [Rows(RowKind.START, rows)] if len(rows) else []

    @property
    def request_class(self) -> float:
        """The code of a request that says no class: SGLang's never do."""
        return float(self._shared.class_codes.get(None, self._shared.other_class))
