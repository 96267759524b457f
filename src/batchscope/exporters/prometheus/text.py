"""The text formats: Prometheus 0.0.4 and OpenMetrics 1.0.

What does not change from scrape to scrape is written once and kept: a family's head, and of each series all its
lines but the numbers. Counts of buckets, most of the numbers, are written all at once.
Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and the OpenMetrics specification 1.0.0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

from batchscope.catalog import Metric, MetricKind
from batchscope.exporters.prometheus.edges import Edges, cumulative_counts, edges_of
from batchscope.exporters.prometheus.families import Family, family_name
from batchscope.exporters.prometheus.labels import Labels, escaped

_MOST_KEPT = 20_000
_MOST_PROCESSES = 8
_END = "\n"
_Buckets = tuple[Edges, list[str]]
"""Of a histogram: the counts up to each of the edges, and of all, as text."""


class _Kept:
    """Of one family under one process's labels: its head, and each series' lines.

    ``series``: a series' own label values -> its edges, where it is a histogram, and what stands before each of its
    numbers. Every line begins with the end of the one before.
    """

    __slots__ = ("head", "series")

    def __init__(self, head: str) -> None:
        self.head = head
        self.series: dict[tuple[str, ...], tuple[Edges | None, list[str]]] = {}


class TextEncoder:
    """Writes families; ``openmetrics`` chooses the format.

    Safe to use from several threads: what is kept are results of pure functions, so a race only repeats work.
    """

    def __init__(self, *, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._processes: dict[Labels, dict[str, _Kept]] = {}

    def encode(self, families: Sequence[Family], created: float) -> bytes:
        """The exposition; ``created``: when counting began, in Unix time, which OpenMetrics says with each series."""
        started = (number(created),) if self._openmetrics else ()
        buckets = _buckets([family for family in families if family.metric.kind is MetricKind.HISTOGRAM])
        texts: list[str] = []
        numbers: list[str] = []  # each of them behind one of the texts
        for family in families:
            kept = self._kept(family)
            texts.append(kept.head)
            numbers.append("")
            if family.metric.kind is MetricKind.HISTOGRAM:
                self._add_histograms(family, kept, buckets, started, texts, numbers)
            else:
                end = started if family.metric.kind is MetricKind.COUNTER else ()
                self._add_numbers(family, kept, end, texts, numbers)
        woven = [""] * (2 * len(texts))
        woven[::2], woven[1::2] = texts, numbers
        text = "".join(woven)[1:]
        return f"{text}{_END if text else ''}{'# EOF' + _END if self._openmetrics else ''}".encode()

    def _add_numbers(
        self, family: Family, kept: _Kept, end: tuple[str, ...], texts: list[str], numbers: list[str]
    ) -> None:
        """The lines of a counter, gauge or info."""
        for labels, value in family.series:
            texts += (kept.series.get(labels) or self._make(family, labels, None))[1]
            numbers.append(number(value))
            numbers += end

    def _add_histograms(
        self, family: Family, kept: _Kept, buckets: Iterator[_Buckets], end: tuple[str, ...],
        texts: list[str], numbers: list[str],
    ) -> None:  # fmt: skip
        for (labels, value), (edges, below) in zip(family.series, buckets):  # noqa: B905  (buckets go on)
            held = kept.series.get(labels)
            if held is None or held[0] is not edges:
                held = self._make(family, labels, edges)
            texts += held[1]
            numbers += below
            numbers += (number(value.sum), below[-1], *end)

    def _kept(self, family: Family) -> _Kept:
        """What is kept of one family under one process's labels; bounded, whatever labels come and go."""
        by_name = self._processes.get(family.common)
        if by_name is None:
            if len(self._processes) >= _MOST_PROCESSES:
                self._processes = {}
            by_name = self._processes[family.common] = {}
        kept = by_name.get(family.metric.name)
        if kept is None or len(kept.series) >= _MOST_KEPT:
            head = _openmetrics_head if self._openmetrics else _head
            kept = by_name[family.metric.name] = _Kept(_END + _END.join(head(family.metric)))
        return kept

    def _make(self, family: Family, labels: tuple[str, ...], edges: Edges | None) -> tuple[Edges | None, list[str]]:
        metric = family.metric
        shown = label_text(metric, labels, family.common)
        lines = [f"{metric.name}{_braced(shown)}"]
        if edges is not None:
            lines = [f"{metric.name}_bucket{_braced(shown, edge_label(bound))}" for bound in (*edges.bounds, math.inf)]
            lines += [f"{metric.name}_{part}{_braced(shown)}" for part in ("sum", "count")]
        if self._openmetrics and metric.kind in {MetricKind.COUNTER, MetricKind.HISTOGRAM}:
            lines.append(f"{family_name(metric)}_created{_braced(shown)}")
        made = self._kept(family).series[labels] = (edges, [f"{_END}{line} " for line in lines])
        return made


def _buckets(families: Sequence[Family]) -> Iterator[_Buckets]:
    """Of each series of histograms, one after the other; msgspec writes counts in a third of the time of ``str``."""
    edges = [edges_of(family.metric, value) for family in families for _, value in family.series]
    values = [value for family in families for _, value in family.series]
    counts: list[int] = []
    for below, value in zip(cumulative_counts(values, edges), values, strict=True):
        counts += below
        counts.append(value.count)
    written = msgspec.json.encode(counts)[1:-1].decode().split(",")
    stop = 0
    for of_series in edges:
        start, stop = stop, stop + len(of_series.bounds) + 1
        yield of_series, written[start:stop]


def number(value: float) -> str:
    """A sample's value, so that it parses to the identical number."""
    if isinstance(value, int):
        return str(value)
    value = float(value)
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def edge_label(bound: float) -> str:
    """The value of ``le``: 1.0, not 1, as OpenMetrics asks and as Prometheus writes what it got over protobuf."""
    return number(float(bound))


def label_text(metric: Metric, labels: tuple[str, ...], common: Labels) -> str:
    """A series' labels without braces, its own first."""
    pairs = (*zip(metric.labels, labels, strict=True), *common)
    return ",".join(f'{name}="{escaped(value)}"' for name, value in pairs)


def _braced(labels: str, edge: str | None = None) -> str:
    parts = [part for part in (labels, None if edge is None else f'le="{edge}"') if part]
    return f"{{{','.join(parts)}}}" if parts else ""


def _head(metric: Metric) -> list[str]:
    kind = MetricKind.GAUGE if metric.kind is MetricKind.INFO else metric.kind
    text = metric.help.replace("\\", "\\\\").replace("\n", "\\n")
    return [f"# HELP {metric.name} {text}", f"# TYPE {metric.name} {kind}"]


def _openmetrics_head(metric: Metric) -> list[str]:
    name = family_name(metric)
    unit = [f"# UNIT {name} {metric.unit}"] if metric.unit and name.endswith(f"_{metric.unit}") else []
    return [f"# HELP {name} {escaped(metric.help)}", f"# TYPE {name} {metric.kind}", *unit]
