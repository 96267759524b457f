"""How far off is a percentile? Histograms and sketches beside the exact nearest rank, on the same data.

    python benchmarks/accuracy.py [--quick] [--json FILE] [--traces DIR]

A figure is the worst relative error of p50, p90, p95, p99 and p99.9, in per cent. Contestants differ in what they
call a percentile, which shows where there are few values: each is compared with the nearest rank, the linear
interpolation and the lower neighbour, and gets the smallest error. Data are seeded; KLL draws random numbers of its
own, so its figures differ from run to run. Competitors: benchmarks/requirements.txt; what is not installed is named.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from harness.document import Document, Figure, Target, judged
from harness.latencies import SEED, TRACES, Data, synthetic, traces
from harness.machine import describe
from harness.show import finish, options
from harness.sketches import QUANTILES, SKETCHES, Sketch

OBSERVATIONS, QUICK_OBSERVATIONS = 200_000, 20_000
OVER_ALL = "worst of all"


def errors(estimates: list[float], data: Data) -> list[float]:
    """Relative errors against the nearest of the three usual definitions of a percentile."""
    ordered = np.sort(data.values)
    found = []
    for q, estimate in zip(QUANTILES, estimates, strict=True):
        rank = -(-Fraction(str(q)) * len(ordered) // 1)
        references = ordered[int(rank) - 1], np.quantile(ordered, q), np.quantile(ordered, q, method="lower")
        found.append(float(min(abs(estimate - reference) / reference for reference in references)))
    return found


def measure(observations: int, folder: Path, *, quick: bool) -> Document:
    started, machine = time.monotonic(), describe()
    notes: list[str] = []
    data_sets = [*synthetic(observations), *traces(folder, notes.append)]
    worst = {sketch.name: worst_of(sketch, data_sets) for sketch in SKETCHES if sketch.present}
    notes += [f"absent: {each.name}; pip install {each.package}" for each in SKETCHES if not each.present]
    return Document(
        benchmark="accuracy", quick=quick, seconds=time.monotonic() - started, machine=machine,
        settings={
            "seed": SEED, "observations": observations, "quantiles": ", ".join(map(str, QUANTILES)),
            **{f"values in {data.name}": len(data.values) for data in data_sets},
        },
        figures=[figure_of(data.name, each, worst) for data in data_sets for each in SKETCHES]
        + [figure_of(OVER_ALL, each, worst) for each in SKETCHES],
        targets=[target_of(sketch, worst) for sketch in SKETCHES if sketch.name.startswith("batchscope")],
        notes=notes,
    )  # fmt: skip


def worst_of(sketch: Sketch, data_sets: Sequence[Data]) -> dict[str, float]:
    """Data set -> the worst relative error of a percentile, and of all data sets."""
    found = {data.name: max(errors(sketch.estimate(data), data)) for data in data_sets}
    return {**found, OVER_ALL: max(found.values())}


def figure_of(data: str, sketch: Sketch, worst: dict[str, dict[str, float]]) -> Figure:
    if sketch.name not in worst:
        return Figure(group=data, name=sketch.name, unit="%", absent=sketch.package)
    return Figure(group=data, name=sketch.name, unit="%", best=100 * worst[sketch.name][data], rounds=1)


def target_of(sketch: Sketch, worst: dict[str, dict[str, float]]) -> Target:
    """What it promises is what it keeps."""
    promised = 100 * (sketch.bound or 0.0)
    return judged(f"{sketch.name}: worst error", "<=", promised, "%", 100 * worst[sketch.name][OVER_ALL])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=TRACES, metavar="DIR", help="default: ../shared/traces")
    chosen = options(parser)
    observations = QUICK_OBSERVATIONS if chosen.quick else OBSERVATIONS
    finish(measure(observations, chosen.traces, quick=chosen.quick), chosen.json)


if __name__ == "__main__":
    main()
