"""vidur: its events, its pipeline stages and its schedulers as they are; only the time of a stage is ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from foreign.harness import Arrival, Clock, Outcome, Told, arrivals, bare_package, cost, stand_in

from batchscope import BatchLimiter, CompletionReason, SchedulerLimits


class Setup(NamedTuple):
    """A scheduler of vidur's by name, and what it is given."""

    scheduler: str
    places: int
    blocks: int
    requests: list[Arrival]
    block_size: int = 16
    budget: int = 4096
    stages: int = 1
    replicas: int = 1
    longest: int = 4096


_LONG = arrivals(400, 14, (50, 1600), (10, 300), seed=4)
_SHORT = arrivals(400, 12, (20, 700), (5, 150), seed=5, burst=6)
WORKLOADS = {
    "vllm, 128 places": Setup("vllm", 128, 1600, _LONG),
    "vllm, 24 places, in bunches": Setup("vllm", 24, 4000, _SHORT),
    "vllm, budget 2048": Setup("vllm", 128, 6000, _LONG, budget=2048),
    "sarathi, chunk 512": Setup("sarathi", 128, 1600, _LONG, budget=512),
    "sarathi, 2 stages, cap 64": Setup("sarathi", 64, 1600, _LONG, budget=512, stages=2),
    "sarathi, 2 stages, cap 32": Setup("sarathi", 32, 4000, _LONG, budget=1024, stages=2),
    "sarathi, 2 replicas": Setup("sarathi", 64, 900, _LONG, budget=512, replicas=2),
    "orca, whole sequences reserved": Setup("orca", 128, 4096, _LONG, budget=10**6, longest=2048),
    "orca, 16 places": Setup("orca", 16, 4096, _SHORT, budget=10**6, longest=2048),
    "lightllm": Setup("lightllm", 64, 24_000, _LONG, block_size=1),
    "lightllm, little KV cache": Setup("lightllm", 128, 12_000, _LONG, block_size=1),
}


def run(clones: Path) -> Iterator[Outcome]:
    """Each workload once."""
    bare_package("vidur", clones / "vidur" / "vidur")
    stand_in("vidur.metrics")
    stand_in("vidur.request_generator")
    stand_in("vidur.execution_time_predictor")
    stand_in("vidur.scheduler.utils")
    for workload, setup in WORKLOADS.items():
        yield _serve(setup, workload)


def _serve(setup: Setup, workload: str) -> Outcome:
    clock = Clock()
    told = Told(
        SchedulerLimits(
            max_running_requests=setup.places,
            max_scheduled_tokens=setup.budget,
            kv_cache_blocks=setup.blocks,
            kv_block_size=setup.block_size,
            pipeline_stages=setup.stages,
        ),
        clock,
    )
    simulator = _simulator(setup, clock, told)
    logging.getLogger("vidur").setLevel(logging.WARNING)  # importing it says INFO
    simulator.run()
    return told.outcome("vidur", workload)


def _simulator(setup: Setup, clock: Clock, told: Told) -> Any:
    stand_in(
        "vidur.scheduler.utils.memory_planner",
        MemoryPlanner=lambda *_: SimpleNamespace(get_max_batch_size=lambda: setup.places),
    )
    from vidur.entities import Request
    from vidur.events import RequestArrivalEvent
    from vidur.scheduler.global_scheduler.round_robin_global_scheduler import RoundRobinGlobalScheduler
    from vidur.simulator import Simulator

    schedulers = {number: _scheduler(setup, number, told) for number in range(setup.replicas)}
    routing = RoundRobinGlobalScheduler.__new__(RoundRobinGlobalScheduler)  # its constructor needs a predictor's files
    routing.__dict__.update(
        _replica_schedulers={number: scheduler.theirs for number, scheduler in schedulers.items()},
        _num_replicas=setup.replicas, _request_queue=[], _request_counter=0,
    )  # fmt: skip
    simulator = Simulator.__new__(Simulator)
    simulator.__dict__.update(
        _time=0, _time_limit=inf, _terminate=False, _event_queue=[], _cluster=None, _scheduler=routing,
        _metric_store=Store(schedulers, told), _set_time=lambda time: setattr(clock, "now", time),
        _config=SimpleNamespace(metrics_config=SimpleNamespace(write_json_trace=False, enable_chrome_trace=False)),
    )  # fmt: skip
    Request._id = -1
    for arrival in setup.requests:
        request = Request(arrival.at, arrival.prompt, arrival.output)
        simulator._add_event(RequestArrivalEvent(arrival.at, request))
    return simulator


def _scheduler(setup: Setup, replica: int, told: Told) -> Measured:
    from vidur.scheduler.replica_scheduler.replica_scheduler_registry import ReplicaSchedulerRegistry
    from vidur.types import ReplicaSchedulerType

    config = SimpleNamespace(
        block_size=setup.block_size, num_blocks=setup.blocks, batch_size_cap=setup.places,
        watermark_blocks_fraction=0.01, max_tokens_in_batch=setup.budget, chunk_size=setup.budget,
        max_waiting_iters=10,
    )  # fmt: skip
    theirs = ReplicaSchedulerRegistry.get(
        ReplicaSchedulerType[setup.scheduler.upper()], SimpleNamespace(), config,
        SimpleNamespace(max_tokens=setup.longest), SimpleNamespace(id=replica), setup.stages, Stage(setup.stages),
    )  # fmt: skip
    return Measured(theirs, ASKED[setup.scheduler], told)


class Stage:
    """Times of a stage, in place of a predictor trained on profiles."""

    def __init__(self, stages: int) -> None:
        self._stages = stages

    def get_execution_time(self, batch: Any, _stage: int) -> Any:
        context = sum(request.num_processed_tokens for request in batch.requests)
        seconds = cost(batch.total_num_tokens, batch.size, context) / self._stages
        return SimpleNamespace(total_time=seconds, model_time=seconds)


class Measured:
    """One of vidur's schedulers; what is said of a batch is taken where the batch is formed."""

    def __init__(self, theirs: Any, why: Callable[[Measured, Any], BatchLimiter], told: Told) -> None:
        self.theirs = theirs
        self.formed: dict[int, list[Any]] = {}
        self.evicted: list[int] = []
        self.refused: Any = None
        self.asked_to_admit = True
        self._why = why
        self._told = told
        self._queue, theirs.add_request = theirs.add_request, self._arrive
        self._form, theirs._get_next_batch = theirs._get_next_batch, self._next
        for name in ("_can_allocate_request", "can_allocate"):
            if hasattr(theirs, name):
                setattr(theirs, name, self._noting(getattr(theirs, name)))
        if hasattr(theirs, "_get_prefill_batch"):
            self._admit, theirs._get_prefill_batch = theirs._get_prefill_batch, self._admitting

    def _noting(self, can_allocate: Callable[[Any], bool]) -> Callable[[Any], bool]:
        """Their question whether somebody fits; who did not is remembered."""

        def asked(wanted: Any) -> bool:
            fits = can_allocate(wanted)
            self.refused = None if fits else wanted
            return fits

        return asked

    def _admitting(self) -> Any:
        self.asked_to_admit = True
        return self._admit()

    def _next(self) -> Any:
        self.refused, self.asked_to_admit = None, not hasattr(self, "_admit")
        placed = set(self.theirs._allocation_map)
        batch = self._form()
        self.evicted += sorted(placed - set(self.theirs._allocation_map))
        if batch:
            left = sum(map(_left, self.theirs._preempted_requests))
            cut = (_left(request) - tokens for request, tokens in _prefills(batch))
            self._told.stopped(self._why(self, batch), rank=self.theirs.replica_id)
            self.formed[batch.id] = self._told.forming(
                batch.request_ids,
                self.evicted,
                kv_cache_usage=self.theirs.memory_usage_percent / 100,
                unscheduled_prefill_tokens=left + sum(cut),
                scheduled_tokens=batch.num_tokens,
                rank=self.theirs.replica_id,
            )
            self.evicted = []
        return batch

    def _arrive(self, request: Any) -> None:
        self._told.arrived(request.id, request.num_prefill_tokens, request.arrived_at, rank=self.theirs.replica_id)
        self._queue(request)


def _prefills(batch: Any) -> list[tuple[Any, int]]:
    pairs = zip(batch.requests, batch.num_tokens, strict=True)
    return [(request, tokens) for request, tokens in pairs if not request.is_prefill_complete]


def _left(request: Any) -> int:
    return 0 if request.is_prefill_complete else request.num_prefill_tokens - request.num_processed_tokens


class Store:
    """In place of vidur's store of metrics: its events tell it what happened."""

    def __init__(self, schedulers: dict[int, Measured], told: Told) -> None:
        self._schedulers = schedulers
        self._told = told

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None  # the figures of stages and operations

    def on_batch_end(self, time: float, batch: Any, replica: int, _memory: float) -> None:
        emitted = [int(request.is_prefill_complete) for request in batch.requests]
        self._told.iteration(self._schedulers[replica].formed.pop(batch.id), emitted)
        for request in batch.completed_requests:
            self._told.finished(request.id, CompletionReason.MAX_TOKENS_REACHED, time)


def _nobody_waits(theirs: Any, batch: Any, most: int) -> BatchLimiter:
    """Whoever holds a place and is in no batch stands still."""
    if not theirs._preempted_requests:
        return BatchLimiter.DEMAND
    return BatchLimiter.REQUEST_SLOTS if batch.size == most else BatchLimiter.POLICY


def _vllm(asked: Measured, batch: Any) -> BatchLimiter:
    theirs, config = asked.theirs, asked.theirs._config
    if asked.evicted:
        return BatchLimiter.KV_CACHE
    if not theirs._request_queue:
        return _nobody_waits(theirs, batch, theirs._max_micro_batch_size)
    if not batch.num_prefill_tokens:
        asked.refused = None if theirs._can_allocate_request(theirs._request_queue[0]) else True
    if asked.refused:
        return BatchLimiter.KV_CACHE
    admitted = batch.num_tokens if batch.num_prefill_tokens else []
    tokens = [*admitted, theirs._get_request_next_num_tokens(theirs._request_queue[0])]
    if len(tokens) * max(tokens) > config.max_tokens_in_batch:
        return BatchLimiter.TOKEN_BUDGET
    return BatchLimiter.REQUEST_SLOTS


def _sarathi(asked: Measured, batch: Any) -> BatchLimiter:
    theirs, config = asked.theirs, asked.theirs._config
    if asked.evicted:
        return BatchLimiter.KV_CACHE
    if theirs._request_queue:
        full = batch.size == theirs._max_micro_batch_size
        if full or len(theirs._allocation_map) == config.batch_size_cap:
            return BatchLimiter.REQUEST_SLOTS
        return BatchLimiter.KV_CACHE if asked.refused is not None else BatchLimiter.TOKEN_BUDGET
    cut_off = (_left(request) > tokens for request, tokens in zip(batch.requests, batch.num_tokens, strict=True))
    if any(cut_off) or any(map(_left, theirs._preempted_requests)):
        return BatchLimiter.TOKEN_BUDGET
    return _nobody_waits(theirs, batch, theirs._max_micro_batch_size)


def _orca(asked: Measured, batch: Any) -> BatchLimiter:
    theirs = asked.theirs
    if not theirs._request_queue:
        return _nobody_waits(theirs, batch, theirs._max_batch_size)
    return BatchLimiter.KV_CACHE if asked.refused is not None else BatchLimiter.REQUEST_SLOTS


def _lightllm(asked: Measured, batch: Any) -> BatchLimiter:
    theirs, config = asked.theirs, asked.theirs._config
    if not theirs._request_queue:
        return _nobody_waits(theirs, batch, theirs._max_micro_batch_size)
    if not asked.asked_to_admit:
        return BatchLimiter.POLICY  # a round of prefill comes only every so many iterations
    admitted = batch.num_prefill_tokens
    wanted = theirs._get_request_next_num_tokens(theirs._request_queue[0])
    if admitted + wanted > config.max_tokens_in_batch:
        return BatchLimiter.TOKEN_BUDGET
    full = admitted and batch.size == theirs._max_micro_batch_size
    if full or len(theirs._allocation_map) == config.batch_size_cap:
        return BatchLimiter.REQUEST_SLOTS
    return BatchLimiter.KV_CACHE


ASKED = {"vllm": _vllm, "sarathi": _sarathi, "orca": _orca, "lightllm": _lightllm}
