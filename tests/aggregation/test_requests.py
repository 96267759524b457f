"""Finished requests: durations derived from instants, prompts counted once, histograms of the right ones."""

from math import isnan, nan

import pytest

from batchscope import CompletionReason, MetricsConfiguration, RequestResult, SchedulerMetricsCollector, SloTargets

EOS = CompletionReason.EOS_TOKEN_REACHED


def finished(*results, slo=None):
    collector = SchedulerMetricsCollector(MetricsConfiguration(slo=slo), clock=lambda: 100.0)
    for result in results:
        collector.record_request_completion(result)
    return collector


@pytest.mark.parametrize(
    ("fields", "total"),
    [({}, 2.0), ({"queue_time": 0.5}, 2.5), ({"queue_time": 0.5, "total_time": 9.0}, 9.0),
     ({"arrived_at": 1.0, "finished_at": 5.0}, 4.0)],
)  # fmt: skip
def test_total_time_is_as_given_else_from_instants_else_the_sum_of_its_parts(fields, total):
    (kept,) = finished(RequestResult("r", 1, EOS, 2.0, **fields)).request_samples()
    assert kept.total_time == total


def test_a_duration_with_one_end_missing_stays_unknown():
    (kept,) = finished(RequestResult("r", 5, EOS, 2.0, arrived_at=1.0, last_token_at=4.0)).request_samples()
    assert all(isnan(value) for value in (kept.queue_time, kept.time_to_first_token, kept.decode_time))


def test_the_identities_of_a_request_hold():
    (kept,) = finished(
        RequestResult("r", 9, EOS, nan, arrived_at=1.0, first_scheduled_at=1.5, first_token_at=3.5, last_token_at=7.5,
                      finished_at=8.0)
    ).request_samples()  # fmt: skip
    assert kept.time_to_first_token == kept.queue_time + kept.prefill_time
    assert kept.total_time == kept.time_to_first_token + kept.decode_time + (8.0 - 7.5)
    assert kept.time_per_output_token == kept.decode_time / 8


def test_prompts_count_once_their_prefill_ended_split_in_cached_and_computed():
    totals = (
        finished(
            RequestResult("a", 5, EOS, 1.0, prompt_tokens=100, cached_tokens=40),
            RequestResult("b", 0, CompletionReason.REJECTED, nan, prompt_tokens=1000),
            RequestResult("c", 1, EOS, 1.0, prompt_tokens=10),
        )
        .read_totals()
        .totals
    )
    assert (totals.prompt_tokens_cached, totals.prompt_tokens_computed) == (40, 70)


def test_histograms_of_the_start_hold_every_request_and_those_of_the_finish_completed_ones():
    fields = {"queue_time": 0.5, "time_to_first_token": 0.75, "decode_time": 1.0}
    histograms = (
        finished(*(RequestResult("r", 5, reason, 2.0, **fields) for reason in CompletionReason))
        .read_totals()
        .histograms
    )
    for name in ("queue_time", "time_to_first_token"):
        assert histograms[name]["default"].count == len(CompletionReason)
    for name in ("total_time", "time_per_output_token"):
        assert histograms[name]["default"].count == 5
    assert histograms["decode_time"][""].count == 5


def test_histograms_are_kept_a_class_each_where_classes_are_declared():
    collector = finished(
        RequestResult("a", 5, EOS, 1.0, request_class="chat"), RequestResult("b", 5, EOS, 2.0),
        slo={"chat": SloTargets(e2e_latency=1.0)},
    )  # fmt: skip
    histograms = collector.read_totals().histograms["total_time"]
    assert {name: histogram.count for name, histogram in histograms.items()} == {"chat": 1, "other": 1}


def test_opentelemetrys_time_per_output_token_ends_with_the_request_not_with_its_last_token():
    collector = SchedulerMetricsCollector()
    writer = collector.writer()
    for tokens, reason in ((5, EOS), (1, EOS), (5, CompletionReason.CANCELLED)):
        writer.request("a", tokens, reason, 3.0, 0.0, 3.0, 1.0, 1.0, 1.0)
    writer.request("no first token known", 5, EOS, 3.0)
    found = collector.read_totals().histograms
    assert (found["server_time_per_output_token"][""].count, found["server_time_per_output_token"][""].sum) == (1, 0.5)
    assert found["time_per_output_token"]["default"].sum == 0.25
