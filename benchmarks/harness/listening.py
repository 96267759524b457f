"""What a sink costs whoever records: a HandOver behind the collector, and its ``take`` alone."""

from __future__ import annotations

from batchscope import SchedulerMetricsCollector
from batchscope.rows import Gaps, Rows
from batchscope.sinks import Drained, HandOver, Missed, RunHeader
from harness.contender import REQUEST, Contender, Prepared
from harness.ours import WRITER, drain, request_loop, requests, whole

LISTENED = f"{WRITER}, a sink behind a HandOver"
TAKE, A_BLOCK = "HandOver.take", "a block of 16 requests handed to a sink's thread"
_ROWS = 16  # what a drain finds at an engine's pace, not a whole ring
_NO_BOUND = 1 << 50


class Counting:
    """A sink that costs its thread next to nothing."""

    def __init__(self) -> None:
        self.rows = 0
        self.missed_rows = 0

    def begin(self, header: RunHeader) -> None:
        pass

    def take(self, block: Drained) -> None:
        self.rows += 0 if isinstance(block, Gaps) else len(block.values)

    def missed(self, missed: Missed) -> None:
        self.missed_rows += sum(missed.rows.values())

    def end(self) -> None:
        pass


def listened() -> Prepared:
    """The same loop as the writer's alone; at the end the sink must have every row."""
    collector, sink = SchedulerMetricsCollector(), Counting()
    hand_over = HandOver(sink, max_bytes=_NO_BOUND)
    collector.subscribe(hand_over)

    def verify(calls: int) -> None:
        whole(collector.get_snapshot(), "requests", requests(collector.get_snapshot()), calls)
        collector.close()
        hand_over.close()
        if (sink.rows, sink.missed_rows) != (calls, 0):
            raise RuntimeError(f"{calls} rows recorded, {sink.rows} heard, {sink.missed_rows} missed")

    return Prepared(request_loop(collector), drain(collector), verify)


def begun() -> tuple[HandOver, Rows, Counting]:
    """A HandOver whose run has begun, and a block to hand over."""
    collector, sink, blocks = SchedulerMetricsCollector(), Counting(), list[Drained]()
    hand_over = HandOver(sink, max_bytes=_NO_BOUND)
    collector.subscribe(hand_over)
    unsubscribe = collector.subscribe(blocks.append)
    request_loop(collector)(_ROWS)
    unsubscribe()
    (block,) = (block for block in blocks if isinstance(block, Rows))
    return hand_over, block, sink


def take_alone() -> Prepared:
    hand_over, block, sink = begun()

    def body(count: int) -> None:
        for _ in range(count):
            hand_over.take(block)

    def verify(calls: int) -> None:
        hand_over.close()
        if (sink.rows, sink.missed_rows) != ((calls + 1) * _ROWS, 0):  # one came from the collector itself
            raise RuntimeError(
                f"{calls} blocks of {_ROWS} rows handed over, {sink.rows} rows heard with the first block"
            )

    return Prepared(body, verify=verify)


LISTENING = (
    Contender(REQUEST, LISTENED, 20_000, listened),
    Contender(A_BLOCK, TAKE, 20_000, take_alone),
)
