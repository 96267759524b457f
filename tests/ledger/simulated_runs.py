"""Runs of the simulator as columns, without a collector: what hundreds of comparisons are made of."""

from __future__ import annotations

from random import Random

import numpy as np

from batchscope.simulator import Lengths, LinearCostModel, SchedulerOptions, Simulator, SyntheticWorkload

OPTIONS = SchedulerOptions(max_running_requests=16, max_scheduled_tokens=512, kv_cache_blocks=4000)
PROMPT, OUTPUT = Lengths(median=200, sigma=0.6, cap=2000), Lengths(median=40, sigma=0.6, cap=400)


class NoisyCost:
    """Iterations ``factor`` times as slow, which drift by ``drift`` (autoregressive) and jitter by ``jitter``."""

    def __init__(self, factor=1.0, *, drift=0.0, jitter=0.0, correlation=200, seed=0):
        self._model = LinearCostModel()
        self._factor = factor
        self._random = Random(f"cost {seed}")
        self._keep = 1 - 1 / correlation
        self._drift, self._jitter = drift, jitter
        self._level = self._random.gauss(0, drift)

    def iteration_time(self, *batch):
        noise = self._random.gauss(0, self._jitter) if self._jitter else 0.0
        if self._drift:
            self._level = self._keep * self._level + self._random.gauss(0, self._drift * (1 - self._keep**2) ** 0.5)
        return self._model.iteration_time(*batch) * self._factor * np.exp(self._level + noise)


class Columns:
    """A tracker that keeps instants only."""

    def __init__(self):
        self.requests, self.iterations = [], []
        self._first = {}

    def arrived(self, request_id, *, prompt_tokens=0, request_class=None, at=None):
        self.requests.append([request_id, at, np.nan, np.nan, np.nan, prompt_tokens])
        return len(self.requests) - 1

    def iteration(self, slots, tokens=None, *, started_at, finished_at, scheduled_tokens=None, waiting=0, running_requests=0, **rest):
        self.iterations.append((started_at, finished_at, len(slots), waiting, running_requests))
        if scheduled_tokens is None:
            return
        for slot, emitted in zip(slots, tokens or [1] * len(slots)):
            request = self.requests[slot]
            if np.isnan(request[2]):
                request[2] = started_at
            if emitted and np.isnan(request[3]):
                request[3] = finished_at

    def finished(self, slot, reason, *, at=None, **rest):
        self.requests[slot][4] = at


def serve(workload, cost=None, options=OPTIONS):
    columns = Columns()
    Simulator(workload, columns, options=options, cost=cost).run()
    return columns
