"""What does measuring cost a scheduler? The same replay with and without a collector, CPU time.

    python benchmarks/replay.py [TRACE] [--limit N] [--repeat N]

The tracker without a collector hands out slots and forgets everything. The best of the repeats counts; the two
kinds of run alternate, so that a slow minute of the machine hits both. The simulator's own work is many times
smaller than an engine's (no GPU, no tokenizer): what counts is the difference an iteration, not the ratio.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from batchscope import RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.simulator import SimulationResult, Simulator, Tracker, VirtualClock, open_trace

AZURE = Path(__file__).resolve().parents[2] / "shared" / "traces" / "azure_llm_2023_conv.csv"


class NoTracker:
    """Measures nothing."""

    def __init__(self) -> None:
        self._slots = 0

    def arrived(self, request_id, **facts):
        self._slots += 1
        return self._slots

    def iteration(self, slots, tokens=None, **facts):
        pass

    def finished(self, slot, reason, **facts):
        pass


class Cost(NamedTuple):
    cpu: float
    result: SimulationResult


def run(trace: Path, limit: int | None, *, measured: bool) -> Cost:
    clock = VirtualClock()
    started = time.process_time()
    if measured:
        limits = SchedulerLimits(max_running_requests=256, max_scheduled_tokens=2048, kv_cache_blocks=11_008)
        with SchedulerMetricsCollector(limits=limits, clock=clock) as collector:
            result = serve(trace, limit, RequestTracker(collector), clock)
            collector.get_snapshot()  # draining is part of the price
    else:
        result = serve(trace, limit, NoTracker(), clock)
    return Cost(time.process_time() - started, result)


def serve(trace: Path, limit: int | None, tracker: Tracker, clock: VirtualClock) -> SimulationResult:
    return Simulator(open_trace(trace, limit=limit), tracker, clock=clock).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path, default=AZURE)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    if not options.trace.exists():
        raise SystemExit(f"error: {options.trace}: no such trace; name one: python benchmarks/replay.py TRACE")
    costs: dict[bool, list[Cost]] = {False: [], True: []}
    for _ in range(options.repeat):
        for measured, so_far in costs.items():
            so_far.append(run(options.trace, options.limit, measured=measured))
    bare, full = (min(costs[measured], key=lambda cost: cost.cpu) for measured in (False, True))
    show(options.trace, bare, full)


def show(trace: Path, bare: Cost, full: Cost) -> None:
    result, difference = full.result, full.cpu - bare.cpu
    table = Table(title=f"{trace.name}: {result.arrived:,} requests, {result.iterations:,} iterations")
    table.add_column("replay")
    for name in ("CPU s", "us an iteration", "ns an output token"):
        table.add_column(name, justify="right")
    for name, cpu in (("without a collector", bare.cpu), ("with", full.cpu), ("difference", difference)):
        table.add_row(
            name,
            f"{cpu:.2f}",
            f"{1e6 * cpu / result.iterations:.1f}",
            f"{1e9 * cpu / max(1, result.output_tokens):.0f}",
        )
    console = Console()
    console.print(table)
    share = difference / result.virtual_seconds
    console.print(f"The difference is {share:.4%} of the {result.virtual_seconds:,.0f} s that the engine would take.")


if __name__ == "__main__":
    main()
