"""Who estimates percentiles: batchscope's histogram, sketches, and the fixed buckets that engines export."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.histograms.exponential_histogram import ExponentialHistogram
from harness.contender import is_present
from harness.latencies import Data

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)

# The `le` values that the engines export, seconds: vLLM 0.32.0 and SGLang 0.5.23, read from their /metrics.
VLLM = {
    "ttft": (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
             160, 640, 2560),
    "itl": (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80),
    "e2e": (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680),
}  # fmt: skip
SGLANG = {
    "ttft": (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400),
    "itl": (0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08, 0.1, 0.2,
            0.4, 0.6, 0.8, 1, 2, 4, 6, 8),
    "e2e": (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400, 600, 1200, 1800, 2400),
}  # fmt: skip


class Sketch(NamedTuple):
    """``bound``: the relative error it promises, where it promises one."""

    name: str
    estimate: Callable[[Data], list[float]]
    package: str | None = None
    module: str | None = None
    bound: float | None = None

    @property
    def present(self) -> bool:
        return self.module is None or is_present(self.module)


def exponential(scale: int) -> Sketch:
    def estimate(data: Data) -> list[float]:
        histogram = ExponentialHistogram(scale)
        histogram.record_many(data.values)
        return histogram.quantiles(QUANTILES)

    return Sketch(f"batchscope, scale {scale}", estimate, bound=ExponentialHistogram(scale).relative_error)


def ddsketch(data: Data) -> list[float]:
    from ddsketch import DDSketch

    sketch = DDSketch(0.01)
    for value in data.values.tolist():
        sketch.add(value)
    return [sketch.get_quantile_value(q) or 0.0 for q in QUANTILES]


def hdr(data: Data) -> list[float]:
    """2 digits, microseconds up to a day: its unit bounds what it can resolve."""
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram(1, 86_400_000_000, 2)
    for microseconds in np.rint(data.values * 1e6).astype(int).tolist():
        histogram.record_value(microseconds)
    return [histogram.get_value_at_percentile(q * 100) / 1e6 for q in QUANTILES]


def tdigest(data: Data) -> list[float]:
    from fastdigest import TDigest

    digest = TDigest.from_values(data.values.tolist())
    return [digest.quantile(q) for q in QUANTILES]


def kll(data: Data) -> list[float]:
    from datasketches import kll_doubles_sketch

    sketch = kll_doubles_sketch(200)
    sketch.update(data.values)
    return [sketch.get_quantile(q) for q in QUANTILES]


def classic(name: str, edges_by_kind: dict[str, tuple[float, ...]]) -> Sketch:
    """Fixed buckets, read with Prometheus' histogram_quantile."""

    def estimate(data: Data) -> list[float]:
        edges = np.array(edges_by_kind[data.kind], dtype=float)
        reached = np.searchsorted(np.sort(data.values), edges, side="right")
        return [histogram_quantile(q, edges, reached, len(data.values)) for q in QUANTILES]

    return Sketch(name, estimate)


def histogram_quantile(q: float, edges: npt.NDArray[np.float64], reached: npt.NDArray[np.intp], count: int) -> float:
    """Linear within the bucket; the highest finite edge where the rank lies beyond it."""
    rank = q * count
    bucket = int(np.searchsorted(reached, rank))
    if bucket == len(edges):
        return float(edges[-1])
    low, before = (edges[bucket - 1], reached[bucket - 1]) if bucket else (0.0, 0)
    return float(low + (edges[bucket] - low) * (rank - before) / (reached[bucket] - before))


SKETCHES = (
    exponential(5),
    exponential(6),
    exponential(9),
    Sketch("DDSketch, 1 %", ddsketch, "ddsketch", "ddsketch", bound=0.01),
    Sketch("HDR, 2 digits", hdr, "hdrhistogram", "hdrh.histogram", bound=0.01),
    Sketch("t-digest", tdigest, "fastdigest", "fastdigest"),
    Sketch("KLL, k = 200", kll, "datasketches", "datasketches"),
    classic("vLLM's buckets", VLLM),
    classic("SGLang's buckets", SGLANG),
)
