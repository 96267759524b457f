"""What happens to requests from outside: users who leave, deadlines, things that are not ready."""

from __future__ import annotations

import math
from collections.abc import Iterator
from heapq import heappop, heappush
from random import Random

import msgspec

from batchscope.checks import check_positive, check_ratio
from batchscope.records import CompletionReason
from batchscope.simulator.cost import LinearCostModel
from batchscope.simulator.requests import LiveRequest
from batchscope.simulator.workload import RequestSpec


class Disturbances(msgspec.Struct, frozen=True):
    """How often what happens; all of it is off by default.

    * ``cancel_probability``: the share of users who leave before the end. Each leaves after a share, drawn
      evenly, of the time that the request would take alone; so on an idle engine at any point of its
      life, on a crowded one mostly while it waits.
    * ``timeout_probability``: the share of requests with a deadline, ``timeout_seconds`` after their arrival.
    * ``deferral_probability``: the share that the scheduler has to hold back for ``deferral_seconds`` from
      their arrival on: a grammar is compiled, an adapter loaded, a KV cache transferred.
    """

    cancel_probability: float = 0.0
    timeout_probability: float = 0.0
    timeout_seconds: float = 60.0
    deferral_probability: float = 0.0
    deferral_seconds: float = 1.0

    def __post_init__(self) -> None:
        for field in ("cancel_probability", "timeout_probability", "deferral_probability"):
            check_ratio(field, getattr(self, field))
        for field in ("timeout_seconds", "deferral_seconds"):
            check_positive(field, getattr(self, field), "seconds")


class Fate(msgspec.Struct, frozen=True):
    """What will happen to one request, seconds after its arrival; ``inf`` = never, 0 = ready at once."""

    cancelled_after: float = math.inf
    times_out_after: float = math.inf
    ready_after: float = 0.0


_NONE, _UNDISTURBED = Disturbances(), Fate()


class FateTeller:
    """Draws each request's fate. The same seed and order of requests give the same fates."""

    def __init__(self, disturbances: Disturbances, cost: LinearCostModel, seed: int) -> None:
        self._disturbances = disturbances
        self._cost = cost
        self._random = Random(seed)

    def fate_of(self, spec: RequestSpec) -> Fate:
        """Always four draws: one probability changed leaves the other fates of a run as they were."""
        if self._disturbances == _NONE:
            return _UNDISTURBED
        leaves, share, expires, deferred = (self._random.random() for _ in range(4))
        d = self._disturbances
        return Fate(
            cancelled_after=share * self._time_alone(spec) if leaves < d.cancel_probability else math.inf,
            times_out_after=d.timeout_seconds if expires < d.timeout_probability else math.inf,
            ready_after=d.deferral_seconds if deferred < d.deferral_probability else 0.0,
        )

    def _time_alone(self, spec: RequestSpec) -> float:
        """Seconds that the request takes alone on the engine, its prefill in one chunk."""
        prefill = self._cost.iteration_time(spec.prompt_tokens, 0, 0)
        decode = self._cost.iteration_time(0, 1, spec.prompt_tokens)
        return prefill + max(0, spec.output_tokens - 1) * decode


class Timers:
    """What is due when, for requests that may end before; ``None`` = the request becomes ready."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, LiveRequest, CompletionReason | None]] = []
        self._set = 0

    def set(self, instant: float, request: LiveRequest, reason: CompletionReason | None) -> None:
        """Note that at ``instant`` the request ends for ``reason``, or becomes ready; ``inf`` = never."""
        if instant < math.inf:
            self._set += 1
            heappush(self._heap, (instant, self._set, request, reason))

    @property
    def next_instant(self) -> float:
        """When the next timer of a request that still lives is due; ``inf`` with none."""
        while self._heap and self._heap[0][2].ended:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> Iterator[tuple[LiveRequest, CompletionReason | None]]:
        """Remove and give what is due, the earliest first."""
        while self.next_instant <= now:
            _, _, request, reason = heappop(self._heap)
            yield request, reason
