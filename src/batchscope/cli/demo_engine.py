"""The demo's workload, and an engine that serves it in real time: what live views show where there is no engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from batchscope import MetricsConfiguration, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.configuration import SloTargets
from batchscope.simulator import (
    Disturbances,
    Lengths,
    RequestClass,
    SchedulerOptions,
    Simulator,
    SyntheticWorkload,
    VirtualClock,
)
from batchscope.statistics.snapshot import MetricsSnapshot

SLO = {
    "interactive": SloTargets(time_to_first_token=2.0, time_per_output_token=0.12),
    "batch": SloTargets(e2e_latency=120.0),
}
CLASSES = (RequestClass("interactive", share=3, priority=1), RequestClass("batch", share=1))
DISTURBANCES = Disturbances(cancel_probability=0.02, timeout_probability=0.02, timeout_seconds=20.0)
RATE = 3.0
BURSTINESS = 3.0
PLACES, TOKENS, BLOCKS = 64, 1024, 5500
_ENDLESS = 10_000_000

WARM_UP = 90.0
"""Seconds that a running demo has behind it when it begins: bursts need a minute to show what they do."""


def demo_workload(requests: int, seed: int = 0) -> SyntheticWorkload:
    """Bursts of interactive and batch requests."""
    return SyntheticWorkload(
        requests=requests,
        rate=RATE,
        burstiness=BURSTINESS,
        prompt=Lengths(median=700, sigma=1.0, cap=8000),
        output=Lengths(median=160, sigma=0.9, cap=1500),
        classes=CLASSES,
        seed=seed,
    )


def demo_options(places: int = PLACES, tokens: int = TOKENS, blocks: int = BLOCKS) -> SchedulerOptions:
    """The demo's scheduler."""
    return SchedulerOptions(max_running_requests=places, max_scheduled_tokens=tokens, kv_cache_blocks=blocks)


def limits_of(options: SchedulerOptions) -> SchedulerLimits:
    """What a collector is told of the scheduler's limits."""
    return SchedulerLimits(
        max_running_requests=options.max_running_requests,
        max_scheduled_tokens=options.max_scheduled_tokens,
        kv_cache_blocks=options.kv_cache_blocks,
        kv_block_size=options.block_size,
    )


def demo_seconds(seconds: int, seed: int = 0, *, first: int = 0) -> Iterator[MetricsSnapshot]:
    """The demo's snapshot at each second from ``first`` on: the same for the same seed, by no clock of this world."""
    clock, options = VirtualClock(), demo_options()
    labels = {"model_name": "demo"}
    configuration = MetricsConfiguration(slo=SLO)
    with SchedulerMetricsCollector(configuration, limits=limits_of(options), labels=labels, clock=clock) as collector:
        simulator = Simulator(
            demo_workload(_ENDLESS, seed), RequestTracker(collector), options=options, disturbances=DISTURBANCES,
            clock=clock, seed=seed,
        )  # fmt: skip
        for second in range(first, seconds + 1):
            simulator.run(should_stop=lambda end=second: clock() >= end)  # type: ignore[misc]
            yield collector.get_snapshot()


class _Behind:
    """A clock that has run for so many seconds more when it is read again: whoever follows it catches up at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._lead = seconds, 0.0

    def __call__(self) -> float:
        lead, self._lead = self._lead, self._seconds
        return time.monotonic() + lead


@contextmanager
def running_demo(options: SchedulerOptions | None = None, seed: int = 0) -> Iterator[SchedulerMetricsCollector]:
    """The collector of an engine that serves the demo's bursts, in real time and for ever, in a thread of its own."""
    options = options or demo_options()
    clock, ended = VirtualClock(), threading.Event()
    configuration = MetricsConfiguration(slo=SLO)
    limits, labels = limits_of(options), {"model_name": "demo"}
    with SchedulerMetricsCollector(configuration, limits=limits, labels=labels, clock=clock) as collector:
        simulator = Simulator(
            demo_workload(_ENDLESS, seed), RequestTracker(collector), options=options, disturbances=DISTURBANCES,
            clock=clock, seed=seed, speed=1.0, real_clock=_Behind(WARM_UP),
        )  # fmt: skip
        thread = threading.Thread(
            target=simulator.run, kwargs={"should_stop": ended.is_set}, name="batchscope-demo", daemon=True
        )
        thread.start()
        try:
            yield collector
        finally:
            ended.set()
            thread.join(timeout=5.0)
