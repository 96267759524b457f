"""Finished requests: durations derived, bad rows refused, counts, samples, SLO results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from batchscope.aggregation.checks import Ranges, Rejections, Verdict, fill, ranges, total_of
from batchscope.aggregation.observed_rows import ObservedRows
from batchscope.aggregation.request_histograms import RequestHistograms
from batchscope.aggregation.slo import COMPLETED, SloResult, evaluate, outcomes_of
from batchscope.configuration import DEFAULT_CLASS, OTHER_CLASS, MetricsConfiguration, SloTargets
from batchscope.histograms.held_values import CAPACITY
from batchscope.histograms.instrument import Instrument
from batchscope.histograms.sliding_window import SlidingWindowCounter
from batchscope.reasons import RejectReason
from batchscope.recording.mistakes import shown
from batchscope.recording.packing import cut_ids
from batchscope.rows import COLUMNS, REASONS, Floats, RequestColumn, RowKind, Rows

C = RequestColumn
_AMOUNTS = tuple(column for column in C if C.TOKENS_GENERATED <= column <= C.PREEMPTIONS and column != C.REASON)
_AMOUNTS += (C.MAX_EMISSION_GAP,)
_WHOLE = (C.TOKENS_GENERATED, C.PROMPT_TOKENS, C.CACHED_TOKENS, C.RECOMPUTED_TOKENS, C.PREEMPTIONS)
_INSTANTS = (C.ARRIVED_AT, C.FIRST_SCHEDULED_AT, C.FIRST_TOKEN_AT, C.LAST_TOKEN_AT, C.FINISHED_AT)
_DERIVED = (
    (C.QUEUE_TIME, C.FIRST_SCHEDULED_AT, C.ARRIVED_AT),
    (C.TIME_TO_FIRST_TOKEN, C.FIRST_TOKEN_AT, C.ARRIVED_AT),
    (C.PREFILL_TIME, C.FIRST_TOKEN_AT, C.FIRST_SCHEDULED_AT),
    (C.DECODE_TIME, C.LAST_TOKEN_AT, C.FIRST_TOKEN_AT),
    (C.PROCESSING_TIME, C.FINISHED_AT, C.FIRST_SCHEDULED_AT),
    (C.TOTAL_TIME, C.FINISHED_AT, C.ARRIVED_AT),
)
_FIRST_DURATION, _LAST_DURATION = C.PROCESSING_TIME, C.DECODE_TIME


class ClassCodes(dict[str | None, float]):
    """The code of each class; of any other that of ``other``. ``undeclared``: the first that did, in words."""

    def __init__(self, codes: Mapping[str, float], other: float, *, declared: bool) -> None:
        super().__init__()
        self.update(codes)
        self._other = other
        self._declared = declared
        self.undeclared: str | None = None

    def __missing__(self, name: object) -> float:
        if self._declared and self.undeclared is None:
            self.undeclared = shown(name)  # not the object: it may be anybody's, and would live as long as this
        return self._other


class ClassNames:
    """The request classes of a configuration and their codes in rows."""

    def __init__(self, configuration: MetricsConfiguration) -> None:
        self.targets: dict[str, SloTargets] = configuration.slo_by_class
        if configuration.classes_declared:
            self.targets.setdefault(OTHER_CLASS, SloTargets())
        self.names = tuple(self.targets)
        codes = {name: float(code) for code, name in enumerate(self.names)}
        self.other = codes[OTHER_CLASS] if configuration.classes_declared else 0.0
        self.codes = ClassCodes(codes, self.other, declared=configuration.classes_declared)
        self.codes.setdefault(None, codes.get(DEFAULT_CLASS, self.other))


class RequestAggregate:
    """All that is known of requests since the last reset; fed in blocks, in the order of their instants."""

    def __init__(
        self, configuration: MetricsConfiguration, classes: ClassNames, rejections: Rejections, now: float
    ) -> None:
        self._targets = [targets if targets.declared else None for targets in classes.targets.values()]
        self._rejections = rejections
        self._histograms = histograms = RequestHistograms(classes.targets, configuration.histogram_scale)
        most = configuration.max_request_samples
        self.samples = ObservedRows(most, len(COLUMNS[RowKind.REQUEST]), histograms.observe)
        self._starts = ObservedRows(CAPACITY, len(COLUMNS[RowKind.START]), histograms.started)
        self._finished = np.zeros(2 * len(REASONS), dtype=np.int64)  # by reason; untracked ones, then a tracker's
        self.lost = 0
        self.tokens_generated = 0
        self.prompt_tokens = self.cached_tokens = 0
        self.recomputed_tokens: int | None = None  # nobody said
        self._prompts_said = self._cached_said = False
        self._cached_unclaimed = 0  # by iterations, and not yet counted for a request
        window = configuration.counter_window_seconds
        self.finished_in_window = SlidingWindowCounter(window, start=now)
        self.tokens_in_window = SlidingWindowCounter(window, start=now)
        self.met_in_window = [SlidingWindowCounter(window, start=now) for _ in classes.names]
        self.slo_results = np.zeros((len(classes.names), len(SloResult)), dtype=np.int64)
        self.missed_by: list[dict[str, int]] = [{} for _ in classes.names]

    @property
    def instruments(self) -> dict[str, dict[str, Instrument]]:
        """Every histogram, by name and request class, with all requests counted so far."""
        self._starts.settle()
        self.samples.settle()
        return self._histograms.instruments

    @property
    def by_reason(self) -> npt.NDArray[np.int64]:
        """Finished requests, by the code of their reason."""
        return self._finished[: len(REASONS)] + self._finished[len(REASONS) :]

    @property
    def untracked(self) -> int:
        """Finished requests that no tracker followed."""
        return sum(self._finished.tolist()[: len(REASONS)])

    @property
    def tracked(self) -> int:
        """Finished requests that a tracker followed."""
        return sum(self._finished.tolist()[len(REASONS) :])

    @property
    def total(self) -> int:
        """Finished requests."""
        return sum(self._finished.tolist())

    def consume(self, values: Floats, request_ids: list[Any] | None) -> Rows:
        """Complete, check and count rows, ordered by instant; what is returned are the good ones."""
        verdict = Verdict(values, self._rejections)
        with np.errstate(invalid="ignore", divide="ignore"):
            verdict.instants(_INSTANTS)
            derive_durations(values)
            known = ranges(values)
            verdict.amounts(_AMOUNTS, due=(C.TOKENS_GENERATED,), whole=_WHOLE, known=known)
            if not known.full[C.PROCESSING_TIME]:
                unknown = np.isnan(values[:, C.PROCESSING_TIME]) & (outcomes_of(values) == COMPLETED)
                verdict.refuse(unknown, RejectReason.NOT_A_NUMBER, (C.PROCESSING_TIME,))
        if verdict.refused:
            # A tracker's request that cannot be counted as finished is not in flight any more either: it is lost.
            self.lost += int(np.count_nonzero(~verdict.good & (values[:, C.OBSERVED] == 1)))
            values, request_ids = verdict.keep(request_ids)
            known = ranges(values) if len(values) else known
        if len(values):
            self._count(values, known)
            if request_ids is not None:
                cut_ids(request_ids)
            self.samples.append(values, request_ids)
        return Rows(RowKind.REQUEST, values, request_ids)

    @property
    def prompt_tokens_computed(self) -> int | None:
        """Of finished requests; None where some finished and none said its prompt."""
        return self.prompt_tokens - self.cached_tokens if self._prompts_said or not self.by_reason.any() else None

    @property
    def prompt_tokens_cached(self) -> int | None:
        """Likewise those that a prefix cache supplied."""
        return self.cached_tokens if self._cached_said or not self.by_reason.any() else None

    def _count(self, values: Floats, known: Ranges) -> None:
        tokens = values[:, C.TOKENS_GENERATED]
        kind = values[:, C.REASON].astype(np.int64)
        if known.high[C.OBSERVED] > 0:
            kind += len(REASONS) * (values[:, C.OBSERVED] == 1)
        self._finished += np.bincount(kind, minlength=len(self._finished))  # in one step
        self.tokens_generated += int(tokens.sum())
        at = values[:, C.AT]
        latest = float(at[-1])
        cells = self.finished_in_window.groups(at, ascending=True, now=latest)
        self.finished_in_window.add_groups(cells)
        self.tokens_in_window.add_groups(cells, tokens, now=latest)
        self._count_prompts(values, known)
        self._judge(values, outcomes_of(values), known)

    def _count_prompts(self, values: Floats, known: Ranges) -> None:
        """Prompts count at the finish of requests whose prefill ended, so that nothing counts twice."""
        if known.high[C.RECOMPUTED_TOKENS] >= 0:
            self.recomputed_tokens = (self.recomputed_tokens or 0) + int(total_of(values[:, C.RECOMPUTED_TOKENS]))
        self._prompts_said |= known.high[C.PROMPT_TOKENS] >= 0
        self._cached_said |= known.high[C.CACHED_TOKENS] >= 0
        prompts, cached = values[:, C.PROMPT_TOKENS], values[:, C.CACHED_TOKENS]
        if not (known.low[C.TOKENS_GENERATED] > 0 or known.full[C.FIRST_TOKEN_AT]):
            prefilled = (values[:, C.TOKENS_GENERATED] > 0) | ~np.isnan(values[:, C.FIRST_TOKEN_AT])
            prompts, cached = prompts[prefilled], cached[prefilled]
        if not known.full[C.PROMPT_TOKENS]:
            prompts = np.fmax(prompts, 0.0)
        total, from_cache = int(prompts.sum()), 0
        if known.high[C.CACHED_TOKENS] > 0:
            from_cache = int(np.minimum(np.fmax(cached, 0.0), prompts).sum())
            self._cached_unclaimed -= from_cache
        if self._cached_unclaimed > 0:
            from_cache += self._claimed(int(prompts[np.isnan(cached)].sum()))
        self.cached_tokens += from_cache
        self.prompt_tokens += total

    def started(self, values: Floats) -> None:
        """Count what is known of requests that have not finished yet."""
        self._starts.append(values)

    def cached_by_iterations(self, cached: Floats) -> None:
        """What iterations said came from a prefix cache; the requests it was for count it when they finish."""
        known = ~np.isnan(cached)
        if known.any():
            self._cached_said = True
            self._cached_unclaimed += int(cached[known].sum())

    def _claimed(self, prompts: int) -> int:
        """Of what iterations said came from a prefix cache, the part of finished requests that do not say it."""
        claimed = min(self._cached_unclaimed, prompts)
        self._cached_unclaimed -= claimed
        return claimed

    def _judge(self, values: Floats, outcomes: npt.NDArray[np.int64], known: Ranges) -> None:
        for code, targets in enumerate(self._targets):
            if known.only(C.REQUEST_CLASS) == code:
                members, of_them = values, outcomes
            else:
                of_class = values[:, C.REQUEST_CLASS] == code
                if not of_class.any():
                    continue
                members, of_them = values.T.compress(of_class, axis=1).T, outcomes[of_class]
            if targets is None:
                self.slo_results[code][SloResult.NOT_EVALUATED] += len(members)
                continue
            results, missed_by = evaluate(members, of_them, targets)
            self.slo_results[code] += np.bincount(results, minlength=len(SloResult))
            for target, count in missed_by.items():
                self.missed_by[code][target] = self.missed_by[code].get(target, 0) + count
            met = members[results == SloResult.MET, C.AT]
            if len(met):
                counter = self.met_in_window[code]
                counter.add_groups(counter.groups(met, ascending=True, now=float(members[-1, C.AT])))


def derive_durations(values: Floats) -> None:
    """Fill the durations that are ``nan`` from the instants, then the totals from their parts."""
    columns = values.T
    lacking = np.isnan(columns[_FIRST_DURATION : _LAST_DURATION + 1].min(axis=1)).tolist()
    some = ~np.isnan(np.fmax.reduce(columns[C.ARRIVED_AT : C.FINISHED_AT + 1], axis=1))
    for column, end, start in _DERIVED:
        if lacking[column - _FIRST_DURATION] and some[end - C.ARRIVED_AT] and some[start - C.ARRIVED_AT]:
            fill(columns[column], columns[end] - columns[start])
    if lacking[C.TOTAL_TIME - _FIRST_DURATION]:
        queued = columns[C.QUEUE_TIME]
        fill(columns[C.TOTAL_TIME], np.where(np.isnan(queued), 0.0, queued) + columns[C.PROCESSING_TIME])
    tokens, per_token = columns[C.TOKENS_GENERATED], columns[C.TIME_PER_OUTPUT_TOKEN]
    np.divide(columns[C.DECODE_TIME], tokens - 1, out=per_token)
    if not tokens.min() >= 2:  # one token has no gap; nan is no count at all
        per_token[~(tokens >= 2)] = np.nan
