"""Engines with known constants whose steps jitter: what they did, as a run would say it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from batchscope.prediction import IterationsSeen, Observed, RequestInstants
from batchscope.simulator import Lengths, LinearCostModel, RequestSpec, SchedulerOptions, Simulator, SyntheticWorkload

SHARED = Path(__file__).resolve().parents[3] / "shared"
TRUTH = LinearCostModel(20e-3, 100e-6, 80e-6, 150e-9)
OPTIONS = SchedulerOptions(
    policy="vllm", max_running_requests=32, max_scheduled_tokens=1024, kv_cache_blocks=4000, hash_block_tokens=16
)


class _NoisyCost:
    """The cost with a factor drawn for each iteration."""

    def __init__(self, cost: LinearCostModel, jitter: float, seed: int) -> None:
        self._cost, self._jitter = cost, jitter
        self._random = np.random.default_rng(seed)

    def iteration_time(self, prefill_tokens: int, decoding_requests: int, kv_tokens_read: int) -> float:
        factor = float(np.exp(self._jitter * self._random.standard_normal()))
        return factor * self._cost.iteration_time(prefill_tokens, decoding_requests, kv_tokens_read)


class _Diary:
    """A tracker that keeps instants and iterations."""

    def __init__(self) -> None:
        self.arrived_at: list[float] = []
        self.scheduled: dict[int, float] = {}
        self.first: dict[int, float] = {}
        self.last: dict[int, float] = {}
        self.rows: list[tuple[float, ...]] = []
        self.preemptions = 0

    def arrived(self, request_id, *, at=None, **facts):
        self.arrived_at.append(at)
        return len(self.arrived_at) - 1

    def iteration(self, slots, tokens=None, *, started_at, finished_at, scheduled_tokens, **facts):
        emitted = [1] * len(slots) if tokens is None else tokens
        for slot, count in zip(slots, emitted, strict=True):
            self.scheduled.setdefault(slot, started_at)
            if count:
                self.first.setdefault(slot, finished_at)
                self.last[slot] = finished_at
        sizes = [1] * len(slots) if scheduled_tokens is None else scheduled_tokens
        decoding = [
            slot for slot, count in zip(slots, emitted, strict=True) if self.first.get(slot) != finished_at and count
        ]
        prefill = sum(sizes) - len(decoding)
        context = facts["decode_context_tokens"]
        self.rows.append((finished_at, finished_at - started_at, prefill, len(decoding), context))
        self.preemptions += len(facts["preempted"])

    def finished(self, slot, reason, **facts):
        pass


def recorded(
    *,
    requests: int = 200,
    rate: float = 2.0,
    seed: int = 0,
    cost: LinearCostModel = TRUTH,
    options: SchedulerOptions = OPTIONS,
    jitter: float = 0.02,
    iterations: bool = True,
    workload: tuple[RequestSpec, ...] | None = None,
) -> Observed:
    """What an engine with this cost did with a workload, else with one of this seed."""
    workload = workload or tuple(
        SyntheticWorkload(
            requests=requests, rate=rate, seed=seed, prompt=Lengths(500, 0.8, 3000), output=Lengths(100, 0.7, 600)
        )
    )
    diary = _Diary()
    Simulator(workload, diary, options=options, cost=_NoisyCost(cost, jitter, seed)).run()
    columns = [
        [of.get(slot, np.nan) for slot in range(len(workload))] for of in (diary.scheduled, diary.first, diary.last)
    ]
    return Observed(
        name=f"engine {seed}",
        engine="vllm 0.19.0",
        workload=workload,
        instants=RequestInstants(
            np.array(diary.arrived_at), *(np.array(column) for column in columns),
            np.array([spec.output_tokens for spec in workload], float),
        ),
        options=options,
        preemptions=diary.preemptions,
        iterations=IterationsSeen(*np.array(diary.rows).T) if iterations else None,
    )  # fmt: skip
