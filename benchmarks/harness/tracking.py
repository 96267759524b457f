"""RequestTracker.iteration at 256 slots, everything derived, the drain included."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from batchscope import MetricsConfiguration, RequestTracker, SchedulerLimits, SchedulerMetricsCollector, SloTargets
from harness.contender import TRACKER, Contender, Prepared
from harness.ours import EOS, iterations, prepared

SLOTS = 256
STEP = 0.03
CHURN, STEADY, TOKENS = "one leaves, one arrives", "steady decoding", "tokens given"


class Clock:
    """Virtual seconds: a real engine's iterations take 30 ms, and none is timed here."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def tracker_iterations(kind: str, *, as_array: bool) -> Prepared:
    clock = Clock()
    collector = SchedulerMetricsCollector(
        MetricsConfiguration(slo=SloTargets(time_to_first_token=1.0)), limits=SchedulerLimits(SLOTS, 2048), clock=clock
    )
    tracker = RequestTracker(collector)
    live: Any = [tracker.arrived(k, prompt_tokens=100) for k in range(SLOTS)]
    if as_array:
        live = np.array(live)
    ones: Any = np.ones(SLOTS, dtype=np.int64) if as_array else [1] * SLOTS
    fresh = itertools.count(SLOTS)
    leaving = itertools.cycle(range(SLOTS))

    def steady(count: int) -> None:
        for _ in range(count):
            started = clock.now
            clock.now = started + STEP
            tracker.iteration(live, started_at=started, finished_at=clock.now, kv_cache_usage=0.5)

    def given(count: int) -> None:
        for _ in range(count):
            started = clock.now
            clock.now = started + STEP
            tracker.iteration(live, ones, started_at=started, finished_at=clock.now, kv_cache_usage=0.5)

    def churning(count: int) -> None:
        for _ in range(count):
            started = clock.now
            clock.now = started + STEP
            tracker.iteration(live, started_at=started, finished_at=clock.now, kv_cache_usage=0.5)
            place = next(leaving)
            tracker.finished(int(live[place]), EOS)
            live[place] = tracker.arrived(next(fresh), prompt_tokens=100)

    body = {STEADY: steady, TOKENS: given, CHURN: churning}[kind]
    return prepared(collector, body, "iterations", iterations)


def tracker_name(kind: str, *, as_array: bool) -> str:
    """How a contender is called."""
    return f"{kind}, slots: {'ndarray' if as_array else 'list'}"


def _contender(kind: str, *, as_array: bool) -> Contender:
    name = tracker_name(kind, as_array=as_array)
    return Contender(TRACKER, name, 1000, lambda: tracker_iterations(kind, as_array=as_array))


TRACKING = tuple(_contender(kind, as_array=as_array) for kind in (STEADY, TOKENS, CHURN) for as_array in (False, True))
