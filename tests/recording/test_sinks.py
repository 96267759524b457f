"""A sink knows of which run its rows are; a hand-over keeps nobody waiting, and what it cannot keep it tells."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import msgspec
import numpy as np
import pytest

from batchscope import (
    CompletionReason,
    ConfigurationError,
    DecodeError,
    MetricsConfiguration,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
)
from batchscope.records import EngineInfo
from batchscope.rows import RowKind, Rows, empty_rows
from batchscope.sinks import HandOver, Missed, PatientSink, RunHeader, Sink, SinkError, decode_header
from batchscope.testing import RecordingSink

EOS = CompletionReason.EOS_TOKEN_REACHED
NEVER = 1e6


class Listened:
    """A collector on a clock that stands, and a sink of it."""

    def __init__(self, **options) -> None:
        self.now = 5.0
        self.sink = RecordingSink()
        self.collector = SchedulerMetricsCollector(clock=lambda: self.now, **options)
        self.unsubscribe = self.collector.subscribe(self.sink)

    def errors(self, run: int) -> int:
        return len(self.sink.runs[run].rows(RowKind.ERROR))

    @property
    def ends(self) -> list[bool]:
        return [run.ended for run in self.sink.runs]


def block(rows: int = 1, at: float = 0.0) -> Rows:
    values = empty_rows(RowKind.BATCH, rows)
    values[:, 0] = np.arange(at, at + rows)
    return Rows(RowKind.BATCH, values)


# The header.


def test_a_header_says_how_rows_are_read_and_comes_back_from_json():
    targets = {"fast": SloTargets(time_to_first_token=0.5), "slow": SloTargets()}
    listened = Listened(
        configuration=MetricsConfiguration(slo=targets), limits=SchedulerLimits(max_running_requests=4),
        labels={"model_name": "m"}, role="decode",
    )  # fmt: skip
    (run,) = listened.sink.runs
    header = run.header
    assert (header.generation, header.labels, header.role) == (0, {"model_name": "m"}, "decode")
    assert header.limits == SchedulerLimits(max_running_requests=4)
    assert header.request_classes == ("fast", "slow", "other")
    assert header.slo["fast"] == targets["fast"]
    snapshot = listened.collector.get_snapshot()
    assert (header.instance_id, header.started_at) == (snapshot.instance_id, snapshot.started_at)
    assert (header.anchor_instant, header.anchor_time) == (5.0, header.started_at)
    assert decode_header(header.to_json()) == header


def test_a_header_of_texts_that_are_no_utf8_can_be_written():
    listened = Listened()
    listened.collector.definitions = {"queue_time": "\udcff"}
    listened.collector.drain()
    assert decode_header(listened.sink.runs[-1].header.to_json()).definitions == {"queue_time": "\\udcff"}


@pytest.mark.parametrize("document", [b"", b"{}", b"[1]", b"\xff", b'{"schema": "batchscope.snapshot/1"}'])
def test_what_is_no_header_is_refused(document):
    with pytest.raises(DecodeError, match="not a header"):
        decode_header(document)


def test_a_header_of_another_schema_is_refused_by_name():
    later = msgspec.structs.replace(Listened().sink.runs[0].header, schema="batchscope.rows/9")
    with pytest.raises(DecodeError, match=r"batchscope\.rows/9"):
        decode_header(later.to_json())


CHANGES = {
    "reset": lambda collector: collector.reset(),
    "limits": lambda collector: collector.set_limits(SchedulerLimits(max_running_requests=9)),
    "engine": lambda collector: setattr(collector, "engine", EngineInfo("tiny", "1")),
    "definitions": lambda collector: collector.definitions.update(queue_time="from the socket on"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_a_header_ends_a_run_and_begins_another(change):
    listened = Listened()
    listened.collector.record_error("before")
    listened.collector.drain()
    change(listened.collector)
    listened.collector.record_error("after")
    listened.collector.drain()
    assert listened.ends == [True, False]
    assert [listened.errors(0), listened.errors(1)] == [1, 1]
    assert listened.sink.runs[0].header != listened.sink.runs[1].header


@pytest.mark.parametrize("change", ["reset", "limits"])
def test_what_was_recorded_before_a_reset_or_other_limits_belongs_to_the_run_before(change):
    listened = Listened()
    listened.collector.record_error("before")
    CHANGES[change](listened.collector)
    assert listened.ends == [True, False]
    assert [listened.errors(0), listened.errors(1)] == [1, 0]


def test_a_reset_begins_a_generation_that_started_then_and_requests_in_flight_keep_their_number():
    listened = Listened()
    tracker = RequestTracker(listened.collector)
    slot = tracker.arrived("a")
    tracker.iteration([slot], started_at=5.0, finished_at=5.0)
    listened.now = 6.0
    listened.collector.reset()
    tracker.iteration([slot], started_at=6.0, finished_at=6.0)
    listened.collector.drain()
    first, second = listened.sink.runs
    assert (first.header.generation, second.header.generation) == (0, 1)
    assert (second.header.started_at - first.header.started_at).total_seconds() == 1.0
    assert (first.token_instants(), second.token_instants()) == ({1: [5.0]}, {1: [6.0]})


def test_the_same_limits_again_begin_nothing():
    listened = Listened()
    listened.collector.set_limits(SchedulerLimits())
    listened.collector.drain()
    assert listened.ends == [False]


# Life of a subscription.


def test_the_end_is_told_after_the_last_rows_when_it_unsubscribes():
    listened = Listened()
    listened.collector.record_error("one")
    listened.unsubscribe()
    listened.collector.record_error("two")
    listened.unsubscribe()
    listened.collector.drain()
    assert (listened.ends, listened.errors(0)) == ([True], 1)


def test_the_end_is_told_after_the_last_rows_when_the_collector_is_closed_once_and_functions_listen_on():
    listened, heard = Listened(), []
    listened.collector.subscribe(heard.append)
    listened.collector.record_error("one")
    listened.collector.close()
    listened.collector.close()
    listened.collector.record_error("two")
    listened.collector.drain()
    assert (listened.ends, listened.errors(0)) == ([True], 1)
    assert sum(len(rows.values) for rows in heard) == 2


def test_a_collector_that_is_closed_while_another_thread_drains_tells_what_was_recorded_meanwhile_first():
    listened, at_work, go_on = Listened(), threading.Event(), threading.Event()
    collector = listened.collector

    def hold(_):
        at_work.set()
        assert go_on.wait(20)

    collector.subscribe(hold)
    collector.record_error("one")
    drain, close = threading.Thread(target=collector.drain), threading.Thread(target=collector.close)
    drain.start()
    assert at_work.wait(20)
    collector.record_error("two")
    close.start()
    until = time.monotonic() + 20
    while not collector._draining._sinks_end and time.monotonic() < until:
        os.sched_yield()
    go_on.set()
    drain.join(20)
    close.join(20)
    assert (listened.ends, listened.errors(0)) == ([True], 2)


def test_a_collector_that_is_closed_by_its_sink_ends_the_sink_at_the_end_of_that_drain():
    listened = Listened()
    listened.collector.subscribe(lambda _: listened.collector.close())
    listened.collector.record_error("one")
    listened.collector.drain()
    assert (listened.ends, listened.errors(0)) == ([True], 1)
    assert listened.collector.get_snapshot().totals.errors_by_type == {"one": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_in_a_forked_child_a_sink_hears_nothing_and_the_parents_goes_on():
    listened = Listened()
    listened.collector.record_error("before")
    child = os.fork()
    if not child:
        listened.collector.record_error("child")
        listened.collector.close()
        os._exit(0 if listened.ends == [False] and not listened.sink.runs[0].blocks else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    listened.collector.close()
    assert (listened.ends, listened.errors(0)) == ([True], 1)


class Failing(RecordingSink):
    """Raises at one of its calls."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at
        self.calls: list[str] = []

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if what == self.at:
            raise OSError("disk full")

    def begin(self, header: RunHeader) -> None:
        super().begin(header)
        self._called("begin" if len(self.runs) == 1 else "begin again")

    def take(self, block) -> None:
        self._called("take")

    def end(self) -> None:
        self._called("end")


@pytest.mark.parametrize("at", ["take", "end", "begin again"])
def test_a_sink_that_raises_hears_nothing_more_and_is_counted(at):
    collector, sink = SchedulerMetricsCollector(), Failing(at)
    collector.subscribe(sink)
    collector.record_error("one")
    collector.reset()
    called = len(sink.calls)
    collector.record_error("two")
    collector.close()
    assert sink.calls[-1] == at
    assert len(sink.calls) == called
    assert collector.get_snapshot().totals.errors_by_type == {"two": 1, "sink_failed": 1}


def test_a_sink_that_cannot_begin_says_so_to_whoever_subscribes_it():
    collector, sink = SchedulerMetricsCollector(), Failing("begin")
    with pytest.raises(OSError, match="disk full"):
        collector.subscribe(sink)
    collector.record_error("one")
    collector.close()
    assert sink.calls == ["begin"]
    assert collector.get_snapshot().totals.errors_by_type == {"one": 1}


def test_what_is_neither_a_function_nor_a_sink_is_refused_at_once():
    with pytest.raises(ConfigurationError, match="begin, take and end"):
        SchedulerMetricsCollector().subscribe(object())


def test_what_can_be_called_is_a_function_as_ever():
    class Both(RecordingSink):
        def __call__(self, block):
            heard.append(block)

    heard, sink = [], Both()
    collector = SchedulerMetricsCollector()
    collector.subscribe(sink)
    collector.record_error("one")
    collector.drain()
    assert (len(heard), sink.runs) == (1, [])


def test_that_an_interrupted_drain_may_have_kept_a_block_from_a_sink_is_an_error_that_is_counted():
    class Interrupted(RecordingSink):
        def take(self, block):
            if not self.runs[0].missed:
                self.runs[0].missed.append(block)
                raise KeyboardInterrupt
            super().take(block)

    sink, collector = Interrupted(), SchedulerMetricsCollector()
    collector.subscribe(sink)
    collector.record_error("one")
    with pytest.raises(KeyboardInterrupt):
        collector.drain()
    collector.close()
    assert [name for rows in sink.runs[0].blocks for name in rows.objects] == ["sink_interrupted"]
    assert collector.get_snapshot().totals.errors_by_type == {"one": 1, "sink_interrupted": 1}


# The hand-over.


def test_a_hand_over_is_a_sink_and_what_it_is_given_is_told_in_order_by_a_thread_of_its_own():
    threads = set()

    class Where(RecordingSink):
        def take(self, block):
            threads.add(threading.current_thread().name)
            super().take(block)

    sink = Where()
    hand_over = HandOver(sink, interval=NEVER, name="batchscope-test")
    assert isinstance(hand_over, Sink)
    assert isinstance(sink, PatientSink)
    with SchedulerMetricsCollector() as collector:
        collector.subscribe(hand_over)
        collector.record_error("one")
        collector.reset()
        collector.record_error("two")
    assert sink.runs == []
    assert hand_over.close()
    assert [(len(run.blocks), run.ended, run.header.generation) for run in sink.runs] == [(1, True, 0), (1, True, 1)]
    assert threads == {"batchscope-test"}
    assert hand_over.close()


def test_what_there_is_no_room_for_is_counted_and_told_before_the_next_rows():
    header, sink = Listened().sink.runs[0].header, RecordingSink()
    hand_over = HandOver(sink, interval=NEVER, max_bytes=4096)
    hand_over.begin(header)
    hand_over.take(block(10))
    hand_over.take(block(80, at=100.0))
    hand_over.take(block(70, at=300.0))
    hand_over._hand_over()
    hand_over.take(block(20))
    assert not hand_over.close()
    (run,) = sink.runs
    assert [len(rows.values) for rows in run.blocks] == [10, 20]
    assert run.missed == [Missed({"BATCH": 150}, 100.0, 369.0)]
    assert hand_over.lost == {"BATCH": 150}


def test_a_gap_at_the_end_is_told_and_so_is_a_header_that_found_no_room():
    first, second, sink = Listened().sink.runs[0].header, Listened().sink.runs[0].header, RecordingSink()
    hand_over = HandOver(sink, interval=NEVER, max_bytes=4096)
    hand_over.begin(first)
    hand_over.take(block(40))
    hand_over.end()
    hand_over.begin(second)
    hand_over.take(block(90))
    assert not hand_over.close()
    assert [run.header for run in sink.runs] == [first, second]
    assert [(len(run.blocks), run.ended) for run in sink.runs] == [(1, True), (0, True)]
    assert sink.runs[0].missed + sink.runs[1].missed == [Missed({"BATCH": 90}, 0.0, 89.0)]


def test_a_gap_of_a_run_whose_beginning_found_no_room_is_told_after_that_beginning():
    header, sink = Listened().sink.runs[0].header, RecordingSink()
    hand_over = HandOver(sink, interval=NEVER, max_bytes=8192)
    hand_over.begin(header)
    hand_over.take(block(100))
    hand_over.end()
    hand_over.begin(header)
    assert len(hand_over._next) == 1
    hand_over.take(block(200))
    assert not hand_over.close()
    assert [run.missed for run in sink.runs] == [[], [Missed({"BATCH": 200}, 0.0, 199.0)]]
    assert sink.runs[1].ended


def test_what_waits_is_handed_over_at_the_interpreters_end(tmp_path):
    code = f"""
from batchscope import SchedulerMetricsCollector
from batchscope.sinks import HandOver
from batchscope.testing import RecordingSink

class Saying(RecordingSink):
    def end(self):
        print("ended with", len(self.runs[0].blocks), "block")

collector = SchedulerMetricsCollector()
collector.subscribe(HandOver(Saying(), interval={NEVER}))
collector.record_error("one")
collector.drain()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("ended with 1 block\n", "")


def test_headers_alone_do_not_pile_up_and_the_last_one_is_told():
    headers, sink = [Listened().sink.runs[0].header for _ in range(50)], RecordingSink()
    hand_over = HandOver(sink, interval=NEVER, max_bytes=8192)
    for header in headers:
        hand_over.begin(header)
        hand_over.end()
    hand_over.begin(headers[-1])
    assert len(hand_over._queue) < 10
    assert hand_over.close()
    assert sink.runs[-1].header == headers[-1]


def test_while_a_sink_hangs_nobody_waits_and_close_gives_up_in_time():
    entered, go_on = threading.Event(), threading.Event()

    class Hanging(RecordingSink):
        def take(self, block):
            entered.set()
            go_on.wait(30)
            super().take(block)

    sink, collector = Hanging(), SchedulerMetricsCollector()
    hand_over = HandOver(sink, interval=0.001, max_bytes=1 << 20)
    collector.subscribe(hand_over)
    for number in range(2000):
        collector.record_error("e")
        if number % 100 == 0:
            collector.drain()
    assert entered.wait(30)
    collector.close()
    assert not hand_over.close(timeout=0.01)
    go_on.set()
    hand_over._periodic.close(30)
    assert len(sink.runs[0].rows(RowKind.ERROR)) == 2000
    assert sink.runs[0].ended


def test_a_sink_that_fails_in_its_thread_is_logged_and_ended_and_the_collector_counts_it(caplog):
    sink, collector = Failing("take"), SchedulerMetricsCollector()
    hand_over = HandOver(sink, interval=NEVER)
    collector.subscribe(hand_over)
    collector.record_error("one")
    collector.drain()
    collector.record_error("two")
    collector.drain()
    hand_over._hand_over()
    collector.record_error("three")
    collector.close()
    assert sink.calls == ["begin", "take"]
    assert hand_over.failure == "Failing failed: OSError: disk full"
    assert hand_over.lost == {"ERROR": 2}
    assert collector.get_snapshot().totals.errors_by_type == {"one": 1, "two": 1, "three": 1, "sink_failed": 1}
    assert not hand_over.close()
    assert [record.message for record in caplog.records if "disk full" in record.message]


def test_a_hand_over_that_was_closed_before_the_collector_is_unsubscribed_not_silent():
    sink, collector = RecordingSink(), SchedulerMetricsCollector()
    with HandOver(sink, interval=NEVER) as hand_over:
        collector.subscribe(hand_over)
    collector.record_error("one")
    collector.drain()
    assert sink.runs[0].ended
    assert collector.get_snapshot().totals.errors_by_type == {"one": 1, "sink_failed": 1}
    with pytest.raises(SinkError, match="before close"):
        collector.subscribe(hand_over)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_in_a_forked_child_a_hand_over_is_off_and_the_parents_goes_on():
    sink, collector = RecordingSink(), SchedulerMetricsCollector()
    hand_over = HandOver(sink, interval=NEVER)
    collector.subscribe(hand_over)
    collector.record_error("parent")
    child = os.fork()
    if not child:
        collector.record_error("child")
        collector.close()
        off = False
        try:
            collector.subscribe(hand_over)
        except SinkError:
            off = True
        os._exit(0 if off and hand_over.close() and not sink.runs else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    collector.close()
    assert hand_over.close()
    assert len(sink.runs[0].rows(RowKind.ERROR)) == 1


@pytest.mark.parametrize(
    ("sink", "options"), [(object(), {}), (RecordingSink(), {"max_bytes": 0}), (RecordingSink(), {"interval": 0})]
)
def test_a_hand_over_refuses_what_it_cannot_work_with(sink, options):
    with pytest.raises(ConfigurationError):
        HandOver(sink, **options)


def test_before_each_look_rows_are_drained_and_after_it_they_are_flushed():
    """A hand-over that drains itself needs no reader of the collector; what ``after`` raises, its sink raised."""
    sink, done = RecordingSink(), []
    collector = SchedulerMetricsCollector()

    def flush() -> None:
        done.append(len(sink.runs[0].rows(RowKind.ERROR)))
        if len(done) == 2:
            raise OSError(28, "No space left on device")

    hand_over = HandOver(sink, interval=NEVER, before=collector.drain, after=flush)
    collector.subscribe(hand_over)
    for _ in range(3):
        collector.record_error("late")
        hand_over._hand_over()
    assert done == [1, 2]  # once it has failed it is not asked again
    assert "No space left" in hand_over.failure
    collector.drain()
    collector.drain()
    assert collector.get_error_statistics().errors_by_type == {"late": 3, "sink_failed": 1}
    hand_over.close()


def test_what_fails_before_a_look_keeps_no_rows_back():
    sink = RecordingSink()

    def fail() -> None:
        raise ValueError("no drain")

    hand_over = HandOver(sink, interval=NEVER, before=fail)
    with SchedulerMetricsCollector() as collector:
        collector.subscribe(hand_over)
        collector.record_error("late")
    with pytest.raises(ValueError, match="no drain"):
        hand_over._hand_over()
    assert len(sink.runs[0].rows(RowKind.ERROR)) == 1
    hand_over.close()
