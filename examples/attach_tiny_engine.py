"""Measures ``tiny_engine.py`` from outside: a report at each of the places where something happens."""

from __future__ import annotations

from batchscope import (
    BatchLimiter,
    CompletionReason,
    MetricsConfiguration,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
)
from tiny_engine import Clock, Request, TinyEngine, toy_workload

PLACES = 8
clock = Clock()
collector = SchedulerMetricsCollector(
    MetricsConfiguration(slo=SloTargets(time_to_first_token=0.5, time_per_output_token=0.05)),
    limits=SchedulerLimits(max_running_requests=PLACES),
    clock=clock,  # the engine's time is virtual; without this, time.monotonic
)
tracker = RequestTracker(collector)
slots: dict[Request, int] = {}


class MeasuredEngine(TinyEngine):
    def submit(self, request: Request) -> None:
        super().submit(request)
        slots[request] = tracker.arrived(request.number, prompt_tokens=request.prompt_tokens, at=request.arrival)

    def form_batch(self) -> list[Request]:
        batch = super().form_batch()
        tracker.stopped(BatchLimiter.REQUEST_SLOTS if self.waiting else BatchLimiter.DEMAND)
        return batch

    def forward(self, batch: list[Request]) -> None:
        super().forward(batch)
        tracker.iteration([slots[request] for request in batch])

    def retire(self, request: Request) -> None:
        super().retire(request)
        tracker.finished(slots.pop(request), CompletionReason.EOS_TOKEN_REACHED)


def main() -> None:
    MeasuredEngine(clock, PLACES).serve(toy_workload())
    snapshot = collector.get_snapshot()
    requests, iterations, slo = snapshot.request_stats, snapshot.iteration_stats, snapshot.slo_stats["default"]
    first_token = requests.time_to_first_token
    print(f"{requests.completed_requests} requests completed in {snapshot.elapsed_seconds:.1f} s")
    print(f"time to first token: p50 {first_token.p50:.3f} s, p99 {first_token.p99:.3f} s")
    print(f"batch utilization, weighted by time: {iterations.time_weighted_utilization:.0%}")
    for limiter, share in iterations.limited_by.items():
        if share:
            lost = iterations.lost_slot_seconds[limiter]
            print(f"limited by {limiter}: {share:.0%} of busy time, {lost:.1f} slot-seconds lost")
    print(f"SLO met: {slo.met} of {slo.evaluated}; 95 % interval {slo.attainment_low:.0%} to {slo.attainment_high:.0%}")


if __name__ == "__main__":
    main()
