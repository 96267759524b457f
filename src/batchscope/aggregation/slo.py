"""Which requests met their service level objective: all targets, by the same request."""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from batchscope.configuration import SloTargets
from batchscope.records import Outcome
from batchscope.rows import REASONS, Floats, RequestColumn

_OUTCOME_CODES = {outcome: code for code, outcome in enumerate(Outcome)}
OUTCOME_OF_REASON = np.array([_OUTCOME_CODES[reason.outcome] for reason in REASONS])
COMPLETED, FAILED, CANCELLED = (_OUTCOME_CODES[outcome] for outcome in Outcome)
FAILED_TARGET = "failed"
"""The key of ``missed_by`` for requests that failed, whatever their latencies."""
Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


class SloResult(IntEnum):
    """What became of a request's objective."""

    MET = 0
    MISSED = 1
    UNMEASURED = 2
    NOT_EVALUATED = 3


def outcomes_of(rows: Floats) -> npt.NDArray[np.int64]:
    """The code of each request's outcome."""
    outcomes: npt.NDArray[np.int64] = OUTCOME_OF_REASON.take(rows[:, RequestColumn.REASON].astype(np.int64))
    return outcomes


def evaluate(
    rows: Floats, outcomes: npt.NDArray[np.int64], targets: SloTargets
) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """The ``SloResult`` of each request of one class, and how many missed each target.

    missed = a target exceeded, or failed; a cancelled request that had exceeded none is not evaluated; a
    completed one that exceeded none and whose quantity of some target is not measured is unmeasured.
    TPOT with fewer than two tokens passes: there is nothing to be slow.
    """
    declared = targets.declared
    results = np.full(len(rows), SloResult.NOT_EVALUATED, dtype=np.int64)
    if not declared:
        return results, {}
    missed = outcomes == FAILED
    unmeasured = np.zeros(len(rows), dtype=np.bool_)
    missed_by = {FAILED_TARGET: int(np.count_nonzero(missed))}
    for name, limit in declared.items():
        values = _quantity(name, rows, cancelled=outcomes == CANCELLED)
        exceeded = (values > limit) & (outcomes != FAILED)
        missed_by[name] = int(np.count_nonzero(exceeded))
        missed |= exceeded
        unmeasured |= np.isnan(values)
    completed = outcomes == COMPLETED
    results[completed] = SloResult.MET
    results[completed & unmeasured] = SloResult.UNMEASURED
    results[missed] = SloResult.MISSED
    return results, missed_by


def _quantity(name: str, rows: Floats, *, cancelled: npt.NDArray[np.bool_]) -> Floats:
    """What a target is compared with; of a cancelled request also how long it had waited when it gave up."""
    if name == "time_per_output_token":
        per_token = rows[:, RequestColumn.TIME_PER_OUTPUT_TOKEN]
        return np.where(rows[:, RequestColumn.TOKENS_GENERATED] < 2, 0.0, per_token)
    if name == "e2e_latency":
        return rows[:, RequestColumn.TOTAL_TIME]
    if name == "time_to_first_token":
        first = rows[:, RequestColumn.TIME_TO_FIRST_TOKEN]
        no_token = cancelled & np.isnan(first)
        return np.where(no_token, rows[:, RequestColumn.TOTAL_TIME], first)
    gap = rows[:, RequestColumn.MAX_EMISSION_GAP]
    few = (rows[:, RequestColumn.TOKENS_GENERATED] < 2) | (rows[:, RequestColumn.DECODE_TIME] == 0)  # no gap at all
    stalled = rows[:, RequestColumn.FINISHED_AT] - rows[:, RequestColumn.LAST_TOKEN_AT]
    gap = np.where(few & np.isnan(gap), 0.0, gap)
    return np.where(cancelled, np.fmax(gap, stalled), gap)


def wilson_interval(met: float, evaluated: float) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share; it assumes independent requests (Wilson 1927, JASA 22:209).

    Of requests that are not, the numbers are of as many independent ones: no whole numbers then.
    """
    if evaluated == 0:
        return math.nan, math.nan
    share, z2 = met / evaluated, Z95 * Z95
    centre = (share + z2 / (2 * evaluated)) / (1 + z2 / evaluated)
    spread = share * (1 - share) / evaluated + z2 / (4 * evaluated * evaluated)
    half = Z95 * math.sqrt(spread) / (1 + z2 / evaluated)
    return max(0.0, centre - half), min(1.0, centre + half)
