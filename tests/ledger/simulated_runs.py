"""Runs of the simulator as columns, without a collector: what hundreds of comparisons are made of."""

from __future__ import annotations

from random import Random

import numpy as np

from batchscope.ledger.comparison.measured import measured
from batchscope.rows import RequestColumn as R
from batchscope.rows import RowKind, empty_rows
from batchscope.simulator import Lengths, LinearCostModel, SchedulerOptions, Simulator, SyntheticWorkload

OPTIONS = SchedulerOptions(max_running_requests=16, max_scheduled_tokens=512, kv_cache_blocks=4000)
CAPACITY = 11.16
"""Requests a second that these options serve when as many as can are there."""
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

    def arrived(self, request_id, *, prompt_tokens=0, request_class=None, at=None):
        self.requests.append([request_id, at, np.nan, np.nan, np.nan, prompt_tokens, 0])
        return len(self.requests) - 1

    def iteration(
        self,
        slots,
        tokens=None,
        *,
        started_at,
        finished_at,
        scheduled_tokens=None,
        waiting=0,
        running_requests=0,
        decode_context_tokens=0,
        **rest,
    ):
        scheduled = len(slots) if scheduled_tokens is None else sum(scheduled_tokens)
        row = (started_at, finished_at, len(slots), waiting, running_requests, scheduled, decode_context_tokens)
        self.iterations.append(row)
        for slot, emitted in zip(slots, tokens or [1] * len(slots), strict=True):
            request = self.requests[slot]
            request[6] += emitted
            if np.isnan(request[2]):
                request[2] = started_at
            if emitted and np.isnan(request[3]):
                request[3] = finished_at

    def finished(self, slot, reason, *, at=None, **rest):
        self.requests[slot][4] = at

    def measured(self, name):
        """As ``measured_run`` would give it; the number of output tokens is that of the workload."""
        found = np.array(self.requests, dtype=object)
        ids, (arrived, scheduled, first, ended, prompt, output) = found[:, 0], found[:, 1:].astype(float).T
        rows = empty_rows(RowKind.REQUEST, len(found))
        given = {
            R.AT: ended, R.ARRIVED_AT: arrived, R.FIRST_SCHEDULED_AT: scheduled, R.FIRST_TOKEN_AT: first,
            R.LAST_TOKEN_AT: ended, R.FINISHED_AT: ended, R.QUEUE_TIME: scheduled - arrived,
            R.TIME_TO_FIRST_TOKEN: first - arrived, R.TOTAL_TIME: ended - arrived, R.DECODE_TIME: ended - first,
            R.TIME_PER_OUTPUT_TOKEN: np.where(output > 1, (ended - first) / np.maximum(output - 1, 1), np.nan),
            R.PROMPT_TOKENS: prompt, R.TOKENS_GENERATED: output,
        }  # fmt: skip
        for column, values in given.items():
            rows[:, column] = values
        started, finished, size, waiting, running, scheduled, context = np.array(self.iterations, float).T
        steps = {
            "duration": finished - started, "request_count": size, "waiting_requests": waiting, "running_requests": running,
            "scheduled_tokens": scheduled, "decode_context_tokens": context,
        }  # fmt: skip
        return measured(name, ids, rows, np.zeros(len(rows), np.int64), started, steps)


def serve(workload, cost=None, options=OPTIONS, name=""):
    """What a comparison sees of the run."""
    columns = Columns()
    Simulator(workload, columns, options=options, cost=cost).run()
    return columns.measured(name)


def workload(load, seed, requests=1000):
    """Requests at ``load`` of what the engine can do."""
    rate = load * CAPACITY
    return SyntheticWorkload(requests=requests, rate=rate, prompt=PROMPT, output=OUTPUT, seed=seed)
