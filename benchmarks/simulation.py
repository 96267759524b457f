"""How many requests a second the simulator serves: alone, with all statistics, and where only instants are wanted.

    python benchmarks/simulation.py [TRACE] [--quick] [--json FILE]

The same first requests of a trace (Mooncake's, beside the repository; else synthetic ones), in several numbers, so
that it can be seen how the time grows; more than it has are the trace again, behind its end. CPU seconds of the
process, the reading of the trace not included; the best and the median of the rounds, in which the kinds take turns.
Alone: the tracker forgets what it is told. Statistics: a collector with a tracker, its drains and a snapshot at the
end.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

from batchscope.simulator import LinearCostModel, RequestSpec, SchedulerOptions, SyntheticWorkload, open_trace
from batchscope.simulator.instants import simulate_instants
from harness.document import Document, Figure
from harness.machine import describe
from harness.show import finish, options
from replay import run

MOONCAKE = Path(__file__).resolve().parents[2] / "shared" / "traces" / "mooncake_conversation_trace.jsonl.gz"
SIZES, QUICK_SIZES = (1000, 4000, 12_031, 100_000), (500,)
ROUNDS, QUICK_ROUNDS = 3, 2


def seconds(action: Callable[[], object]) -> float:
    """CPU time of the process."""
    started = time.process_time()
    action()
    return time.process_time() - started


def kinds(requests: Sequence[RequestSpec]) -> dict[str, Callable[[], float]]:
    """What is measured; each gives the CPU seconds of one simulation."""
    return {
        "alone": lambda: run(lambda: requests, measured=False, at_once=True).cpu,
        "with all statistics": lambda: run(lambda: requests, measured=True, at_once=True).cpu,
        "instants only": lambda: seconds(lambda: simulate_instants(requests, SchedulerOptions(), LinearCostModel())),
    }


def measure(name: str, requests: Sequence[RequestSpec], sizes: Sequence[int], rounds: int, *, quick: bool) -> Document:
    """Every kind with every number of requests there is."""
    started, figures = time.monotonic(), []
    for size in sizes:
        measured = kinds(first(requests, size))
        taken = [{kind: seconds_of() for kind, seconds_of in measured.items()} for _ in range(rounds)]
        for kind in measured:
            rates = [size / max(each[kind], 1e-9) for each in taken]
            figures.append(
                Figure(
                    group=f"{size:,} requests", name=kind, unit="requests/s", best=max(rates),
                    median=statistics.median(rates), rounds=rounds,
                )
            )  # fmt: skip
    return Document(
        benchmark="simulation", quick=quick, seconds=time.monotonic() - started, machine=describe(),
        settings={"trace": name, "rounds": rounds}, figures=figures, targets=[], notes=[],
    )  # fmt: skip


def first(requests: Sequence[RequestSpec], size: int) -> list[RequestSpec]:
    """So many of them; where there are fewer, from the beginning again, each time behind the last arrival."""
    found = list(requests[:size])
    while len(found) < size:
        later, more = found[-1].arrival, requests[: size - len(found)]
        found += [
            replace(spec, request_id=("again", len(found) + k), arrival=later + spec.arrival)
            for k, spec in enumerate(more)
        ]
    return found


def workload(trace: Path | None) -> tuple[str, list[RequestSpec]]:
    """Its name and its requests."""
    path = trace or MOONCAKE
    if trace is None and not path.exists():
        return "synthetic", list(SyntheticWorkload(requests=SIZES[2], seed=1))
    if not path.exists():
        raise SystemExit(f"error: {path}: no such trace; name one: python benchmarks/simulation.py TRACE")
    return path.name, list(open_trace(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path, help="default: Mooncake's trace beside the repository")
    chosen = options(parser)
    name, requests = workload(chosen.trace)
    sizes, rounds = (QUICK_SIZES, QUICK_ROUNDS) if chosen.quick else (SIZES, ROUNDS)
    finish(measure(name, requests, sizes, rounds, quick=chosen.quick), chosen.json)


if __name__ == "__main__":
    main()
