"""Which part of each run is compared: all of it, or what is neither its warm-up nor its drain.

Of the same requests on both sides all are compared: what a cold start does to them it does on both, and falls out. Of
different ones it does not, for the share of a run that is warm-up depends on how long the run is.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from batchscope.errors import ConfigurationError
from batchscope.ledger.comparison.document import Window
from batchscope.ledger.comparison.measured import Measured
from batchscope.rows import RequestColumn

R = RequestColumn
_INSTANTS = (R.AT, R.ARRIVED_AT, R.FIRST_SCHEDULED_AT, R.FIRST_TOKEN_AT, R.LAST_TOKEN_AT, R.FINISHED_AT)


class Portion(StrEnum):
    """What of the runs is compared; ``AUTO``: the steady part where the workloads differ and every run has one."""

    AUTO = "auto"
    ALL = "all"
    STEADY = "steady"


def cut(runs: Sequence[Measured], wanted: Portion, *, shared: bool) -> tuple[list[Measured], str]:
    """The runs, of which ``wanted`` counts, and why in a line; ConfigurationError where one has no steady part."""
    if wanted is Portion.ALL:
        return list(runs), "all of each run, as was asked for"
    unsteady = next((run for run in runs if run.steady is None), None)
    if wanted is Portion.AUTO and shared:
        return list(runs), "all of each run: the same requests, so that warm-up and drain are the same on both sides"
    if unsteady is not None:
        if wanted is Portion.AUTO:
            return list(runs), f"all of each run, for {unsteady.name} has no steady part: {unsteady.unsteady}"
        raise ConfigurationError("part", wanted.value, f"all: {unsteady.name} has no steady part ({unsteady.unsteady})")
    parts = [run.steady for run in runs if run.steady is not None]
    if shared:  # the same requests on both sides
        common = max(start for start, _ in parts), min(end for _, end in parts)
        if common[0] >= common[1]:
            raise ConfigurationError("part", wanted.value, "all: no time is steady in every run")
        parts = [common] * len(parts)
    found = [_within(run, *part) for run, part in zip(runs, parts, strict=True)]
    return found, "the steady part of each run: without its warm-up (MSER-5) and its drain"


def _within(run: Measured, start: float, end: float) -> Measured:
    """Requests that arrived from ``start`` to ``end`` count, and iterations that began then; its clock starts there.

    The other requests stay, for rates: who ends in that time ends, whenever it came.
    """
    rows, at = run.rows.copy(), run.at
    for column in _INSTANTS:
        rows[:, column] -= start
    ran = (run.step_at >= start) & (run.step_at <= end)
    return run._replace(
        origin=run.origin + start, span=end - start, rows=rows, counted=run.counted & (at >= start) & (at <= end),
        step_at=run.step_at[ran] - start, steps={name: column[ran] for name, column in run.steps.items()},
    )  # fmt: skip


def windows(runs: Sequence[Measured], whole: Sequence[Measured]) -> list[Window]:
    """What counts of each run, beside ``whole`` ones."""
    return [
        Window(
            run=run.name, start=run.origin - before.origin, end=run.origin - before.origin + run.span,
            requests=int(np.count_nonzero(run.counted)), of=len(before.ids),
        )
        for run, before in zip(runs, whole, strict=True)
    ]  # fmt: skip
