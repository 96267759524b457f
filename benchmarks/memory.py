"""Does memory stay constant? Ten million records, default configuration, one writer and four.

    python benchmarks/memory.py [--quick] [--json FILE] [--records N]

A child process each, so that the baseline is `import batchscope` and nothing else. A quarter of the records each
are finished requests, iterations, batches and token gaps, with values that differ; snapshots are taken 10 times a
second. Growth is resident memory above the baseline, read after 10, 20, 50 and 100 % of the records; the peak is
the kernel's own, and beside it stands what the collector's objects and buffers add up to.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import NamedTuple

from harness.document import Document, Figure, Target, judged
from harness.machine import describe
from harness.runner import child_environment
from harness.show import finish, options

RECORDS, QUICK_RECORDS = 10_000_000, 1_000_000
WRITERS = (1, 4)
LIMIT_MIB = 32.0
STEADY_MIB = LIMIT_MIB / 10
"""How far the samples of a memory that is called constant may lie apart: an allocator does not give all back."""
SHARES = (0.1, 0.2, 0.5, 1.0)
MIB = 1024 * 1024
PATIENCE = 600.0
"""Seconds that a child may take: many times what it does."""


class Sample(NamedTuple):
    """Bytes above the import, after so many records."""

    records: int
    dropped: int
    growth: int
    peak: int


def measure(records: int, *, quick: bool) -> Document:
    started, machine = time.monotonic(), describe()
    figures: list[Figure] = []
    targets: list[Target] = []
    for writers in WRITERS:
        samples, held = in_child(writers, records)
        figures += figures_of(writers, samples, held)
        targets += targets_of(writers, samples)
    return Document(
        benchmark="memory", quick=quick, seconds=time.monotonic() - started, machine=machine,
        settings={"records": records, "snapshots_per_second": 10.0}, figures=figures, targets=targets,
    )  # fmt: skip


def in_child(writers: int, records: int) -> tuple[list[Sample], int]:
    """The samples of one child process, and the bytes that its collector held at the end."""
    counts = [str(round(records * share)) for share in SHARES]
    done = subprocess.run(
        [sys.executable, "-m", "harness.filling", str(writers), *counts],
        check=True, stdout=subprocess.PIPE, encoding="utf-8", env=child_environment(), timeout=PATIENCE,
    )  # fmt: skip
    *samples, held = map(json.loads, done.stdout.splitlines())
    return [Sample(*values) for values in samples], held


def figures_of(writers: int, samples: list[Sample], held: int) -> list[Figure]:
    """Growth at each sample; peak, collector and dropped records at the end."""
    group = name_of(writers)
    last = samples[-1]
    named = [(f"growth after {sample.records:,} records", sample.growth) for sample in samples]
    named += [("peak growth", last.peak), ("held by the collector's objects and buffers", held)]
    figures = [Figure(group=group, name=name, unit="MiB", best=size / MIB, rounds=1) for name, size in named]
    return [*figures, Figure(group=group, name="dropped records", unit="", best=float(last.dropped), rounds=1)]


def targets_of(writers: int, samples: list[Sample]) -> list[Target]:
    """Small enough at its peak, and constant from the first tenth to the end."""
    first, last = samples[1], samples[-1]
    what = f"memory after {last.records:,} records, {name_of(writers)}"
    grown = max(0, last.growth - first.growth)
    return [
        judged(f"{what}: peak growth", "<=", LIMIT_MIB, "MiB", last.peak / MIB),
        judged(f"{what}: growth since {first.records:,}", "<=", STEADY_MIB, "MiB", grown / MIB),
    ]


def name_of(writers: int) -> str:
    return f"{writers} writer{'s' * (writers > 1)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, help=f"default: {RECORDS:,}; with --quick {QUICK_RECORDS:,}")
    chosen = options(parser)
    records = chosen.records or (QUICK_RECORDS if chosen.quick else RECORDS)
    finish(measure(records, quick=chosen.quick), chosen.json)


if __name__ == "__main__":
    main()
