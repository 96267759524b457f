"""SGLang's tokenizer manager: finished requests, first tokens, gaps, aborts; and values that cannot be."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope import CompletionReason, MetricsConfiguration, SchedulerMetricsCollector, SloTargets
from batchscope.engines.sglang.definitions import DEFINITIONS
from batchscope.engines.sglang.tokenizer import ABORT_SECONDS, SglangTokenizer
from batchscope.testing import RecordingMetrics

CAPTURE = Path(__file__).resolve().parents[2].parent / "shared" / "captures" / "sglang_metrics.txt"


class Manager:
    """Calls as ``TokenizerManager.collect_metrics`` of SGLang 0.5.23 does: one labels object an output."""

    def __init__(self, slo=None, **options):
        self.now = 100.0
        self.collector = SchedulerMetricsCollector(MetricsConfiguration(slo=slo), clock=lambda: self.now)
        self.tokenizer = SglangTokenizer(self.collector, **options)

    def first_output(self, ttft):
        labels = {"model_name": "tiny"}
        self.tokenizer.observe_time_to_first_token(labels, ttft, stream=True)
        return labels

    def later_output(self, gap, tokens):
        labels = {"model_name": "tiny"}
        self.tokenizer.observe_inter_token_latency(labels, gap, tokens)
        return labels

    def finish(self, labels, tokens, e2e, tpot=None, prompt=10, cached=4):
        self.tokenizer.observe_one_finished_request(
            labels, prompt, tokens, cached, e2e, False, None, spec_verify_ct=0, is_streaming=True,
            time_per_output_token=tpot,
        )  # fmt: skip

    def snapshot(self):
        return self.collector.get_snapshot()

    def request(self):
        [request] = self.collector.request_samples()
        return request


def test_a_finished_request_is_split_at_its_first_token():
    manager = Manager()
    manager.first_output(0.5)
    manager.finish(manager.later_output(1.5, 3), tokens=4, e2e=2.0, tpot=0.5)
    request = manager.request()
    assert (request.total_time, request.time_to_first_token, request.decode_time) == (2.0, 0.5, 1.5)
    assert request.time_per_output_token == 0.5
    assert (request.tokens_generated, request.prompt_tokens, request.cached_tokens) == (4, 10, 4)
    assert request.reason is CompletionReason.OTHER
    assert manager.snapshot().totals.prompt_tokens_cached == 4


def test_a_first_token_is_observed_once_and_when_it_comes():
    manager = Manager()
    manager.first_output(0.5)
    assert manager.snapshot().request_stats.total_requests == 0
    assert manager.snapshot().histograms["time_to_first_token"]["default"].count == 1
    manager.finish(manager.later_output(1.5, 3), tokens=4, e2e=2.0, tpot=0.5)
    assert manager.snapshot().histograms["time_to_first_token"]["default"].count == 1


def test_tokens_of_one_output_share_its_gap():
    manager = Manager()
    manager.later_output(0.75, 3)
    manager.later_output(0.5, 1)
    manager.later_output(0.5, 0)
    manager.later_output(0.5, -2)
    snapshot = manager.snapshot()
    assert snapshot.request_stats.inter_token_latency.count == 4
    assert snapshot.request_stats.inter_token_latency.mean == pytest.approx((0.75 + 0.5) / 4)
    assert snapshot.request_stats.inter_emission_latency.count == 0
    assert snapshot.totals.rejected_records == {}


def test_an_answer_of_one_token_has_a_first_token_and_no_time_per_token():
    manager = Manager()
    manager.finish(manager.first_output(0.5), tokens=1, e2e=0.5)
    request = manager.request()
    assert (request.time_to_first_token, request.decode_time) == (0.5, 0.0)
    assert math.isnan(request.time_per_output_token)
    assert request.reason is CompletionReason.OTHER


def test_an_answer_that_came_in_one_output_has_no_decode_time():
    manager = Manager()
    manager.finish(manager.first_output(0.5), tokens=8, e2e=0.5)
    request = manager.request()
    assert request.time_to_first_token == 0.5
    assert math.isnan(request.decode_time)
    assert math.isnan(request.time_per_output_token)
    assert request.reason is CompletionReason.OTHER


def test_a_running_request_that_was_aborted_counts_once_and_as_cancelled():
    manager = Manager()
    manager.first_output(0.5)
    manager.tokenizer.observe_one_aborted_request({"model_name": "tiny"})
    manager.finish(manager.later_output(0.25, 2), tokens=3, e2e=0.75)
    manager.now += 2 * ABORT_SECONDS
    totals = manager.snapshot().totals
    assert totals.requests_by_reason["cancelled"] == 1
    assert sum(totals.requests_by_reason.values()) == totals.requests_received == 1
    assert manager.request().tokens_generated == 3


def test_an_abort_that_nobody_asked_for_is_an_error():
    manager = Manager()
    manager.finish({"model_name": "tiny"}, tokens=0, e2e=0.75)
    assert manager.request().reason is CompletionReason.ERROR


def test_an_abort_asked_for_later_does_not_explain_an_earlier_end():
    manager = Manager()
    manager.finish({"model_name": "tiny"}, tokens=0, e2e=0.75)
    manager.now += 1
    manager.tokenizer.observe_one_aborted_request({"model_name": "tiny"})
    assert manager.request().reason is CompletionReason.ERROR


def test_a_queued_request_that_was_aborted_counts_after_a_while():
    manager = Manager()
    manager.tokenizer.observe_one_aborted_request({})
    manager.now += ABORT_SECONDS - 1
    assert manager.snapshot().request_stats.total_requests == 0
    manager.now += 1
    stats = manager.snapshot().request_stats
    assert (stats.cancelled_requests, stats.completed_requests) == (1, 0)


def test_another_requests_first_token_does_not_make_an_abort_a_success():
    manager = Manager()
    manager.first_output(0.5)
    manager.finish({"model_name": "tiny"}, tokens=3, e2e=0.75)
    assert manager.request().reason is CompletionReason.ERROR


def test_a_prefill_worker_has_no_first_tokens_and_finishes_all_the_same():
    manager = Manager(prefill_only=True)
    manager.finish({"model_name": "tiny"}, tokens=1, e2e=0.25)
    request = manager.request()
    assert request.reason is CompletionReason.OTHER
    assert math.isnan(request.time_to_first_token)


def test_the_slo_is_judged_by_the_requests_own_first_token():
    manager = Manager(slo=SloTargets(time_to_first_token=0.4, time_per_output_token=0.5))
    for ttft in (0.25, 0.5):
        manager.first_output(ttft)
        manager.finish(manager.later_output(1.5, 3), tokens=4, e2e=ttft + 1.5, tpot=0.5)
    slo = manager.snapshot().slo_stats["default"]
    assert (slo.met, slo.missed, slo.missed_by["time_to_first_token"]) == (1, 1, 1)


@given(
    st.lists(
        st.tuples(
            st.floats(1e-3, 1e3), st.floats(1e-6, 10), st.integers(2, 5000), st.booleans(), st.integers(0, 100_000)
        ),
        max_size=20,
    )
)
def test_for_each_request_first_token_and_decode_time_are_the_whole(requests):
    manager = Manager()
    for ttft, tpot, tokens, streams, prompt in requests:
        labels = manager.first_output(ttft)
        if streams:
            labels = manager.later_output(tpot, 1)
        manager.finish(labels, tokens, ttft + tpot * (tokens - 1), tpot, prompt=prompt, cached=0)
    samples = manager.collector.request_samples()
    for request, (ttft, tpot, tokens, _, _) in zip(samples, requests, strict=True):
        assert request.time_to_first_token + request.decode_time == pytest.approx(request.total_time)
        assert request.time_to_first_token == pytest.approx(ttft, rel=1e-6, abs=1e-9 * tpot * tokens)
        assert request.time_per_output_token == pytest.approx(tpot)
    totals = manager.snapshot().totals
    assert totals.requests_received == len(requests)
    assert totals.rejected_records == {}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"e2e": 1.0, "tpot": 0.5}, "negative"),  # decoded longer than it lived
        ({"e2e": 2.0, "tpot": -0.5}, "negative"),
        ({"e2e": 2.0, "tpot": math.inf}, "infinite"),
        ({"e2e": 2.0, "tpot": 0.5, "prompt": -1}, "negative"),
        ({"e2e": 2.0, "tpot": 0.5, "cached": "four"}, "wrong_type"),
    ],
)
def test_a_value_that_cannot_be_costs_one_number_not_the_request(values, reason):
    manager = Manager()
    manager.finish({}, tokens=4, **values)
    snapshot = manager.snapshot()
    assert snapshot.totals.rejected_records == {reason: 1}
    assert (snapshot.request_stats.completed_requests, snapshot.totals.requests_lost) == (1, 0)


@pytest.mark.parametrize("value", [-0.5, math.inf, math.nan, "soon", None])
def test_a_first_token_that_cannot_be_is_refused(value):
    manager = Manager()
    manager.first_output(value)
    snapshot = manager.snapshot()
    assert sum(snapshot.totals.rejected_records.values()) >= 1
    assert snapshot.histograms["time_to_first_token"]["default"].count == 0


@pytest.mark.parametrize(("gap", "tokens"), [(-0.5, 1), (math.inf, 1), (0.5, 1.5), (0.5, math.inf)])
def test_a_gap_that_cannot_be_is_refused_and_the_others_count(gap, tokens):
    manager = Manager()
    manager.later_output(gap, tokens)
    manager.later_output(0.5, 2)
    snapshot = manager.snapshot()
    assert sum(snapshot.totals.rejected_records.values()) == 1
    assert snapshot.request_stats.inter_token_latency.count == 2


def test_a_reset_counts_anew():
    manager = Manager()
    manager.finish({}, tokens=4, e2e=2.0, tpot=0.5)
    manager.collector.reset()
    manager.finish({}, tokens=4, e2e=-2.0, tpot=0.5)
    assert manager.snapshot().totals.requests_received == 1


def test_unread_calls_are_bounded():
    manager = Manager()
    for _ in range(20_000):
        manager.later_output(0.5, 1)
    assert manager.snapshot().request_stats.inter_token_latency.count == 20_000
    assert manager.snapshot().totals.dropped_records == 0


def test_metrics_objects_without_a_drain_get_finished_requests_at_once():
    metrics = RecordingMetrics()
    SglangTokenizer(metrics).observe_one_finished_request({}, 10, 4, 2, 2.0, time_per_output_token=0.5)
    [request] = metrics.requests
    assert (request.total_time, request.time_to_first_token, request.tokens_generated) == (2.0, 0.5, 4)


def test_the_snapshot_says_what_its_figures_mean():
    assert Manager().snapshot().definitions == DEFINITIONS


@pytest.mark.skipif(not CAPTURE.exists(), reason="needs ../shared/captures")
def test_the_calls_behind_a_captured_page_give_its_counts_and_sums():
    """The page was made by one finished request, one abort, 20,000 single tokens and one output of 30."""
    said = dict(
        re.findall(r"^sglang:(\w+_(?:count|sum|total))\{.*\} (\S+)$", CAPTURE.read_text(encoding="utf-8"), re.MULTILINE)
    )
    manager = Manager()
    manager.first_output(0.1)
    manager.later_output(0.6, 30)
    for _ in range(20_000):
        manager.later_output(0.06, 1)
    manager.finish(manager.later_output(0.0, 0), tokens=30, e2e=1.0, tpot=0.01, prompt=100, cached=0)
    manager.tokenizer.observe_one_aborted_request({})
    manager.now += ABORT_SECONDS
    snapshot = manager.snapshot()
    for metric, name in (
        ("time_to_first_token_seconds", "time_to_first_token"),
        ("inter_token_latency_seconds", "inter_token_latency"),
        ("request_time_per_output_token_seconds", "time_per_output_token"),
        ("e2e_request_latency_seconds", "total_time"),
    ):
        [histogram] = snapshot.histograms[name].values()
        assert histogram.count == float(said[f"{metric}_count"])
        assert histogram.sum == pytest.approx(float(said[f"{metric}_sum"]))
    assert snapshot.totals.requests_by_reason["other"] == float(said["num_requests_total"])
    assert snapshot.totals.requests_by_reason["cancelled"] == float(said["num_aborted_requests_total"])
    assert snapshot.totals.generation_tokens_of_requests == float(said["generation_tokens_total"])
    assert snapshot.totals.prompt_tokens_computed == float(said["prompt_tokens_total"])
