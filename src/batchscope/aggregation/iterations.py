"""Iterations: busy time, limiter and lost slot-seconds; samples, integrals, histograms."""

from __future__ import annotations

import numpy as np

from batchscope.aggregation.bucketed_values import Observations
from batchscope.aggregation.checks import TOO_LARGE, Ranges, Rejections, Verdict, fill, ranges
from batchscope.aggregation.instrument import Instrument
from batchscope.aggregation.limiter import BusyClock, OtherStages, infer
from batchscope.aggregation.row_buffer import RowBuffer
from batchscope.aggregation.sliding_window import SlidingWindowCounter
from batchscope.configuration import MetricsConfiguration, SchedulerLimits
from batchscope.recording.rows import COLUMNS, LIMITERS, Floats, IterationColumn, Kind, Rows

C = IterationColumn
_DUE = (C.ITERATION_NUMBER, C.REQUEST_COUNT, C.TOKENS_GENERATED, C.REQUESTS_COMPLETED, C.PROCESSING_TIME)
_WHOLE = (
    *_DUE[:-1], C.RUNNING_REQUESTS, C.WAITING_REQUESTS, C.DEFERRED_REQUESTS, C.PREFILL_REQUESTS,
    C.SCHEDULED_TOKENS, C.PREFILL_TOKENS, C.UNSCHEDULED_PREFILL_TOKENS, C.CACHED_PROMPT_TOKENS,
    C.RECOMPUTED_TOKENS, C.DECODE_CONTEXT_TOKENS, C.DRAFT_TOKENS, C.ACCEPTED_TOKENS, C.PREEMPTIONS, C.RANK,
    C.HEAD_TOKENS, C.STANDING_REQUESTS,
)  # fmt: skip
_AMOUNTS = (*_WHOLE, C.PROCESSING_TIME, C.MEMORY_BYTES_USED, C.KV_CACHE_USAGE, C.SCHEDULE_TIME, C.FORWARD_TIME)
_LAST_RANK = 2**16 - 1  # what is kept of each rank is bounded
_SUMMED = {
    "tokens_generated": C.TOKENS_GENERATED,
    "scheduled_tokens": C.SCHEDULED_TOKENS,
    "prefill_tokens": C.PREFILL_TOKENS,
    "recomputed_tokens": C.RECOMPUTED_TOKENS,
    "draft_tokens": C.DRAFT_TOKENS,
    "accepted_tokens": C.ACCEPTED_TOKENS,
    "preemptions": C.PREEMPTIONS,
}


class IterationAggregate:
    """All that is known of iterations since the last reset; fed in blocks, in the order of their instants."""

    def __init__(
        self, configuration: MetricsConfiguration, limits: SchedulerLimits, rejections: Rejections, now: float
    ) -> None:
        self.limits = limits
        self._rejections = rejections
        self.clock = BusyClock()
        self._stages = OtherStages()
        self.samples = RowBuffer(configuration.max_iteration_samples, len(COLUMNS[Kind.ITERATION]))
        self.count = 0
        self.sums = dict.fromkeys(_SUMMED, 0)
        self.decode_tokens = 0
        self.busy_by_limiter = np.zeros(len(LIMITERS))
        self.lost_slots_by_limiter = np.zeros(len(LIMITERS))
        self.busy_reported = 0.0
        self.running_seconds = 0.0
        self.waiting_seconds = 0.0
        self.scheduled_seconds = 0.0
        self.slot_seconds = 0.0
        self.used_slot_seconds = 0.0
        window = configuration.counter_window_seconds
        self.in_window = SlidingWindowCounter(window, start=now)
        self.tokens_in_window = SlidingWindowCounter(window, start=now)
        scale = configuration.histogram_scale
        self.instruments = {
            "iteration_duration": (C.PROCESSING_TIME, Instrument(scale)),
            "iteration_scheduled_tokens": (C.SCHEDULED_TOKENS, Instrument(scale)),
            "batch_size": (C.REQUEST_COUNT, Instrument(scale)),
        }
        self.last: Floats | None = None

    @property
    def busy_seconds(self) -> float:
        """Time in which some iteration ran, summed over ranks."""
        return float(self.busy_by_limiter.sum())

    def consume(self, values: Floats) -> Rows:
        """Complete, check and count rows, ordered by instant; what is returned are the good ones."""
        verdict = Verdict(values, self._rejections)
        with np.errstate(invalid="ignore"):
            verdict.instants((C.STARTED_AT, C.FINISHED_AT))
            _derive(values)
            known = ranges(values)
            verdict.amounts(_AMOUNTS, due=(*_DUE, C.RANK), whole=_WHOLE, known=known)
            if known.high[C.RANK] > _LAST_RANK:
                verdict.refuse(values[:, C.RANK] > _LAST_RANK, TOO_LARGE, (C.RANK,))
        if verdict.refused:
            values, _ = verdict.keep(None)
            known = ranges(values) if len(values) else known
        if len(values):
            self._complete(values, known)
            self._count(values, known)
            self.samples.append(values, None)
            self.last = values[-1].copy()
        return Rows(Kind.ITERATION, values)

    def _complete(self, values: Floats, known: Ranges) -> None:
        stages = self.limits.pipeline_stages
        elsewhere = self._stages.advance(values, stages) if stages > 1 else 0.0
        if known.full[C.LIMITED_BY]:
            values[:, C.LIMITER_REPORTED] = 1.0
        else:
            reported = ~np.isnan(values[:, C.LIMITED_BY])
            values[:, C.LIMITER_REPORTED] = reported
            with np.errstate(invalid="ignore"):
                inferred = infer(values, self.limits, elsewhere)
            np.copyto(values[:, C.LIMITED_BY], inferred, where=~reported)
        values[:, C.BUSY_TIME] = self.clock.advance(values)

    def _count(self, values: Floats, known: Ranges) -> None:
        self.count += len(values)
        for name, column in _SUMMED.items():
            if known.high[column] > 0:
                self.sums[name] += int(_sum(values[:, column], full=known.full[column]))
        if known.high[C.SCHEDULED_TOKENS] > 0:
            decode = values[:, C.SCHEDULED_TOKENS] - values[:, C.PREFILL_TOKENS]
            self.decode_tokens += int(np.nansum(decode))
        self._integrate(values, known)
        at = values[:, C.AT]
        cells, latest = self.in_window.groups(at, ascending=True), float(at[-1])
        self.in_window.add_groups(cells, now=latest)
        self.tokens_in_window.add_groups(cells, values[:, C.TOKENS_GENERATED], now=latest)
        for column, instrument in self.instruments.values():
            if known.full[column]:
                low, high = known.low[column] + 0.0, known.high[column] + 0.0
                instrument.hold(Observations(values[:, column], None, at, low, high))
            elif known.high[column] >= 0:
                numbers = ~np.isnan(values[:, column])
                instrument.observe(values[numbers, column], at[numbers])

    def _integrate(self, values: Floats, known: Ranges) -> None:
        # Products and sums, not matrix products: those wake the BLAS library's threads.
        busy, limiter = values[:, C.BUSY_TIME], values[:, C.LIMITED_BY].astype(np.int64)
        size = values[:, C.REQUEST_COUNT]
        self.busy_by_limiter += np.bincount(limiter, weights=busy, minlength=len(LIMITERS))
        self.busy_reported += float((busy * values[:, C.LIMITER_REPORTED]).sum())
        self.scheduled_seconds += float((busy * size).sum())
        running, waiting = C.RUNNING_REQUESTS, C.WAITING_REQUESTS
        self.running_seconds += float(_sum(busy * values[:, running], full=known.full[running]))
        self.waiting_seconds += float(_sum(busy * values[:, waiting], full=known.full[waiting]))
        places = self.limits.batch_places
        if places is not None:
            self.slot_seconds += places * float(busy.sum())
            self.used_slot_seconds += float((busy * size).sum())
            lost = np.maximum(places - size, 0.0) * busy
            self.lost_slots_by_limiter += np.bincount(limiter, weights=lost, minlength=len(LIMITERS))


def _sum(values: Floats, *, full: bool) -> np.float64:
    """The sum of the numbers among ``values``; ``full``: all are."""
    total: np.float64 = values.sum() if full else np.nansum(values)
    return total


def _derive(values: Floats) -> None:
    """The span of an iteration from what is given: two of start, finish and duration; else it ends when recorded."""
    columns = values.T
    duration, started, finished = columns[C.PROCESSING_TIME], columns[C.STARTED_AT], columns[C.FINISHED_AT]
    if not np.isnan(columns[[C.PROCESSING_TIME, C.STARTED_AT, C.FINISHED_AT]].min()):
        return
    fill(duration, finished - started)
    # One after the other: the start follows from a finish that may itself be estimated.
    fill(finished, started + duration)
    fill(finished, columns[C.AT])
    fill(started, finished - duration)
