"""States to export: a run of the demo's kind, and histograms of given values."""

import functools

import numpy as np

from batchscope import (
    ExponentialHistogram,
    MetricsConfiguration,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
)
from batchscope.records import EngineInfo
from batchscope.simulator import (
    Disturbances,
    Lengths,
    RequestClass,
    SchedulerOptions,
    Simulator,
    SyntheticWorkload,
    VirtualClock,
)

LABELS = {"model_name": 'Qwen-2 "7B"', "rank": "0"}
SLO = {
    "interactive": SloTargets(time_to_first_token=2.0, time_per_output_token=0.12),
    "batch": SloTargets(e2e_latency=121.3),
}


@functools.cache
def full_collector():
    """Every histogram filled, two SLO classes, all reasons of an end, errors."""
    clock = VirtualClock()
    options = SchedulerOptions(max_running_requests=64, max_scheduled_tokens=1024, kv_cache_blocks=3000)
    limits = SchedulerLimits(max_running_requests=64, max_scheduled_tokens=1024, kv_cache_blocks=3000)
    collector = SchedulerMetricsCollector(MetricsConfiguration(slo=SLO), limits=limits, labels=LABELS, clock=clock)
    collector.engine = EngineInfo("simulator", "1")
    workload = SyntheticWorkload(
        requests=80,
        rate=6.0,
        burstiness=3.0,
        prompt=Lengths(median=700, sigma=1.0, cap=8000),
        output=Lengths(median=60, sigma=0.9, cap=500),
        classes=(RequestClass("interactive", share=3), RequestClass("batch", share=1)),
    )
    disturbances = Disturbances(cancel_probability=0.05, timeout_probability=0.05, timeout_seconds=20.0)
    Simulator(workload, RequestTracker(collector), options=options, disturbances=disturbances, clock=clock).run()
    collector.record_error("out of memory\nat 3 \\ 4")
    return collector


@functools.cache
def full_state():
    """What a scrape of it reads; nobody changes it."""
    return full_collector().read_totals()


def histogram(values, scale=6, thresholds=()):
    found = ExponentialHistogram(scale, thresholds=thresholds)
    if len(values):
        found.record_many(np.array(values, dtype=float))
    return found


def with_histogram(name, one, class_name="default"):
    """The state of an empty collector, but with this histogram."""
    state = SchedulerMetricsCollector().read_totals()
    return state._replace(histograms={**state.histograms, name: {class_name: one}})
