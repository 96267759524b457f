"""How long an iteration takes for what it computes: a slower engine is told from one that had more to do.

One linear model of the iterations of all runs together (tokens, requests, context of those that decode) says how long
each would have taken; a run's own time over that is its figure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from batchscope.ledger.comparison.measured import Measured
from batchscope.rows import Floats

WORK = ("scheduled_tokens", "request_count", "decode_context_tokens")
EXPECTED, SCALE = "expected_duration", "usual_duration"
FEWEST_ITERATIONS = 100
LEAST_EXPLAINED = 0.8
"""Of the variance: where the model explains less, what differs may be the work after all."""


def with_expected(runs: Sequence[Measured]) -> list[Measured]:
    """The runs with ``EXPECTED`` among their steps; unchanged where iterations say too little of their work."""
    work = [_work(run) for run in runs]
    if any(each is None for each in work):
        return list(runs)
    known = [each for each in work if each is not None]
    durations = np.concatenate([run.steps["duration"] for run in runs])
    matrix = np.concatenate(known)
    usable = ~np.isnan(durations + matrix.sum(axis=1))
    if usable.sum() < FEWEST_ITERATIONS:
        return list(runs)
    solution = np.linalg.lstsq(matrix[usable], durations[usable], rcond=None)[0]
    missed = durations[usable] - matrix[usable] @ solution
    usual = float(durations[usable].mean())
    if np.var(missed) > (1 - LEAST_EXPLAINED) * np.var(durations[usable]) + (0.05 * usual) ** 2:
        return list(runs)
    return [_expecting(run, each @ solution, usual) for run, each in zip(runs, known, strict=True)]


def _expecting(run: Measured, expected: Floats, usual: float) -> Measured:
    expected = np.where(expected > 0, expected, np.nan)
    return run._replace(steps={**run.steps, EXPECTED: expected, SCALE: np.full(len(expected), usual)})


def _work(run: Measured) -> Floats | None:
    """A row an iteration; ``None`` where something of it is not recorded."""
    columns = [run.steps.get(name) for name in WORK]
    found = [column for column in columns if column is not None and not np.isnan(column).all()]
    if len(found) < len(WORK) or not len(run.step_at):
        return None
    return np.column_stack([np.ones(len(run.step_at)), *found])
