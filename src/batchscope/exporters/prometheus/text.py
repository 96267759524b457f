"""The text formats: Prometheus 0.0.4 and OpenMetrics 1.0.

What does not change from scrape to scrape is written once and kept: a family's head, and of each series a
template of all its lines, filled by a single ``%``.
Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and the OpenMetrics specification 1.0.0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from math import isfinite

from batchscope.catalog import Metric, MetricKind
from batchscope.exporters.prometheus.edges import Edges, cumulative_counts, edges_of
from batchscope.exporters.prometheus.families import Family, family_name
from batchscope.exporters.prometheus.labels import Labels, escaped

_MOST_KEPT = 20_000
_MOST_PROCESSES = 8


class _Kept:
    """Of one family under one process's labels: its head, and each series' lines with a place for each number.

    ``templates``: a series' own label values -> its edges, where it is a histogram, and its lines.
    """

    __slots__ = ("head", "templates")

    def __init__(self, head: str) -> None:
        self.head = head
        self.templates: dict[tuple[str, ...], tuple[Edges | None, str]] = {}


class TextEncoder:
    """Writes families; ``openmetrics`` chooses the format.

    Safe to use from several threads: what is kept are results of pure functions, so a race only repeats work.
    """

    def __init__(self, *, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._processes: dict[Labels, dict[str, _Kept]] = {}

    def encode(self, families: Sequence[Family], created: float) -> bytes:
        """The exposition; ``created``: when counting began, in Unix time, which OpenMetrics says with each series."""
        started = number(created)
        histograms = self._histograms(
            [family for family in families if family.metric.kind is MetricKind.HISTOGRAM], started
        )
        parts: list[str] = []
        for family in families:
            parts += next(histograms) if family.metric.kind is MetricKind.HISTOGRAM else self._numbers(family, started)
        if self._openmetrics:
            parts.append("# EOF\n")
        return "".join(parts).encode()

    def _numbers(self, family: Family, started: str) -> list[str]:
        """A counter, gauge or info: its head, and the lines of each series."""
        kept = self._kept(family)
        lines, templates = [kept.head], kept.templates
        with_start = self._openmetrics and family.metric.kind is MetricKind.COUNTER
        for labels, value in family.series:
            template = (templates.get(labels) or self._make(family, labels, None))[1]
            shown = value if type(value) is int or isfinite(value) else number(value)  # str() of a float is repr()
            lines.append(template % ((shown, started) if with_start else shown))
        return lines

    def _histograms(self, families: Sequence[Family], started: str) -> Iterator[list[str]]:
        """Of each family its head, and the lines of each series; the buckets of all of them are counted at once."""
        edges = [edges_of(family.metric, value) for family in families for _, value in family.series]
        counts = cumulative_counts([value for family in families for _, value in family.series], edges)
        pairs = zip(edges, counts, strict=True)
        end = (started,) if self._openmetrics else ()
        for family in families:
            kept = self._kept(family)
            lines, templates = [kept.head], kept.templates
            for (labels, value), (of_series, below) in zip(family.series, pairs):  # noqa: B905  (pairs goes on)
                held = templates.get(labels)
                if held is None or held[0] is not of_series:
                    held = self._make(family, labels, of_series)
                total = value.sum if isfinite(value.sum) else number(value.sum)
                lines.append(held[1] % (*below, value.count, total, value.count, *end))
            yield lines

    def _kept(self, family: Family) -> _Kept:
        """What is kept of one family under one process's labels; bounded, whatever labels come and go."""
        by_name = self._processes.get(family.common)
        if by_name is None:
            if len(self._processes) >= _MOST_PROCESSES:
                self._processes = {}
            by_name = self._processes[family.common] = {}
        kept = by_name.get(family.metric.name)
        if kept is None or len(kept.templates) >= _MOST_KEPT:
            head = _openmetrics_head if self._openmetrics else _head
            kept = by_name[family.metric.name] = _Kept(head(family.metric))
        return kept

    def _make(self, family: Family, labels: tuple[str, ...], edges: Edges | None) -> tuple[Edges | None, str]:
        metric = family.metric
        shown = label_text(metric, labels, family.common)
        lines = [f"{metric.name}{_braced(shown)}"]
        if edges is not None:
            lines = [f"{metric.name}_bucket{_braced(shown, edge_label(bound))}" for bound in (*edges.bounds, math.inf)]
            lines += [f"{metric.name}_{part}{_braced(shown)}" for part in ("sum", "count")]
        if self._openmetrics and metric.kind in {MetricKind.COUNTER, MetricKind.HISTOGRAM}:
            lines.append(f"{family_name(metric)}_created{_braced(shown)}")
        template = "".join(line.replace("%", "%%") + " %s\n" for line in lines)
        made = self._kept(family).templates[labels] = (edges, template)
        return made


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


def _head(metric: Metric) -> str:
    kind = MetricKind.GAUGE if metric.kind is MetricKind.INFO else metric.kind
    text = metric.help.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {metric.name} {text}\n# TYPE {metric.name} {kind}\n"


def _openmetrics_head(metric: Metric) -> str:
    name = family_name(metric)
    unit = f"# UNIT {name} {metric.unit}\n" if metric.unit and name.endswith(f"_{metric.unit}") else ""
    return f"# HELP {name} {escaped(metric.help)}\n# TYPE {name} {metric.kind}\n{unit}"
