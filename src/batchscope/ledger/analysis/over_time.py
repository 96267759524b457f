"""A run over time, in a bounded number of cells: what held the batch, how full it was, latencies by their buckets.

However long a run is, it is the same few hundred cells, so a page of it has the same size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.configuration import SloTargets
from batchscope.ledger.analysis import iterations as of_iterations
from batchscope.ledger.analysis import requests as of_requests
from batchscope.ledger.analysis.gaps import inter_token_latencies
from batchscope.ledger.analysis.selection import rounded
from batchscope.ledger.analysis.tables import RunTables, Table, import_ibis
from batchscope.records import Outcome

Floats = npt.NDArray[np.float64]

CELLS = 240
BITS = 8
"""Significant bits of a latency's bucket."""
RELATIVE_ERROR = 2.0**-BITS
BUSY = ("batch", "running", "waiting", "deferred", "kv_cache", "token_budget")
"""Quantities of iterations whose mean over time is told."""
LATENCIES = ("queue_time", "time_to_first_token", "time_per_output_token", "total_time")
GAP = "inter_token_latency"


class Buckets(NamedTuple):
    """A latency: in ``cells`` so many ``counts`` of ``values``, each within ``RELATIVE_ERROR``; by cell, ascending."""

    cells: npt.NDArray[np.int64]
    values: Floats
    counts: npt.NDArray[np.int64]

    def together(self, cells: int) -> Buckets:
        """So many neighbouring cells as one."""
        places = self.cells // cells
        order = np.lexsort((self.values, places))
        return Buckets(places[order], self.values[order], self.counts[order])


class OverTime(NamedTuple):
    """Cells of equal width from ``began`` on; arrays have a place a cell, ``nan`` where nothing was measured.

    ``busy`` and ``lost``: seconds and lost slot-seconds by limiter. ``means``: by ``BUSY``, over the busy time of the
    cell (tokens: of the budget). ``counts``: arrivals, ends by outcome, preemptions, SLO ``met`` and ``missed``.
    """

    began: float
    width: float
    busy: dict[str, Floats]
    lost: dict[str, Floats]
    means: dict[str, Floats]
    counts: dict[str, Floats]
    latencies: dict[str, Buckets]


def over_time(tables: RunTables, cells: int = CELLS) -> OverTime:
    """The run, or the stretch, in ``cells`` equal parts."""
    width = tables.seconds / cells if tables.seconds > 0 else 1.0
    parts = _rows(_by_limiter(tables, width, cells))
    limiters = sorted(set(parts["limited_by"].tolist()))
    busy = {name: _spread(parts, "busy", parts["limited_by"] == name, cells) for name in limiters}
    lost = {name: _spread(parts, "lost", parts["limited_by"] == name, cells) for name in limiters}
    chosen = of_requests.completed(tables.requests)
    latencies = {name: _buckets(chosen, name, tables, width, cells) for name in LATENCIES}
    gaps = inter_token_latencies(tables)
    latencies[GAP] = _buckets(gaps, "value", tables, width, cells, weight="weight")
    return OverTime(tables.began, width, busy, lost, _means(parts, cells), _counts(tables, width, cells), latencies)


def percentile(buckets: Buckets, cells: int, percentile: int, fewest: int = 1) -> Floats:
    """Of each cell with at least ``fewest`` values: nearest rank, within ``RELATIVE_ERROR``."""
    found = np.full(cells, math.nan)
    for cell in np.unique(buckets.cells).tolist():
        here = buckets.cells == cell
        counts, values = buckets.counts[here], buckets.values[here]
        total = int(counts.sum())
        if total >= fewest:
            rank = -(-total * percentile // 100)
            found[cell] = values[np.searchsorted(np.cumsum(counts), rank)]
    return found


def per_cell(buckets: Buckets, cells: int) -> npt.NDArray[np.int64]:
    """How many values each cell has."""
    found: npt.NDArray[np.int64] = np.bincount(buckets.cells, weights=buckets.counts, minlength=cells).astype(np.int64)
    return found


def _cell(instant: Any, tables: RunTables, width: float, cells: int) -> Any:
    """In which cell an instant lies; an instant on an edge ends a cell."""
    ibis = import_ibis()
    place = ((instant - tables.began) / width).ceil().cast("int64") - 1
    return ibis.least(ibis.greatest(place, 0), cells - 1).cast("int64")


def _by_limiter(tables: RunTables, width: float, cells: int) -> Table:
    """Sums of each cell, by limiter: an iteration belongs to cells by the part of its busy time that is in them."""
    ibis = import_ibis()
    t = of_iterations.with_places(tables)
    began = t.finished_at - t.busy_time
    t = t.mutate(began=began, first=_cell(began, tables, width, cells), last=_cell(t.finished_at, tables, width, cells))
    t = t.mutate(cell=ibis.range(t["first"], t["last"] + 1).unnest())
    edge = tables.began + t.cell.cast("float64") * width
    inside = ibis.least(t.finished_at, edge + width) - ibis.greatest(t.began, edge)
    t = t.mutate(part=ibis.ifelse(t["first"] == t["last"], t.busy_time, ibis.greatest(inside, 0.0)))
    quantities = {
        "batch": t.request_count, "running": t.running_requests, "waiting": t.waiting_requests,
        "deferred": t.deferred_requests, "kv_cache": t.kv_cache_usage, "token_budget": t.token_utilization,
    }  # fmt: skip
    sums = {f"{name}_sum": (value * t.part).sum() for name, value in quantities.items()}
    sums |= {f"{name}_time": ibis.ifelse(value.notnull(), t.part, 0.0).sum() for name, value in quantities.items()}
    lost = ibis.greatest(t.places - t.request_count, 0.0) * t.part
    return t.group_by("cell", "limited_by").agg(busy=t.part.sum(), lost=lost.sum(), **sums)


def _means(parts: Mapping[str, Any], cells: int) -> dict[str, Floats]:
    """Means over busy time, all limiters together."""
    everywhere = np.ones(len(parts["cell"]), dtype=np.bool_)
    found = {}
    for name in BUSY:
        time = _spread(parts, f"{name}_time", everywhere, cells)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[name] = _spread(parts, f"{name}_sum", everywhere, cells) / time
        found[name][time <= 0] = math.nan
    return found


def _counts(tables: RunTables, width: float, cells: int) -> dict[str, Floats]:
    """What came and ended, by cell."""
    requests, header = tables.requests, tables.header
    found: dict[str, Floats] = {}
    everybody = tables.run.requests  # who arrived then may have finished later
    inside = everybody.filter((everybody.arrived_at >= tables.began) & (everybody.arrived_at <= tables.ended))
    found["arrived"] = _counted(inside, inside.arrived_at, tables, width, cells)
    for outcome in Outcome:
        some = requests.filter(of_requests.ended(requests, outcome))
        found[str(outcome)] = _counted(some, some.at, tables, width, cells)
    evicting = tables.iterations.filter(tables.iterations.preemptions > 0)
    cell = _cell(evicting.at, tables, width, cells)
    grouped = evicting.group_by(cell=cell).agg(n=evicting.preemptions.sum())
    found["preemptions"] = _spread_counts(grouped, cells)
    targets: dict[str, SloTargets] = {name: one for name, one in header.slo.items() if one.declared}
    if targets:
        judged = of_requests.judged(requests, targets)
        for result in ("MET", "MISSED"):
            some = judged.filter(judged.result == result)
            found[result.lower()] = _counted(some, some.at, tables, width, cells)
    return found


def _counted(table: Table, instant: Any, tables: RunTables, width: float, cells: int) -> Floats:
    return _spread_counts(table.group_by(cell=_cell(instant, tables, width, cells)).agg(n=table.count()), cells)


def _spread_counts(expression: Table, cells: int) -> Floats:
    rows = _rows(expression)
    return _spread(rows, "n", np.ones(len(rows["cell"]), dtype=np.bool_), cells)


def _buckets(
    table: Table, column: str, tables: RunTables, width: float, cells: int, weight: str | None = None
) -> Buckets:
    """Counts by cell and by the value's leading bits."""
    known = table.filter(table[column].notnull())
    cell = _cell(known.at, tables, width, cells)
    count = known.count() if weight is None else known[weight].sum()
    rows = _rows(known.group_by(cell=cell, value=rounded(known[column].cast("float64"), BITS)).agg(n=count))
    order = np.lexsort((rows["value"], rows["cell"]))
    return Buckets(
        rows["cell"][order].astype(np.int64), rows["value"][order].astype(np.float64), rows["n"][order].astype(np.int64)
    )


def _spread(rows: Mapping[str, Any], name: str, chosen: npt.NDArray[np.bool_], cells: int) -> Floats:
    """The sums of a column by cell; what is not known counts as nothing."""
    values = np.nan_to_num(rows[name][chosen].astype(np.float64))
    found = np.bincount(rows["cell"][chosen].astype(np.int64), weights=values, minlength=cells)
    return found.astype(np.float64)


def _rows(expression: Table) -> dict[str, Any]:
    """The columns of what it gives, as arrays."""
    table = expression.to_pyarrow()
    return {name: table[name].to_numpy() for name in table.column_names}
