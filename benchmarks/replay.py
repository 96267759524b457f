"""What does measuring cost a scheduler? The same replay with and without a collector: the difference in CPU time.

    python benchmarks/replay.py [TRACE] [--quick] [--json FILE] [--limit N] [--pairs N]

Without a collector the tracker hands out slots and forgets everything. Runs come in pairs, one of each kind, which
of them first alternating, so that a slow minute of the machine hits both; CPU time is process_time, all threads,
the drain and a snapshot at the end included; the median of the pairs' differences counts. The simulator's own work
is many times smaller than an engine's (no GPU, no tokenizer): what counts is the difference an iteration and a
token, not the ratio. Iterations are told one by one, as an engine does. Without ../shared's trace, a synthetic
workload of 3,000 requests is served.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from batchscope import RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.simulator import SimulationResult, Simulator, SyntheticWorkload, Tracker, VirtualClock, open_trace
from batchscope.simulator.workload import Workload
from harness.document import Document, Figure
from harness.machine import describe
from harness.show import finish, options

AZURE = Path(__file__).resolve().parents[2] / "shared" / "traces" / "azure_llm_2023_conv.csv"
PAIRS, QUICK_PAIRS, QUICK_LIMIT = 9, 3, 4000
SYNTHETIC_REQUESTS = 3000


class NoTracker:
    """Measures nothing."""

    def __init__(self) -> None:
        self._slots = 0

    def arrived(self, request_id: Any, **facts: Any) -> int:
        self._slots += 1
        return self._slots

    def iteration(self, slots: Sequence[int], tokens: Sequence[int] | None = None, **facts: Any) -> None:
        pass

    def repeated(self, slots: Sequence[int], tokens: Sequence[int] | None = None, **facts: Any) -> None:
        pass

    def finished(self, slot: int, reason: Any, **facts: Any) -> None:
        pass


class OneByOne:
    """What an engine calls of a tracker: it does not know beforehand which iterations will repeat each other."""

    def __init__(self, tracker: Tracker) -> None:
        self.arrived, self.iteration, self.finished = tracker.arrived, tracker.iteration, tracker.finished


class Cost(NamedTuple):
    """CPU seconds of one run, all threads of the process."""

    cpu: float
    result: SimulationResult


class Pair(NamedTuple):
    """The two kinds of run, one right after the other."""

    bare: Cost
    measured: Cost

    @property
    def difference(self) -> float:
        return self.measured.cpu - self.bare.cpu


def run(open_workload: Callable[[], Workload], *, measured: bool, at_once: bool = False) -> Cost:
    """``at_once``: iterations that repeat each other are told in one call, as the simulator does by itself."""
    told: Callable[[Tracker], Tracker] = (lambda tracker: tracker) if at_once else OneByOne
    gc.collect()
    clock = VirtualClock()
    started = time.process_time()
    if measured:
        limits = SchedulerLimits(max_running_requests=256, max_scheduled_tokens=2048, kv_cache_blocks=11_008)
        with SchedulerMetricsCollector(limits=limits, clock=clock) as collector:
            result = serve(open_workload, told(RequestTracker(collector)), clock)
            check(collector, result)  # draining and a snapshot are part of the price
    else:
        result = serve(open_workload, told(NoTracker()), clock)
    return Cost(time.process_time() - started, result)


def serve(open_workload: Callable[[], Workload], tracker: Tracker, clock: VirtualClock) -> SimulationResult:
    return Simulator(open_workload(), tracker, clock=clock).run()


def check(collector: SchedulerMetricsCollector, result: SimulationResult) -> None:
    """Raise unless the collector saw what happened."""
    snapshot = collector.get_snapshot()
    seen = snapshot.request_stats.total_requests, snapshot.totals.iterations, snapshot.totals.generation_tokens
    happened = result.arrived, result.iterations, result.output_tokens
    if seen != happened:
        raise RuntimeError(f"requests, iterations, tokens: {happened} happened, {seen} counted")


def measure(name: str, open_workload: Callable[[], Workload], pairs: int, *, quick: bool) -> Document:
    started, machine = time.monotonic(), describe()
    run(open_workload, measured=True)  # to warm up
    done = [pair(open_workload, bare_first=number % 2 == 0) for number in range(pairs)]
    result = done[0].measured.result
    middle = statistics.median(each.difference for each in done)
    share = middle / result.virtual_seconds
    return Document(
        benchmark="replay", quick=quick, seconds=time.monotonic() - started, machine=machine,
        settings={
            "trace": name, "requests": result.arrived, "iterations": result.iterations, "pairs": pairs,
            "output_tokens": result.output_tokens, "virtual_seconds": round(result.virtual_seconds),
        },
        figures=figures_of(done), targets=[],
        notes=[f"The difference is {share:.3%} of the {result.virtual_seconds:,.0f} s that the engine would take."],
    )  # fmt: skip


def pair(open_workload: Callable[[], Workload], *, bare_first: bool) -> Pair:
    first, second = (run(open_workload, measured=measured) for measured in (not bare_first, bare_first))
    return Pair(first, second) if bare_first else Pair(second, first)


def figures_of(pairs: Sequence[Pair]) -> list[Figure]:
    """Three kinds of CPU seconds in three units."""
    result = pairs[0].measured.result
    kinds = {
        "without a collector": [each.bare.cpu for each in pairs],
        "with": [each.measured.cpu for each in pairs],
        "difference": [each.difference for each in pairs],
    }
    units = (("CPU seconds", "s", 1.0), ("an iteration", "us", 1e6 / max(1, result.iterations)),
             ("an output token", "ns", 1e9 / max(1, result.output_tokens)))  # fmt: skip
    return [
        Figure(
            group=group, name=kind, unit=unit, best=min(seconds) * factor,
            median=statistics.median(seconds) * factor, rounds=len(seconds),
        )
        for group, unit, factor in units
        for kind, seconds in kinds.items()
    ]  # fmt: skip


def workload(trace: Path | None, limit: int | None) -> tuple[str, Callable[[], Workload]]:
    """Its name, and what opens it anew for each run. Without a name: Azure's trace, or a synthetic one."""
    if trace is None and not AZURE.exists():
        count = limit or SYNTHETIC_REQUESTS
        return f"synthetic, {count} requests", lambda: SyntheticWorkload(requests=count, seed=1)
    path = trace or AZURE
    if not path.exists():
        raise SystemExit(f"error: {path}: no such trace; name one: python benchmarks/replay.py TRACE")
    return path.name, lambda: open_trace(path, limit=limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path, help="default: the Azure trace beside the repository")
    parser.add_argument("--limit", type=int, help=f"requests; default: all, with --quick {QUICK_LIMIT:,}")
    parser.add_argument("--pairs", type=int, help=f"default: {PAIRS}, with --quick {QUICK_PAIRS}")
    chosen = options(parser)
    pairs = chosen.pairs or (QUICK_PAIRS if chosen.quick else PAIRS)
    name, open_workload = workload(chosen.trace, chosen.limit or (QUICK_LIMIT if chosen.quick else None))
    finish(measure(name, open_workload, pairs, quick=chosen.quick), chosen.json)


if __name__ == "__main__":
    main()
