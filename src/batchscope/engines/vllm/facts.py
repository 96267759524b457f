"""What one ``record`` call of vLLM said, as a row of numbers."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from batchscope.engines.values import Reject, fit, numbers
from batchscope.engines.vllm.admission import Admission, decoded
from batchscope.engines.vllm.fields import CONNECTOR, DETAILS, GRAPH, SCHEDULER, SPECULATION, Fields
from batchscope.rows import LIMITER_CODES, Floats

STOP = "stop"
"""vLLM's word for the end by a stop token or a stop string."""


class Outputs(NamedTuple):
    """What the requests of one front end got: scalars, packed float64 latencies, a tuple a finished request."""

    scalars: tuple[Any, ...]
    firsts: bytes
    gaps: bytes
    finished: Sequence[tuple[Any, ...]]


_NO_DETAILS: tuple[Any, ...] = (None,) * len(DETAILS)
_NO_STATISTICS: tuple[Any, ...] = (None,) * len(SCHEDULER)
NO_OUTPUTS = Outputs((None, None, None, None), b"", b"", ())

Event: TypeAlias = tuple[float, Any, bool, tuple[Any, ...] | None, Outputs | None]
"""Instant, rank, whether the engine sleeps, the ``SCHEDULER`` fields, the outputs: one call of ``record``."""


class Fact(IntEnum):
    """The columns of a row; from ``RUNNING`` on those of SCHEDULER, SPECULATION, DETAILS and ITERATION."""

    AT = 0
    RANK = 1
    SLEEPS = 2
    RUNNING = 3
    WAITING = 4
    DEFERRED = 5
    KV_CACHE_USAGE = 6
    ADMITTED = 7
    DRAFT_TOKENS = 8
    ACCEPTED_TOKENS = 9
    NUMBER = 10
    CONTEXT_REQUESTS = 11
    CONTEXT_TOKENS = 12
    GENERATION_REQUESTS = 13
    GENERATION_TOKENS = 14
    ELAPSED_MS = 15
    DUMMY = 16
    GENERATED = 17
    PREEMPTIONS = 18
    CACHED_TOKENS = 19
    FIRST_TOKENS = 20
    EMISSIONS = 21
    FINISHED = 22
    LONGEST_FIRST = 23
    SCHEDULED = 24
    REPORTED_LIMITER = 25
    STEP_SECONDS = 26
    ENDED = 27
    STOPPED = 28
    CACHE_QUERIES = 29
    CACHE_HITS = 30
    PREEMPTED_REQUESTS = 31
    PREEMPTED_QUERIES = 32
    PREEMPTED_HITS = 33
    GRAPH_TOKENS = 34
    GRAPH_PADDING = 35
    CONNECTOR_HITS = 36
    CONNECTOR_PREEMPTED_HITS = 37
    CORRUPTED = 38


class FactReader:
    """Rows of facts from events; ``note`` hears the names of missing fields, ``reject`` the values refused."""

    def __init__(self, note: Callable[[str], object], reject: Reject) -> None:
        self._speculation = Fields("SpecDecodingStats", SPECULATION, note)
        self._connector = Fields("PrefixCacheStats", CONNECTOR, note)
        self._graph = Fields("CUDAGraphStat", GRAPH, note)
        self._details = Fields("SchedulerIterationDetails", DETAILS, note)
        self._reject = reject

    def read(self, events: Sequence[Event]) -> Floats:
        """One row an event; ``SCHEDULED`` is 1 where the scheduler's statistics were there."""
        values = numbers([self._row(event) for event in events], len(Fact), self._reject)
        fit(values[:, Fact.RANK :], self._reject)
        return values

    def _row(self, event: Event) -> tuple[Any, ...]:
        at, rank, sleeps, scheduler, outputs = event
        scalars, firsts, gaps, finished = outputs or NO_OUTPUTS
        (running, waiting, deferred, usage, admitted, *cache, connector, graph, _, _, speculation, stages, details) = (
            scheduler or _NO_STATISTICS
        )
        admission = decoded(stages)
        told = not (details is None and admission is None)
        return (
            at, rank, sleeps, running, waiting, deferred, usage, admitted,
            *((None, None) if speculation is None else self._speculation(speculation)),
            *(self._composition(details, admission) if told else _NO_DETAILS),
            *scalars[:-1], len(firsts) // 8, len(gaps) // 8, len(finished), _longest(firsts), scheduler is not None,
            *_reported(admission), sum(str(request[0]) == STOP for request in finished), *cache,
            *((None, None) if graph is None else self._graph(graph)), *self._from_connector(connector), scalars[-1],
        )  # fmt: skip

    def _from_connector(self, connector: Any) -> tuple[Any, Any]:
        """Tokens that a KV connector had, of new requests and of those that came back."""
        if connector is None:
            return None, None
        hits, _, preempted_hits = self._connector(connector)
        return hits, preempted_hits

    def _composition(self, details: Any, admission: Admission | None) -> tuple[Any, ...]:
        """The DETAILS. The scheduler's own word on the batch goes first: vLLM takes recomputing for decoding."""
        said = _NO_DETAILS if details is None else self._details(details)
        if admission is None:
            return said
        _, requests, tokens, prefill_requests, prefill_tokens, *_ = admission
        batch = (prefill_requests, prefill_tokens, requests - prefill_requests, tokens - prefill_tokens)
        return (said[0], *batch, *said[5:])


def _reported(admission: Admission | None) -> tuple[float | None, ...]:
    """The limiter's code, the step's seconds, and its end by the engine core's clock."""
    if admission is None:
        return None, None, None
    timed = admission.ended_us > 0
    return (
        LIMITER_CODES[admission.limited_by],
        admission.step_us / 1e6 if timed else None,
        admission.ended_us / 1e6 if timed else None,
    )


def _longest(firsts: bytes) -> float:
    """The time since the oldest of the requests that got their first token arrived, where that can be true."""
    if not firsts:
        return math.nan
    longest = max(array("d", firsts))
    return longest if 0 <= longest < math.inf else math.nan
