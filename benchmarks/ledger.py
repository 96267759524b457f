"""What keeping a run costs: bytes on the disk, the recorder's share of a core, what the engine's thread pays.

    python benchmarks/ledger.py [--quick] [--json FILE] [--rounds N]

Size: the demo's workload, bursts on 64 places, in simulated time, of which every instant differs in its last bits, as a
clock's do; ids are random ones of vLLM's length. Cost: an engine at 50 iterations and 1,000 requests a second, in real
time, with a run recorded and, in turn, with a thread that only drains; both drain every second. The share of a core is
what the whole process takes more, the conversion to Parquet included.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from batchscope import CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.background import Periodic
from batchscope.cli.demo_engine import DISTURBANCES, demo_options, demo_workload, limits_of
from batchscope.ledger import Run, open_run
from batchscope.simulator import RequestSpec, Simulator, VirtualClock
from harness.document import Document, Figure, Target, judged
from harness.machine import describe
from harness.rounds import Times
from harness.show import finish, options

ITERATIONS, REQUESTS = 50, 1000
"""A second."""
PLACES = 64
DAY_ITERATIONS = 20 * 86_400
MIB = 1_000_000.0
TABLES = ("requests", "iterations", "spans")


NOTE = (
    "What the engine's thread pays is its CPU time. By the clock on the wall the same calls wait for a core, too, and"
    " for the interpreter's lock while another thread drains, with and without a run: on a machine that others use best"
    " and median of the rounds say how far that can be told apart."
)


class Plan(NamedTuple):
    """How much is measured."""

    requests: int
    rounds: int
    seconds: float


FULL = Plan(requests=20_000, rounds=6, seconds=20.0)
QUICK = Plan(requests=2_000, rounds=2, seconds=3.0)


class Cost(NamedTuple):
    """Of an engine: the share of a core its process took, and p99.9 of an iteration's calls, us, by two clocks."""

    core: float
    cpu_tail: float
    wall_tail: float


def measure(plan: Plan, *, quick: bool) -> Document:
    started, machine = time.monotonic(), describe()
    figures, targets = _sizes(plan.requests)
    without, with_run = [], []
    for _ in range(plan.rounds):
        without.append(engine(plan.seconds, recorded=False))
        with_run.append(engine(plan.seconds, recorded=True))
    cost_figures, cost_targets = _costs(without, with_run)
    return Document(
        benchmark="ledger", quick=quick, seconds=time.monotonic() - started, machine=machine,
        settings={**plan._asdict(), "iterations_per_second": ITERATIONS, "requests_per_second": REQUESTS},
        figures=[*figures, *cost_figures], targets=[*targets, *cost_targets],
        notes=[NOTE],
    )  # fmt: skip


def simulated(root: Path, requests: int) -> Run:
    """The demo's run."""
    clock, plan = VirtualClock(), demo_options()
    with SchedulerMetricsCollector(limits=limits_of(plan), clock=clock) as collector:
        collector.record_to(root)
        tracker = RequestTracker(collector)
        Simulator(_with_ids(requests), tracker, options=plan, disturbances=DISTURBANCES, clock=clock).run()
    return open_run(root)


def _with_ids(requests: int) -> Iterator[RequestSpec]:
    """The demo's workload, with ids that no compression makes short."""
    chance = random.Random(0)
    for spec in demo_workload(requests):
        yield msgspec.structs.replace(spec, request_id=f"chatcmpl-{chance.getrandbits(128):032x}")


def _sizes(requests: int) -> tuple[list[Figure], list[Target]]:
    with tempfile.TemporaryDirectory() as root:
        run = simulated(Path(root), requests)
        size = {table: sum(path.stat().st_size for path in run.path.glob(f"{table}-*")) for table in TABLES}
        rows = run.document.rows
        together = int(np.sum(run.iterations().column("request_count").to_numpy()))
    iteration, request = size["iterations"] / rows["iterations"], size["requests"] / rows["requests"]
    membership = size["spans"] / together
    of_a_full_batch = rows["requests"] / together * PLACES
    day = DAY_ITERATIONS * (iteration + membership * PLACES + request * of_a_full_batch) / MIB
    found = [("an iteration", iteration, 32, "B"), ("a request", request, 64, "B")]
    found += [("a request-iteration", membership, 0.2, "B"), ("a day at 20 iterations/s, 64 running", day, 80, "MB")]
    figures = [Figure(group="size", name=name, unit=unit, best=value, rounds=1) for name, value, _, unit in found]
    return figures, [judged(f"a run's size: {name}", "<=", limit, unit, value) for name, value, limit, unit in found]


def engine(seconds: float, *, recorded: bool) -> Cost:
    """An engine in real time; its calls' cost, and its process's."""
    with tempfile.TemporaryDirectory() as root:
        before = time.process_time()
        with SchedulerMetricsCollector(limits=SchedulerLimits(max_running_requests=PLACES)) as collector:
            beside = collector.record_to(root) if recorded else Periodic(collector.drain, 1.0, "drain").start()
            calls = _served(RequestTracker(collector), seconds)
            beside.close()
        core = (time.process_time() - before) / seconds
        if recorded and (problems := open_run(root).problems):
            raise SystemExit(f"error: the run is not whole: {problems}")
    cpu, wall = np.percentile(calls, 99.9, axis=0) / 1e3
    return Cost(100 * core, float(cpu), float(wall))


def _served(tracker: RequestTracker, seconds: float) -> list[tuple[int, int]]:
    """Nanoseconds of each iteration's calls, CPU time and wall: who arrives, the iteration, who leaves."""
    calls, live, arrived = [], [], 0
    due = time.monotonic()
    for _ in range(int(seconds * ITERATIONS)):
        due += 1 / ITERATIONS
        time.sleep(max(0.0, due - time.monotonic()))
        began, on_core = time.perf_counter_ns(), time.thread_time_ns()
        for _ in range(REQUESTS // ITERATIONS):
            arrived += 1
            live.append(tracker.arrived(f"chatcmpl-{arrived:032x}", prompt_tokens=100))
        tracker.iteration(live)
        while len(live) > PLACES - REQUESTS // ITERATIONS:
            tracker.finished(live.pop(0), CompletionReason.EOS_TOKEN_REACHED)
        calls.append((time.thread_time_ns() - on_core, time.perf_counter_ns() - began))
    return calls


def _costs(without: list[Cost], with_run: list[Cost]) -> tuple[list[Figure], list[Target]]:
    figures, more = [], {}
    for field, unit, name in (
        ("core", "% of a core", "the process"),
        ("cpu_tail", "us", "an iteration's calls, CPU time, p99.9"),
        ("wall_tail", "us", "an iteration's calls, wall, p99.9"),
    ):
        sides = [Times([getattr(cost, field) for cost in side]) for side in (without, with_run)]
        more[field] = sides[1].best - sides[0].best, sides[1].median - sides[0].median
        for side, found in zip(("without a run", "with one"), sides, strict=True):
            figure = Figure(group=f"cost: {name}", name=side, unit=unit, best=found.best, median=found.median)
            figures.append(msgspec.structs.replace(figure, rounds=len(without)))
    load = f"{REQUESTS:,} requests/s, {ITERATIONS} iterations/s"
    targets = [
        judged(f"recording a run at {load}: more", "<=", 0.5, "% of a core", *more["core"]),
        judged("the engine's thread, p99.9 of an iteration's calls: more", "<=", 1, "us", *more["cpu_tail"]),
    ]
    return figures, targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help=f"default: {FULL.rounds}; with --quick {QUICK.rounds}")
    chosen = options(parser)
    plan = QUICK if chosen.quick else FULL
    finish(measure(plan._replace(rounds=chosen.rounds or plan.rounds), quick=chosen.quick), chosen.json)


if __name__ == "__main__":
    main()
