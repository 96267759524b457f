"""A collector for prometheus_client's registry: an engine that serves ``/metrics`` already shows ours beside its own.

One line does it: ``REGISTRY.register(PrometheusCollector(collector))``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from prometheus_client.core import Metric as ClientMetric
from prometheus_client.registry import Collector

from batchscope.catalog import Metric, MetricKind
from batchscope.exporters.prometheus.edges import cumulative_counts, edges_of
from batchscope.exporters.prometheus.exposition import Exposition
from batchscope.exporters.prometheus.families import SERIES_BUDGET, Family, family_name
from batchscope.exporters.prometheus.labels import clean
from batchscope.exporters.prometheus.text import edge_label
from batchscope.statistics.cumulative import StateSource


class PrometheusCollector(Collector):
    """Reads ``source`` at each scrape, without percentiles; classic buckets. A closed source has nothing to show.

    ``vllm_names`` and ``series_budget`` as ``Exposition`` takes them.
    """

    def __init__(self, source: StateSource, *, vllm_names: bool = False, series_budget: int = SERIES_BUDGET) -> None:
        self._source = source
        self._exposition = Exposition(vllm_names=vllm_names, series_budget=series_budget)

    def describe(self) -> list[ClientMetric]:
        """The families without series: the registry learns the names and need not collect."""
        return [_empty(metric) for table in self._exposition.tables for metric in table.metrics]

    def collect(self) -> Iterator[ClientMetric]:
        """The families that have series now."""
        if not self._source.closed:
            for family in self._exposition.families(self._source.read_totals()):
                yield _filled(family)


def _empty(metric: Metric) -> ClientMetric:
    name = family_name(metric)
    unit = metric.unit if metric.unit and name.endswith(f"_{metric.unit}") else ""
    return ClientMetric(name, metric.help, str(metric.kind), unit)


def _filled(family: Family) -> ClientMetric:
    filled = _empty(family.metric)
    if family.metric.kind is MetricKind.HISTOGRAM:
        _add_histograms(filled, family)
    else:
        for labels, value in family.series:
            filled.add_sample(family.metric.name, _label_table(family, labels), value)
    return filled


def _add_histograms(filled: ClientMetric, family: Family) -> None:
    edges = [edges_of(family.metric, value) for _, value in family.series]
    counts = cumulative_counts([value for _, value in family.series], edges)
    for (labels, value), of_series, below in zip(family.series, edges, counts, strict=True):
        table = _label_table(family, labels)
        for bound, count in zip((*of_series.bounds, math.inf), (*below, value.count), strict=True):
            filled.add_sample(f"{filled.name}_bucket", {**table, "le": edge_label(bound)}, count)
        filled.add_sample(f"{filled.name}_count", table, value.count)
        filled.add_sample(f"{filled.name}_sum", table, value.sum)


def _label_table(family: Family, labels: tuple[str, ...]) -> dict[str, str]:
    pairs = (*zip(family.metric.labels, labels, strict=True), *family.common)
    return {name: clean(value) for name, value in pairs}
