"""How long does it take to explain a run, and to draw it? A million requests; a million events.

    python benchmarks/explaining.py [--quick] [--json FILE]

Needs the extra `ledger`. A simulated engine under bursts is recorded, read back, and put behind itself again and again
until there are as many requests as wanted: the shapes of queues, spans and preemptions are those of a run. Times are
process time: seconds of a core.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import zlib
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from batchscope import RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.ledger import Run, open_run, perfetto
from batchscope.ledger.explain import Explainer, Metric
from batchscope.ledger.trace import Window, trace
from batchscope.simulator import Lengths, SchedulerOptions, Simulator, SyntheticWorkload, VirtualClock
from harness.document import Document, Figure, Target, judged
from harness.machine import describe
from harness.show import finish, options

RECORDED, QUICK_RECORDED = 20_000, 1_000
COPIES, QUICK_COPIES = 50, 4
OPTIONS = SchedulerOptions(max_running_requests=64, max_scheduled_tokens=1024, kv_cache_blocks=5500)
INSTANTS = ("arrived_at", "first_scheduled_at", "first_token_at", "last_token_at", "finished_at", "started_at")
MIB = 2**20


class Longer:
    """A run behind itself, ``copies`` times; what an explanation and a trace read of one."""

    def __init__(self, run: Run, copies: int) -> None:
        self.headers = run.headers
        requests, iterations, spans = run.requests(), run.iterations(), run.spans()
        seconds = pc.max(iterations["finished_at"]).as_py() + 1.0
        number, ordinal = pc.max(requests["request"]).as_py(), pc.max(iterations["iteration"]).as_py()
        by = dict.fromkeys(INSTANTS, seconds)
        self._requests = repeated(requests, copies, by | {"request": number})
        self._iterations = repeated(iterations, copies, by | {"iteration": ordinal})
        self._spans = repeated(spans, copies, {"request": number, "first_iteration": ordinal})

    def requests(self) -> pa.Table:
        return self._requests

    def iterations(self) -> pa.Table:
        return self._iterations

    def spans(self) -> pa.Table:
        return self._spans


def repeated(table: pa.Table, copies: int, by: dict[str, float]) -> pa.Table:
    """``table`` one behind the other, each with these columns that much later."""
    found = []
    for copy in range(copies):
        later = table
        for name, step in by.items():
            place = table.schema.get_field_index(name)
            if place >= 0:
                later = later.set_column(place, name, pc.add(table.column(name), type(step)(copy) * step))
        found.append(later)
    return pa.concat_tables(found)


def record(folder: str, requests: int) -> Run:
    clock = VirtualClock()
    limits = SchedulerLimits(max_running_requests=64, max_scheduled_tokens=1024, kv_cache_blocks=5500, kv_block_size=16)
    workload = SyntheticWorkload(
        requests=requests, rate=3.0, burstiness=3.0, prompt=Lengths(median=700, sigma=1.0, cap=8000),
        output=Lengths(median=160, sigma=0.9, cap=1500),
    )  # fmt: skip
    with SchedulerMetricsCollector(limits=limits, clock=clock) as collector:
        collector.record_to(folder)
        Simulator(workload, RequestTracker(collector), options=OPTIONS, clock=clock).run()
    return open_run(folder)


def timed(call: Callable[[], object]) -> tuple[float, object]:
    begun = time.process_time()
    found = call()
    return time.process_time() - begun, found


def measure(*, quick: bool) -> Document:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = record(folder, QUICK_RECORDED if quick else RECORDED)
        long = Longer(run, QUICK_COPIES if quick else COPIES)
        few = Longer(run, 2)
    times, targets = explained(long)
    more_times, more_targets = drawn(few)
    return Document(
        benchmark="explaining", quick=quick, seconds=time.monotonic() - started, machine=describe(),
        settings={"requests": len(long.requests()), "iterations": len(long.iterations()), "spans": len(long.spans())},
        figures=times + more_times, targets=targets + more_targets,
    )  # fmt: skip


def figures(group: str, values: list[tuple[str, str, float]]) -> list[Figure]:
    return [Figure(group=group, name=name, unit=unit, best=value, rounds=1) for name, unit, value in values]


def explained(run: Longer) -> tuple[list[Figure], list[Target]]:
    count = len(run.requests())
    seconds, explainer = timed(lambda: Explainer(run))
    asked = {metric: timed(lambda metric=metric: explainer.worst(metric))[0] for metric in Metric}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
    values = [
        ("reading its tables", "s", seconds),
        *((f"the slowest 1 % by {name}", "s", took) for name, took in asked.items()),
        ("one request", "s", timed(lambda: explainer.request("#1"))[0]), ("peak of the process", "MiB", peak),
    ]  # fmt: skip
    slowest = max(asked.values()) / max(count / 1e6, 1.0)
    return (
        figures(f"explain, {count:,} requests", values),
        [judged("explain the slowest of a run: seconds a million requests", "<=", 5.0, "s", slowest)],
    )  # fmt: skip


def drawn(run: Longer) -> tuple[list[Figure], list[Target]]:
    choosing, content = timed(lambda: trace(run, Window(max_events=10_000_000)))
    writing, document = timed(lambda: b"".join(perfetto.encode(content)))
    packing, packed = timed(lambda: zlib.compress(document, 6))
    values = [
        ("choosing what is drawn", "s", choosing), ("writing it", "s", writing), ("packing it", "s", packing),
        ("an event", "B", len(document) / content.events), ("an event, packed", "B", len(packed) / content.events),
    ]  # fmt: skip
    a_million = (choosing + writing) / max(content.events / 1e6, 1.0)
    return (
        figures(f"trace, {content.events:,} events", values),
        [
            judged("trace: seconds a million events", "<=", 5.0, "s", a_million),
            judged("trace: bytes an event, packed", "<=", 12.0, "B", len(packed) / content.events),
        ],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = options(parser)
    finish(measure(quick=chosen.quick), chosen.json)


if __name__ == "__main__":
    main()
