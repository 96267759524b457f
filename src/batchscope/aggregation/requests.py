"""Finished requests: durations derived, bad rows refused, counts, samples, histograms, SLO results."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from batchscope.aggregation.checks import NOT_A_NUMBER, Rejections, Verdict
from batchscope.aggregation.instrument import Instrument
from batchscope.aggregation.row_buffer import RowBuffer
from batchscope.aggregation.sliding_window import SlidingWindowCounter
from batchscope.aggregation.slo import COMPLETED, OUTCOME_OF_REASON, SloResult, evaluate
from batchscope.configuration import DEFAULT_CLASS, OTHER_CLASS, MetricsConfiguration, SloTargets
from batchscope.recording.rows import COLUMNS, REASONS, Floats, Kind, RequestColumn, Rows, StartColumn

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
AT_START = {"queue_time": C.QUEUE_TIME, "time_to_first_token": C.TIME_TO_FIRST_TOKEN}
"""Observed when they happen, for every request."""
AT_FINISH = {
    "total_time": C.TOTAL_TIME,
    "time_per_output_token": C.TIME_PER_OUTPUT_TOKEN,
    "prefill_time": C.PREFILL_TIME,
    "decode_time": C.DECODE_TIME,
    "preempted_time": C.PREEMPTED_TIME,
}
"""Observed at the finish, of completed requests."""
BY_CLASS = {
    "queue_time": None,
    "time_to_first_token": "time_to_first_token",
    "total_time": "e2e_latency",
    "time_per_output_token": "time_per_output_token",
}
"""The histograms kept a class each, and the SLO target that is an exact edge of theirs."""


class ClassNames:
    """The request classes of a configuration and their codes in rows."""

    def __init__(self, configuration: MetricsConfiguration) -> None:
        self.targets: dict[str, SloTargets] = configuration.slo_by_class
        if configuration.classes_declared:
            self.targets.setdefault(OTHER_CLASS, SloTargets())
        self.names = tuple(self.targets)
        self.codes: dict[str | None, float] = {name: float(code) for code, name in enumerate(self.names)}
        self.other = self.codes[OTHER_CLASS] if configuration.classes_declared else 0.0
        self.codes.setdefault(None, self.codes.get(DEFAULT_CLASS, self.other))


class RequestAggregate:
    """All that is known of requests since the last reset; fed in blocks, in the order of their instants."""

    def __init__(
        self, configuration: MetricsConfiguration, classes: ClassNames, rejections: Rejections, now: float
    ) -> None:
        self._classes = classes
        self._rejections = rejections
        self.samples = RowBuffer(configuration.max_request_samples, len(COLUMNS[Kind.REQUEST]))
        self.by_reason = np.zeros(len(REASONS), dtype=np.int64)
        self.untracked = 0
        self.lost = 0
        self.tokens_generated = 0
        self.prompt_tokens_computed = 0
        self.prompt_tokens_cached = 0
        self.recomputed_tokens = 0
        window = configuration.counter_window_seconds
        self.finished_in_window = SlidingWindowCounter(window, start=now)
        self.tokens_in_window = SlidingWindowCounter(window, start=now)
        self.met_in_window = [SlidingWindowCounter(window, start=now) for _ in classes.names]
        self.slo_results = np.zeros((len(classes.names), len(SloResult)), dtype=np.int64)
        self.missed_by: list[dict[str, int]] = [{} for _ in classes.names]
        self.instruments = _instruments(classes, configuration.histogram_scale)

    def consume(self, values: Floats, request_ids: list[Any] | None) -> Rows:
        """Complete, check and count rows; what is returned are the good ones."""
        verdict = Verdict(values, self._rejections)
        with np.errstate(invalid="ignore"):
            verdict.instants(_INSTANTS)
            _derive(values)
            verdict.amounts(_AMOUNTS, due=(C.TOKENS_GENERATED,), whole=_WHOLE)
            outcomes = OUTCOME_OF_REASON[values[:, C.REASON].astype(np.int64)]
            unknown = np.isnan(values[:, C.PROCESSING_TIME]) & (outcomes == COMPLETED)
            verdict.refuse(unknown, NOT_A_NUMBER, (C.PROCESSING_TIME,))
        # A tracker's request that cannot be counted as finished is not in flight any more either: it is lost.
        self.lost += int(np.count_nonzero(~verdict.good & (values[:, C.OBSERVED] == 1)))
        values, request_ids = verdict.keep(request_ids)
        if len(values):
            self._count(values, outcomes[verdict.good])
            self.samples.append(values, request_ids)
        return Rows(Kind.REQUEST, values, request_ids)

    def started(self, values: Floats) -> None:
        """Queue times and TTFTs of requests that have not finished yet."""
        for name, column in (
            ("queue_time", StartColumn.QUEUE_TIME),
            ("time_to_first_token", StartColumn.TIME_TO_FIRST_TOKEN),
        ):
            self._observe(name, values[:, column], values[:, StartColumn.AT], values[:, StartColumn.REQUEST_CLASS])

    def _count(self, values: Floats, outcomes: npt.NDArray[np.int64]) -> None:
        at, tokens = values[:, C.AT], values[:, C.TOKENS_GENERATED]
        self.by_reason += np.bincount(values[:, C.REASON].astype(np.int64), minlength=len(REASONS))
        self.untracked += int(np.count_nonzero(values[:, C.OBSERVED] == 0))
        self.tokens_generated += int(tokens.sum())
        self.finished_in_window.add_many(np.ones(len(values), dtype=np.int64), at)
        self.tokens_in_window.add_many(tokens.astype(np.int64), at)
        self._count_prompts(values)
        self._judge(values, outcomes)
        classes = values[:, C.REQUEST_CLASS]
        unobserved = values[:, C.OBSERVED] == 0
        for name, column in AT_START.items():
            self._observe(name, values[unobserved, column], at[unobserved], classes[unobserved])
        completed = outcomes == COMPLETED
        for name, column in AT_FINISH.items():
            self._observe(name, values[completed, column], at[completed], classes[completed])

    def _count_prompts(self, values: Floats) -> None:
        """Prompts count at the finish of requests whose prefill ended, so that nothing counts twice."""
        prefilled = values[(values[:, C.TOKENS_GENERATED] > 0) | ~np.isnan(values[:, C.FIRST_TOKEN_AT])]
        prompts = np.nan_to_num(prefilled[:, C.PROMPT_TOKENS])
        cached = np.minimum(np.nan_to_num(prefilled[:, C.CACHED_TOKENS]), prompts)
        self.prompt_tokens_cached += int(cached.sum())
        self.prompt_tokens_computed += int((prompts - cached).sum())
        self.recomputed_tokens += int(np.nan_to_num(values[:, C.RECOMPUTED_TOKENS]).sum())

    def _judge(self, values: Floats, outcomes: npt.NDArray[np.int64]) -> None:
        for code, name in enumerate(self._classes.names):
            of_class = values[:, C.REQUEST_CLASS] == code
            if not of_class.any():
                continue
            members = values[of_class]
            results, missed_by = evaluate(members, outcomes[of_class], self._classes.targets[name])
            self.slo_results[code] += np.bincount(results, minlength=len(SloResult))
            for target, count in missed_by.items():
                self.missed_by[code][target] = self.missed_by[code].get(target, 0) + count
            met = results == SloResult.MET
            self.met_in_window[code].add_many(met[met].astype(np.int64), members[met, C.AT])

    def _observe(self, name: str, values: Floats, at: Floats, classes: Floats) -> None:
        known = ~np.isnan(values)
        if not known.any():
            return
        values, at, classes = values[known], at[known], classes[known]
        instruments = self.instruments[name]
        if len(instruments) == 1:
            next(iter(instruments.values())).observe(values, at)
            return
        for code, class_name in enumerate(self._classes.names):
            of_class = classes == code
            if of_class.any():
                instruments[class_name].observe(values[of_class], at[of_class])


def _derive(values: Floats) -> None:
    """Fill the durations that are ``nan`` from the instants, then the totals from their parts."""
    for column, end, start in _DERIVED:
        missing = np.isnan(values[:, column])
        values[missing, column] = values[missing, end] - values[missing, start]
    missing = np.isnan(values[:, C.TOTAL_TIME])
    parts = np.nan_to_num(values[:, C.QUEUE_TIME], nan=0.0) + values[:, C.PROCESSING_TIME]
    values[missing, C.TOTAL_TIME] = parts[missing]
    tokens = values[:, C.TOKENS_GENERATED]
    per_token = values[:, C.DECODE_TIME] / np.maximum(tokens - 1, 1)
    values[:, C.TIME_PER_OUTPUT_TOKEN] = np.where(tokens >= 2, per_token, np.nan)


def _instruments(classes: ClassNames, scale: int) -> dict[str, dict[str, Instrument]]:
    instruments: dict[str, dict[str, Instrument]] = {}
    for name in (*AT_START, *AT_FINISH):
        if name not in BY_CLASS:
            instruments[name] = {"": Instrument(scale)}
            continue
        target = BY_CLASS[name]
        instruments[name] = {
            class_name: Instrument(scale, thresholds=_edges(targets, target))
            for class_name, targets in classes.targets.items()
        }
    return instruments


def _edges(targets: SloTargets, target: str | None) -> tuple[float, ...]:
    limit = targets.declared.get(target) if target else None
    return () if limit is None else (limit,)
