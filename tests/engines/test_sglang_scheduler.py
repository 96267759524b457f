"""SGLang's scheduler: queue times, present state, forward passes completed; and its merge with the tokenizer's."""

import math
from types import SimpleNamespace

import msgspec
import pytest
from scrape_doubles import read_page

from batchscope import MetricsSnapshot, SchedulerLimits, SchedulerMetricsCollector
from batchscope.engines.forward_pass import ForwardPasses
from batchscope.engines.sglang.scheduler import ForwardPassMetrics, SglangScheduler
from batchscope.engines.sglang.tokenizer import SglangTokenizer
from batchscope.scraping.series import known_samples, read
from batchscope.scraping.sums import figures_of
from batchscope.scraping.window import Scrape, difference


def count(total):
    """As SGLang's QueueCount."""
    return SimpleNamespace(total=total, by_priority=None)


def stats(running=3, waiting=2, grammar=1, usage=0.5, **others):
    """The fields of SGLang 0.5.23's SchedulerStats that are read."""
    values = {
        "num_running_reqs": count(running), "num_queue_reqs": count(waiting), "num_grammar_queue_reqs": grammar,
        "token_usage": usage, "num_prefill_bootstrap_queue_reqs": count(0),
        "num_prefill_inflight_queue_reqs": count(0), "num_decode_prealloc_queue_reqs": count(0),
        "num_decode_transfer_queue_reqs": count(0),
    } | others  # fmt: skip
    return SimpleNamespace(**{name: value for name, value in values.items() if value is not None})


def message(counter, decode=3):
    return msgspec.msgpack.encode(
        {"version": 1, "counter_id": counter, "wall_time": 0.25, "scheduled_requests": {"num_decode_requests": decode}}
    )


class Engine:
    def __init__(self):
        self.now = 100.0
        limits = SchedulerLimits(8, 2048, 64)
        self.collector = SchedulerMetricsCollector(limits=limits, clock=lambda: self.now)
        self.scheduler = SglangScheduler(self.collector)
        self.passes = ForwardPasses(ForwardPassMetrics(self.collector, self.scheduler))

    def step(self, counter):
        self.now += 0.25
        self.passes.feed(message(counter), self.now)
        return self.collector.get_snapshot()


def test_present_counts_are_gauges_and_make_no_iteration():
    engine = Engine()
    engine.scheduler.log_stats(stats())
    snapshot = engine.collector.get_snapshot()
    gauges = snapshot.gauges
    assert (gauges.requests_in_flight, gauges.requests_running) == (6, 3)
    assert (gauges.requests_waiting, gauges.requests_deferred, gauges.kv_cache_usage) == (2, 1, 0.5)
    assert snapshot.totals.iterations == snapshot.totals.batches == 0
    assert snapshot.totals.requests_received == 0


def test_an_engine_that_falls_idle_says_so():
    engine = Engine()
    engine.scheduler.log_stats(stats())
    engine.scheduler.log_stats(stats(0, 0, 0, 0.0))
    assert engine.collector.get_snapshot().gauges.requests_in_flight == 0


def test_before_the_first_report_nobody_is_known_to_be_there():
    engine = Engine()
    assert engine.collector.get_snapshot().gauges.requests_running is None
    assert engine.step(0).gauges.requests_deferred is None


def test_requests_of_a_disaggregated_engines_other_half_are_held_back():
    engine = Engine()
    engine.scheduler.log_stats(stats(1, 1, 0, num_decode_transfer_queue_reqs=count(4)))
    assert engine.step(0).gauges.requests_deferred == 4
    assert engine.collector.get_snapshot().gauges.requests_waiting == 1


DEFERRED_COUNTS = {
    "num_grammar_queue_reqs": 1, "num_prefill_bootstrap_queue_reqs": 2, "num_prefill_inflight_queue_reqs": 4,
    "num_decode_prealloc_queue_reqs": 8, "num_decode_transfer_queue_reqs": 16,
}  # fmt: skip


def page(counts):
    """As SGLang's page has it with priority scheduling: the count of all priorities, and one a priority beside it."""
    lines = [
        f'sglang:{name}{{priority="{priority}",tp_rank="0"}} {value}'
        for name, value in counts.items()
        for priority in ("", "7")
    ]
    known = known_samples().__contains__
    return read(read_page([("\n".join(lines) + "\n").encode()], known))


def test_in_process_and_on_the_page_the_same_requests_are_deferred_each_once():
    """Those received into host memory are in the transfer queue; paused ones run or wait."""
    counts = {"num_running_reqs": 3, "num_queue_reqs": 2} | DEFERRED_COUNTS
    twice = {"num_decode_host_receive_queue_reqs": 5, "num_paused_reqs": 3}
    engine = Engine()
    engine.scheduler.log_stats(stats(**counts, **twice))
    gauges = engine.collector.get_snapshot().gauges
    reading = page(counts | twice)
    scraped = figures_of(Scrape(reading, 0.0, 0.0), difference(Scrape(reading, 0.0, 0.0), None)).gauges
    assert gauges.requests_deferred == scraped["requests_deferred"] == 31
    assert (gauges.requests_running, gauges.requests_waiting) == (3, 2)
    assert (scraped["requests_running"], scraped["requests_waiting"]) == (3, 2)
    assert reading.sources["requests_deferred"].count(" + ") == 4


def test_queue_times_are_observed_when_they_end():
    engine = Engine()
    for wait in (0.5, 0.25, -1.0, "long"):
        engine.scheduler.observe_queue_time(wait)
    snapshot = engine.collector.get_snapshot()
    assert snapshot.histograms["queue_time"]["default"].sum == 0.75
    assert snapshot.totals.rejected_records["wrong_type"] == 1
    assert snapshot.totals.rejected_records["negative"] == 1
    assert snapshot.request_stats.total_requests == 0


def test_a_forward_pass_carries_what_was_heard_since_the_one_before():
    engine = Engine()
    engine.scheduler.increment_retracted_reqs(2, 100, 50)
    engine.scheduler.increment_realtime_tokens(None, prefill_compute_tokens=7, prefill_cache_tokens=5, decode_tokens=0)
    engine.scheduler.increment_realtime_tokens(None, decode_tokens=3)
    engine.scheduler.log_stats(stats(usage=0.75))
    assert engine.step(0).totals.preemptions == 2
    snapshot = engine.step(1)
    assert (snapshot.totals.iterations, snapshot.totals.preemptions) == (2, 2)
    assert snapshot.gauges.kv_cache_usage == 0.75
    assert [iteration.limited_by for iteration in engine.collector.iteration_samples()] == ["kv_cache", "deferred"]


def test_what_was_retracted_before_anybody_read_forward_passes_is_told_with_the_first():
    engine = Engine()
    for _ in range(3):
        engine.scheduler.increment_retracted_reqs(1, 10, 10)
    assert engine.collector.get_snapshot().totals.dropped_records == 0
    assert engine.step(0).totals.preemptions == 3


@pytest.mark.parametrize("missing", ["token_usage", "num_grammar_queue_reqs", "num_decode_transfer_queue_reqs"])
def test_a_field_that_another_version_lacks_costs_one_number_and_is_named(missing):
    engine = Engine()
    for _ in range(2):
        engine.scheduler.log_stats(stats(**({missing: None} if missing != "token_usage" else {"usage": None})))
    snapshot = engine.step(0)
    assert snapshot.gauges.requests_running == 3
    assert snapshot.definitions["missing"].endswith(f": {missing}")


@pytest.mark.parametrize("bad", [-1, "many", math.nan, 2.5])
def test_a_count_that_cannot_be_is_refused(bad):
    engine = Engine()
    engine.scheduler.log_stats(stats(waiting=bad))
    snapshot = engine.collector.get_snapshot()
    assert (snapshot.gauges.requests_in_flight, snapshot.totals.rejected_records) == (4, {"wrong_type": 1})


def test_older_versions_plain_counts_are_understood():
    engine = Engine()
    engine.scheduler.log_stats(stats(num_running_reqs=5, num_queue_reqs=0))
    assert engine.collector.get_snapshot().gauges.requests_running == 5


def test_merged_with_the_tokenizers_nothing_counts_twice():
    """Requests come from the tokenizer manager's process, queue times, iterations and gauges from the scheduler's."""
    engine = Engine()
    front = SchedulerMetricsCollector(clock=lambda: engine.now)
    tokenizer = SglangTokenizer(front)
    engine.scheduler.log_stats(stats())
    engine.scheduler.observe_queue_time(0.125)
    engine.step(0)
    tokenizer.observe_time_to_first_token({}, 0.5, stream=True)
    tokenizer.observe_one_finished_request({}, 10, 4, 2, 2.0, time_per_output_token=0.5)
    merged = MetricsSnapshot.merge(front.get_snapshot(), engine.collector.get_snapshot())
    assert (merged.request_stats.total_requests, merged.totals.requests_received) == (1, 1)
    assert (merged.totals.iterations, merged.totals.generation_tokens_of_requests) == (1, 4)
    assert (merged.gauges.requests_running, merged.gauges.requests_in_flight) == (3, 6)
    assert merged.gauges.kv_cache_usage == 0.5
    assert merged.limits == SchedulerLimits(8, 2048, 64)
    assert merged.request_stats.queue_time.count == merged.request_stats.time_to_first_token.count == 1
    assert merged.iteration_stats.time_weighted_utilization == pytest.approx(3 / 8)
    assert "time_to_first_token" in merged.definitions
