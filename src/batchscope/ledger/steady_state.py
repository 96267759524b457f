"""The part of a run that is neither its warm-up nor its drain: where figures mean what they would mean tomorrow.

A run begins with an empty scheduler and ends with the last requests alone; averages over all of it tell of both.
MSER-5 (White 1997; Spratt 1998) finds where the warm-up ends: of the requests waiting and running, averaged over each
second and then over five of these, it drops as many at the front as make the standard error of the mean of the rest
smallest. Of cuts whose error is within 2 % of the smallest, the earliest is taken: noise moves the smallest one. Where
more than half would have to go, the run has no steady state. The drain begins with the last arrival.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CELL_SECONDS = 1.0
FEWEST_CELLS = 100
"""A run of fewer seconds is cut into so many cells, each shorter than a second."""
MOST_CELLS = 1_000_000
"""A run of more seconds (eleven days, or a clock that jumped) is cut into so many, each longer."""
BATCH = 5
AS_GOOD = 1.02
FEWEST_BATCHES = 10
_LEFT_OUT = 0.1  # the last cuts would leave too few values to know their spread


class SteadyState(NamedTuple):
    """Where a run is steady: from ``start`` to ``end``, instants of its clock, of a run from ``first`` to ``last``.

    Where it is nowhere, ``start`` and ``end`` are nan and ``missing`` says why. ``backlog_slope``: requests waiting and
    running that came to be more in a second, in that part (nan without one).
    """

    first: float
    last: float
    start: float = np.nan
    end: float = np.nan
    backlog_slope: float = np.nan
    missing: str = ""

    @property
    def found(self) -> bool:
        """Whether there is a steady part."""
        return not self.missing

    def covers(self, instants: Floats) -> npt.NDArray[np.bool_]:
        """Which of ``instants`` lie in the steady part; all of them where there is none."""
        if not self.found:
            return np.ones(len(instants), np.bool_)
        return (self.start <= instants) & (instants <= self.end)


def steady_state(requests: Any, iterations: Any) -> SteadyState:
    """Of a run's tables (``run.requests()``, ``run.iterations()``): by its iterations, else by its requests."""
    arrived, finished = _floats(requests, "arrived_at"), _floats(requests, "finished_at")
    last_arrival = float(np.nanmax(arrived)) if np.isfinite(arrived).any() else np.nan
    knots = _of_iterations(iterations) or _of_requests(arrived, finished)
    if knots is None:
        return SteadyState(np.nan, np.nan, missing="neither iterations nor requests with their instants were recorded")
    instants, integral = knots
    return cut_of(instants, integral, last_arrival)


def cut_of(instants: Floats, integral: Floats, last_arrival: float = np.nan) -> SteadyState:
    """The steady part, of ``integral``: the requests waiting and running, added up over time until each instant.

    After ``last_arrival`` (nan: not known) the run only drains.
    """
    first, last = float(instants[0]), float(instants[-1])
    end = last if np.isnan(last_arrival) else min(last, last_arrival)
    if end <= first:
        return SteadyState(first, last, missing="all requests arrived at once: it only drained")
    cell = max(min(CELL_SECONDS, (end - first) / FEWEST_CELLS), (end - first) / MOST_CELLS)
    edges = first + cell * np.arange(int((end - first) / cell * (1 + 1e-12)) + 1)
    present = np.diff(np.interp(edges, instants, integral)) / cell
    warm_up = mser_cut(present)
    if warm_up is None:
        return SteadyState(first, last, missing="no steady state: more than half of it would be cut as warm-up")
    slope = float(np.polyfit(np.arange(len(present) - warm_up), present[warm_up:], 1)[0]) / cell
    return SteadyState(first, last, first + warm_up * cell, float(end), slope)


def mser_cut(values: Floats) -> int | None:
    """How many of the values at the front are warm-up, by MSER-5; ``None``: more than half, or there are too few."""
    count = len(values) // BATCH
    if count < FEWEST_BATCHES:
        return None
    means = np.asarray(values[: count * BATCH]).reshape(count, BATCH).mean(axis=1)
    means = means - means.mean()  # squares of large numbers lose what is looked at
    left = np.arange(count, 0, -1)
    sums, squares = (np.cumsum(part[::-1])[::-1] for part in (means, means**2))
    error = (squares - sums**2 / left) / left**2
    error = np.maximum(error[: count - max(BATCH, int(_LEFT_OUT * count))], 0)
    cut = int(np.argmin(error))
    if cut <= count / 2:
        cut = int(np.argmax(error <= AS_GOOD * error[cut]))
    return cut * BATCH if cut <= count / 2 else None


def _of_iterations(table: Any) -> tuple[Floats, Floats] | None:
    """Waiting and running requests, added up over time, of all ranks; ``None`` where they were not counted."""
    started, finished = _floats(table, "started_at"), _floats(table, "finished_at")
    present = _floats(table, "waiting_requests") + _floats(table, "running_requests")
    known = np.isfinite(started + finished + present)
    if known.sum() <= len(known) / 2 or not known.any():
        return None
    rank = np.nan_to_num(_floats(table, "rank"))
    of_ranks = [
        _of_rank(started[of], finished[of], present[of]) for r in np.unique(rank[known]) for of in [known & (rank == r)]
    ]
    instants = np.unique(np.concatenate([instants for instants, _ in of_ranks]))
    return instants, np.sum([np.interp(instants, *knots) for knots in of_ranks], axis=0)


def _of_rank(started: Floats, finished: Floats, present: Floats) -> tuple[Floats, Floats]:
    """A count holds until the next iteration starts; where that takes long, nobody was there in between."""
    order = np.argsort(started, kind="stable")
    started, finished, present = started[order], finished[order], present[order]
    following = np.append(started[1:], finished[-1])
    until = np.where(following - finished > CELL_SECONDS, finished, following)
    until = np.maximum(until, started)
    added = np.cumsum(present * (until - started))
    instants = np.column_stack([started, until]).ravel()
    return instants, np.column_stack([np.append(0, added[:-1]), added]).ravel()


def _of_requests(arrived: Floats, finished: Floats) -> tuple[Floats, Floats] | None:
    """Requests between arrival and end, added up over time; ``None`` where no request has both instants."""
    known = np.isfinite(arrived) & np.isfinite(finished)
    if not known.any():
        return None
    instants = np.concatenate([arrived[known], finished[known]])
    order = np.argsort(instants, kind="stable")
    step = np.repeat([1.0, -1.0], known.sum())[order]
    instants = instants[order]
    return instants, np.append(0, np.cumsum(np.cumsum(step)[:-1] * np.diff(instants)))


def _floats(table: Any, column: str) -> Floats:
    """A column with nan where nothing was measured."""
    return np.asarray(table.column(column).to_numpy(), np.float64)
