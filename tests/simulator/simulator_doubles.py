"""A tracker that remembers what it was told and checks that it is consistent, and scripted workloads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batchscope.records import BatchLimiter, CompletionReason
from batchscope.simulator import (
    Disturbances,
    LinearCostModel,
    RequestSpec,
    SchedulerOptions,
    SimulationResult,
    Simulator,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"
needs_shared = pytest.mark.skipif(
    not (SHARED / "traces").is_dir(), reason="the real traces of ../shared are not in this checkout"
)
ONE_SECOND = LinearCostModel(1.0, 0.0, 0.0, 0.0)
"""Each iteration takes a second: instants are easy to foretell."""


@dataclass
class SeenRequest:
    """One request as its reports tell it."""

    request_id: Any
    prompt_tokens: int
    arrived_at: float
    scheduled_at: list[float] = field(default_factory=list)
    scheduled_tokens: int = 0
    emitted_at: list[float] = field(default_factory=list)
    preempted_at: list[float] = field(default_factory=list)
    finished_at: float = math.nan
    reason: CompletionReason | None = None
    cached_tokens: int = 0
    recomputed_tokens: int = 0


@dataclass
class SeenIteration:
    """One iteration as it was reported."""

    slots: list[int]
    tokens: list[int]
    scheduled_tokens: list[int]
    started_at: float
    finished_at: float
    preempted: list[int]
    facts: dict[str, Any]

    @property
    def limited_by(self) -> BatchLimiter:
        return self.facts["limited_by"]


class RecordingTracker:
    """Believes nothing: a report that contradicts an earlier one fails the test."""

    def __init__(self, on_iteration: Callable[[], None] = lambda: None) -> None:
        self.requests: list[SeenRequest] = []
        self.live: set[int] = set()
        self.iterations: list[SeenIteration] = []
        self.on_iteration = on_iteration

    def arrived(self, request_id, *, prompt_tokens=0, request_class=None, at=None):
        if self.requests:
            assert at >= self.requests[-1].arrived_at, "arrivals are reported in order"
        self.requests.append(SeenRequest(request_id, prompt_tokens, at))
        slot = len(self.requests) - 1
        self.live.add(slot)
        return slot

    def iteration(
        self,
        slots,
        tokens=None,
        *,
        started_at=None,
        finished_at=None,
        scheduled_tokens=None,
        preempted=(),
        **facts,
    ):
        slots, preempted = list(slots), list(preempted)
        tokens = [1] * len(slots) if tokens is None else list(tokens)
        scheduled = [1] * len(slots) if scheduled_tokens is None else list(scheduled_tokens)
        assert len(slots) == len(tokens) == len(scheduled) > 0
        assert len(set(slots)) == len(slots), "a request takes part once"
        assert self.live >= {*slots, *preempted}, "only live requests take part"
        assert not {*slots} & {*preempted}
        assert all(count in (0, 1) for count in tokens)
        assert all(count > 0 for count in scheduled)
        assert started_at <= finished_at
        if self.iterations:
            assert started_at >= self.iterations[-1].finished_at, "iterations follow each other"
        self.iterations.append(SeenIteration(slots, tokens, scheduled, started_at, finished_at, preempted, facts))
        for slot in preempted:
            self.requests[slot].preempted_at.append(started_at)
        for slot, emitted, size in zip(slots, tokens, scheduled, strict=True):
            request = self.requests[slot]
            assert started_at >= request.arrived_at
            request.scheduled_at.append(started_at)
            request.scheduled_tokens += size
            request.emitted_at.extend([finished_at] * emitted)
        self.on_iteration()

    def finished(self, slot, reason, *, at=None, cached_tokens=None, recomputed_tokens=None):
        self.live.remove(slot)
        request = self.requests[slot]
        assert at >= max([request.arrived_at, *request.emitted_at[-1:]])
        request.finished_at, request.reason = at, reason
        request.cached_tokens, request.recomputed_tokens = cached_tokens, recomputed_tokens

    def by_id(self) -> dict[Any, SeenRequest]:
        return {request.request_id: request for request in self.requests}

    def ended(self, reason: CompletionReason) -> list[SeenRequest]:
        return [request for request in self.requests if request.reason == reason]

    @property
    def limiters(self) -> list[str]:
        return [iteration.limited_by.value for iteration in self.iterations]


def simulate(
    workload: Sequence[RequestSpec],
    *,
    options: SchedulerOptions | None = None,
    cost: LinearCostModel = ONE_SECOND,
    disturbances: Disturbances | None = None,
    seed: int = 0,
) -> tuple[RecordingTracker, SimulationResult]:
    """Run to the end."""
    tracker = RecordingTracker()
    simulator = Simulator(workload, tracker, options=options, cost=cost, disturbances=disturbances, seed=seed)
    return tracker, simulator.run()


def specs(*requests: tuple[float, int, int], **fields: Any) -> list[RequestSpec]:
    """(arrival, prompt tokens, output tokens) each; ids count from 0."""
    return [RequestSpec(number, *request, **fields) for number, request in enumerate(requests)]
