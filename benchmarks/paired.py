"""What a change costs: this version of batchscope and another one in turn, in CPU time.

    python benchmarks/paired.py COMMIT [--rounds N] [--only TEXT]

The sources of COMMIT are put into a temporary folder. Each version is a process of its own, and one of them runs at a
time. What is timed is the CPU time of the thread that records and drains, or reads, so that a busy machine does little
harm. A ratio below 1: this version is cheaper. ``best`` compares the best rounds, ``median`` is the middle of the
rounds' ratios. What the other version has not got is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
ROUNDS, QUICK = 12, 3
_AT_ONCE = 8  # times a contender's calls: then each round has its share of putting into buckets what is held back
_DRAINS, _TRIES = 20, 3
_MEMORY_IS_KEPT = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
"""For glibc: else what a large array costs depends on whatever was freed before it."""
Measure = Callable[[], float]
"""CPU nanoseconds of a call with its share of the drain, of a drain, or of a read."""


def cpu_time(action: Callable[..., object], *arguments: object) -> int:
    """Nanoseconds of this thread."""
    start = time.thread_time_ns()
    action(*arguments)
    return time.thread_time_ns() - start


def recorded(module: str, key: str) -> Measure:
    """A contender of ``benchmarks/recording.py``."""
    found = vars(__import__(f"harness.{module}", fromlist=["harness"]))[module.upper()]
    (contender,) = [each for each in found if each.key == key]
    body, settle, _ = contender.make()
    calls = _AT_ONCE * contender.calls
    return lambda: (cpu_time(body, calls) + cpu_time(settle)) / calls


def drained(what: str, rows: int) -> Measure:
    """A drain of so few rows that its calls cost, not the rows."""
    from batchscope import SchedulerMetricsCollector
    from harness.ours import drain, iteration_by_record, request_loop

    if what == "requests":
        collector = SchedulerMetricsCollector()
        body: Callable[[int], Any] = request_loop(collector)
        settle: Callable[[], Any] = drain(collector)
    else:
        body, settle, _ = iteration_by_record(lambda _: None)  # type: ignore[assignment]

    def measure() -> float:
        taken = 0
        for _ in range(_DRAINS):
            body(rows)
            taken += cpu_time(settle)
        return taken / _DRAINS

    return measure


def read(what: str, new: int) -> Measure:
    """A read after ``new`` requests, iterations and batches, which are drained already."""
    from harness.ours import drain
    from harness.reading import exporter, full_collector, record_all

    collector, render = full_collector(), exporter()
    settle = drain(collector)
    reads: dict[str, Callable[[], object]] = {
        "snapshot": collector.get_snapshot, "totals": collector.read_totals,
        "scrape": lambda: render and render(collector.read_totals()),
    }  # fmt: skip

    def measure() -> float:
        if new:
            record_all(collector, 0, [0.1, 0.2, 0.3] * (new // 3))
        settle()
        return cpu_time(reads[what])

    return measure


def contenders() -> dict[str, Callable[[], Measure]]:
    """By name what makes it: where this version and another one are asked, in the same order."""
    from harness.ours import FLOOR, OURS, THREADS
    from harness.tracking import TRACKING

    found: dict[str, Callable[[], Measure]] = {
        each.key: partial(recorded, module, each.key)
        for module, group in (("ours", OURS), ("tracking", TRACKING))
        for each in group
        if each.name not in {FLOOR, THREADS}
    }
    for rows in (1, 50):
        found |= {f"a drain: {rows} {what}": partial(drained, what, rows) for what in ("requests", "iterations")}
    for new in (0, 90):
        found |= {f"a {what}: {new} new rows": partial(read, what, new) for what in ("snapshot", "totals", "scrape")}
    return found


def work() -> None:
    """One version's process: a contender's name a line on stdin, its nanoseconds on stdout, or null."""
    makers, ready = contenders(), dict[str, Measure | None]()
    for line in sys.stdin:
        name = line.rstrip("\n")
        if name not in ready:
            ready[name] = None
            with contextlib.suppress(Exception):  # whatever this version has not got
                ready[name] = makers[name]()
                ready[name]()
        measure = ready[name]
        gc.collect()
        gc.disable()
        print("null" if measure is None else min(measure() for _ in range(_TRIES)), flush=True)
        gc.enable()


class Version:
    """The process of the sources in a folder."""

    def __init__(self, folder: Path) -> None:
        paths = os.pathsep.join((str(folder / "src"), str(HERE)))
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work"], env={**os.environ, **_MEMORY_IS_KEPT, "PYTHONPATH": paths},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1,
        )  # fmt: skip

    def measure(self, name: str) -> float | None:
        """Nanoseconds; None where this version cannot."""
        questions, answers = self.process.stdin, self.process.stdout
        if questions is None or answers is None:  # never: both are pipes
            raise RuntimeError("the version's process has no pipes")
        print(name, file=questions, flush=True)
        answer = answers.readline()
        if not answer:
            raise SystemExit(f"error: a version's process ended at {name!r}; run {__file__} --work to see why")
        found: float | None = json.loads(answer)
        return found


def sources(commit: str, folder: Path) -> None:
    """Put the sources of ``commit`` into ``folder``."""
    command = ["git", "-C", str(HERE.parent), "archive", commit, "src"]
    packed = subprocess.run(command, capture_output=True, check=False)
    if packed.returncode:
        raise SystemExit(f"error: {commit}: {packed.stderr.decode().strip()}; expected a commit, tag or branch")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")


def compare(versions: list[Version], names: list[str], rounds: int) -> dict[str, list[list[float]]]:
    """Name -> a round each -> nanoseconds of each version."""
    times: dict[str, list[list[float]]] = {}
    order = random.Random(20_240_612)
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            turns = order.sample(versions, len(versions))
            found = {version: version.measure(name) for version in turns}
            taken = [found[version] for version in versions]
            if None not in taken:
                times.setdefault(name, []).append([one for one in taken if one is not None])
    return times


def show(commit: str, times: dict[str, list[list[float]]], names: list[str]) -> None:
    table = Table("", f"{commit}, ns", "this, ns", "best", "median", box=None)
    for name in filter(times.__contains__, names):
        before, now = zip(*times[name], strict=True)
        ratio = statistics.median([one / other for other, one in times[name]])
        table.add_row(
            name, f"{min(before):,.0f}", f"{min(now):,.0f}", f"{min(now) / min(before):.2f}", f"{ratio:.2f}"
        )  # fmt: skip
    Console(width=120, highlight=False).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", default="HEAD", help="the other version; default: HEAD")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--only", default="", metavar="TEXT", help="contenders with TEXT in their name")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work()
        return
    names = [name for name in contenders() if chosen.only in name]
    with tempfile.TemporaryDirectory(prefix="batchscope-bench-") as folder, contextlib.ExitStack() as stack:
        sources(chosen.commit, Path(folder))
        versions = [Version(Path(folder)), Version(HERE.parent)]
        for version in versions:
            stack.enter_context(version.process)
            stack.callback(version.process.terminate)
        show(chosen.commit, compare(versions, names, chosen.rounds), names)


if __name__ == "__main__":
    main()
