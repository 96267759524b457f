"""How much of an iteration the prefill in it took: a model, fitted to the run's own iterations.

Time of an iteration = fixed + for a prefill at all + a prefill token + a decoding token + a token of context that is
decoded against: least squares, with iterations that are far off weighted down (Huber's weights) and no constant below
0. What the prefill took of an iteration is the model's *share* of the time that it really lasted, so it is never more
than that; and it is said to be modelled wherever it is shown.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from batchscope.ledger.iteration_lines import Floats, Lines, numbers

_ENOUGH = 30
"""Iterations with, and iterations without prefill, of which a model can be made."""
_MOST = 20_000
"""Iterations that it is fitted to, evenly spread."""
_ROUNDS = 12
_HUBER = 1.345
"""Residuals beyond so many standard deviations count less: 95 % of the efficiency of least squares."""


class PrefillCost(NamedTuple):
    """``share`` of each iteration's time, in the order of ``Lines``; and how well the model fits."""

    share: Floats
    iterations: int
    median_error: float
    """Of the iterations that it was fitted to, |modelled - lasted| / lasted."""
    seconds_per_prefill_token: float


def prefill_cost(iterations: pa.Table, lines: Lines) -> PrefillCost | None:
    """The model; None where the iterations do not tell: too few with or without prefill, or it made no difference."""
    matrix = _features(iterations)[lines.rows]
    lasted = lines.ticks.seconds(lines.own)
    usable = np.flatnonzero(np.isfinite(matrix).all(axis=1) & (lasted > 0))
    with_prefill = np.count_nonzero(matrix[usable, 1])
    if min(with_prefill, len(usable) - with_prefill) < _ENOUGH:
        return None
    sample = usable[np.linspace(0, len(usable) - 1, min(len(usable), _MOST)).astype(np.int64)]
    constants = _fitted(matrix[sample], lasted[sample])
    modelled = matrix @ constants
    of_prefill = matrix[:, 1:3] @ constants[1:3]
    if not np.any(constants[1:3] > 0):
        return None
    share = np.divide(of_prefill, modelled, out=np.zeros_like(modelled), where=modelled > 0)
    errors = np.abs(modelled[sample] - lasted[sample]) / lasted[sample]
    return PrefillCost(np.nan_to_num(share), len(sample), float(np.median(errors)), float(constants[2]))


def _features(iterations: pa.Table) -> Floats:
    """A row an iteration; context is left out where it is not known of all."""
    prefill = numbers(iterations, "prefill_tokens")
    decoding = numbers(iterations, "request_count") - numbers(iterations, "prefill_requests")
    context = numbers(iterations, "decode_context_tokens")
    columns = [np.ones_like(prefill), np.where(np.isnan(prefill), np.nan, prefill > 0), prefill, decoding]
    return np.column_stack(columns if np.isnan(context).any() else [*columns, context])


def _fitted(matrix: Floats, lasted: Floats) -> Floats:
    """Constants of iteratively reweighted least squares, none below 0."""
    weights = np.ones(len(lasted))
    constants = np.zeros(matrix.shape[1])
    for _ in range(_ROUNDS):
        constants = _not_negative(matrix * weights[:, None], lasted * weights)
        off = np.abs(matrix @ constants - lasted)
        spread = 1.4826 * float(np.median(off))
        if spread <= 1e-9 * float(np.median(lasted)):
            break
        weights = np.sqrt(np.minimum(1.0, _HUBER * spread / np.maximum(off, spread * 1e-9)))
    return constants


def _not_negative(matrix: Floats, target: Floats) -> Floats:
    """Least squares in which a column that would count against the others is left out, the worst first."""
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    chosen = list(range(matrix.shape[1]))
    constants = np.zeros(matrix.shape[1])
    while chosen:
        found = np.linalg.lstsq(matrix[:, chosen] / scale[chosen], target, rcond=1e-10)[0]
        if found.min() >= 0:
            constants[chosen] = found / scale[chosen]
            break
        del chosen[int(found.argmin())]
    return constants
