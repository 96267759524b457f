"""vLLM's own Prometheus text, as numbers: counters by name and labels, classic histograms."""

from __future__ import annotations

import math
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families


class Buckets(NamedTuple):
    """A classic histogram: upper edges with cumulative counts, the count and the sum."""

    edges: list[float]
    counts: list[float]
    count: float
    sum: float

    def interval(self, q: float) -> tuple[float, float]:
        """The bucket that holds the nearest-rank ``q`` quantile."""
        rank = max(math.ceil(q * self.count), 1)
        at = next(index for index, count in enumerate(self.counts) if count >= rank)
        return (self.edges[at - 1] if at else 0.0), self.edges[at]


class Exposed:
    """What one scrape said."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series of ``name`` with these labels; 0 where there is none."""
        return sum(
            sample.value for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values of ``name`` by one label, zeros left out."""
        found: dict[str, float] = {}
        for sample in self._samples:
            if sample.name == name and sample.value:
                found[sample.labels[label]] = found.get(sample.labels[label], 0.0) + sample.value
        return found

    def histogram(self, name: str) -> Buckets:
        """One classic histogram."""
        buckets = sorted(
            (float(sample.labels["le"]), sample.value) for sample in self._samples if sample.name == f"{name}_bucket"
        )
        return Buckets(
            [edge for edge, _ in buckets], [count for _, count in buckets],
            self.total(f"{name}_count"), self.total(f"{name}_sum"),
        )  # fmt: skip
