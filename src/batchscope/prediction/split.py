"""Where a prediction errs: in what an iteration takes, in who is scheduled when, or in both together."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from batchscope.prediction.blocks import blocks_of
from batchscope.prediction.fit import step_times
from batchscope.prediction.observed import IterationsSeen, Observed
from batchscope.simulator import LinearCostModel
from batchscope.simulator.instants import Instants, Pace, simulate_instants


class ErrorSplit(msgspec.Struct, frozen=True):
    """Relative errors; ``nan`` where the run has no iterations to tell, or only their forward passes.

    ``step_time``: of the time of the iterations, given who was in them (signed: model over recorded, less 1).
    ``schedule``: of the requests' total times (mean, unsigned, over the mean total time), given what iterations took
    at that time. ``both``: the same, with the model's own times.
    """

    step_time: float
    schedule: float
    both: float


def split_errors(observed: Observed, cost: LinearCostModel, replayed: Instants) -> ErrorSplit:
    """Of the recorded settings under ``cost``; ``replayed`` is what they give."""
    both = _total_time_error(observed, replayed)
    if observed.iterations is None or not len(observed.iterations) or observed.forward_passes:
        return ErrorSplit(math.nan, math.nan, both)
    seen = observed.iterations
    step_time = float(step_times(cost, seen).sum() / seen.seconds.sum()) - 1
    paced = simulate_instants(observed.workload, observed.options, cost, pace=recorded_pace(seen, cost))
    return ErrorSplit(step_time, _total_time_error(observed, paced), both)


def recorded_pace(seen: IterationsSeen, cost: LinearCostModel) -> Pace:
    """How many times as long as ``cost`` says the recorded iterations took, block of time by block of time."""
    blocks = blocks_of(seen.finished_at)
    took = np.bincount(blocks, seen.seconds)
    expected = np.bincount(blocks, step_times(cost, seen))
    begins = np.linspace(seen.finished_at.min(), seen.finished_at.max(), len(took), endpoint=False)
    whole = took.sum() / max(expected.sum(), 1e-12)
    factors = np.where(expected > 0, took / np.maximum(expected, 1e-12), whole)
    return Pace(begins, factors)


def _total_time_error(observed: Observed, found: Instants) -> float:
    ended = ~np.isnan(found.last_token) & ~np.isnan(observed.instants.last_token)
    if not ended.any():
        return math.nan
    total = observed.instants.last_token - observed.instants.arrived
    return float(np.abs(found.last_token - observed.instants.last_token)[ended].mean() / total[ended].mean())
