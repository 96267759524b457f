"""Specification, test group 8: thread safety. Nothing lost, nothing double, every snapshot of one piece."""

import gc
import threading

import pytest

from batchscope import BatchLimiter, CompletionReason, MetricsConfiguration, SchedulerLimits, SloTargets
from spec.fakes import EOS, NAN, iteration, make, request

WRITERS, READERS, RECORDS = 8, 2, 200_000
EACH = RECORDS // WRITERS // 4  # of each of the four kinds
ROUND = 1250
REASONS = (EOS, CompletionReason.TIMEOUT, CompletionReason.CANCELLED, CompletionReason.ERROR)


class Threads:
    """Runs functions at once, each in a thread, and raises what they raised."""

    def __init__(self):
        self.failures = []
        self.threads = []

    def start(self, function, *arguments):
        def run():
            try:
                function(*arguments)
            except BaseException as failure:  # noqa: BLE001
                self.failures.append(failure)

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def join(self):
        for thread in self.threads:
            thread.join(50)
            assert not thread.is_alive()
        if self.failures:
            raise self.failures[0]


def check_consistent(snapshot, *, dropped=0):
    """The identities that one cut keeps."""
    totals, requests, iterations = snapshot.totals, snapshot.request_stats, snapshot.iteration_stats
    outcomes = requests.completed_requests + requests.failed_requests + requests.cancelled_requests
    assert requests.total_requests == outcomes == sum(totals.requests_by_reason.values())
    assert totals.requests_received == requests.total_requests
    assert totals.generation_tokens_of_requests == 3 * requests.total_requests  # each record has three
    assert totals.generation_tokens_of_iterations == 5 * iterations.total_iterations
    assert snapshot.histograms["iteration_duration"][""].count == iterations.total_iterations
    assert snapshot.histograms["total_time"]["default"].count == requests.completed_requests
    assert requests.inter_token_latency.count >= 2 * iterations.total_iterations  # a call may be on its way
    assert snapshot.error_stats.total_errors == sum(snapshot.error_stats.errors_by_type.values())
    slo = snapshot.slo_stats["default"]
    assert slo.evaluated + slo.unmeasured + slo.not_evaluated == requests.total_requests
    assert snapshot.window.requests == requests.total_requests
    assert totals.dropped_records <= dropped
    assert not totals.rejected_records


def counts(snapshot):
    return (
        snapshot.request_stats.total_requests, snapshot.iteration_stats.total_iterations,
        snapshot.batch_stats.total_batches, snapshot.error_stats.total_errors, snapshot.sequence,
    )  # fmt: skip


def write(collector, name, number):
    """One record of each kind."""
    collector.record_request_completion(request((name, number), 3, REASONS[number % 4], 0.5))
    collector.record_iteration(
        iteration(number, 5, 5, 0, 0.0, inter_token_latencies=((0.25, 2),), limited_by=BatchLimiter.DEMAND)
    )
    collector.record_batch_utilization(0.5, batch_id=number)
    collector.record_error(f"error {number % 3}")


def test_eight_writers_and_two_readers_lose_nothing_and_count_nothing_twice():
    configuration = MetricsConfiguration(slo=SloTargets(e2e_latency=1.0), max_request_samples=RECORDS)
    collector, _ = make(configuration, limits=SchedulerLimits(max_running_requests=8))
    written = threading.Event()
    # A full ring drops, and counts, what nobody drains in time; here every ring is emptied after each round.
    end_of_round = threading.Barrier(WRITERS, action=collector.get_snapshot)
    writers, readers, seen = Threads(), Threads(), [[] for _ in range(READERS)]

    def read(mine):
        while not written.is_set():
            snapshot = collector.get_snapshot()
            check_consistent(snapshot)
            mine.append(counts(snapshot))

    def write_all(name):
        for number in range(EACH):
            if number % ROUND == 0:
                end_of_round.wait(50)
            write(collector, name, number)

    for mine in seen:
        readers.start(read, mine)
    for name in range(WRITERS):
        writers.start(write_all, name)
    try:
        writers.join()
    finally:
        written.set()
    readers.join()

    snapshot = collector.get_snapshot()
    check_consistent(snapshot)
    assert sum(counts(snapshot)[:4]) == RECORDS
    assert counts(snapshot)[:4] == (EACH * WRITERS,) * 4
    assert snapshot.request_stats.inter_token_latency.count == 2 * EACH * WRITERS
    ids = [kept.request_id for kept in collector.request_samples()]
    assert sorted(ids) == [(name, number) for name in range(WRITERS) for number in range(EACH)]
    for mine in seen:
        assert mine
        for before, after in zip(mine, mine[1:], strict=False):
            assert all(one <= other for one, other in zip(before, after, strict=True))
            assert after[-1] > before[-1]


def test_eight_writers_at_full_speed_beside_two_readers_account_for_all_of_200_000_records():
    """On a machine that stalls for 50 ms with all memory full a record may be dropped; then it is counted."""
    collector, _ = make(MetricsConfiguration(max_request_samples=200_000, slo=SloTargets(e2e_latency=1.0)))
    readers, ended = Threads(), threading.Event()

    def read():
        while not ended.wait(0.005):
            check_consistent(collector.get_snapshot(), dropped=200_000)

    readers.start(read)
    readers.start(read)
    threads = Threads()

    def write_all(name):
        writer = collector.writer()
        for number in range(25_000):
            writer.request((name, number), 3, EOS, 0.5)

    for name in range(WRITERS):
        threads.start(write_all, name)
    try:
        threads.join()
    finally:
        ended.set()
    readers.join()
    snapshot = collector.get_snapshot()
    assert snapshot.request_stats.total_requests + snapshot.totals.dropped_records == 200_000
    ids = [kept.request_id for kept in collector.request_samples()]
    assert len(set(ids)) == len(ids) == snapshot.request_stats.total_requests


def test_each_writers_records_keep_their_order():
    collector, _ = make()
    threads = Threads()

    def write_all(name):
        for number in range(500):
            collector.record_request_completion(request((name, number)))

    for name in range(4):
        threads.start(write_all, name)
    threads.join()
    ids = [kept.request_id for kept in collector.request_samples()]
    for name in range(4):
        assert [number for writer, number in ids if writer == name] == list(range(500))


def test_records_of_threads_that_ended_count_and_their_memory_is_used_again():
    collector, _ = make()
    for name in range(50):
        threads = Threads()
        threads.start(write, collector, name, name)
        threads.join()
    gc.collect()
    snapshot = collector.get_snapshot()
    assert counts(snapshot)[:4] == (50,) * 4
    assert len(collector._draining.writers.rings) <= 2


def test_every_thread_has_a_writer_of_its_own():
    collector, _ = make()
    barrier, writers = threading.Barrier(4), []
    threads = Threads()

    def take():
        writer = collector.writer()
        assert writer is collector.writer()
        writers.append(writer)
        barrier.wait(20)
        for number in range(100):
            writer.request(number, 1, EOS, 1.0, NAN)

    for _ in range(4):
        threads.start(take)
    threads.join()
    assert len({id(writer) for writer in writers}) == 4
    assert collector.get_request_statistics().total_requests == 400


def test_a_reset_in_between_splits_the_records_and_loses_none():
    collector, _ = make()
    threads, before = Threads(), []
    collector.subscribe(lambda block: before.append(len(block.values)))
    written = threading.Event()
    end_of_round = threading.Barrier(4, action=collector.read_totals)

    def write_all(name):
        for number in range(5000):
            if number % ROUND == 0:
                end_of_round.wait(50)
            collector.record_request_completion(request((name, number)))

    def reset():
        while not written.wait(0.002):
            collector.reset()

    resetter = Threads()
    resetter.start(reset)
    for name in range(4):
        threads.start(write_all, name)
    try:
        threads.join()
    finally:
        written.set()
    resetter.join()
    snapshot = collector.get_snapshot()
    assert sum(before) == 20_000
    assert snapshot.generation > 0
    assert snapshot.totals.dropped_records == 0
    collector.reset()
    collector.record_request_completion(request())
    assert collector.get_request_statistics().total_requests == 1


def test_readers_alone_do_not_get_in_each_others_way():
    collector, _ = make()
    write(collector, "w", 0)
    threads = Threads()
    reads = (
        collector.get_snapshot, collector.get_request_statistics, collector.get_iteration_statistics,
        collector.get_batch_statistics, collector.get_error_statistics, collector.read_totals,
        collector.request_samples, collector.iteration_samples, collector.batch_samples,
    )  # fmt: skip

    def read(function):
        for _ in range(20):
            function()

    for function in reads:
        threads.start(read, function)
    threads.join()
    assert counts(collector.get_snapshot())[:4] == (1, 1, 1, 1)


@pytest.mark.parametrize("kind", ["request", "iteration", "batch", "error"])
def test_without_any_reader_a_writer_drains_for_itself_and_loses_nothing(kind):
    collector, _ = make()
    calls = {
        "request": lambda: collector.record_request_completion(request()),
        "iteration": lambda: collector.record_iteration(iteration(inter_token_latencies=[0.5])),
        "batch": lambda: collector.record_batch_utilization(0.5),
        "error": lambda: collector.record_error("e"),
    }
    for _ in range(20_000):
        calls[kind]()
    snapshot = collector.get_snapshot()
    assert sum(counts(snapshot)[:4]) == 20_000
    assert snapshot.totals.dropped_records == 0
