"""vLLM's names: what a dashboard made for vLLM finds here."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_states import full_collector, full_state

from batchscope import (
    CompletionReason,
    IterationResult,
    MetricsSnapshot,
    RequestResult,
    SchedulerLimits,
    SchedulerMetricsCollector,
)
from batchscope.exporters.prometheus import Exposition, Format
from batchscope.exporters.prometheus.vllm_names import FINISHED_REASON, VLLM_CATALOG
from batchscope.statistics.cumulative import cumulative_of

STOP = CompletionReason.EOS_TOKEN_REACHED
CAPTURE = Path(__file__).resolve().parents[3] / "shared" / "captures" / "vllm_metrics_after.txt"


def exported(state, form=Format.TEXT, parse=parse_text):
    body = Exposition(vllm_names=True).render(state, form).decode()
    return {family.name: family for family in parse(body)}


def value(families, family, **labels):
    [found] = [
        sample.value
        for sample in families[family].samples
        if labels.items() <= sample.labels.items() and not sample.name.endswith("_created")
    ]
    return found


@pytest.mark.skipif(not CAPTURE.exists(), reason=f"the capture {CAPTURE} is not there")
def test_every_name_kind_and_label_is_one_that_vllm_serves():
    text = CAPTURE.read_text()
    kinds = dict(re.findall(r"^# TYPE (vllm:\S+) (\w+)$", text, re.MULTILINE))
    theirs = {family.name: family for family in parse_text(text)}
    ours = exported(full_state())
    for metric in VLLM_CATALOG:
        assert kinds[metric.name] == metric.kind
        family = ours[metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name]
        labels = set(theirs[family.name].samples[0].labels) - {"le"}
        if metric.labels:  # of an information metric they have more
            labels &= {*metric.labels, "engine", "model_name"}
        assert labels <= set(family.samples[0].labels)
    reasons = {sample.labels["finished_reason"] for sample in theirs["vllm:request_success"].samples}
    assert set(FINISHED_REASON.values()) <= reasons


def test_the_numbers_are_ours_by_their_names():
    state = full_state()
    families = exported(state)
    totals, by_reason = state.totals, state.totals.requests_by_reason
    assert value(families, "vllm:generation_tokens") == totals.generation_tokens
    assert value(families, "vllm:prompt_tokens") == totals.prompt_tokens_computed + totals.prompt_tokens_cached
    assert value(families, "vllm:num_preemptions") == totals.preemptions
    assert value(families, "vllm:request_success", finished_reason="stop") == by_reason["eos_token_reached"]
    aborted = by_reason["cancelled"] + by_reason["timeout"]
    assert value(families, "vllm:request_success", finished_reason="abort") == aborted
    assert value(families, "vllm:num_requests_waiting") == 0


def test_request_classes_are_together_and_an_emission_is_an_inter_token_latency():
    state = full_state()
    families = exported(state)
    for name, source in (("e2e_request_latency", "total_time"), ("inter_token_latency", "inter_emission_latency")):
        family = families[f"vllm:{name}_seconds"]
        [count] = [sample.value for sample in family.samples if sample.name.endswith("_count")]
        assert count == sum(one.count for one in state.histograms[source].values()) > 0


def test_waiting_is_the_sum_of_its_reasons():
    collector = SchedulerMetricsCollector()
    collector.record_iteration(IterationResult(1, 2, 2, 0, 0.1, waiting_requests=3, deferred_requests=4))
    families = exported(collector.read_totals())
    assert value(families, "vllm:num_requests_waiting") == 7
    assert value(families, "vllm:num_requests_waiting_by_reason", reason="capacity") == 3
    assert value(families, "vllm:num_requests_waiting_by_reason", reason="deferred") == 4


def finished(**fields):
    return RequestResult(None, fields.pop("tokens", 10), fields.pop("reason", STOP), 0.5, **fields)


def test_what_an_autoscaler_reads_of_requests_is_of_completed_ones_and_known_values():
    collector = SchedulerMetricsCollector()
    for result in (
        finished(tokens=10, prompt_tokens=100, cached_tokens=64, prefill_time=0.5, decode_time=2.0),
        finished(tokens=30, prompt_tokens=50, prefill_time=0.25, decode_time=0.25),
        finished(tokens=5),  # nobody said its prompt, nor how its time was spent
        finished(tokens=7, prompt_tokens=1000, reason=CompletionReason.CANCELLED),
    ):
        collector.record_request_completion(result)
    families = exported(collector.read_totals())
    sums = {
        name: tuple(next(sample.value for sample in families[f"vllm:{name}"].samples if sample.name.endswith(part))
                    for part in ("_count", "_sum"))
        for name in ("request_prompt_tokens", "request_generation_tokens", "request_prefill_kv_computed_tokens",
                     "request_inference_time_seconds")
    }  # fmt: skip
    assert sums == {
        "request_prompt_tokens": (2, 150), "request_generation_tokens": (3, 45),
        "request_prefill_kv_computed_tokens": (2, 36 + 50), "request_inference_time_seconds": (2, 3.0),
    }  # fmt: skip


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 500)), st.one_of(st.none(), st.integers(0, 500)),
                  st.integers(0, 300)),
        max_size=20,
    )
)  # fmt: skip
def test_sizes_of_two_collectors_merge_to_those_of_one(requests):
    """Brute force over the completed requests; cached tokens count up to the prompt."""
    whole, parts = SchedulerMetricsCollector(), [SchedulerMetricsCollector(), SchedulerMetricsCollector()]
    expected = {"request_prompt_tokens": [], "request_computed_prompt_tokens": [], "request_generation_tokens": []}
    for number, (kind, prompt, cached, tokens) in enumerate(requests):
        reason = CompletionReason.ERROR if kind == 0 else STOP
        for collector in (whole, parts[number % 2]):
            collector.record_request_completion(
                finished(tokens=tokens, prompt_tokens=prompt, cached_tokens=cached, reason=reason)
            )
        if kind:
            expected["request_generation_tokens"].append(tokens)
            if prompt is not None:
                expected["request_prompt_tokens"].append(prompt)
                expected["request_computed_prompt_tokens"].append(prompt - min(cached or 0, prompt))
    found, merged = whole.get_snapshot(), MetricsSnapshot.merge(*(part.get_snapshot() for part in parts))
    for name, values in expected.items():
        for snapshot in (found, merged):
            one = snapshot.histograms[name][""]
            assert (one.count, one.sum) == (len(values), sum(values))


def test_the_prefix_cache_has_counts_where_somebody_said_them():
    collector = SchedulerMetricsCollector()
    collector.record_request_completion(finished(prompt_tokens=100))
    assert "vllm:prefix_cache_queries" not in exported(collector.read_totals())
    collector.record_request_completion(finished(prompt_tokens=100, cached_tokens=64))
    families = exported(collector.read_totals())
    assert (value(families, "vllm:prefix_cache_queries"), value(families, "vllm:prefix_cache_hits")) == (200, 64)


def test_the_size_of_the_kv_cache_stands_in_labels_as_a_scheduler_reads_it():
    collector = SchedulerMetricsCollector(limits=SchedulerLimits(kv_cache_blocks=1024, kv_block_size=16))
    [sample] = exported(collector.read_totals())["vllm:cache_config_info"].samples
    assert (sample.value, sample.labels["num_gpu_blocks"], sample.labels["block_size"]) == (1, "1024", "16")
    assert "vllm:cache_config_info" not in exported(SchedulerMetricsCollector().read_totals())
    merged = cumulative_of(MetricsSnapshot.merge(collector.get_snapshot(), collector_like().get_snapshot()))
    [sample] = exported(merged)["vllm:cache_config_info"].samples
    assert sample.labels["num_gpu_blocks"] == "1536"


def collector_like():
    return SchedulerMetricsCollector(limits=SchedulerLimits(kv_cache_blocks=512))


def test_model_name_and_engine_are_always_there():
    labels = exported(full_state())["vllm:generation_tokens"].samples[0].labels
    assert labels == {"model_name": 'Qwen-2 "7B"', "engine": "0", "rank": "0"}
    bare = exported(SchedulerMetricsCollector().read_totals())["vllm:generation_tokens"].samples[0].labels
    assert bare == {"model_name": "unknown", "engine": "0"}


def test_ours_stay_beside_them_in_openmetrics_too():
    families = exported(full_state(), Format.OPENMETRICS, parse_openmetrics)
    assert families["vllm:iteration_tokens_total"].type == "histogram"
    assert "batchscope_iterations" in families


def test_they_are_not_served_unasked():
    assert b"vllm" not in Exposition().render(full_collector().read_totals(), Format.TEXT)


def test_every_reason_of_ours_but_a_refusal_has_one_of_theirs():
    assert set(CompletionReason) - set(FINISHED_REASON) == {CompletionReason.REJECTED}
