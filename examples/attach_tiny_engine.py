"""Measures ``tiny_engine.py`` from outside: three calls at the places where something happens to a request."""

from __future__ import annotations

from tiny_engine import Request, TinyEngine, toy_workload

from batchscope import (
    CompletionReason,
    MetricsConfiguration,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
)


def attach(engine: TinyEngine, tracker: RequestTracker) -> None:
    """Report what ``engine`` does to ``tracker``, without a change in its file."""
    submit, step, retire = engine.submit, engine.step, engine.retire
    slots: dict[Request, int] = {}

    def tracked_submit(request: Request) -> None:
        slots[request] = tracker.arrived(request.number, prompt_tokens=request.prompt_tokens, at=request.arrival)
        submit(request)

    def tracked_step() -> list[Request]:
        started, batch = engine.clock.now, step()
        tracker.iteration([slots[request] for request in batch], started_at=started)
        return batch

    def tracked_retire(request: Request) -> None:
        retire(request)
        tracker.finished(slots.pop(request), CompletionReason.EOS_TOKEN_REACHED)

    engine.submit, engine.step, engine.retire = tracked_submit, tracked_step, tracked_retire  # type: ignore[method-assign]


def main() -> None:
    engine = TinyEngine()
    configuration = MetricsConfiguration(slo=SloTargets(time_to_first_token=0.5, time_per_output_token=0.05))
    limits = SchedulerLimits(max_running_requests=engine.places)
    with SchedulerMetricsCollector(configuration, limits=limits, clock=engine.clock) as collector:
        attach(engine, RequestTracker(collector))
        engine.serve(toy_workload())
        snapshot = collector.get_snapshot()

    requests, iterations, slo = snapshot.request_stats, snapshot.iteration_stats, snapshot.slo_stats["default"]
    print(f"{requests.completed_requests} requests completed in {snapshot.elapsed_seconds:.1f} s")
    print(f"time to first token: p50 {requests.time_to_first_token.p50:.3f} s, p99 {requests.time_to_first_token.p99:.3f} s")
    print(f"batch utilization, weighted by time: {iterations.time_weighted_utilization:.0%}")
    for limiter, share in iterations.limited_by.items():
        if share:
            print(f"limited by {limiter}: {share:.0%} of busy time, {iterations.lost_slot_seconds[limiter]:.1f} slot-seconds lost")
    print(f"SLO met: {slo.met} of {slo.evaluated}, {slo.attainment_low:.0%} to {slo.attainment_high:.0%} (95 %)")


if __name__ == "__main__":
    main()
