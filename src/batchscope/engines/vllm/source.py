"""vLLM's statistics as batchscope's records: ``VllmSource.record`` takes what a vLLM stat logger is given.

vLLM calls a stat logger once an engine step, in the event loop that serves every request: whatever it costs is
taken from them, and an exception ends them all. So a call only copies raw values into a log; all else (checks,
durations, rows) happens in bulk when the collector drains. vLLM itself is not imported: its objects are read by
attribute (see ``vllm_fields``). Facts about vLLM were read and measured in version 0.32.0.
"""

from __future__ import annotations

import contextlib
import logging
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import isnan, nan
from typing import Any, NamedTuple

import numpy as np

from batchscope.configuration import SchedulerLimits, SloTargets
from batchscope.engines.vllm.classes import RequestClasses
from batchscope.engines.vllm.counts import StatisticsCounts
from batchscope.engines.vllm.definitions import BY_CLASS, DEFINITIONS, MISSING
from batchscope.engines.vllm.facts import WRONG_TYPE, Event, Fact, FactReader, Outputs
from batchscope.engines.vllm.fields import FINISHED, ITERATION, SCHEDULER, Fields
from batchscope.engines.vllm.iterations import IterationRows
from batchscope.engines.vllm.losses import StartedRequests, Step
from batchscope.engines.vllm.requests import RequestRows
from batchscope.recording.producer import Attachable, LiveRequests, SourceCounts
from batchscope.records import SchedulerMetrics
from batchscope.rows import Floats, Gaps, Rows
from batchscope.tracking.forward import Forward

logger = logging.getLogger("batchscope")

INTEGRATION_FAILED = "integration_failed"
"""Calls of vLLM that were not understood at all, by this reason in ``rejected_records``."""
_RELIEF_EVENTS = 4096
_RELIEF_BYTES = 1 << 22
_MAX_BYTES = 1 << 24
_MAX_TURNED_AWAY = 1 << 16
_STAGES = SCHEDULER.index("num_kv_fetch_reqs_by_stage")
_COUNTED = [Fact.RUNNING, Fact.ADMITTED, Fact.FIRST_TOKENS, Fact.FINISHED, Fact.STOPPED]
_PRESENT = [Fact.DEFERRED, Fact.KV_CACHE_USAGE]


class FrontEnd(NamedTuple):
    """Which of an engine's front ends (API servers) this process is. They share the engine's scheduler."""

    rank: int = 0
    processes: int = 1


class VllmSource:
    """Takes vLLM's statistics for ``collector``: everything of one front end, all data-parallel ranks.

    ``collector`` is a ``SchedulerMetricsCollector``, or anything with the ``SchedulerMetrics`` methods (then each
    call reports at once). ``max_model_len`` tells the model's limit from ``max_tokens``. ``request_classes`` says a
    request's class; those that the collector's configuration does not declare are ``other``. Where the collector
    has ``definitions``, they are filled in. Calls never raise or block: what cannot be understood is counted in
    ``rejected_records`` and logged once. Not for several threads at once: vLLM calls from one.
    """

    def __init__(
        self,
        collector: SchedulerMetrics,
        *,
        max_model_len: int | None = None,
        front_end: FrontEnd | None = None,
        request_classes: RequestClasses | None = None,
    ) -> None:
        attachable = collector if isinstance(collector, Attachable) else Forward(collector)
        self._front_end = front_end or FrontEnd()
        self._max_model_len = max_model_len
        self._definitions: dict[str, str] = getattr(collector, "definitions", {})
        self._definitions.update(DEFINITIONS if request_classes is None else DEFINITIONS | BY_CLASS)
        self._classes = request_classes
        self._missing: list[str] = []
        self._scheduler = Fields("SchedulerStats", SCHEDULER, self._note)
        self._iteration = Fields("IterationStats", ITERATION, self._note)
        self._finished = Fields("FinishedRequestStats", FINISHED, self._note)
        self._facts = FactReader(self._note, self._reject)
        self._sleeps = False
        self._told = False
        self._empty()
        self._shared = attachable.attach(self)
        self._clock = self._shared.clock
        self._limits = self._shared.limits
        self._begin()

    def _empty(self) -> None:
        self._log: list[Event] = []
        self._pending_bytes = 0
        self._turned_away: list[float] = []
        self._rejected: dict[str, int] = {}
        self._misused: dict[str, int] = {}
        self._dropped = 0
        self._refused = 0
        self._counts = StatisticsCounts()
        self._started = StartedRequests(alone=self._front_end.processes == 1)

    def _begin(self) -> None:
        self._iterations = IterationRows(self._limits, alone=self._front_end.processes == 1)
        codes = self._shared.class_codes
        self._requests = RequestRows(
            codes.get(None, self._shared.other_class), self._max_model_len, self._clock(), self._reject,
            None if self._classes is None else self._class_of,
        )  # fmt: skip

    def _class_of(self, request_id: Any) -> float:
        name = None if self._classes is None else self._classes.of(request_id)
        return self._shared.class_codes.get(name, self._shared.other_class)

    # What vLLM calls.

    def record(self, scheduler_stats: Any, iteration_stats: Any, rank: int = 0) -> None:
        """One engine step of a data-parallel rank: vLLM's ``SchedulerStats`` and ``IterationStats``, or None each."""
        try:
            self._append(
                (
                    self._clock(),
                    rank,
                    self._sleeps,
                    None if scheduler_stats is None else self._scheduler(scheduler_stats),
                    None if iteration_stats is None else self._outputs(iteration_stats),
                )
            )
        except Exception as error:  # noqa: BLE001  (an exception here would end every request of the engine)
            self.failed(error)

    def turned_away(self) -> None:
        """A request was refused at admission (``record_admission_rejection``)."""
        try:
            if len(self._turned_away) >= _MAX_TURNED_AWAY:
                self._dropped += 1
                return
            self._turned_away.append(self._clock())
            if self._shared.eager:
                self._shared.relieve()
        except Exception as error:  # noqa: BLE001
            self.failed(error)

    def slept(self, sleeps: bool) -> None:
        """The engine was sent to sleep or woke up: iterations while it sleeps are limited by ``paused``."""
        self._sleeps = bool(sleeps)

    def failed(self, error: BaseException) -> None:
        """Count a call that could not be understood; the first is logged."""
        with contextlib.suppress(Exception):
            self._misuse(INTEGRATION_FAILED, 1)
            if not self._told:
                self._told = True
                logger.warning(
                    "batchscope: vLLM's statistics could not be recorded (%r); the engine is not affected, further"
                    " failures are counted in rejected_records[%r] and not logged", error, INTEGRATION_FAILED,
                )  # fmt: skip

    def _outputs(self, stats: Any) -> Outputs:
        generated, preempted, cached, corrupted, firsts, gaps, finished = self._iteration(stats)
        return Outputs(
            (generated, preempted, cached, corrupted),
            self._packed(firsts) if firsts else b"",
            self._packed(gaps) if gaps else b"",
            [self._finished(request) for request in finished] if finished else (),
        )

    def _packed(self, values: Sequence[Any]) -> bytes:
        """A copy as float64; what is no number is left out and counted."""
        try:
            return _packer(len(values))(*values)
        except struct.error:
            known = [value for value in values if isinstance(value, int | float)]
            self._misuse(WRONG_TYPE, len(values) - len(known))
            return _packer(len(known))(*known)

    def _append(self, event: Event) -> None:
        log, shared = self._log, self._shared
        if event[4] is not None:
            self._pending_bytes += len(event[4].gaps)
        if len(log) >= _RELIEF_EVENTS or self._pending_bytes >= _RELIEF_BYTES:
            shared.relieve()
            if len(log) >= 4 * _RELIEF_EVENTS or self._pending_bytes >= _MAX_BYTES:
                self._dropped += 1
                return
        log.append(event)
        if shared.eager:
            shared.relieve()

    def _note(self, name: str) -> None:
        """A field that this version of vLLM does not have."""
        self._missing.append(name)
        self._definitions[MISSING] = "fields that this version of vLLM does not have: " + ", ".join(self._missing)

    def _misuse(self, reason: str, count: int) -> None:
        """Counted by the caller's thread; what the drain rejects is counted apart, so that they need no lock."""
        self._misused[reason] = self._misused.get(reason, 0) + count

    def _reject(self, reason: str, count: int) -> None:
        self._rejected[reason] = self._rejected.get(reason, 0) + count

    # What the collector asks for, under the drain's lock.

    def drain(self) -> list[Rows | Gaps]:
        """Rows of everything recorded so far."""
        events = self._log[:]
        del self._log[: len(events)]
        self._pending_bytes = 0
        turned_away = self._turned_away[:]
        del self._turned_away[: len(turned_away)]
        out: list[Rows | Gaps] = []
        if turned_away:
            self._refused += len(turned_away)
            out.append(self._requests.rejected(turned_away))
        if events:
            out += self._translated(events)
        return out

    def _translated(self, events: list[Event]) -> list[Rows | Gaps]:
        try:
            with np.errstate(invalid="ignore"):
                return self._rows(events)
        except Exception as error:  # noqa: BLE001  (one that cannot be read must not cost the others)
            if len(events) == 1:
                self.failed(error)
                return []
            return [block for event in events for block in self._translated([event])]

    def _rows(self, events: list[Event]) -> list[Rows | Gaps]:
        """First what can fail, all of it without a trace; then what remembers."""
        facts = self._facts.read(events)
        if self._classes is not None:
            for event in events:
                if event[3] is not None:
                    self._classes.learn(event[3][_STAGES])
        rows = self._requests.make(events)
        steps = _steps(facts)
        self._counts.add(facts, events)
        for step in steps:
            self._started.add(step)
        return [*self._iterations.make(facts), *rows]

    def live(self, now: float, targets: Sequence[SloTargets]) -> LiveRequests:  # noqa: ARG002
        """Who is in the engine, as of its last step; who waits for how long vLLM does not tell (``nan``).

        Of several front ends the first speaks for all: the scheduler's counts are of the whole engine.
        """
        overdue = (0,) * len(targets)
        if self._front_end.rank > 0:
            return LiveRequests(0, 0, nan, overdue, by_adapter=self._counts.by_adapter)
        started = self._started
        return LiveRequests(
            started.held, started.running, nan, overdue, started.deferred, started.kv_cache_usage,
            self._counts.by_adapter,
        )  # fmt: skip

    def counts(self) -> SourceCounts:
        """Counts since the last reset."""
        rejected = dict(self._rejected)
        for reason, count in list(self._misused.items()):
            rejected[reason] = rejected.get(reason, 0) + count
        received = self._started.received + self._refused
        return SourceCounts(received, self._started.lost, rejected, self._dropped, self._counts.total)

    def set_limits(self, limits: SchedulerLimits) -> None:
        """Batches are measured against these from now on."""
        self._limits = self._iterations.limits = limits

    def reset(self) -> None:
        """Count anew; requests in flight stay."""
        self._started.reset()
        self._counts.reset()
        self._rejected.clear()
        self._misused.clear()
        self._refused = self._dropped = 0

    def after_fork(self) -> None:
        """In a child process: empty. The parent's requests are the parent's."""
        self._empty()
        self._begin()


def _steps(facts: Floats) -> list[Step]:
    """What is to be known of started requests."""
    held = facts[:, Fact.RUNNING] + facts[:, Fact.WAITING] + np.nan_to_num(facts[:, Fact.DEFERRED])
    counts = np.nan_to_num(facts[:, _COUNTED]).astype(np.int64).tolist()
    present = np.column_stack([np.nan_to_num(facts[:, Fact.RANK]), held, facts[:, _PRESENT]]).tolist()
    return [
        Step(rank, None if isnan(here) else int(here), running, admitted, firsts, finished, stopped, deferred, usage)
        for (rank, here, deferred, usage), (running, admitted, firsts, finished, stopped) in zip(
            present, counts, strict=True
        )
    ]


@lru_cache(maxsize=4096)
def _packer(count: int) -> Callable[..., bytes]:
    return struct.Struct(f"{count}d").pack
