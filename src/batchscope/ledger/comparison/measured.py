"""A run as comparisons read it: its requests and iterations as columns, on a clock that begins with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.aggregation.slo import OUTCOME_OF_REASON, SloResult, evaluate
from batchscope.configuration import SloTargets
from batchscope.ledger.instants import request_instants
from batchscope.ledger.steady_state import steady_state
from batchscope.records import Outcome
from batchscope.rows import REASON_CODES, Floats, RequestColumn, RowKind, empty_rows

_COMPLETED = tuple(Outcome).index(Outcome.COMPLETED)
_CANCELLED = tuple(Outcome).index(Outcome.CANCELLED)
R = RequestColumn


class Measured(NamedTuple):
    """A run's columns. ``rows`` has those of ``RequestColumn``; instants are seconds since ``origin``.

    ``step_*``: its iterations. ``span``: from the first arrival to the last one, where these are known; then the run
    only drains. ``gaps``: rows that its record is known to lack. ``counted``: which requests are compared. ``steady``:
    from when to when it is steady, seconds since ``origin``; None where ``unsteady`` says why it is nowhere.
    """

    name: str
    origin: float
    span: float
    ids: npt.NDArray[np.object_]
    classes: npt.NDArray[np.object_]
    rows: Floats
    outcomes: npt.NDArray[np.int64]
    step_at: Floats
    steps: dict[str, Floats]
    slo: dict[str, SloTargets]
    settings: dict[str, Any]
    gaps: int = 0
    remarks: tuple[str, ...] = ()
    counted: npt.NDArray[np.bool_] = np.empty(0, np.bool_)
    steady: tuple[float, float] | None = None
    unsteady: str = "nobody looked for one"

    @property
    def at(self) -> Floats:
        """When each request counts: its arrival, else its end; nan where it does not."""
        return np.where(self.counted, self.came, np.nan)

    @property
    def came(self) -> Floats:
        """Its arrival, else its end, of each request."""
        arrived = self.rows[:, R.ARRIVED_AT]
        return np.where(np.isnan(arrived), self.rows[:, R.AT], arrived)

    @property
    def completed(self) -> npt.NDArray[np.bool_]:
        """Which requests have latencies."""
        return np.equal(self.outcomes, _COMPLETED)

    @property
    def has_arrivals(self) -> bool:
        """Whether every request has one."""
        return bool(len(self.rows)) and not bool(np.isnan(self.rows[:, R.ARRIVED_AT]).any())


_STEP_COLUMNS = (
    "request_count", "running_requests", "waiting_requests", "kv_cache_usage", "scheduled_tokens",
    "decode_context_tokens",
)  # fmt: skip


def measured_run(run: Any) -> Measured:
    """The columns of an opened run."""
    requests, iterations = run.requests(), run.iterations()
    rows = empty_rows(RowKind.REQUEST, requests.num_rows)
    for column in R:
        name = column.name.lower()
        if name in requests.column_names and column not in {R.REASON, R.REQUEST_CLASS}:
            rows[:, column] = _floats(requests, name)
    for instant, values in request_instants(requests)[0].items():
        rows[:, RequestColumn[instant.upper()]] = values
    reasons = np.array([REASON_CODES.get(reason, 0.0) for reason in requests["reason"].to_pylist()])
    started, finished = _floats(iterations, "started_at"), _floats(iterations, "finished_at")
    steps = {"duration": _floats(iterations, "processing_time")}
    steps |= {name: _floats(iterations, name) for name in _STEP_COLUMNS}
    found = measured(
        name=Path(run.path).name,
        ids=_objects(requests, "request_id"),
        classes=_objects(requests, "request_class"),
        rows=rows,
        outcomes=OUTCOME_OF_REASON[reasons.astype(np.int64)],
        step_at=np.where(np.isnan(started), np.where(np.isnan(finished), _floats(iterations, "at"), finished), started),
        steps=steps,
        slo=run.header.slo,
        settings=_settings(run.header),
        gaps=_gaps(run),
    )
    part = steady_state(requests, iterations)
    return found._replace(
        remarks=tuple(_remarks(run)),
        steady=(part.start - found.origin, part.end - found.origin) if part.found else None,
        unsteady=part.missing,
    )


def measured(
    name: str,
    ids: npt.NDArray[np.object_],
    rows: Floats,
    outcomes: npt.NDArray[np.int64],
    step_at: Floats,
    steps: dict[str, Floats],
    *,
    classes: npt.NDArray[np.object_] | None = None,
    slo: dict[str, SloTargets] | None = None,
    settings: dict[str, Any] | None = None,
    gaps: int = 0,
) -> Measured:
    """Columns with their instants moved to the run's own origin."""
    at = np.where(np.isnan(rows[:, R.ARRIVED_AT]), rows[:, R.AT], rows[:, R.ARRIVED_AT])
    known = at[~np.isnan(at)] if len(at) else at
    origin = float(known.min()) if len(known) else (float(step_at.min()) if len(step_at) else 0.0)
    end = float(known.max()) if len(known) else (float(step_at.max()) if len(step_at) else 0.0)
    rows = rows.copy()
    for column in (R.AT, R.ARRIVED_AT, R.FIRST_SCHEDULED_AT, R.FIRST_TOKEN_AT, R.LAST_TOKEN_AT, R.FINISHED_AT):
        rows[:, column] -= origin
    if classes is None:
        classes = np.full(len(rows), None, object)
    return Measured(
        name,
        origin,
        end - origin,
        ids,
        classes,
        rows,
        outcomes,
        step_at - origin,
        steps,
        slo or {},
        settings or {},
        gaps,
        counted=np.ones(len(rows), np.bool_),
    )


def attained(run: Measured) -> Floats:
    """1 for a request that met its objective, 0 for one that missed it, nan for one that is not evaluated."""
    found = np.full(len(run.rows), np.nan)
    for name, targets in run.slo.items():
        of_class = run.classes == name if len(run.slo) > 1 else np.ones(len(run.rows), np.bool_)
        results, _ = evaluate(run.rows[of_class], run.outcomes[of_class], targets)
        met = np.where(results == SloResult.MET, 1.0, np.where(results == SloResult.MISSED, 0.0, np.nan))
        found[of_class] = met
    return found


def failed(run: Measured) -> Floats:
    """1 for a request that failed, 0 for one that did not; nan for a cancelled one: that was its user."""
    return np.where(run.outcomes == _CANCELLED, np.nan, (run.outcomes != _COMPLETED).astype(np.float64))


def waiting_since(run: Measured) -> Floats:
    """For each request the start of the time, without a break, in which somebody waited until it was scheduled.

    A slower step delays a request by its share of all the work since then, not only of its own: so it says how
    sensitive its latencies are (the perturbation analysis of a queue: Ho & Cao 1983).
    """
    arrived = run.came
    scheduled = run.rows[:, R.FIRST_SCHEDULED_AT]
    scheduled = np.where(np.isnan(scheduled), run.rows[:, R.FIRST_TOKEN_AT], scheduled)
    scheduled = np.where(np.isnan(scheduled), arrived, scheduled)
    order = np.argsort(arrived, kind="stable")
    busy_until = np.maximum.accumulate(scheduled[order])
    begins = np.append(True, arrived[order][1:] >= busy_until[:-1])
    since = np.empty(len(arrived))
    since[order] = arrived[order][np.maximum.accumulate(np.where(begins, np.arange(len(arrived)), 0))]
    return since


def _settings(header: Any) -> dict[str, Any]:
    """What the engine was and what bounded its batch."""
    limits = {name: getattr(header.limits, name) for name in header.limits.__struct_fields__}
    return {"engine": header.engine.kind, "version": header.engine.version, **limits}


def _remarks(run: Any) -> list[str]:
    """What is wrong with its record."""
    state = [] if run.state == FINISHED else [f"{run.path.name} is {_STATES.get(run.state, run.state)}"]
    return [*state, *(f"{run.path.name}: {problem}" for problem in run.problems)]


FINISHED = "finished"
_STATES = {
    "recording": "still being written: what is there is compared",
    "interrupted": "cut off: its process was killed while it was recorded",
    "stopped": "cut off: its record could not be written any more",
}


def _gaps(run: Any) -> int:
    events = run.events()
    pairs = zip(events["kind"].to_pylist(), events["count"].to_pylist(), strict=True)
    return sum(count or 0 for kind, count in pairs if kind == "gap")


def _objects(table: Any, column: str) -> npt.NDArray[np.object_]:
    return np.array([*table[column].to_pylist(), None], dtype=object)[:-1]


def _floats(table: Any, column: str) -> Floats:
    return np.asarray(table[column].to_numpy(), np.float64)
