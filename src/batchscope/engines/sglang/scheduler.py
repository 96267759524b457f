"""What SGLang's scheduler tells its metrics collector, as batchscope's records: queue times, who is in the engine.

It is told no iteration: ``log_stats`` comes with each prefill batch but only with every 40th decode batch, and
carries no time. Iterations come from the forward-pass metrics (``batchscope.engines.forward_pass``), through
``ForwardPassMetrics``, which adds to each what only the metrics collector hears.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from batchscope.configuration import SloTargets
from batchscope.engines.sglang.definitions import DEFERRED, MISSING
from batchscope.engines.sglang.source import Call, SglangSource, values_of
from batchscope.engines.source import Remembered
from batchscope.reasons import RejectReason
from batchscope.recording.producer import LiveRequests
from batchscope.records import IterationResult, RequestResult, SchedulerMetrics
from batchscope.rows import Gaps, Rows, StartColumn

RUNNING, WAITING, USAGE = "num_running_reqs", "num_queue_reqs", "token_usage"
_FIELDS = (RUNNING, WAITING, USAGE, *DEFERRED)
_read_all = attrgetter(*_FIELDS)


class Present(NamedTuple):
    """What the scheduler last said of itself."""

    running: int = 0
    waiting: int = 0
    deferred: int = 0
    kv_cache_usage: float = nan


_QUEUE_TIME = 0


class SglangScheduler(SglangSource[Remembered]):
    """Takes one scheduler's observations for ``collector``.

    It counts no requests, finished or received: the tokenizer manager's process does, and the two are merged.
    """

    def __init__(self, collector: SchedulerMetrics) -> None:
        self._retracted = self._cached = 0
        self._told = (0, 0)
        self.present: Present | None = None
        super().__init__(collector, Remembered)

    # What SGLang calls, by its names.

    def observe_queue_time(self, latency: float, **_: Any) -> None:
        """A request is in a forward pass for the first time."""
        self._log.append((_QUEUE_TIME, (self.clock(), latency)))

    def log_stats(self, stats: Any, **_: Any) -> None:
        """The present state: a ``SchedulerStats``, read by name."""
        try:
            running, waiting, usage, *deferred = _read_all(stats)
        except AttributeError:
            running, waiting, usage, *deferred = (self._field(stats, name) for name in _FIELDS)
        self.present = Present(
            self._count(running), self._count(waiting), sum(map(self._count, deferred)), self._ratio(usage)
        )

    def increment_retracted_reqs(self, num_retracted_reqs: int, *_: Any, **__: Any) -> None:
        """So many requests lost their place and their KV cache."""
        self._retracted += num_retracted_reqs

    def increment_realtime_tokens(
        self,
        dp_cooperation_info: Any = None,  # noqa: ARG002
        prefill_compute_tokens: int = 0,  # noqa: ARG002
        prefill_cache_tokens: int = 0,
        decode_tokens: int = 0,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Tokens of one batch: prompt tokens found in the cache are in no forward-pass message, the others are."""
        self._cached += prefill_cache_tokens

    # Iterations.

    def complete(self, iteration: IterationResult) -> IterationResult:
        """``iteration`` with what was heard since the one before: retractions, cached tokens; and the last state.

        For one thread, which need not be SGLang's: it alone remembers what was told, SGLang's alone counts on.
        """
        present = self.present or Present()
        (retracted, cached), heard = self._told, (self._retracted, self._cached)
        self._told = heard
        return msgspec.structs.replace(
            iteration,
            preemptions=heard[0] - retracted,
            cached_prompt_tokens=heard[1] - cached,
            deferred_requests=present.deferred if self.present else None,
            kv_cache_usage=present.kv_cache_usage,
        )

    # What the collector asks for, under the drain's lock.

    def _rows(self, events: list[Call]) -> list[Rows | Gaps]:
        return [*self._starts(values_of(events, _QUEUE_TIME), StartColumn.QUEUE_TIME)]

    def live(self, now: float, targets: Sequence[SloTargets]) -> LiveRequests:
        """Who is in the engine, as last reported; since when the oldest waits is not told (``nan``)."""
        if self.present is None:
            return super().live(now, targets)
        running, waiting, deferred, usage = self.present
        return LiveRequests(running + waiting + deferred, running, nan, (0,) * len(targets), deferred, usage)

    def after_fork(self) -> None:
        """In a child process: empty."""
        super().after_fork()
        self._told = (self._retracted, self._cached)
        self.present = None

    def _field(self, stats: Any, name: str) -> Any:
        """A field, or None: then its name is shown."""
        try:
            return getattr(stats, name)
        except AttributeError:
            shown = self._definitions.get(MISSING, "fields that this version of SGLang does not have:")
            if name not in shown:
                self._definitions[MISSING] = f"{shown} {name}"
            return None

    def _count(self, value: Any) -> int:
        """A ``QueueCount``, or a plain number."""
        value = getattr(value, "total", value)
        if value is None:
            return 0
        if isinstance(value, int) and value >= 0:
            return value
        self._log.misused.add(RejectReason.WRONG_TYPE)
        return 0

    def _ratio(self, value: Any) -> float:
        if value is None:
            return nan
        if isinstance(value, int | float) and isfinite(value) and value >= 0:
            return float(value)
        self._log.misused.add(RejectReason.WRONG_TYPE)
        return nan


class ForwardPassMetrics:
    """What a ``ForwardPassReader`` reports to: ``collector``, with each iteration completed by ``scheduler``.

    The reader has a thread of its own. What was heard is told once: with the first iteration that arrives after it,
    at most one later than the one it belongs to.
    """

    def __init__(self, collector: SchedulerMetrics, scheduler: SglangScheduler) -> None:
        self._collector = collector
        self._scheduler = scheduler

    def record_iteration(self, result: IterationResult) -> None:
        """An iteration of the engine."""
        self._collector.record_iteration(self._scheduler.complete(result))

    def record_request_completion(self, result: RequestResult) -> None:
        """A finished request."""
        self._collector.record_request_completion(result)

    def record_batch_utilization(
        self,
        utilization: float,
        *,
        batch_id: int | None = None,
        request_count: int | None = None,
        memory_bytes_used: int | None = None,
    ) -> None:
        """How full a batch was."""
        self._collector.record_batch_utilization(
            utilization, batch_id=batch_id, request_count=request_count, memory_bytes_used=memory_bytes_used
        )

    def record_error(self, error_type: str, exception: BaseException | None = None) -> None:
        """An error by name: messages that were missed, or could not be read."""
        self._collector.record_error(error_type, exception)
