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
from functools import lru_cache, partial
from math import isnan, nan
from typing import Any, NamedTuple

import numpy as np

from batchscope.configuration import SloTargets
from batchscope.engines.source import EngineSource, Remembered
from batchscope.engines.vllm.classes import RequestClasses
from batchscope.engines.vllm.counts import StatisticsCounts
from batchscope.engines.vllm.definitions import BY_CLASS, DEFINITIONS, MISSING
from batchscope.engines.vllm.facts import Event, Fact, FactReader, Outputs
from batchscope.engines.vllm.fields import FINISHED, ITERATION, SCHEDULER, Fields
from batchscope.engines.vllm.iterations import IterationRows, are_iterations
from batchscope.engines.vllm.losses import StartedRequests, Step
from batchscope.engines.vllm.participation import Finish, Participation
from batchscope.engines.vllm.requests import RequestRows
from batchscope.reasons import RejectReason
from batchscope.recording.producer import LiveRequests, SourceCounts
from batchscope.records import SchedulerMetrics
from batchscope.rows import Floats, Gaps, IterationColumn, RowKind, Rows, empty_rows
from batchscope.tracking.spans import ordinals

logger = logging.getLogger("batchscope")

_MOST_EVENTS = 1 << 14
_RELIEF_BYTES = 1 << 22  # of gaps
_STAGES = SCHEDULER.index("num_kv_fetch_reqs_by_stage")
_COUNTED = [Fact.RUNNING, Fact.ADMITTED, Fact.FIRST_TOKENS, Fact.FINISHED, Fact.STOPPED]
_PRESENT = [Fact.DEFERRED, Fact.KV_CACHE_USAGE]


class FrontEnd(NamedTuple):
    """Which of an engine's front ends (API servers) this process is. They share the engine's scheduler."""

    rank: int = 0
    processes: int = 1


class _Memory(Remembered):
    """``alone``: there is no other front end. ``refused``: requests at admission."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__()
        self.refused = 0
        self.counts = StatisticsCounts()
        self.started = StartedRequests(alone=alone)
        self.iterations = IterationRows(alone=alone)
        self.participation = Participation() if alone else None


class VllmSource(EngineSource[Event | float, _Memory]):
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
        self._front_end = front_end or FrontEnd()
        self._classes = request_classes
        self._missing: list[str] = []
        self._scheduler = Fields("SchedulerStats", SCHEDULER, self._note)
        self._iteration = Fields("IterationStats", ITERATION, self._note)
        self._finished = Fields("FinishedRequestStats", FINISHED, self._note)
        self._facts = FactReader(self._note, self._reject)
        self._sleeps = False
        self._told = False
        super().__init__(
            collector, partial(_Memory, alone=self._front_end.processes == 1),
            most_events=_MOST_EVENTS, relief_bytes=_RELIEF_BYTES,
        )  # fmt: skip
        self._definitions.update(DEFINITIONS if request_classes is None else DEFINITIONS | BY_CLASS)
        self._max_model_len = max_model_len
        self._listen()

    def _listen(self) -> None:
        codes = self._shared.class_codes
        self._requests = RequestRows(
            codes.get(None, self._shared.other_class), self._max_model_len, self.clock(), self._reject,
            None if self._classes is None else self._class_of,
        )  # fmt: skip

    def _class_of(self, request_id: Any) -> float:
        name = None if self._classes is None else self._classes.of(request_id)
        return self._shared.class_codes.get(name, self._shared.other_class)

    # What vLLM calls.

    def record(self, scheduler_stats: Any, iteration_stats: Any, rank: int = 0) -> None:
        """One engine step of a data-parallel rank: vLLM's ``SchedulerStats`` and ``IterationStats``, or None each."""
        try:
            outputs = None if iteration_stats is None else self._outputs(iteration_stats)
            scheduler = None if scheduler_stats is None else self._scheduler(scheduler_stats)
            event = (self.clock(), rank, self._sleeps, scheduler, outputs)
            self._log.append(event, 0 if outputs is None else len(outputs.gaps))
        except Exception as error:  # noqa: BLE001  (an exception here would end every request of the engine)
            self.failed(error)

    def turned_away(self) -> None:
        """A request was refused at admission (``record_admission_rejection``)."""
        try:
            self._log.append(self.clock())
        except Exception as error:  # noqa: BLE001
            self.failed(error)

    def slept(self, sleeps: bool) -> None:
        """The engine was sent to sleep or woke up: iterations while it sleeps are limited by ``paused``."""
        self._sleeps = bool(sleeps)

    def failed(self, error: BaseException) -> None:
        """Count a call that could not be understood; the first is logged."""
        with contextlib.suppress(Exception):
            self._log.misused.add(RejectReason.INTEGRATION_FAILED)
            if not self._told:
                self._told = True
                logger.warning(
                    "batchscope: vLLM's statistics could not be recorded (%r); the engine is not affected, further"
                    " failures are counted in rejected_records['integration_failed'] and not logged", error,
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
            self._log.misused.add(RejectReason.WRONG_TYPE, len(values) - len(known))
            return _packer(len(known))(*known)

    def _note(self, name: str) -> None:
        """A field that this version of vLLM does not have."""
        self._missing.append(name)
        self._definitions[MISSING] = "fields that this version of vLLM does not have: " + ", ".join(self._missing)

    # What the collector asks for, under the drain's lock.

    def _rows(self, events: list[Event | float]) -> list[Rows | Gaps]:
        told = [event for event in events if isinstance(event, tuple)]
        refused = [event for event in events if not isinstance(event, tuple)]
        self._memory.refused += len(refused)
        out: list[Rows | Gaps] = [self._requests.rejected(refused)] if refused else []
        return out + self._steps(told) if told else out

    def _steps(self, events: list[Event]) -> list[Rows | Gaps]:
        memory = self._memory
        facts = self._facts.read(events)
        if self._classes is not None:
            for event in events:
                if event[3] is not None:
                    self._classes.learn(event[3][_STAGES])
        memory.counts.add(facts, events)
        for step in _counted_steps(facts):
            memory.started.add(step)
        blocks = memory.iterations.make(facts, self._limits)
        spans, finishes = self._follow(events, facts, blocks)
        return [*blocks, *spans, *self._requests.make(events, finishes)]

    def _follow(
        self, events: list[Event], facts: Floats, blocks: list[Rows]
    ) -> tuple[list[Rows], Sequence[Finish] | None]:
        """Spans, where somebody listens to them, and what is known of whoever finished."""
        participation = self._memory.participation
        if participation is None:  # another front end hears of the other steps
            return [], None
        numbering = self._shared.numbering
        wanted = numbering if numbering is not None and numbering.spans_wanted else None
        rows = blocks[0].values if blocks else empty_rows(RowKind.ITERATION, 0)
        if wanted is not None:
            rows[:, IterationColumn.ORDINAL] = ordinals(rows[:, IterationColumn.RANK], wanted, id(self))
        mask = are_iterations(facts)
        places = np.where(mask, np.cumsum(mask) - 1, -1).tolist()
        spans, finishes = participation.follow(events, places, rows, wanted)
        return ([] if spans is None else [spans]), finishes

    def _unreadable(self, error: Exception) -> None:
        self.failed(error)

    def live(self, now: float, targets: Sequence[SloTargets]) -> LiveRequests:  # noqa: ARG002
        """Who is in the engine, as of its last step; who waits for how long vLLM does not tell (``nan``).

        Of several front ends the first speaks for all: the scheduler's counts are of the whole engine.
        """
        overdue, by_adapter = (0,) * len(targets), self._memory.counts.by_adapter
        if self._front_end.rank > 0:
            return LiveRequests(0, 0, nan, overdue, by_adapter=by_adapter)
        started = self._memory.started
        return LiveRequests(
            started.held, started.running, nan, overdue, started.deferred, started.kv_cache_usage, by_adapter
        )

    def counts(self) -> SourceCounts:
        """Counts since the last reset."""
        memory = self._memory
        rejected, dropped = self._log.counts(memory.rejected)
        received = memory.started.received + memory.refused
        return SourceCounts(received, memory.started.lost, rejected, dropped, memory.counts.total)

    def reset(self) -> None:
        """Count anew; requests in flight stay."""
        super().reset()
        self._memory.started.reset()
        self._memory.counts.reset()
        self._memory.refused = 0

    def after_fork(self) -> None:
        """In a child process: empty. The parent's requests are the parent's."""
        super().after_fork()
        self._listen()


def _counted_steps(facts: Floats) -> list[Step]:
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
