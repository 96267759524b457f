"""The table: every name of a captured page is known, newest names win, and each quantity is told one way."""

from pathlib import Path

import pytest
from scrape_doubles import captured, needs_captures, page, reading

from batchscope.records import CompletionReason
from batchscope.scraping.engines import ENGINES
from batchscope.scraping.series import Key
from batchscope.scraping.table import DURATIONS, KEY_NUMBERS, NUMBERS, Aggregation, Quantity, family_of
from batchscope.statistics.summaries import RequestStatistics
from batchscope.statistics.totals import Gauges, Totals

BOTH_USAGES = "vllm:kv_cache_usage_perc 0.5\nvllm:gpu_cache_usage_perc 0.4\n"
BY_KIND = {engine.kind: engine for engine in ENGINES}


@needs_captures
@pytest.mark.parametrize(
    ("name", "kind", "version"),
    [
        ("vllm_metrics", "vllm", "0.12 or newer"),
        ("sglang_metrics", "sglang", "0.5.23, or near it"),
        ("llamacpp_metrics", "llama.cpp", "since 2026-08 (commit decaf508b)"),
    ],
)
def test_a_real_page_is_recognised_and_every_name_of_it_is_known(name, kind, version):
    found = reading(captured(name))
    assert (found.engine.kind, found.version) == (kind, version)
    assert found.unknown == []
    assert found.rejected == []
    assert found.mixed == ()


@pytest.mark.parametrize("engine", ENGINES, ids=BY_KIND)
def test_every_engine_says_where_its_names_are_from_and_owns_them(engine):
    assert engine.source
    assert all(engine.owns(name) for name in engine.families | engine.not_used)
    assert not engine.families & engine.not_used
    assert not set(engine.lacks) & {rule.quantity for rule in engine.rules} - {
        Quantity.KV_CACHE_USAGE, Quantity.DRAFT_TOKENS, Quantity.ACCEPTED_TOKENS}  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES, ids=BY_KIND)
def test_every_latency_that_an_engine_gives_is_defined(engine):
    latencies = {rule.quantity for rule in engine.rules} & set(DURATIONS)
    assert latencies <= set(engine.definitions)


@pytest.mark.parametrize("engine", ENGINES, ids=BY_KIND)
def test_every_engine_has_what_a_watch_cannot_do_without(engine):
    assert set(KEY_NUMBERS) <= {rule.quantity for rule in engine.rules}


def test_no_two_engines_share_a_name():
    names = [name for engine in ENGINES for name in engine.families | engine.not_used]
    assert len(names) == len(set(names))
    assert [other.kind for other in ENGINES for engine in ENGINES for name in engine.families
            if other is not engine and other.owns(name)] == []  # fmt: skip


def test_canonical_names_are_the_snapshots_own():
    fields = {*Totals.__struct_fields__, *Gauges.__struct_fields__, *RequestStatistics.__struct_fields__}
    ours = {"requests_finished", "scheduled_requests", "processing_time", "iteration_duration",
            "iteration_scheduled_tokens", "request_generation_tokens"}  # fmt: skip
    assert {str(quantity) for quantity in NUMBERS} - fields == ours


def test_inter_token_latency_of_vllm_and_of_sglang_are_different_numbers():
    meant = {rule.names[0]: rule.quantity for engine in ENGINES for rule in engine.rules}
    assert meant["vllm:inter_token_latency_seconds"] is Quantity.INTER_EMISSION_LATENCY
    assert meant["lmdeploy:iter_token_latency"] is Quantity.INTER_EMISSION_LATENCY
    assert meant["sglang:inter_token_latency_seconds"] is Quantity.INTER_TOKEN_LATENCY


@pytest.mark.parametrize(
    ("names", "version", "usage"),
    [
        ("vllm:kv_cache_usage_perc 0.5\nvllm:inter_token_latency_seconds_count 0\n", "0.12 or newer", 0.5),
        (f"{BOTH_USAGES}vllm:inter_token_latency_seconds_count 0\nvllm:time_per_output_token_seconds_count 0\n",
         "0.10.2 or 0.11", 0.5),
        (f"{BOTH_USAGES}vllm:time_per_output_token_seconds_count 0\n", "0.9.2 to 0.10.1", 0.5),
        ("vllm:gpu_cache_usage_perc 0.4\nvllm:time_per_output_token_seconds_count 0\n", "0.9.1 or older", 0.4),
        ("vllm:num_requests_running 0\nvllm:kv_cache_usage_perc_of_something 1\n", "", None),
    ],
)  # fmt: skip
def test_a_renamed_metric_is_found_under_either_name_and_never_twice(names, version, usage):
    found = reading(names)
    assert found.version == version
    usages = found.gauges.get(Quantity.KV_CACHE_USAGE, {frozenset(): None})
    assert list(usages.values()) == [usage]


def test_old_and_new_latency_names_do_not_add_up():
    text = "".join(
        f'vllm:{name}_bucket{{le="{edge}"}} {count}\n'
        for name, count in (("time_per_output_token_seconds", 5), ("inter_token_latency_seconds", 7))
        for edge in (1, "+Inf")
    )
    found = reading(text)
    (buckets,) = found.histograms[Quantity.INTER_EMISSION_LATENCY].values()
    assert buckets.count == 7
    assert found.sources[Quantity.INTER_EMISSION_LATENCY] == "vllm:inter_token_latency_seconds"


def test_names_are_matched_whole():
    found = reading("vllm:num_requests_running_max 5\nvllm:num_requests_runnin 6\nvllm:num_requests_running_total 7\n")
    assert found.gauges == {}
    assert found.unknown == [
        "vllm:num_requests_runnin",
        "vllm:num_requests_running_max",
        "vllm:num_requests_running_total",
    ]


def test_a_new_name_is_reported_once_and_those_of_others_are_counted():
    found = reading(
        "vllm:num_requests_running 1\n# TYPE vllm:brand_new histogram\n"
        'vllm:brand_new_bucket{le="+Inf"} 1\nvllm:brand_new_count 1\nvllm:brand_new_created 5\n'
        "# TYPE vllm:empty_count gauge\n# TYPE python_info gauge\npython_info 1\nprocess_open_fds 5\n"
    )
    assert found.unknown == ["vllm:brand_new", "vllm:empty_count"]
    assert found.foreign == 2


def test_a_page_of_two_engines_is_read_as_the_one_with_more_names_and_says_so():
    found = reading("vllm:num_requests_running 1\nvllm:num_requests_waiting 2\ntgi_queue_size 5\n")
    assert found.engine.kind == "vllm"
    assert found.mixed == ("TGI",)


TGI = """
# TYPE tgi_request_count counter
tgi_request_count 12
tgi_request_success 7
tgi_request_failure{err="validation"} 2
tgi_request_failure{err="overloaded"} 1
tgi_request_failure{err="generation"} 1
tgi_request_failure{err="dropped"} 1
tgi_batch_current_size 3
tgi_queue_size 4
tgi_batch_inference_count{method="prefill"} 10
tgi_batch_inference_count{method="decode"} 90
tgi_request_generated_tokens_sum 700
tgi_request_generated_tokens_count 7
tgi_request_duration_bucket{le="0.1"} 2
tgi_request_duration_bucket{le="+Inf"} 7
tgi_request_duration_sum 3.5
tgi_request_duration_count 7
"""
TRTLLM = """
trtllm_num_requests_running{model_name="m",engine_type="trtllm"} 5
trtllm_num_requests_waiting{model_name="m",engine_type="trtllm"} 2
trtllm_generation_tokens_total{model_name="m",engine_type="trtllm"} 900
trtllm_kv_cache_utilization{model_name="m",engine_type="trtllm"} 0.25
trtllm_kv_cache_max_blocks{model_name="m",engine_type="trtllm"} 400
trtllm_max_batch_size_runtime{model_name="m",engine_type="trtllm"} 64
trtllm_request_success_total{model_name="m",engine_type="trtllm",finished_reason="length"} 9
trtllm_request_success_total{model_name="m",engine_type="trtllm",finished_reason="timeout"} 1
"""
TRITON = """
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 4
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 3
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 64
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 9
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.5
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 6239
nv_llm_output_token_len_sum{response_metric_type="total_output_tokens",model="tensorrt_llm",version="1"} 500
nv_llm_output_token_len_count{response_metric_type="total_output_tokens",model="tensorrt_llm",version="1"} 5
"""
LMDEPLOY = """
lmdeploy:num_requests_running{model_name="m",engine="0"} 5
lmdeploy:num_requests_waiting{model_name="m",engine="0"} 6
lmdeploy:num_api_requests_waiting{model_name="m",engine="0"} 1
lmdeploy:gpu_cache_usage_perc{model_name="m",engine="0"} 0.75
lmdeploy:generation_tokens_total{model_name="m",engine="0"} 90
lmdeploy:request_success_total{model_name="m",engine="0",finished_reason="ResponseType.FINISH"} 4
lmdeploy:request_success_total{model_name="m",engine="0",finished_reason="ResponseType.CANCEL"} 2
lmdeploy:request_success_total{model_name="m",engine="0",finished_reason="ResponseType.NO_QUEUE"} 1
lmdeploy:request_success_total{model_name="m",engine="0",finished_reason="ResponseType.OUT_OF_MEMORY"} 1
lmdeploy:time_per_output_token_seconds_count{model_name="m",engine="0"} 5
"""
RAY = """
ray_vllm_num_requests_running{WorkerId="a",engine="0",model_name="m"} 5
ray_vllm_num_requests_running{WorkerId="b",engine="0",model_name="m"} 7
ray_vllm_num_requests_waiting{WorkerId="a",engine="0",model_name="m"} 2
ray_vllm_generation_tokens_total{WorkerId="a",engine="0",model_name="m"} 900
ray_vllm_request_success{WorkerId="a",engine="0",finished_reason="length"} 9
ray_vllm_nixl_bytes_transferred_sum{WorkerId="a"} 1
ray_node_mem_used 5
"""
DYNAMO = """
dynamo_frontend_active_requests{model="m"} 9
dynamo_frontend_inflight_requests{model="m"} 9
dynamo_frontend_queued_requests{model="m"} 4
dynamo_frontend_output_tokens_total{model="m"} 70
dynamo_frontend_requests_total{endpoint="completions",error_type="",model="m",status="success"} 5
dynamo_frontend_requests_total{endpoint="completions",error_type="overload",model="m",status="error"} 2
dynamo_frontend_requests_total{endpoint="completions",error_type="cancelled",model="m",status="error"} 1
dynamo_frontend_requests_total{endpoint="completions",error_type="internal",model="m",status="error"} 1
dynamo_frontend_disconnected_clients 0
dynamo_frontend_model_context_length{model="m"} 4096
dynamo_tokio_alive_tasks 5
"""
MAX = """
maxserve_num_requests_running 9
maxserve_num_requests_queued 6
maxserve_num_output_tokens_total 40
maxserve_time_to_first_token_milliseconds_bucket{le="5.0"} 1
maxserve_time_to_first_token_milliseconds_bucket{le="250.0"} 3
maxserve_time_to_first_token_milliseconds_bucket{le="+Inf"} 4
maxserve_time_to_first_token_milliseconds_sum 800
maxserve_time_to_first_token_milliseconds_count 4
maxserve_request_count_total{code="200",path="/health"} 1000
"""
REASON = CompletionReason


@pytest.mark.parametrize(
    ("text", "kind", "running", "waiting", "tokens", "reasons"),
    [
        (TGI, "tgi", 3, 4, 700, {REASON.OTHER: 7, REASON.REJECTED: 3, REASON.ERROR: 1, REASON.CANCELLED: 1}),
        (TRTLLM, "tensorrt-llm", 5, 2, 900, {REASON.MAX_TOKENS_REACHED: 9, REASON.TIMEOUT: 1}),
        (TRITON, "tensorrt-llm-triton", 4, 3, 500, {}),
        (LMDEPLOY, "lmdeploy", 5, 6, 90, {REASON.OTHER: 4, REASON.CANCELLED: 2, REASON.REJECTED: 1, REASON.ERROR: 1}),
        (RAY, "ray-vllm", 12, 2, 900, {REASON.MAX_TOKENS_REACHED: 9}),
        (DYNAMO, "dynamo", 5, 4, 70, {REASON.OTHER: 5, REASON.REJECTED: 2, REASON.CANCELLED: 1, REASON.ERROR: 1}),
        (MAX, "max", 3, 6, 40, {}),
    ],
    ids=["tgi", "trtllm-serve", "triton", "lmdeploy", "ray-vllm", "dynamo", "max"],
)
def test_pages_of_engines_that_were_not_captured(text, kind, running, waiting, tokens, reasons):
    found = reading(text)
    assert found.engine.kind == kind
    assert found.unknown == found.rejected == []
    assert sum(found.gauges[Quantity.REQUESTS_RUNNING].values()) == running
    assert list(found.gauges[Quantity.REQUESTS_WAITING].values()) == [waiting]
    assert sum(found.counters[Key(Quantity.GENERATION_TOKENS)].values()) == tokens
    counted = {key.reason: sum(series.values()) for key, series in found.counters.items()
               if key.quantity is Quantity.REQUESTS_FINISHED}  # fmt: skip
    assert counted == reasons


def test_milliseconds_on_a_page_are_seconds_here():
    (buckets,) = reading(MAX).histograms[Quantity.TIME_TO_FIRST_TOKEN].values()
    assert buckets.quantile(50) == (0.005, 0.25)
    assert buckets.mean == pytest.approx(0.2)


def test_names_that_are_known_and_not_read_are_told_by_what_they_measure():
    assert reading(RAY).unused == {"KV transfer over NIXL": ["ray_vllm_nixl_bytes_transferred"]}
    assert reading(RAY).foreign == 1
    assert list(reading(DYNAMO).unused.values()) == [["dynamo_frontend_model_context_length"],
                                                     ["dynamo_tokio_alive_tasks"]]  # fmt: skip
    found = reading(
        "vllm:num_requests_running 1\nvllm:nixl_new_thing 1\nvllm:nix 1\nvllm:hisparse_cache_hits_total 2\n"
    )
    assert found.unknown == ["vllm:nix"]
    assert found.unused == {"KV transfer over NIXL": ["vllm:nixl_new_thing"],
                            "host memory of sparse attention": ["vllm:hisparse_cache_hits_total"]}  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES, ids=BY_KIND)
def test_what_is_left_alone_is_the_engines_own_and_hides_no_name_that_is_read(engine):
    assert all(beginning.startswith(engine.prefixes) for beginning in engine.unused)
    assert engine.known_unused(engine.families | engine.not_used) == {}


def test_triton_labels_choose_the_number():
    found = reading(TRITON)
    assert list(found.gauges[Quantity.LIMIT_RUNNING_REQUESTS].values()) == [64]
    assert list(found.gauges[Quantity.KV_CACHE_USAGE].values()) == [0.5]


def test_kinds_of_quantities():
    assert {Quantity.REQUESTS_RUNNING.kind, Quantity.LIMIT_KV_CACHE_BLOCKS.kind} == {Aggregation.GAUGE}
    assert {Quantity.REQUESTS_RECEIVED.kind, Quantity.PREEMPTIONS.kind} == {Aggregation.COUNTER}
    assert {Quantity.QUEUE_TIME.kind, Quantity.REQUEST_GENERATION_TOKENS.kind} == {Aggregation.HISTOGRAM}
    assert Quantity.KV_CACHE_USAGE.kind is Aggregation.RATIO
    assert family_of("a_seconds_bucket") == "a_seconds"
    assert family_of("a_total") == "a_total"


@needs_captures
def test_the_page_of_vllm_is_read_to_its_last_number():
    found = reading(captured("vllm_metrics_after"))
    totals = {key: sum(series.values()) for key, series in found.counters.items()}
    assert totals[Key(Quantity.REQUESTS_FINISHED, REASON.MAX_TOKENS_REACHED)] == 54
    assert totals[Key(Quantity.GENERATION_TOKENS)] == 4676
    assert totals[Key(Quantity.PREEMPTIONS)] == 36
    assert totals[Key(Quantity.ITERATIONS)] == 1205
    (gaps,) = found.histograms[Quantity.INTER_EMISSION_LATENCY].values()
    assert gaps.count == 4616
    assert list(found.gauges[Quantity.LIMIT_KV_CACHE_BLOCKS].values()) == [24]
    assert page(captured("vllm_metrics")).families


def test_the_table_in_the_documentation_is_this_table():
    page = Path(__file__).parents[2] / "docs" / "how-to" / "watch-any-engine.md"
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in page.read_text().splitlines()]
    documented = {row[0]: row[1:] for row in rows if len(row) == len(ENGINES) + 1}
    given = [{rule.quantity for rule in engine.rules} for engine in ENGINES]
    for rules in given:  # the computed ones are all of them less the cached ones
        rules.update({Quantity.PROMPT_TOKENS_COMPUTED} if Quantity.PROMPT_TOKENS in rules else ())
    for quantity in NUMBERS:
        assert documented[quantity] == ["yes" if quantity in rules else "-" for rules in given], quantity
