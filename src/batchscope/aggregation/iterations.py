"""Iterations: busy time, limiter and lost slot-seconds; samples, integrals, histograms."""

from __future__ import annotations

from math import isnan, nan

import numpy as np

from batchscope.aggregation.checks import Ranges, Rejections, Verdict, fill, ranges, total_of
from batchscope.aggregation.limiter import BusyClock, OtherStages, infer
from batchscope.aggregation.observed_rows import ObservedRows
from batchscope.configuration import MetricsConfiguration, SchedulerLimits
from batchscope.histograms.instrument import Instrument
from batchscope.histograms.sliding_window import SlidingWindowCounter
from batchscope.reasons import RejectReason
from batchscope.rows import COLUMNS, LIMITERS, Floats, IterationColumn, RowKind, Rows, Trait

C = IterationColumn
_DUE, _WHOLE = C.having(Trait.DUE), C.having(Trait.COUNT)
_AMOUNTS = (*_WHOLE, *C.having(Trait.AMOUNT & ~Trait.COUNT))
_RATIOS = C.having(Trait.RATIO)
_LAST_RANK = 2**16 - 1  # what is kept of each rank is bounded
_FULLEST = 1.01  # a usage that was rounded up is still one; 97 is a percentage
_OBSERVED = {
    "iteration_duration": C.PROCESSING_TIME,
    "iteration_scheduled_tokens": C.SCHEDULED_TOKENS,
    "batch_size": C.REQUEST_COUNT,
}
_SUMMED = C.having(Trait.SUMMED)
_NAMES_OF_SUMS = tuple(column.name.lower() for column in (*_SUMMED, C.DECODE_TOKENS))


class Integral:
    """Requests x busy time, ``nan`` until somebody says how many; ``seconds``: the busy time for which it was said."""

    def __init__(self) -> None:
        self.total = nan
        self.seconds = 0.0

    def add(self, busy: Floats, requests: Floats) -> None:
        """More busy time, with as many requests each; ``nan`` where it is not said."""
        self.total = (0.0 if isnan(self.total) else self.total) + total_of(busy * requests)
        self.seconds += float((busy * ~np.isnan(requests)).sum())


class IterationHistograms:
    """``instruments`` by name, fed with good rows."""

    def __init__(self, scale: int) -> None:
        self.instruments = {name: Instrument(scale) for name in _OBSERVED}

    def observe(self, rows: Floats) -> None:
        """Iterations, as ``IterationColumn`` has them."""
        quantities = [rows[:, column] for column in _OBSERVED.values()]
        Instrument.observe_together(list(self.instruments.values()), quantities, rows[:, C.AT])


class IterationAggregate:
    """All that is known of iterations since the last reset; fed in blocks, in the order of their instants."""

    def __init__(
        self, configuration: MetricsConfiguration, limits: SchedulerLimits, rejections: Rejections, now: float
    ) -> None:
        self.limits = limits
        self._rejections = rejections
        self.clock = BusyClock()
        self._stages = OtherStages()
        self._histograms = IterationHistograms(configuration.histogram_scale)
        observe = self._histograms.observe
        self.samples = ObservedRows(configuration.max_iteration_samples, len(COLUMNS[RowKind.ITERATION]), observe)
        self.count = 0
        self.sums = dict.fromkeys(_NAMES_OF_SUMS, 0)
        self._said: set[str] = set()
        self._prefill_missed = False
        self.busy_by_limiter = np.zeros(len(LIMITERS))
        self.lost_slots_by_limiter = np.zeros(len(LIMITERS))
        self.waiting_by_limiter = np.zeros(len(LIMITERS))
        self.busy_reported = 0.0
        self.running, self.waiting = Integral(), Integral()
        self.scheduled_seconds = 0.0
        self.slot_seconds = 0.0
        self.used_slot_seconds = 0.0
        window = configuration.counter_window_seconds
        self.in_window = SlidingWindowCounter(window, start=now)
        self.tokens_in_window = SlidingWindowCounter(window, start=now)
        self.last: Floats | None = None

    @property
    def instruments(self) -> dict[str, Instrument]:
        """Every histogram, with all iterations counted so far."""
        self.samples.settle()
        return self._histograms.instruments

    @property
    def busy_seconds(self) -> float:
        """Time in which some iteration ran, summed over ranks."""
        return float(self.busy_by_limiter.sum())

    def told(self, name: str) -> int | None:
        """A sum of what iterations said; None where none said it, or prefills happened and none said their tokens."""
        known = name in self._said and not (name == "prefill_tokens" and self._prefill_missed and not self.sums[name])
        return self.sums[name] if known else None

    def consume(self, values: Floats) -> Rows:
        """Complete, check and count rows, ordered by instant; what is returned are the good ones."""
        verdict = Verdict(values, self._rejections)
        with np.errstate(invalid="ignore"):
            verdict.instants((C.STARTED_AT, C.FINISHED_AT))
            _derive(values)
            known = ranges(values)
            verdict.amounts(_AMOUNTS, due=_DUE, whole=_WHOLE, known=known)
            if known.high[C.RANK] > _LAST_RANK:
                verdict.refuse(values[:, C.RANK] > _LAST_RANK, RejectReason.TOO_LARGE, (C.RANK,))
            for ratio in _RATIOS:
                if known.high[ratio] > _FULLEST:
                    verdict.refuse(values[:, ratio] > _FULLEST, RejectReason.NOT_A_RATIO, (ratio,))
            if known.high[C.PREFILL_TOKENS] > 0:
                more = values[:, C.PREFILL_TOKENS] > values[:, C.SCHEDULED_TOKENS]
                verdict.refuse(more, RejectReason.MORE_THAN_SCHEDULED, (C.PREFILL_TOKENS, C.SCHEDULED_TOKENS))
        if verdict.refused:
            values, _ = verdict.keep(None)
            known = ranges(values) if len(values) else known
        if len(values):
            self._complete(values, known)
            self._count(values, known)
            self.samples.append(values, None)
            self.last = values[-1].copy()
        return Rows(RowKind.ITERATION, values)

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
        values[:, C.BUSY_TIME] = self.clock.advance(values, known.only(C.RANK))
        places, budget = self.limits.batch_places, self.limits.max_scheduled_tokens
        values[:, C.UTILIZATION] = nan if places is None else values[:, C.REQUEST_COUNT] / places
        values[:, C.TOKEN_UTILIZATION] = nan if budget is None else values[:, C.SCHEDULED_TOKENS] / budget
        decode = values[:, C.SCHEDULED_TOKENS] - values[:, C.PREFILL_TOKENS]
        np.copyto(values[:, C.DECODE_TOKENS], decode, where=~np.isnan(decode))

    def _count(self, values: Floats, known: Ranges) -> None:
        self.count += len(values)
        *totals, decode = np.fmax(values.T[[*_SUMMED, C.DECODE_TOKENS]], 0.0).sum(axis=1).tolist()
        for name, column, total in zip(_NAMES_OF_SUMS, _SUMMED, totals, strict=False):
            if known.high[column] >= 0:
                self._said.add(name)
                self.sums[name] += int(total)
        if decode or _some_decode(values, known):
            self._said.add("decode_tokens")
            self.sums["decode_tokens"] += int(decode)
        self._prefill_missed |= not known.full[C.PREFILL_TOKENS]
        self._integrate(values, known)
        at = values[:, C.AT]
        latest = float(at[-1])
        cells = self.in_window.groups(at, ascending=True, now=latest)
        self.in_window.add_groups(cells)
        self.tokens_in_window.add_groups(cells, values[:, C.TOKENS_GENERATED], now=latest)

    def _integrate(self, values: Floats, known: Ranges) -> None:
        # Products and sums, not matrix products: those wake the BLAS library's threads.
        busy, limiter = values[:, C.BUSY_TIME], values[:, C.LIMITED_BY].astype(np.int64)
        size = values[:, C.REQUEST_COUNT]
        self.busy_by_limiter += np.bincount(limiter, weights=busy, minlength=len(LIMITERS))
        self.busy_reported += float((busy * values[:, C.LIMITER_REPORTED]).sum())
        used = float((busy * size).sum())
        self.scheduled_seconds += used
        for integral, column in ((self.running, C.RUNNING_REQUESTS), (self.waiting, C.WAITING_REQUESTS)):
            if known.high[column] >= 0:
                integral.add(busy, values[:, column])
        if known.high[C.WAITING_REQUESTS] > 0:
            waited = np.fmax(values[:, C.WAITING_REQUESTS], 0.0) * busy
            self.waiting_by_limiter += np.bincount(limiter, weights=waited, minlength=len(LIMITERS))
        places = self.limits.batch_places
        if places is not None:
            self.slot_seconds += places * float(busy.sum())
            self.used_slot_seconds += used
            lost = np.maximum(places - size, 0.0) * busy
            self.lost_slots_by_limiter += np.bincount(limiter, weights=lost, minlength=len(LIMITERS))


def _some_decode(values: Floats, known: Ranges) -> bool:
    """A writer's row has 0 where it is not known, a tracker's what it knows: 0 is a figure where both parts are."""
    scheduled, prefill = values[:, C.SCHEDULED_TOKENS], values[:, C.PREFILL_TOKENS]
    both = known.high[C.SCHEDULED_TOKENS] >= 0 and known.high[C.PREFILL_TOKENS] >= 0
    return both and not np.isnan(scheduled - prefill).all()


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
