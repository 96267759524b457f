"""The child process of the memory benchmark: ``filling WRITERS COUNT...``, a JSON list at each total of records.

``[records, dropped, growth, peak growth]``, bytes above the import of batchscope; the last line is the number of
bytes that the collector's objects and buffers add up to.
"""

from __future__ import annotations

import json
import math
import sys
import threading

from batchscope import CompletionReason, MetricsSnapshot, SchedulerMetricsCollector
from harness.held import held_bytes, peak_bytes, resident_bytes

BASELINE = resident_bytes()
KINDS = 4
PERIOD = 0.1


def seconds_of(k: int) -> float:
    """Different values from 1 ms to 1,000 s, so that histograms fill: a cheap, full walk through the exponents."""
    return math.pow(10.0, -3 + (k * 0.618_033_988_75) % 6)


def fill(collector: SchedulerMetricsCollector, first: int, cycles: int) -> None:
    """So many requests, iterations, batches and gaps, from this thread."""
    writer, reason = collector.writer(), CompletionReason.EOS_TOKEN_REACHED
    for k in range(first, first + cycles):
        value = seconds_of(k)
        writer.request(k, 100, reason, value, value / 10, 1.1 * value, value / 5, value / 10, value / 2, 0.0, 100)
        writer.iteration(k, 200, 200, 1, value / 100, running_requests=200, waiting_requests=3, scheduled_tokens=200)
        writer.batch(0.8, k, 200)
        writer.inter_emission_latency(value / 10, 10)


class Writers:
    """Threads that live as long as the run, and go on by as much as they are told."""

    def __init__(self, collector: SchedulerMetricsCollector, count: int) -> None:
        self._collector, self._count = collector, count
        self._cycles = self._done = 0
        self._go, self._rest = threading.Barrier(count + 1), threading.Barrier(count + 1)
        for number in range(count):
            threading.Thread(target=self._work, args=(number,), daemon=True).start()

    def _work(self, number: int) -> None:
        while True:
            self._go.wait()
            fill(self._collector, self._done * self._count + number, self._cycles)
            self._rest.wait()

    def until(self, records: int) -> int:
        """Go on to about that many records in all; gives how many there are."""
        self._cycles = records // (KINDS * self._count) - self._done
        self._go.wait()
        self._rest.wait()
        self._done += self._cycles
        return self._done * KINDS * self._count


def counted(snapshot: MetricsSnapshot) -> int:
    """Records that arrived, dropped ones included: at full speed with no pause some may find no room."""
    totals = snapshot.totals
    gaps = snapshot.request_stats.inter_emission_latency.count // 10
    return snapshot.request_stats.total_requests + totals.iterations + totals.batches + gaps + totals.dropped_records


def sample(collector: SchedulerMetricsCollector, recorded: int) -> None:
    """Print what memory came to, and stop the run if a record is unaccounted for."""
    snapshot = collector.get_snapshot()
    if counted(snapshot) != recorded:
        raise SystemExit(f"error: {recorded} recorded, {counted(snapshot)} counted: {snapshot.totals}")
    dropped = snapshot.totals.dropped_records
    del snapshot
    print(json.dumps([recorded, dropped, resident_bytes() - BASELINE, peak_bytes() - BASELINE]), flush=True)


def main(writers: int, *records: int) -> None:
    collector = SchedulerMetricsCollector()
    stop = threading.Event()

    def read() -> None:
        while not stop.wait(PERIOD):
            collector.get_snapshot()

    threading.Thread(target=read, daemon=True).start()
    working = Writers(collector, writers)
    for total in (0, *records):
        sample(collector, working.until(total))
    stop.set()
    print(held_bytes(collector), flush=True)  # last: the walk itself needs memory


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
