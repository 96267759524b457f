"""All that a report of a run tells: its figures, the same of its steady part, and how it went over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from batchscope.ledger.analysis.over_time import OverTime, over_time
from batchscope.ledger.analysis.snapshot import snapshot_of
from batchscope.ledger.analysis.tables import RunTables
from batchscope.ledger.explain import Explanation
from batchscope.ledger.steady_state import SteadyState, steady_state
from batchscope.statistics.snapshot import MetricsSnapshot


class RunReport(NamedTuple):
    """What is told of a run, or of a stretch of it; instants are of its clock, ``origin`` is where it began.

    ``steady``: the figures of the part in ``steady_part``; None where there is none. ``problems``: what is missing or
    wrong in the record, in words. ``simulated``: its instants are of no day.
    """

    snapshot: MetricsSnapshot
    origin: float
    began: float
    ended: float
    steady_part: SteadyState
    steady: MetricsSnapshot | None
    over_time: OverTime
    problems: Sequence[str] = ()
    name: str = ""
    simulated: bool = False
    explanations: Sequence[Explanation] = ()
    """Of the slowest, by several metrics."""


def report_of(tables: RunTables, problems: Sequence[str] = (), name: str = "") -> RunReport:
    """The report of ``tables``, which are of the run called ``name``."""
    part = steady_part(tables)
    return RunReport(
        snapshot=snapshot_of(tables),
        origin=tables.run.began,
        began=tables.began,
        ended=tables.ended,
        steady_part=part,
        steady=snapshot_of(tables.between(part.start, part.end)) if part.found else None,
        over_time=over_time(tables),
        problems=problems,
        name=name,
        simulated=tables.header.simulated,
    )


def steady_part(tables: RunTables) -> SteadyState:
    """Where the run is steady: without its warm-up and its drain."""
    requests = tables.requests.select("arrived_at", "finished_at").to_pyarrow()
    columns = ("started_at", "finished_at", "waiting_requests", "running_requests", "rank")
    return steady_state(requests, tables.iterations.select(*columns).to_pyarrow())
