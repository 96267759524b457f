"""The constants by regression over what happened between the instants of requests, with draws that are as likely.

First and last tokens come when an iteration ends. A simulation whose clock is set to the recorded instants
(``Recording``) knows what was computed between two of them, so their distance is a row of a regression. Two kinds of
error are in it: the iterations vary, and the simulation is an iteration early or late with somebody, which the next row
takes back. So a row has a variance for each of its iterations and one for either end, and neighbours have minus the
latter as their covariance. Least squares over rows that this makes independent (generalized least squares; Aitken
1936); both variances come from the residuals. Draws are of resampled blocks of such rows: a direction that the rows do
not tell is drawn as widely as it is open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from batchscope.prediction.blocks import resampled_weights, student_factor, widened
from batchscope.prediction.model import ALL_CONSTANTS, cost_of
from batchscope.simulator import RequestSpec, SchedulerOptions
from batchscope.simulator.cost import non_negative_least_squares
from batchscope.simulator.instants import Recording, simulate_instants

Floats = npt.NDArray[np.float64]

MOST_ROUNDS = 12
SETTLED = 0.01
"""Relative: then what lies between the instants does not change any more."""
FEWEST_STRETCHES = 50
ROWS_PER_BLOCK, FEWEST_BLOCKS, MOST_BLOCKS = 12, 8, 40
OUTLIER = 7.4
"""Times the median residual (5 standard deviations): for the variances, farther ones count as far."""


class Stretches(msgspec.Struct, frozen=True):
    """Between two instants each: ``work``, what the constants are multiplied with (a row each), and ``seconds``.

    ``idled``: it began with an arrival in an idle engine.
    """

    work: Floats
    seconds: Floats
    idled: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.seconds)


def stretches(
    workload: Sequence[RequestSpec], options: SchedulerOptions, first: Floats, last: Floats, point: Floats, until: float
) -> Stretches:
    """What the simulation with the constants ``point`` says was computed between the recorded instants."""
    recording = Recording(*(np.where(instants <= until, instants, math.nan) for instants in (first, last)))
    simulate_instants(workload, options, cost_of(point), until=until, recorded=recording)
    work = np.array(recording.work).reshape(-1, len(ALL_CONSTANTS))[:, : len(point)]
    return Stretches(work, np.array(recording.seconds), np.array(recording.idled, bool))


def regressed(rows: Stretches, draws: int, random: np.random.Generator) -> tuple[Floats, Floats]:
    """The constants, and as many drawn ones, a row each."""
    white = _independent(rows, *_variances(rows))
    point = non_negative_least_squares(white[:, :-1], white[:, -1])
    blocks = max(FEWEST_BLOCKS, min(MOST_BLOCKS, len(rows) // ROWS_PER_BLOCK))
    weights = resampled_weights(blocks, draws, random)
    scale = np.linalg.norm(white, axis=0) + 1e-300
    products = np.array([part.T @ part for part in np.array_split(white / scale, blocks)])
    products += 1e-12 * np.eye(len(scale))  # a column of zeros
    roots = np.linalg.cholesky(np.tensordot(weights, products, axes=1)).transpose(0, 2, 1)
    drawn = np.array([non_negative_least_squares(root[:, :-1], root[:, -1]) for root in roots])
    drawn *= scale[-1] / scale[:-1]
    return point, widened(point, drawn, student_factor(blocks))


def followed(
    workload: Sequence[RequestSpec],
    options: SchedulerOptions,
    first: Floats,
    last: Floats,
    *,
    start: Floats,
    until: float,
    draws: int,
    random: np.random.Generator,
) -> tuple[Floats, Floats]:
    """The constants and drawn ones, from ``start`` on until the stretches stay as they are.

    Where the simulation loses the recorded schedule, the rows tell nothing: drawn are then factors of three about
    ``start``.
    """
    point = start
    for _ in range(MOST_ROUNDS):
        rows = stretches(workload, options, first, last, point, until)
        if len(rows) < FEWEST_STRETCHES:
            return start, start * np.exp(random.uniform(-1.1, 1.1, (draws, len(start))))
        white = _independent(rows, *_variances(rows))
        found = np.maximum(non_negative_least_squares(white[:, :-1], white[:, -1]), point / 3)
        moved, point = float(np.abs(np.log(found / point)).max()), found
        if moved < SETTLED:
            break
    return regressed(rows, draws, random)


def _variances(rows: Stretches) -> tuple[float, float]:
    """Of an iteration, and of an end of a stretch; by the residuals' squares and those of neighbours, in rounds."""
    iterations = rows.work[:, 0]
    step = float(rows.seconds.sum() / iterations.sum())
    varies, ends = (0.05 * step) ** 2, (0.5 * step) ** 2
    for _ in range(3):
        white = _independent(rows, varies, ends)
        residuals = rows.seconds - rows.work @ non_negative_least_squares(white[:, :-1], white[:, -1])
        farthest = OUTLIER * float(np.median(np.abs(residuals)))
        residuals = np.clip(residuals, -farthest, farthest)
        neighbours = (residuals[1:] * residuals[:-1])[~rows.idled[1:]]
        ends = max(-float(neighbours.mean()) if len(neighbours) else 0.0, 1e-3 * step**2)
        both_ends = ends * (2 - float(rows.idled.mean()))
        varies = max((float((residuals**2).mean()) - both_ends) / float(iterations.mean()), (0.003 * step) ** 2)
    return varies, ends


def _independent(rows: Stretches, varies: float, ends: float) -> Floats:
    """Work and seconds, divided by the Cholesky factor of the rows' covariance, which has two diagonals."""
    columns = np.column_stack([rows.work, rows.seconds])
    white, before, diagonal = np.empty_like(columns), np.zeros(columns.shape[1]), 1.0
    for index, idled in enumerate(rows.idled.tolist()):
        beside = 0.0 if idled else -ends / diagonal
        variance = varies * columns[index, 0] + ends * (1 if idled else 2) - beside**2
        diagonal = math.sqrt(max(variance, 1e-18))
        before = (columns[index] - beside * before) / diagonal
        white[index] = before
    return white
