"""What the charts of a run's report draw: columns of a few hundred cells, rounded to what a screen can show."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from batchscope.ledger.analysis.over_time import GAP, LATENCIES, RELATIVE_ERROR, Buckets, OverTime, per_cell, percentile
from batchscope.ledger.analysis.report import RunReport
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.views.palette import LIMITERS
from batchscope.views.samples import FEWEST
from batchscope.views.words import limiter_name, short_name

Floats = npt.NDArray[np.float64]
_DIGITS = 4
_HEAT_ROWS = 28
_LEAST_RATIO = 4.0
"""From the bottom of a heat map to its top, at least: where all is the same, it is in the middle."""
_CDF_POINTS = 160
_SHOWN = (50, 95, 99)
_ENOUGH = 1.5 * FEWEST["p99"]  # on average: most steps then have as many as it takes
_FEWEST_CELLS = 12
_TARGET_OF = {"time_to_first_token": "time_to_first_token", "time_per_output_token": "time_per_output_token",
              "total_time": "e2e_latency"}  # fmt: skip


def chart_data(report: RunReport) -> dict[str, Any]:
    """The document in the page."""
    found = report.over_time
    cells = len(next(iter(found.counts.values())))
    return {
        "from": report.began - report.origin,
        "width": found.width,
        "cells": cells,
        "clock": report.snapshot.started_at.timestamp(),
        "limiters": [_limiter(name, found) for name in LIMITERS if name in found.busy],
        "places": report.snapshot.limits.max_running_requests,
        "ranks": _ranks(report.snapshot),
        "means": {name: _numbers(values) for name, values in found.means.items()},
        "counts": {name: _numbers(values) for name, values in found.counts.items() if name not in {"met", "missed"}},
        "attainment": _attainment(found),
        "latencies": {name: _latency(name, found.latencies[name], cells, report) for name in (*LATENCIES, GAP)},
        "heat": {name: heat(found.latencies[name], cells) for name in ("time_to_first_token", GAP)},
        "relative_error": RELATIVE_ERROR,
        "fewest": FEWEST,
        "steady": [report.steady_part.start - report.origin, report.steady_part.end - report.origin]
        if report.steady_part.found
        else None,
    }


def _ranks(snapshot: MetricsSnapshot) -> int:
    """Schedulers side by side, whose busy time adds up."""
    seconds = snapshot.elapsed_seconds
    return max(1, round(snapshot.totals.rank_seconds / seconds)) if seconds > 0 else 1


def _limiter(name: str, found: OverTime) -> dict[str, Any]:
    return {
        "id": name,
        "name": limiter_name(name),
        "busy": _numbers(found.busy[name]),
        "lost": _numbers(found.lost[name]),
    }


def _latency(name: str, buckets: Buckets, cells: int, report: RunReport) -> dict[str, Any]:
    """Percentiles of each cell with enough values, how many those are, the targets, and the distribution of all."""
    target = _TARGET_OF.get(name, "")
    targets = {
        slo_class: slo.targets[target] for slo_class, slo in report.snapshot.slo_stats.items() if target in slo.targets
    }
    together = _together(int(buckets.counts.sum()), cells)
    wider, wide_cells = buckets.together(together), cells // together
    return {
        "name": short_name(name),
        "together": together,
        "n": per_cell(wider, wide_cells).repeat(together).tolist(),
        "percentiles": {
            f"p{p}": _numbers(percentile(wider, wide_cells, p, FEWEST[f"p{p}"]).repeat(together)) for p in _SHOWN
        },
        "targets": targets,
        "cdf": distribution(buckets),
    }


def _attainment(found: OverTime) -> dict[str, Any] | None:
    """Met of all judged, of so many cells together that a share means something; None without targets."""
    if "met" not in found.counts:
        return None
    met, missed = found.counts["met"], found.counts["missed"]
    together = _together(int(met.sum() + missed.sum()), len(met))
    met, judged = (part.reshape(-1, together).sum(axis=1) for part in (met, met + missed))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = met / judged
    return {
        "together": together,
        "n": judged.repeat(together).astype(int).tolist(),
        "met": _numbers(share.repeat(together)),
    }


def _together(count: int, cells: int) -> int:
    """How many neighbouring cells make one, so that its p99 has enough values on average; 12 at least are left."""
    wanted = _ENOUGH * cells / max(count, 1)
    fitting = [each for each in range(1, cells // _FEWEST_CELLS + 1) if cells % each == 0]
    return next((each for each in fitting if each >= wanted), fitting[-1])


def distribution(buckets: Buckets) -> list[list[float]]:
    """Of all values, each within the buckets' error: ascending values, and the share that is not above each."""
    values, places = np.unique(buckets.values, return_inverse=True)
    if not len(values):
        return [[], []]
    shares = np.cumsum(np.bincount(places, weights=buckets.counts)) / buckets.counts.sum()
    if len(values) > _CDF_POINTS:  # evenly over the shares, and finely where few are above
        wanted = np.concatenate([np.linspace(0, 1, _CDF_POINTS // 2), 1 - np.geomspace(0.2, 1e-5, _CDF_POINTS // 2)])
        chosen = np.unique(np.append(np.minimum(np.searchsorted(shares, wanted), len(values) - 1), len(values) - 1))
        values, shares = values[chosen], shares[chosen]
    return [_numbers(values), [round(share, 6) for share in shares.tolist()]]


def heat(buckets: Buckets, cells: int) -> dict[str, Any]:
    """Counts by cell and by rows of equal ratio; ``rows``: of each cell in use its place, its first row, the counts."""
    known = buckets.values > 0
    values, counts, at = buckets.values[known], buckets.counts[known], buckets.cells[known]
    if not len(values):
        return {"low": 1.0, "high": 1.0, "count": 0, "rows": [], "most": 0}
    low, high = float(values.min()), float(values.max()) * (1 + RELATIVE_ERROR)
    if high < _LEAST_RATIO * low:
        middle, reach = math.sqrt(low * high), math.sqrt(_LEAST_RATIO)
        low, high = middle / reach, middle * reach
    place = np.floor(np.log(values / low) / math.log(high / low) * _HEAT_ROWS).astype(np.int64)
    table = np.zeros((cells, _HEAT_ROWS), dtype=np.int64)
    np.add.at(table, (at, np.minimum(place, _HEAT_ROWS - 1)), counts)
    rows = []
    for cell in np.flatnonzero(table.any(axis=1)).tolist():
        used = np.flatnonzero(table[cell])
        rows.append([cell, int(used[0]), *table[cell, used[0] : used[-1] + 1].tolist()])
    return {"low": _number(low), "high": _number(high), "count": _HEAT_ROWS, "rows": rows, "most": int(table.max())}


def _numbers(values: Floats) -> list[float | int | None]:
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | int | None:
    """Four digits; null where nothing was measured."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{_DIGITS}g}")
    return int(short) if short == int(short) else short
