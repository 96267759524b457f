"""Writes docs/metrics.md from the catalogue: ``python docs/generate_metrics.py``. A test asserts that it is current."""
# ruff: noqa: INP001  (a script beside the pages)

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from batchscope import ExponentialHistogram
from batchscope.catalog import CATALOG, Metric, MetricKind
from batchscope.exporters.prometheus.edges import edges_of
from batchscope.exporters.prometheus.families import LEFT_OUT
from batchscope.exporters.prometheus.vllm_names import VLLM_CATALOG
from batchscope.reasons import SKIPPED_FILE, RejectReason

PAGE = Path(__file__).with_name("metrics.md")

HEAD = """# Metrics

Every metric that batchscope exports. This page is generated from `src/batchscope/catalog.py` by
`python docs/generate_metrics.py`: do not edit it. What the terms mean is in the [glossary](glossary.md), how to
scrape them in [how-to/prometheus.md](how-to/prometheus.md).

Durations are seconds, memory is bytes, ratios are 0 to 1. A value that is not known has no series. Every series has
the labels that were given to the collector (`model_name`, `rank`, ...) beside those of the table. A label of the
collector that has the name of one of these becomes `exported_<name>`.
"""

HISTOGRAMS = """
Each histogram is a native one over protobuf. In text and OpenMetrics, and beside the native one, it has classic
buckets: `_bucket{le="..."}`, `_sum`, `_count`. Their edges are boundaries of the histogram's own buckets, so their
counts are exact. An SLO's target is one more edge of its histogram and class.

"""

REASONS = """
## Why records are refused

The values of `reason` of `batchscope_rejected_records_total`, and of `rejected_records` in a snapshot. Where the first
record of each is told in words, the [glossary](glossary.md#rejected-and-dropped-records) says.

"""

VLLM = """## Under vLLM's names

With `vllm_names=True` these are exported as well. Labels: `model_name` and `engine` (the rank) beside the collector's.
Request classes are added up. Never serve them beside a real vLLM's own metrics.

"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, kind in (
        ("Counters", MetricKind.COUNTER),
        ("Histograms", MetricKind.HISTOGRAM),
        ("Gauges", MetricKind.GAUGE),
    ):
        parts.append(f"\n## {title}\n{HISTOGRAMS if kind is MetricKind.HISTOGRAM else ''}")
        metrics = [metric for metric in CATALOG if metric.kind is kind]
        parts.append(_histograms(metrics) if kind is MetricKind.HISTOGRAM else _metrics(metrics))
    parts.append("\n## Facts\n" + _metrics([metric for metric in CATALOG if metric.kind is MetricKind.INFO]))
    parts.append(REASONS + _table(("reason", "what was refused", "what would be right"), _reasons()))
    parts.append("\n## Of the exposition itself\n" + _metrics([LEFT_OUT]) + "\n" + VLLM)
    parts.append(_table(("name", "kind", "unit", "labels", "what it is"), (_row(metric) for metric in VLLM_CATALOG)))
    return "".join(parts)


def _reasons() -> Iterable[Sequence[str]]:
    for reason in RejectReason:
        yield f"`{reason}`", reason.fault, reason.expected
    yield f"`{SKIPPED_FILE}...`", "a publication of another process that cannot be used", "see the log, which names it"


def _metrics(metrics: Iterable[Metric]) -> str:
    rows = ((f"`{one.name}`", one.unit or "-", _labels(one), one.help) for one in metrics)
    return "\n" + _table(("name", "unit", "labels", "what it is"), rows)


def _histograms(metrics: Sequence[Metric]) -> str:
    rows = [(f"`{one.name}`", one.unit, _labels(one), one.help) for one in metrics]
    table = _table(("name", "unit", "labels", "what it is"), rows)
    by_edges: dict[tuple[float, ...], list[str]] = {}
    for one in metrics:
        by_edges.setdefault(edges_of(one, ExponentialHistogram()).bounds, []).append(f"`{one.name}`")
    lines = [f"* {', '.join(names)}: {', '.join(map(_edge, edges))}" for edges, names in by_edges.items()]
    return table + "\nEdges of the classic buckets, rounded here:\n\n" + "".join(f"{line}\n" for line in lines)


def _edge(edge: float) -> str:
    return f"{edge:.4g}" if edge < 1000 else f"{edge:.0f}"


def _row(metric: Metric) -> tuple[str, ...]:
    return f"`{metric.name}`", str(metric.kind), metric.unit, _labels(metric), metric.help


def _labels(metric: Metric) -> str:
    return ", ".join(f"`{label}`" for label in metric.labels) or "-"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
