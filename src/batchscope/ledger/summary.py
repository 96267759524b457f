"""A run's figures at a glance, kept while it is written, so that a list of runs reads no rows."""

from __future__ import annotations

import msgspec
import numpy as np

from batchscope.aggregation.slo import OUTCOME_OF_REASON, SloResult, evaluate
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.records import Outcome
from batchscope.rows import Floats, IterationColumn, RequestColumn
from batchscope.sinks import RunHeader

R = RequestColumn
_SCALE = 9
_LATENCIES = {
    "time_to_first_token": R.TIME_TO_FIRST_TOKEN,
    "time_per_output_token": R.TIME_PER_OUTPUT_TOKEN,
    "total_time": R.TOTAL_TIME,
}


class Summary(msgspec.Struct, kw_only=True):
    """Of all segments. Percentiles: of completed requests, those of the run's report within ``relative_error``.

    Of a run that was stopped it has the rows, too, that came last and could not be written: a report has not.
    ``met`` and ``missed`` the targets of their class; ``attainment`` is None where no request was judged. ``first_at``
    and ``last_at``: instants of the collector's clock between which something happened.
    """

    requests: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    iterations: int = 0
    tokens_generated: int = 0
    first_at: float | None = None
    last_at: float | None = None
    p99_time_to_first_token: float | None = None
    p99_time_per_output_token: float | None = None
    p99_total_time: float | None = None
    relative_error: float = ExponentialHistogram(_SCALE).relative_error
    met: int = 0
    missed: int = 0
    attainment: float | None = None

    @property
    def seconds(self) -> float | None:
        """From the first to the last that happened; None where nothing did."""
        return None if self.first_at is None or self.last_at is None else self.last_at - self.first_at


class Summing:
    """Keeps a ``Summary`` from rows, in bounded memory."""

    def __init__(self) -> None:
        self.summary = Summary()
        self._latencies = {name: ExponentialHistogram(_SCALE) for name in _LATENCIES}

    def add_requests(self, rows: Floats, header: RunHeader) -> None:
        """Finished requests of one segment."""
        found = self.summary
        outcomes = OUTCOME_OF_REASON[rows[:, R.REASON].astype(np.int64)]
        counts = np.bincount(outcomes, minlength=len(Outcome)).tolist()
        found.requests += len(rows)
        for outcome, count in zip(Outcome, counts, strict=True):
            setattr(found, outcome.value, getattr(found, outcome.value) + count)
        completed = rows[outcomes == tuple(Outcome).index(Outcome.COMPLETED)]
        for name, column in _LATENCIES.items():
            values = completed[:, column]
            self._latencies[name].record_many(values[~np.isnan(values)])
        for code, name in enumerate(header.request_classes):
            mine = rows[:, R.REQUEST_CLASS] == code
            results, _ = evaluate(rows[mine], outcomes[mine], header.slo[name])
            found.met += int(np.count_nonzero(results == SloResult.MET))
            found.missed += int(np.count_nonzero(results == SloResult.MISSED))
        self._lasted(np.fmin(rows[:, R.ARRIVED_AT], rows[:, R.AT]), rows[:, R.AT])

    def add_iterations(self, rows: Floats) -> None:
        """Iterations."""
        self.summary.iterations += len(rows)
        self.summary.tokens_generated += int(rows[:, IterationColumn.TOKENS_GENERATED].sum())
        self._lasted(rows[:, IterationColumn.STARTED_AT], rows[:, IterationColumn.FINISHED_AT])

    def now(self) -> Summary:
        """The figures of all so far."""
        found = self.summary
        for name, histogram in self._latencies.items():
            setattr(found, f"p99_{name}", _p99(histogram) if histogram.count else None)
        judged = found.met + found.missed
        found.attainment = found.met / judged if judged else None
        return found

    def _lasted(self, began: Floats, ended: Floats) -> None:
        first, last = float(began.min()), float(ended.max())
        found = self.summary
        found.first_at = first if found.first_at is None else min(found.first_at, first)
        found.last_at = last if found.last_at is None else max(found.last_at, last)


def _p99(histogram: ExponentialHistogram) -> float:
    """Linearly interpolated between the two nearest ranks, as a report does it (Hyndman and Fan type 7)."""
    place = 0.99 * (histogram.count - 1)
    rank = int(place)
    middles = [(min(of, histogram.count - 1) + 0.5) / histogram.count for of in (rank, rank + 1)]
    low, high = histogram.quantiles(middles)
    return low + (place - rank) * (high - low)
