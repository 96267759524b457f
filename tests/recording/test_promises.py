"""What recording promises whatever an engine does, in sizes for every run; ``make soak`` makes them larger."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref

import pytest
from test_reentrance import accounted

from batchscope import (
    BatchLimiter,
    CompletionReason,
    IterationResult,
    MetricsConfiguration,
    RequestResult,
    RequestTracker,
    SchedulerMetricsCollector,
    SloTargets,
)
from batchscope.recording.packing import MAX_ID

EOS = CompletionReason.EOS_TOKEN_REACHED
TIMES = 50 if os.environ.get("BATCHSCOPE_SOAK") else 1
MIB = 1 << 20


class HostileText(str):
    """Every method of it that anybody may call raises."""

    __slots__ = ()

    def _refuse(self, *_):
        raise RuntimeError("not today")

    __bool__ = __len__ = __getitem__ = __eq__ = __hash__ = __str__ = __repr__ = __format__ = __lt__ = _refuse


class Poisoned(str):
    """A name whose slice cannot be a key."""

    __slots__ = ()

    def __getitem__(self, _):
        return []


class Proxy:
    """A lazy proxy outside of its context: even its class cannot be asked for."""

    @property
    def __class__(self):
        raise RuntimeError("working outside of a context")


class NamelessMeta(type):
    """Classes without a name."""

    @property
    def __name__(cls):
        raise RuntimeError("no name")


class HostileMeta(type):
    """Classes that can be asked for nothing."""

    def _refuse(cls, *_):
        raise RuntimeError("not this class")

    __hash__ = __eq__ = __repr__ = __str__ = __bool__ = __len__ = __iter__ = _refuse
    __instancecheck__ = __subclasscheck__ = _refuse
    __name__ = __doc__ = property(_refuse)


class OfHostileType(metaclass=HostileMeta):
    """Its own methods are those of any object."""


class NamelessError(Exception, metaclass=NamelessMeta):
    """Says nothing either."""

    def __str__(self):
        raise RuntimeError("no text")


class Raises:
    """A number that raises."""

    def __float__(self):
        raise NamelessError

    __index__ = __float__


class Recursive:
    """A number that is never found."""

    def __float__(self):
        return float(self)


def moody():
    """An id whose hash fails from the second time on."""

    class Id:
        asked = 0

        def __hash__(self):
            self.asked += 1
            if self.asked > 1:
                raise RuntimeError("no hash any more")
            return 7

    return Id()


VALUES = (
    0, 1, 1.5, -1, None, True, 10**400, float("nan"), float("inf"), "", "text", b"bytes", [], [1.0], (), {}, object(), 1j,
    HostileText("x"), Poisoned("x"), Proxy(), NamelessError(), NamelessError, Raises(), Recursive(), "x" * 1000,
    EOS, BatchLimiter.DEMAND, "\ud800", OfHostileType(), OfHostileType,
)  # fmt: skip


def test_whatever_is_recorded_no_call_raises_and_each_record_is_accounted_for():
    collector, choose, recorded = SchedulerMetricsCollector(), random.Random(5).choice, 0
    request, iteration = ("a", 3, EOS, 2.0), (1, 1, 1, 0, 0.5)
    writer = collector.writer()

    def spoilt(fields):
        return [choose(VALUES) if choose((True, False, False)) else value for value in fields]

    for number in range(8000 * TIMES):
        calls = (
            lambda: collector.record_request_completion(RequestResult(*spoilt(request))),
            lambda: collector.record_iteration(IterationResult(*spoilt(iteration))),
            lambda: collector.record_batch_utilization(*spoilt((0.5,)), request_count=choose(VALUES)),
            lambda: collector.record_error(choose(VALUES), choose(VALUES)),
            lambda: writer.request(*spoilt(request), prompt_tokens=choose(VALUES), request_class=choose(VALUES)),
            lambda: writer.iteration(*spoilt(iteration)),
            lambda: collector.record_request_completion(choose(VALUES)),
            lambda: collector.record_iteration(choose(VALUES)),
        )
        calls[number % len(calls)]()
        recorded += 1
        if number % 1000 == 0:
            assert accounted(collector) == recorded
            collector.get_snapshot().to_json(histograms=True)
    assert accounted(collector) == recorded
    assert all(type(name) is str for name in collector.get_error_statistics().errors_by_type)


def test_whatever_a_tracker_is_told_no_call_raises_and_the_identity_holds():
    collector, choose = SchedulerMetricsCollector(), random.Random(6).choice
    tracker, slots = RequestTracker(collector), []

    def mostly(*good):
        return choose(good if choose((True, True, False)) else VALUES)

    for number in range(4000 * TIMES):
        slots.append(tracker.arrived(mostly(number, moody()), prompt_tokens=mostly(1, 2)))
        tracker.iteration(mostly(slots[-3:]), mostly(None), waiting=mostly(None))
        tracker.finished(mostly(slots[0]), mostly(EOS))
        tracker.lost(mostly(slots.pop(0) if len(slots) > 5 else -1))
        if number % 500 == 0:
            snapshot = collector.get_snapshot()
            snapshot.to_json()
            totals = snapshot.totals
            finished = sum(totals.requests_by_reason.values())
            assert totals.requests_received == finished + snapshot.gauges.requests_in_flight + totals.requests_lost
    assert finished > 0


def test_a_request_of_a_hostile_type_costs_nobody_but_itself_whether_taken_refused_or_undeclared():
    configuration = MetricsConfiguration(slo={"chat": SloTargets(time_to_first_token=1.0)})
    collector = SchedulerMetricsCollector(configuration)
    tracker = RequestTracker(collector)
    hostile = OfHostileType()
    for _ in range(2):
        good, taken = tracker.arrived("good"), tracker.arrived(hostile, request_class="chat")
        tracker.arrived(hostile, prompt_tokens=-1)
        tracker.arrived("x", prompt_tokens=-1, request_class=hostile)
        tracker.iteration([good, taken])
        tracker.finished(good, EOS)
        tracker.finished(taken, EOS)
        collector.record_request_completion(RequestResult(hostile, 1, EOS, 1.0))
        collector.record_request_completion(RequestResult("a", 1, EOS, 1.0, request_class=hostile))
    snapshot = collector.get_snapshot()
    assert snapshot.request_stats.total_requests == 8
    assert snapshot.totals.rejected_records == {"duplicate_request": 2, "negative": 2}
    collector.reset()
    assert collector.get_snapshot().request_stats.total_requests == 0


def test_an_undeclared_request_class_is_not_kept_alive():
    class Kept:
        """A class of requests, as an object."""

    kept = Kept()
    gone = weakref.ref(kept)
    collector = SchedulerMetricsCollector(MetricsConfiguration(slo={"chat": SloTargets(time_to_first_token=1.0)}))
    collector.record_request_completion(RequestResult("a", 1, EOS, 1.0, request_class=kept))
    del kept
    collector.get_snapshot()
    assert gone() is None


def test_one_poisoned_name_or_id_costs_no_neighbour():
    collector = SchedulerMetricsCollector()
    tracker = RequestTracker(collector)
    for number in range(100):
        collector.record_error("good")
        collector.record_error(Poisoned("bad"))
        for request_id in (number, moody()):
            slot = tracker.arrived(request_id)
            tracker.iteration([slot])
            tracker.finished(slot, EOS)
    snapshot = collector.get_snapshot()
    assert snapshot.error_stats.errors_by_type == {"good": 100, "bad": 100}
    assert snapshot.request_stats.total_requests == 200
    assert snapshot.gauges.requests_in_flight == 0
    assert snapshot.totals.rejected_records == {}


def test_ids_are_kept_cut_and_are_gone_when_their_requests_are_however_their_hashes_change():
    collector = SchedulerMetricsCollector()
    tracker = RequestTracker(collector)
    admission = tracker._derivation._admission
    ids = [*("x" * 100_000 + str(number) for number in range(50)), *(moody() for _ in range(50)), b"b", ("t", 1)]
    slots = [tracker.arrived(request_id) for request_id in ids]
    assert collector.get_snapshot().gauges.requests_in_flight == len(ids)
    tracker.iteration(slots)
    for slot in slots:
        tracker.finished(slot, EOS)
    kept = [sample.request_id for sample in collector.request_samples()]
    assert [each for each in kept if type(each) is str] == ["x" * MAX_ID] * 50
    assert (len(admission._id_of), len(admission._handle_of)) == (0, 0)
    assert collector.get_snapshot().totals.rejected_records == {}


@pytest.mark.parametrize("tracked", [True, False])
def test_long_request_ids_need_as_little_memory_as_short_ones(tracked):
    collector = SchedulerMetricsCollector()
    tracker = RequestTracker(collector)
    collector.get_snapshot()
    tracemalloc.start()
    try:
        for number in range(3000):
            request_id = f"{number}" + "x" * 60_000
            if tracked:
                slot = tracker.arrived(request_id)
                tracker.iteration([slot])
                tracker.finished(slot, EOS)
            else:
                collector.writer().request(request_id, 1, EOS, 1.0)
            if number % 100 == 99:
                collector.read_totals()
        del request_id
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 8 * MIB


def test_a_million_names_and_classes_leave_a_hundred():
    collector = SchedulerMetricsCollector()
    writer = collector.writer()
    for number in range(20_000 * TIMES):
        writer.error(f"name {number}")
        writer.request("a", 1, EOS, 1.0, request_class=f"class {number}")
    snapshot = collector.get_snapshot()
    assert len(snapshot.error_stats.errors_by_type) <= 101
    assert len(snapshot.slo_stats) <= 2
    assert snapshot.error_stats.total_errors == snapshot.request_stats.total_requests == 20_000 * TIMES


def test_a_tracker_that_nobody_can_drain_drops_what_would_not_fit_into_64_mib_and_counts_it():
    collector = SchedulerMetricsCollector()
    tracker, told = RequestTracker(collector), 2000
    slots = list(range(4096))
    tracemalloc.start()
    try:
        with collector._draining.lock:
            for _ in range(told):
                tracker.iteration(slots, slots, scheduled_tokens=slots)
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 68 * MIB
    totals = collector.get_snapshot().totals
    assert totals.dropped_records > 0
    assert totals.iterations + totals.dropped_records + totals.rejected_records.get("too_large", 0) == told
    tracker.iteration([tracker.arrived("a")])
    assert collector.get_snapshot().totals.dropped_records == totals.dropped_records


def test_records_of_finalizers_are_counted_wherever_the_garbage_collector_runs():
    collector, made = SchedulerMetricsCollector(), 0

    class Request:
        def __init__(self):
            self.me = self  # in a cycle: its finalizer runs when the garbage collector does

        def __del__(self):
            collector.record_request_completion(RequestResult("cycle", 1, EOS, 1.0))
            collector.record_error("gone")

    threshold = gc.get_threshold()
    gc.set_threshold(50)
    try:
        for _ in range(20_000 * TIMES):
            Request()
            collector.record_request_completion(RequestResult(["a", "container"], 1, EOS, 1.0))
            collector.record_error("e")
            made += 4
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert accounted(collector) == made
    assert collector.get_snapshot().totals.dropped_records == 0


def test_records_of_signal_handlers_are_counted_whatever_they_interrupt():
    collector, made = SchedulerMetricsCollector(), 0

    def handler(*_):
        nonlocal made
        for _ in range(20):
            collector.record_request_completion(RequestResult("handler", 1, EOS, 1.0))
            collector.record_error("signal")
            made += 2

    before = signal.signal(signal.SIGVTALRM, handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
    try:
        for _ in range(30_000 * TIMES):
            collector.record_request_completion(RequestResult("a", 1, EOS, 1.0))
            collector.record_error("e")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    made += 60_000 * TIMES
    assert accounted(collector) == made
    assert collector.get_snapshot().totals.dropped_records == 0


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that send signals here")
def test_reads_that_real_signals_end_anywhere_keep_the_identity_for_two_seconds():
    class Ended(BaseException):
        pass

    def handler(*_):
        if reading:
            raise Ended

    collector, random_time = SchedulerMetricsCollector(), random.Random(1).uniform
    tracker, reading, ended, received, lost, number = RequestTracker(collector), False, 0, 0, 0, 0
    for place in range(50):
        tracker.arrived(("open", place))
    collector.get_snapshot()
    before, end = signal.signal(signal.SIGALRM, handler), time.monotonic() + 2 * TIMES
    try:
        while time.monotonic() < end:
            for _ in range(3):
                number += 1
                slot = tracker.arrived(number)
                tracker.iteration([slot])
                tracker.finished(slot, EOS)
            try:
                reading = True
                signal.setitimer(signal.ITIMER_REAL, random_time(1e-5, 9e-4))
                collector.read_totals()
                reading = False
            except Ended:
                reading, ended = False, ended + 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            state = collector.read_totals()
            totals, gauges = state.totals, state.gauges
            finished = sum(totals.requests_by_reason.values())
            assert totals.requests_received == finished + gauges.requests_in_flight + totals.requests_lost
            assert (totals.requests_received >= received, totals.requests_lost >= lost) == (True, True)
            received, lost = totals.requests_received, totals.requests_lost
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ended > 20


def test_ten_thousand_short_threads_leave_the_rings_of_those_alive_at_once():
    collector, count = SchedulerMetricsCollector(), 1000 * TIMES
    for _ in range(count // 10):
        threads = [threading.Thread(target=collector.record_error, args=("e",)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert collector.get_error_statistics().total_errors == count
    assert len(collector._draining.writers.rings) <= 11


STORM = """
import os, sys, threading
from batchscope import CompletionReason, RequestTracker, SchedulerMetricsCollector
EOS, rounds = CompletionReason.EOS_TOKEN_REACHED, int(sys.argv[1])
sys.setswitchinterval(1e-5)
collector = SchedulerMetricsCollector()
tracker = RequestTracker(collector)
made, stop = [0] * 4, threading.Event()

def write(number):
    while not stop.is_set():
        writer = collector.writer()
        for _ in range(200):
            writer.request("a", 1, EOS, 1.0)
            writer.error("e")
            made[number] += 2
        slot = tracker.arrived((number, made[number]))
        tracker.iteration([slot])
        tracker.finished(slot, EOS)
        made[number] += 1

threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
for _ in range(rounds):
    child = os.fork()
    if not child:
        before = collector.get_snapshot().request_stats.total_requests
        collector.writer().request("child's", 1, EOS, 1.0)
        os._exit(collector.get_snapshot().request_stats.total_requests - before != 1 or before != 0)
    collector.get_snapshot()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
for thread in threads:
    thread.join()
totals = collector.get_snapshot().totals
finished = sum(totals.requests_by_reason.values())
assert totals.requests_received == finished + totals.requests_lost + collector.get_snapshot().gauges.requests_in_flight
counted = finished + sum(totals.errors_by_type.values()) + totals.dropped_records
assert totals.dropped_records or counted == sum(made), (counted, sum(made))
assert counted >= sum(made), (counted, sum(made))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_in_a_storm_of_threads_and_forks_nothing_is_lost_and_each_child_begins_empty():
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STORM, str(10 * TIMES)],
        capture_output=True,
        text=True,
        timeout=60 + 60 * TIMES,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_drain_and_a_snapshot_import_nothing():
    """A child that is forked meanwhile would wait for the import's lock for ever."""
    program = """
import sys
from batchscope import CompletionReason, RequestTracker, SchedulerMetricsCollector, MetricsConfiguration, SloTargets
collector = SchedulerMetricsCollector(MetricsConfiguration(slo=SloTargets(e2e_latency=1.0)))
before = set(sys.modules)
writer, tracker = collector.writer(), RequestTracker(collector)
for instant in (3e9, 5.0, 1e4, 7.0, 2e9):  # out of order, far apart
    writer.request("a", 3, CompletionReason.EOS_TOKEN_REACHED, 2.0, finished_at=-instant, prompt_tokens=3.0)
    writer.iteration(1, 1, 1, 0, 0.5, rank=int(instant) % 3, finished_at=-instant, inter_token_latencies=[0.5])
    writer.batch(0.5)
    writer.error("e")
    writer.inter_emission_latency(0.5, 3)
    slot = tracker.arrived(instant)
    other = tracker.arrived((instant, 1))
    tracker.iteration([slot, other], [1, 3])
    tracker.iteration([slot], preempted=[other])
    tracker.iteration([slot, other], scheduled_tokens=[1, 7])
    tracker.finished(slot, CompletionReason.EOS_TOKEN_REACHED)
collector.read_totals()
collector.get_snapshot()
print(*sorted(set(sys.modules) - before))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
