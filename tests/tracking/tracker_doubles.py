"""A tracker on a clock that stands still, and metrics objects that only remember."""

from __future__ import annotations

from batchscope import (
    IterationResult,
    MetricsConfiguration,
    RequestResult,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
)


class Clock:
    """Stands until it is moved."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Recorder:
    """Has the four methods of ``SchedulerMetrics`` and nothing else."""

    def __init__(self) -> None:
        self.iterations: list[IterationResult] = []
        self.requests: list[RequestResult] = []
        self.batches: list[tuple[float, dict]] = []
        self.errors: list[str] = []

    def record_iteration(self, result):
        self.iterations.append(result)

    def record_request_completion(self, result):
        self.requests.append(result)

    def record_batch_utilization(self, utilization, **facts):
        self.batches.append((utilization, facts))

    def record_error(self, error_type, exception=None):
        self.errors.append(error_type)


class Tracked:
    """A collector, a tracker of it and their clock."""

    def __init__(self, *, strict: bool = False, places: int | None = 8) -> None:
        self.clock = Clock()
        self.collector = SchedulerMetricsCollector(
            MetricsConfiguration(strict=strict),
            limits=SchedulerLimits(max_running_requests=places),
            clock=self.clock,
        )
        self.tracker = RequestTracker(self.collector)

    def arrive(self, *ids, at: float = 0.0) -> list[int]:
        return [self.tracker.arrived(request_id, at=at) for request_id in ids]

    def run(self, slots, tokens=None, *, started: float, finished: float, **facts) -> None:
        self.clock.now = max(self.clock.now, finished)
        self.tracker.iteration(slots, tokens, started_at=started, finished_at=finished, **facts)

    @property
    def rejected(self) -> dict[str, int]:
        return self.collector.get_snapshot().totals.rejected_records

    @property
    def totals(self):
        return self.collector.get_snapshot().totals

    @property
    def iterations(self):
        return self.collector.iteration_samples()

    @property
    def requests(self):
        return {sample.request_id: sample for sample in self.collector.request_samples()}
