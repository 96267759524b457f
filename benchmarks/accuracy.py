"""How far off is a percentile? Histograms and sketches beside the exact nearest rank, on the same data.

    python benchmarks/accuracy.py [--json FILE] [--traces DIR]

A cell of the table is the worst relative error of p50, p90, p95, p99 and p99.9, in per cent. Contestants
differ in what they call a percentile, which shows where there are few values: each is compared with the
nearest rank, the linear interpolation and the lower neighbour, and gets the smallest error. Data are seeded;
KLL draws random numbers of its own, so its column differs from run to run.
Competitors: benchmarks/requirements.txt; what is not installed is named.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from batchscope.aggregation.exponential_histogram import ExponentialHistogram

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
SEED = 20_240_612
OBSERVATIONS = 200_000
TRACES = Path(__file__).resolve().parents[2] / "shared" / "traces"

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


class Data(NamedTuple):
    name: str
    kind: str  # which of an engine's metrics it stands for: ttft, itl or e2e
    values: np.ndarray


class Contestant(NamedTuple):
    name: str
    package: str | None
    estimate: Callable[[Data], list[float]]


def synthetic() -> Iterator[Data]:
    generator = np.random.default_rng(SEED)
    n = OBSERVATIONS
    yield Data("lognormal", "itl", generator.lognormal(math.log(0.03), 0.6, n))
    yield Data("gamma", "ttft", generator.gamma(2.0, 0.2, n))
    slow = generator.random(n) < 0.03
    yield Data("bimodal", "itl", generator.normal(np.where(slow, 0.4, 0.025), np.where(slow, 0.03, 0.002)).clip(1e-4))
    yield Data("pareto", "e2e", 0.5 * (1 + generator.pareto(1.3, n)))


def traces(folder: Path, say: Callable[[str], None]) -> Iterator[Data]:
    requests = folder / "vidur_conv_sarathi" / "requests.csv"
    if requests.exists():
        with requests.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for kind, end in (("ttft", "prefill_completed_at"), ("e2e", "completed_at")):
            yield Data(f"vidur {kind}", kind, np.array([float(row[end]) - float(row["arrived_at"]) for row in rows]))
    else:
        say(f"skipped: vidur, no {requests}")
    recordings = sorted((folder / "llmperf").glob("individual_*.json"))
    if not recordings:
        say(f"skipped: llmperf, no {folder / 'llmperf'}/individual_*.json")
    for path in recordings:
        records = [record for record in json.loads(path.read_text()) if record["error_code"] is None]
        for kind, key in (("ttft", "ttft_s"), ("e2e", "end_to_end_latency_s")):
            name = path.stem.removeprefix("individual_")
            yield Data(f"{name} {kind}", kind, np.array([record[key] for record in records]))


def exponential(scale: int) -> Contestant:
    def estimate(data: Data) -> list[float]:
        histogram = ExponentialHistogram(scale)
        histogram.record_many(data.values)
        return histogram.quantiles(QUANTILES)

    bound = ExponentialHistogram(scale).relative_error
    return Contestant(f"batchscope {scale} (<= {bound:.2%})", None, estimate)


def ddsketch(data: Data) -> list[float]:
    sketch = importlib.import_module("ddsketch").DDSketch(0.01)
    for value in data.values.tolist():
        sketch.add(value)
    return [sketch.get_quantile_value(q) for q in QUANTILES]


def hdr(data: Data) -> list[float]:
    """2 digits, microseconds up to a day: its unit bounds what it can resolve."""
    histogram = importlib.import_module("hdrh.histogram").HdrHistogram(1, 86_400_000_000, 2)
    for microseconds in np.rint(data.values * 1e6).astype(int).tolist():
        histogram.record_value(microseconds)
    return [histogram.get_value_at_percentile(q * 100) / 1e6 for q in QUANTILES]


def tdigest(data: Data) -> list[float]:
    digest = importlib.import_module("fastdigest").TDigest.from_values(data.values.tolist())
    return [digest.quantile(q) for q in QUANTILES]


def kll(data: Data) -> list[float]:
    sketch = importlib.import_module("datasketches").kll_doubles_sketch(200)
    sketch.update(data.values)
    return [sketch.get_quantile(q) for q in QUANTILES]


def classic(name: str, edges_by_kind: dict[str, tuple[float, ...]]) -> Contestant:
    """Fixed buckets, read with Prometheus' histogram_quantile."""

    def estimate(data: Data) -> list[float]:
        edges = np.array(edges_by_kind[data.kind], dtype=float)
        reached = np.searchsorted(np.sort(data.values), edges, side="right")
        return [histogram_quantile(q, edges, reached, len(data.values)) for q in QUANTILES]

    return Contestant(name, None, estimate)


def histogram_quantile(q: float, edges: np.ndarray, reached: np.ndarray, count: int) -> float:
    """Linear within the bucket; the highest finite edge where the rank lies beyond it."""
    rank = q * count
    bucket = int(np.searchsorted(reached, rank))
    if bucket == len(edges):
        return float(edges[-1])
    low, before = (edges[bucket - 1], reached[bucket - 1]) if bucket else (0.0, 0)
    return float(low + (edges[bucket] - low) * (rank - before) / (reached[bucket] - before))


CONTESTANTS = (
    exponential(5),
    exponential(6),
    exponential(9),
    Contestant("DDSketch 1 %", "ddsketch", ddsketch),
    Contestant("HDR 2 digits", "hdrhistogram", hdr),
    Contestant("t-digest", "fastdigest", tdigest),
    Contestant("KLL 200", "datasketches", kll),
    classic("vLLM buckets", VLLM),
    classic("SGLang buckets", SGLANG),
)
MODULES = {"hdrhistogram": "hdrh.histogram"}


def absent() -> dict[str, str]:
    """The contestants that cannot take part, and the package each needs."""
    missing = {}
    for contestant in CONTESTANTS:
        if contestant.package is None:
            continue
        try:
            importlib.import_module(MODULES.get(contestant.package, contestant.package))
        except ImportError:
            missing[contestant.name] = contestant.package
    return missing


def errors(estimates: list[float], data: Data) -> list[float]:
    """Relative errors against the nearest of the three usual definitions of a percentile."""
    ordered = np.sort(data.values)
    found = []
    for q, estimate in zip(QUANTILES, estimates, strict=True):
        rank = -(-Fraction(str(q)) * len(ordered) // 1)
        lower, linear = np.quantile(ordered, q, method="lower"), np.quantile(ordered, q)
        references = (ordered[int(rank) - 1], linear, lower)
        found.append(float(min(abs(estimate - reference) / reference for reference in references)))
    return found


def measure(data_sets: list[Data], missing: dict[str, str]) -> list[dict[str, Any]]:
    rows = []
    for data in data_sets:
        for contestant in CONTESTANTS:
            row = {
                "data": data.name,
                "n": len(data.values),
                "contestant": contestant.name,
                "relative_errors": None,
            }
            if contestant.name not in missing:
                found = errors(contestant.estimate(data), data)
                row["relative_errors"] = dict(zip(map(str, QUANTILES), found, strict=True))
            rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    names = [contestant.name for contestant in CONTESTANTS]
    shown = Table(title="worst relative error of p50, p90, p95, p99, p99.9 (%)", box=None, padding=(0, 1))
    shown.add_column("data")
    shown.add_column("n", justify="right")
    for name in names:
        shown.add_column(name, justify="right", max_width=12)
    worst = {(row["data"], row["contestant"]): row["relative_errors"] for row in rows}
    sizes = {row["data"]: row["n"] for row in rows}
    for data, size in sizes.items():
        cells = [worst[data, name] for name in names]
        shown.add_row(data, f"{size:,}", *(f"{100 * max(cell.values()):.3f}" if cell else "absent" for cell in cells))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every error there")
    parser.add_argument("--traces", type=Path, default=TRACES, metavar="DIR", help=f"default: {TRACES}")
    arguments = parser.parse_args()
    console = Console(width=160, highlight=False)
    notes: list[str] = []
    data_sets = [*synthetic(), *traces(arguments.traces, notes.append)]
    missing = absent()
    rows = measure(data_sets, missing)
    console.print(table(rows))
    for name, package in missing.items():
        notes.append(f"absent: {name}, pip install {package}")
    for note in notes:
        console.print(note)
    if arguments.json:
        packages = {c.package: version(c.package) for c in CONTESTANTS if c.package and c.name not in missing}
        document = {
            "seed": SEED,
            "quantiles": QUANTILES,
            "packages": packages,
            "notes": notes,
            "results": rows,
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
