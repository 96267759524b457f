"""A ``SchedulerMetrics`` that keeps every record as it came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from batchscope.configuration import SchedulerLimits
from batchscope.recording.producer import Source
from batchscope.records import IterationResult, RequestResult
from batchscope.testing.heard import Heard
from batchscope.tracking.events import Event


class BatchRecord(NamedTuple):
    """The arguments of one ``record_batch_utilization``."""

    utilization: float
    batch_id: int | None
    request_count: int | None
    memory_bytes_used: int | None


class ErrorRecord(NamedTuple):
    """The arguments of one ``record_error``; the exception's type, as the exception itself pins its frames."""

    error_type: str
    exception_type: type[BaseException] | None


class RecordingMetrics:
    """Keeps what is reported, in order; not thread-safe, unbounded: for tests.

    ``limits`` are the engine's, as a collector takes them; the checks compare batches with them.
    """

    def __init__(self, limits: SchedulerLimits | None = None) -> None:
        self.limits = limits or SchedulerLimits()
        self.iterations: list[IterationResult] = []
        self.requests: list[RequestResult] = []
        self.batches: list[BatchRecord] = []
        self.errors: list[ErrorRecord] = []
        self.trackers: list[Source] = []
        self.heard: dict[int, Heard] = {}

    def watch(self, tracker: Source) -> None:
        """A tracker reports here from now on: what it refuses is no record, and is checked all the same."""
        self.trackers.append(tracker)
        self.heard[id(tracker)] = Heard()

    def hear(self, tracker: Source, events: Sequence[Event]) -> None:
        """What a tracker was told, slot by slot: records only tell of a whole batch."""
        self.heard[id(tracker)].hear(events)

    def record_iteration(self, result: IterationResult) -> None:
        """Keep one iteration."""
        self.iterations.append(result)

    def record_request_completion(self, result: RequestResult) -> None:
        """Keep one request that left."""
        self.requests.append(result)

    def record_batch_utilization(
        self,
        utilization: float,
        *,
        batch_id: int | None = None,
        request_count: int | None = None,
        memory_bytes_used: int | None = None,
    ) -> None:
        """Keep one batch record."""
        self.batches.append(BatchRecord(utilization, batch_id, request_count, memory_bytes_used))

    def record_error(self, error_type: str, exception: BaseException | None = None) -> None:
        """Keep one error."""
        self.errors.append(ErrorRecord(error_type, None if exception is None else type(exception)))
