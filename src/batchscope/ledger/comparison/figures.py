"""What is compared: quantities of requests, iterations and time, and which figures are taken of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from batchscope.ledger.comparison.measured import Measured, attained, failed, waiting_since
from batchscope.ledger.comparison.same_work import EXPECTED, SCALE
from batchscope.rows import Floats, RequestColumn

R = RequestColumn
MEAN = 0.0
"""Stands for the mean among the shares of percentiles."""
STEP_FLOOR, TAIL_FLOOR = 0.02, 0.05
"""What two runs of the same engine may differ by, for a reason that neither of them shows, relative: of a step for the
same work, and of tails. Slower steps make fuller batches, so what a step takes in all has more than half again."""
FULLER = 1.5
CELLS = 200
"""Pieces that a run's time is cut into."""
PER_SECOND = "1/s"
SAME_WORK = "step_time_same_work"
_ALL = (MEAN, 0.5, 0.9, 0.95, 0.99)


class Series(NamedTuple):
    """Values and when they count; ``slower``: what they would be with steps 2 % slower, nan where that is not known."""

    at: Floats
    values: Floats
    weights: Floats
    slower: Floats


class Quantity(NamedTuple):
    """``name`` as in a figure's: ``p99_ttft``. ``kind`` says of which block length: what queues, and what does not.

    ``shares``: of the percentiles taken, ``MEAN`` is the mean. ``better``: -1 where less of it is.
    """

    name: str
    meaning: str
    unit: str
    better: int
    shares: tuple[float, ...]
    queues: bool
    series: Callable[[Measured], Series]

    def figure(self, share: float) -> str:
        """The name of one figure of it."""
        if self.shares == (MEAN,):
            return self.name
        return f"mean_{self.name}" if share == MEAN else f"p{share * 100:g}_{self.name}"

    def floor(self, share: float) -> float:
        """The relative difference that is no verdict, of one run a side."""
        if share > 0.5 or self.unit != "s":
            return TAIL_FLOOR
        return STEP_FLOOR if self.name == SAME_WORK else FULLER * STEP_FLOOR


def _requests(column: RequestColumn, since: RequestColumn | None, ends: RequestColumn) -> Callable[[Measured], Series]:
    """A latency of completed requests; with ``since`` a delay that grows with all the work since somebody waited."""

    def series(run: Measured) -> Series:
        values = run.rows[:, column]
        slower = values
        if since is not None:
            work = run.rows[:, ends] - waiting_since(run)
            slower = np.where(np.isnan(work), values, work)
        chosen = run.completed & ~np.isnan(values) & ~np.isnan(run.at)
        return _series(run.at[chosen], values[chosen], added=STEP_FLOOR * slower[chosen])

    return series


def _attainment(run: Measured) -> Series:
    """Whether objectives were met; what they would be if everything were a little slower."""
    met = attained(run)
    later = run._replace(rows=run.rows.copy())
    queued = waiting_since(run)
    for column, ends in _DELAYS.items():
        later.rows[:, column] += STEP_FLOOR * np.nan_to_num(run.rows[:, ends] - queued)
    later.rows[:, R.TIME_PER_OUTPUT_TOKEN] *= 1 + STEP_FLOOR
    chosen = ~np.isnan(met) & ~np.isnan(run.at)
    return _series(run.at[chosen], met[chosen], added=(attained(later) - met)[chosen])


_DELAYS = {R.TIME_TO_FIRST_TOKEN: R.FIRST_TOKEN_AT, R.TOTAL_TIME: R.FINISHED_AT}


def _of_requests(values: Callable[[Measured], Floats]) -> Callable[[Measured], Series]:
    def series(run: Measured) -> Series:
        found = values(run)
        chosen = ~np.isnan(found) & ~np.isnan(run.at)
        return _series(run.at[chosen], found[chosen])

    return series


def _step_times(run: Measured) -> Series:
    at, values, _ = _steps(run, "duration")
    return _series(at, values, added=STEP_FLOOR * values)


def _same_work(run: Measured) -> Series:
    """Each iteration's time over what its work takes, as seconds of a usual iteration; longer ones count for more."""
    at, usual, _ = _steps(run, SCALE)
    _, expected, seconds = _steps(run, EXPECTED)
    if not len(expected) or len(expected) != len(at):
        return _series(np.empty(0), np.empty(0))
    values = seconds / expected * usual
    return _series(at, values, weights=expected, added=STEP_FLOOR * values)


def _over_time(column: str) -> Callable[[Measured], Series]:
    """A level of iterations, weighted with how long each took."""

    def series(run: Measured) -> Series:
        at, values, seconds = _steps(run, column)
        return _series(at, values, weights=seconds)

    return series


def _steps(run: Measured, column: str) -> tuple[Floats, Floats, Floats]:
    """When iterations were, their values and durations: those that have both, before the run only drains."""
    nothing = np.full(len(run.step_at), np.nan)
    values, seconds = (run.steps.get(name, nothing) for name in (column, "duration"))
    chosen = ~np.isnan(values + seconds + run.step_at) & (run.step_at <= run.span)
    return run.step_at[chosen], values[chosen], seconds[chosen]


def _rate(amount: Callable[[Measured], Floats]) -> Callable[[Measured], Series]:
    """How much of it a second, in each cell of the time that counts, by the ends of all requests that end in it."""

    def series(run: Measured) -> Series:
        at = run.rows[:, R.FINISHED_AT]
        counted = amount(run)
        chosen = ~np.isnan(at) & (at >= 0) & (at <= run.span)
        width = run.span / CELLS
        if not width > 0 or np.isnan(counted).all():
            return _series(np.empty(0), np.empty(0))
        cell = np.minimum((at[chosen] / width).astype(np.int64), CELLS - 1)
        return _series(
            np.asarray(width * (np.arange(CELLS) + 0.5), np.float64),
            np.bincount(cell, np.nan_to_num(counted[chosen]), CELLS).astype(np.float64) / width,
        )

    return series


def _series(at: Floats, values: Floats, *, weights: Floats | None = None, added: Floats | None = None) -> Series:
    return Series(
        at,
        values,
        np.ones(len(values)) if weights is None else weights,
        np.full(len(values), np.nan) if added is None else values + added,
    )


_ATTAINMENT = "attainment"
QUANTITIES = (
    Quantity(_ATTAINMENT, "share of requests that met all their targets", "1", 1, (MEAN,), True, _attainment),
    Quantity("goodput", "requests a second that met all their targets", PER_SECOND, 1, (MEAN,), True, _rate(attained)),
    Quantity("failed_share", "share of requests that failed", "1", -1, (MEAN,), True, _of_requests(failed)),
    Quantity("ttft", "time to first token", "s", -1, _ALL, True,
             _requests(R.TIME_TO_FIRST_TOKEN, R.ARRIVED_AT, R.FIRST_TOKEN_AT)),
    Quantity("tpot", "time per output token", "s", -1, _ALL, False,
             _requests(R.TIME_PER_OUTPUT_TOKEN, None, R.LAST_TOKEN_AT)),
    Quantity("e2e", "from arrival to end", "s", -1, _ALL, True,
             _requests(R.TOTAL_TIME, R.ARRIVED_AT, R.FINISHED_AT)),
    Quantity("requests_per_second", "completed requests a second", PER_SECOND, 1, (MEAN,), True,
             _rate(lambda run: run.completed.astype(np.float64))),
    Quantity("tokens_per_second", "output tokens a second", PER_SECOND, 1, (MEAN,), True,
             _rate(lambda run: run.rows[:, R.TOKENS_GENERATED])),
    Quantity(SAME_WORK, "an iteration's duration for the same tokens, requests and context", "s", -1, (MEAN,),
             False, _same_work),
    Quantity("step_time", "an iteration's duration", "s", -1, (MEAN, 0.99), False, _step_times),
    Quantity("queue_time", "from arrival to first scheduled", "s", -1, (MEAN, 0.95, 0.99), True,
             _requests(R.QUEUE_TIME, R.ARRIVED_AT, R.FIRST_SCHEDULED_AT)),
    Quantity("max_gap", "a request's longest wait between tokens", "s", -1, (MEAN, 0.99), False,
             _requests(R.MAX_EMISSION_GAP, None, R.LAST_TOKEN_AT)),
    Quantity("preemptions", "preemptions a request", "", -1, (MEAN,), True,
             _of_requests(lambda run: run.rows[:, R.PREEMPTIONS])),
    Quantity("batch_size", "requests in the batch, over busy time", "requests", 0, (MEAN,), True,
             _over_time("request_count")),
    Quantity("waiting", "requests that wait, over busy time", "requests", -1, (MEAN,), True,
             _over_time("waiting_requests")),
    Quantity("kv_cache_usage", "of the KV cache in use, over busy time", "1", 0, (MEAN,), True,
             _over_time("kv_cache_usage")),
)  # fmt: skip
"""What matters most to whoever is served comes first: targets, latencies, throughput; then what is behind them."""
_FIRST = ("attainment", "goodput", "failed_share", "ttft", "tpot", "e2e", "requests_per_second", "tokens_per_second")
CLASS_PREFIX = "attainment:"
"""Begins the name of the attainment of one request class."""


def quantities_of(*runs: Measured) -> tuple[Quantity, ...]:
    """``QUANTITIES``, and the attainment of each request class where all of these runs have several, and this one."""
    classes = [name for name in runs[0].slo if all(name in run.slo and len(run.slo) > 1 for run in runs)]
    by_class = [
        QUANTITIES[0]._replace(
            name=f"{CLASS_PREFIX}{name}",
            meaning=f"share of the requests of {name} that met all their targets",
            series=_attainment_of(name),
        )
        for name in classes
    ]
    return (QUANTITIES[0], *by_class, *QUANTITIES[1:])


def _attainment_of(name: str) -> Callable[[Measured], Series]:
    def series(run: Measured) -> Series:
        return _attainment(run._replace(counted=run.counted & (run.classes == name)))

    return series


def is_first(figure: str) -> bool:
    """Whether it is one of those that whoever is served notices."""
    return figure.endswith(_FIRST) or figure.startswith(CLASS_PREFIX)


def figure_names() -> list[str]:
    """All figures, in their order, without those of one request class."""
    return [quantity.figure(share) for quantity in QUANTITIES for share in quantity.shares]
