"""What recording costs beside what engines do today, in one interleaved run, the drain included.

    python benchmarks/recording.py [--quick] [--json FILE] [--rounds N]

"The same" is 6 histograms of 20 buckets and 3 counters of prometheus_client with cached children for a finished
request, a loop of observe() for 256 gaps, be they recorded alone, with their iteration or by the tracker. Warm: a
tight loop. Cold: each call after 200 us of sleep, alone between two readings of the clock; the median call, less that
of an empty one, plus the drain's share. Contenders run in turn, in another order each round; best rounds are compared
(machines are shared), and beside them stands the median. prometheus_client's multiprocess mode lives in a child
process that takes its turns too.
Competitors: benchmarks/requirements.txt; what is not installed is named.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from harness.competitors import COMPETITORS
from harness.contender import REQUEST, Contender, absent
from harness.document import Document, Figure
from harness.listening import LISTENING
from harness.machine import describe
from harness.ours import FLOOR, OURS, THREADS, nothing
from harness.reading import READS_PER_SECOND, ReadTimes, Tail, full_collector, hand_over_tail, read_times, tail
from harness.rounds import Times, interleaved
from harness.runner import PAUSE
from harness.show import finish, options
from harness.targets import REFERENCES, all_targets
from harness.tracking import TRACKING

COLD_CALLS = 300
NOTHING = Contender(REQUEST, "an empty call", COLD_CALLS, nothing)
CONTENDERS = (*COMPETITORS, *OURS, *LISTENING, *TRACKING)
COLD_CONTENDERS = (
    NOTHING,
    *(
        contender._replace(calls=COLD_CALLS)
        for contender in (*COMPETITORS, *OURS)
        if contender.group == REQUEST and contender.name not in {THREADS, FLOOR}
    ),
)
_RECORD = f"a record at {READS_PER_SECOND:g} snapshots/s"
DENSE, PACED = f"{_RECORD}, no pause between records", f"{_RECORD}, 200 us between records"
LISTENED, TAKE = f"{PACED}, a sink behind a HandOver", "HandOver.take, 200 us between blocks"
READING = "reading, full default buffers"
CONTROL = "an empty call instead"


class Plan(NamedTuple):
    """How much is measured. ``scale``: share of each contender's calls in a round; ``tail_seconds`` six times."""

    rounds: int
    cold_rounds: int
    scale: float
    reads: int
    tail_seconds: float


FULL = Plan(rounds=80, cold_rounds=12, scale=0.5, reads=100, tail_seconds=10.0)
QUICK = Plan(rounds=6, cold_rounds=3, scale=0.3, reads=20, tail_seconds=2.0)


def measure(plan: Plan, *, quick: bool) -> Document:
    started, machine = time.monotonic(), describe()
    warm = interleaved(CONTENDERS, rounds=plan.rounds, mode="warm", scale=plan.scale)
    cold = less_nothing(interleaved(COLD_CONTENDERS, rounds=plan.cold_rounds, mode="cold", scale=plan.scale))
    read = read_times(full_collector(), plan.reads)
    tails = {name: tail(plan.tail_seconds, paced=name == PACED) for name in (DENSE, PACED)}
    tails |= {LISTENED: tail(plan.tail_seconds, paced=True, listened=True), TAKE: hand_over_tail(plan.tail_seconds)}
    controls = {name: tail(plan.tail_seconds, paced=name == PACED, control=True) for name in (DENSE, PACED)}
    missing = absent(CONTENDERS)
    return Document(
        benchmark="recording",
        quick=quick,
        seconds=time.monotonic() - started,
        machine=machine,
        settings={**plan._asdict(), "cold_pause_seconds": PAUSE, "snapshots_per_second": READS_PER_SECOND},
        figures=[
            *_compared(CONTENDERS, warm),
            *_compared(COLD_CONTENDERS[1:], cold, ", cold"),
            *_of_reads(read),
            *(figure for name, found in tails.items() for figure in _of_tail(name, found)),
            *(figure for name, found in controls.items() for figure in _of_tail(f"{name}: {CONTROL}", found)),
        ],
        targets=all_targets(warm, cold, read, tails, controls | dict.fromkeys((LISTENED, TAKE), controls[PACED])),
        notes=[f"absent: {key}; pip install {package}" for key, package in missing.items()],
    )


def less_nothing(times: dict[str, Times]) -> dict[str, Times]:
    """Without the clock's, the call's and the loop's share, which the empty call shows."""
    empty = times.pop(NOTHING.key).median
    return {key: Times([max(taken - empty, 1.0) for taken in found.rounds]) for key, found in times.items()}


def _compared(contenders: tuple[Contender, ...], times: Mapping[str, Times], mode: str = "") -> list[Figure]:
    """A figure a contender, beside the same group's prometheus_client."""
    figures = []
    for contender in sorted(contenders, key=lambda each: each.group):
        figure = Figure(group=f"{contender.group}{mode}", name=contender.name, unit="ns", absent=contender.package)
        if contender.key in times:
            reference = None if contender.name == FLOOR else times.get(REFERENCES.get(contender.group, ""))
            figure = _measured(figure, times[contender.key], reference)
        figures.append(figure)
    return figures


def _measured(figure: Figure, found: Times, reference: Times | None) -> Figure:
    figure = replace(figure, best=found.best, median=found.median, rounds=len(found.rounds), absent=None)
    if reference is None:
        return figure
    ratios = Times(found.ratios(reference))
    return replace(figure, cheaper=reference.best / found.best, cheaper_median=ratios.median)


def _of_reads(read: ReadTimes) -> list[Figure]:
    names = (
        "get_snapshot()", "read_totals()", "text exposition", "read_totals() and text exposition",
        "generate_latest of as many samples",
    )  # fmt: skip
    figures = []
    for name, found in zip(names, read[:5], strict=True):
        figure = Figure(group=READING, name=name, unit="ms", absent="batchscope with its exporter")
        if found is not None:
            best, median = found.best / 1e6, found.median / 1e6
            figure = replace(figure, best=best, median=median, rounds=len(found.rounds), absent=None)
        figures.append(figure)
    if read.text_bytes is not None:
        figures.append(Figure(group=READING, name="size of the text", unit="kB", best=read.text_bytes / 1e3, rounds=1))
    return figures


def _of_tail(name: str, found: Tail) -> list[Figure]:
    """One run each: there is no best and median."""
    named = {"p50": found.p50, "p99": found.p99, "p99.9": found.p999, "p99.99": found.p9999, "maximum": found.longest}
    figures = [Figure(group=name, name=key, unit="us", best=value, rounds=1) for key, value in named.items()]
    counts = {"records": found.records, "snapshots meanwhile": found.reads}
    return figures + [Figure(group=name, name=key, unit="", best=float(n), rounds=1) for key, n in counts.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help=f"warm rounds; default: {FULL.rounds}, with --quick {QUICK.rounds}")
    chosen = options(parser)
    plan = QUICK if chosen.quick else FULL
    if chosen.rounds:
        plan = plan._replace(rounds=chosen.rounds)
    finish(measure(plan, quick=chosen.quick), chosen.json)


if __name__ == "__main__":
    main()
