"""An engine that does what a test says, iteration by iteration, on a clock of its own; or one that is simulated."""

from __future__ import annotations

from collections.abc import Sequence

from heard_tables import HeardRun

from batchscope import BatchLimiter, CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.simulator import RequestSpec, SchedulerOptions, Simulator, VirtualClock
from batchscope.testing import RecordingSink


class Scripted:
    """Iterations of a fixed cost: ``fixed`` seconds, and ``a_token`` for each token of prefill."""

    def __init__(self, fixed: float = 0.01, a_token: float = 1e-4) -> None:
        self.now = 0.0
        self.fixed, self.a_token = fixed, a_token
        self.collector = SchedulerMetricsCollector(clock=lambda: self.now)
        self.sink = RecordingSink()
        self.collector.subscribe(self.sink)
        self.tracker = RequestTracker(self.collector)
        self.slots: dict[str, int] = {}

    def arrive(self, *ids: str, prompt: int = 8) -> None:
        for one in ids:
            self.slots[one] = self.tracker.arrived(one, prompt_tokens=prompt, at=self.now)

    def step(
        self,
        *ids: str,
        prefill: dict[str, int] | None = None,
        chunk: Sequence[str] = (),
        evict: Sequence[str] = (),
        limiter: BatchLimiter = BatchLimiter.DEMAND,
    ) -> None:
        """One iteration: who takes part, who of them prefills how much, whose chunk is not the last, who is evicted."""
        prefill = prefill or {}
        started = self.now
        self.now += self.fixed + self.a_token * sum(prefill.values())
        self.tracker.iteration(
            [self.slots[one] for one in ids],
            [0 if one in chunk else 1 for one in ids],
            scheduled_tokens=[prefill.get(one, 1) for one in ids],
            preempted=[self.slots[one] for one in evict],
            started_at=started, finished_at=self.now, limited_by=limiter,
        )  # fmt: skip

    def finish(self, *ids: str) -> None:
        for one in ids:
            self.tracker.finished(self.slots.pop(one), CompletionReason.EOS_TOKEN_REACHED, at=self.now)

    def run(self, *, spans: bool = True) -> HeardRun:
        self.collector.close()
        return HeardRun(self.sink.runs[0], spans=spans)


def simulated(workload: Sequence[RequestSpec], **options: int) -> HeardRun:
    """A run of the embedded scheduler."""
    clock, sink, chosen = VirtualClock(), RecordingSink(), SchedulerOptions(**options)
    limits = SchedulerLimits(
        max_running_requests=chosen.max_running_requests,
        max_scheduled_tokens=chosen.max_scheduled_tokens,
        kv_cache_blocks=chosen.kv_cache_blocks,
        kv_block_size=chosen.block_size,
    )
    with SchedulerMetricsCollector(limits=limits, clock=clock) as collector:
        collector.subscribe(sink)
        Simulator(workload, RequestTracker(collector), options=chosen, clock=clock).run()
    return HeardRun(sink.runs[0])
