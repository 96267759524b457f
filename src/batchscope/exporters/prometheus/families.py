"""What one exposition holds: the tables' metrics with their known series, within one budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from batchscope.catalog import CATALOG, PREFIX, Metric, MetricKind, Reader, Value, reader
from batchscope.exporters.prometheus.edges import MOST_GRID_EDGES, edges_of
from batchscope.exporters.prometheus.labels import Labels, common_labels, own_names
from batchscope.statistics.cumulative import CumulativeState

SERIES_BUDGET = 10_000
LEFT_OUT = Metric(
    f"{PREFIX}series_left_out",
    MetricKind.GAUGE,
    "series",
    "Series that this exposition lacks, because its budget of series was used up.",
)
"""The exposition's own metric: not in the catalogue, because no state knows it."""

_LINES_BESIDE_BUCKETS = 3  # +Inf, _sum and _count


class Table(NamedTuple):
    """Metrics and what reads each of them in a ``view`` of a state, and which labels all their series have."""

    metrics: tuple[Metric, ...]
    readers: tuple[Reader, ...]
    own: frozenset[str]
    view: Callable[[CumulativeState], Any]
    labels: Callable[[CumulativeState], Mapping[str, str]]


def _none_left_out(_: Any) -> list[Value]:
    return [((), 0)]


CATALOGUE = Table(
    (*CATALOG, LEFT_OUT), (*map(reader, CATALOG), _none_left_out), own_names(CATALOG),
    view=lambda state: state, labels=lambda state: state.labels,
)  # fmt: skip


class Family(NamedTuple):
    """A metric, the labels of the process, and the series that are known."""

    metric: Metric
    common: Labels
    series: list[Value]


def families(
    state: CumulativeState, tables: Sequence[Table], budget: int, names: frozenset[str] | None = None
) -> list[Family]:
    """The families that have series; with ``names`` those that one of the names asks for.

    Above ``budget`` the smallest families come first, so that one that grew without bounds costs its own latest
    series and no other's. A histogram is whole or left out; what was left out is counted in ``LEFT_OUT``.
    """
    found = []
    for table in tables:
        view, common = table.view(state), common_labels(table.labels(state), table.own)
        for metric, read in zip(table.metrics, table.readers, strict=True):
            if names is not None and names.isdisjoint(sample_names(metric)):
                continue
            series = read(view)
            if series:
                found.append(Family(metric, common, series))
    return _within(budget, found)


def family_name(metric: Metric) -> str:
    """What OpenMetrics calls it: a counter without ``_total``, an info without ``_info``."""
    suffix = {MetricKind.COUNTER: "_total", MetricKind.INFO: "_info"}.get(metric.kind, "")
    return metric.name.removesuffix(suffix)


def sample_names(metric: Metric) -> tuple[str, ...]:
    """Every name under which one of its series may be asked for."""
    name = family_name(metric)
    if metric.kind is MetricKind.HISTOGRAM:
        return (name, f"{name}_bucket", f"{name}_sum", f"{name}_count", f"{name}_created")
    return (name, metric.name, f"{name}_created") if metric.kind is MetricKind.COUNTER else (name, metric.name)


def _within(budget: int, found: list[Family]) -> list[Family]:
    most = MOST_GRID_EDGES + _LINES_BESIDE_BUCKETS + 1
    if sum(len(family.series) for family in found) * most <= budget:
        return found
    costs = [[_cost(family.metric, value) for _, value in family.series] for family in found]
    total = sum(map(sum, costs))
    if total <= budget:
        return found
    kept: dict[int, list[Value]] = {}
    left = budget
    for place in sorted(range(len(found)), key=lambda place: sum(costs[place])):
        kept[place], left = _first_that_fit(found[place].series, costs[place], left)
    cut = [family._replace(series=kept[place]) for place, family in enumerate(found) if kept[place]]
    missing: Value = ((), total - (budget - left))
    return [family._replace(series=[missing]) if family.metric is LEFT_OUT else family for family in cut]


def _first_that_fit(series: list[Value], costs: list[int], left: int) -> tuple[list[Value], int]:
    for place, cost in enumerate(costs):
        if cost > left:
            return series[:place], left
        left -= cost
    return series, left


def _cost(metric: Metric, value: Any) -> int:
    if metric is LEFT_OUT:
        return 0
    if metric.kind is not MetricKind.HISTOGRAM:
        return 1
    return len(edges_of(metric, value).bounds) + _LINES_BESIDE_BUCKETS
