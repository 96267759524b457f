"""Ranks: counts add, ratios never do, histograms merge, and copies of one scheduler's numbers count once."""

import math

import pytest
from scrape_doubles import reading

from batchscope.records import CompletionReason
from batchscope.scraping.series import Key
from batchscope.scraping.snapshot import ScrapeIdentity, scraped_snapshot
from batchscope.scraping.sums import CACHED_INCLUDED, combined, figures_of
from batchscope.scraping.table import Quantity
from batchscope.scraping.window import Scrape, difference


def figures(text, before=None, seconds=10.0):
    now = Scrape(reading(text), 100.0, 1000.0)
    then = None if before is None else Scrape(reading(before), 100.0 - seconds, 1000.0 - seconds)
    return figures_of(now, difference(now, then))


def document(found):
    import datetime as dt

    return scraped_snapshot(found, ScrapeIdentity("x", 0, 1, dt.datetime(2026, 1, 2, tzinfo=dt.UTC)))


def rank(number, *, running=1, usage=0.5, blocks=None, tokens=0, gaps=(0, 0, 0)):
    labels = f'engine="{number}",model_name="m"'
    capacity = (
        f'vllm:cache_config_info{{engine="{number}",num_gpu_blocks="{blocks}"}} 1\n' if blocks is not None else ""
    )
    below, middle, every = gaps
    return (
        f"vllm:num_requests_running{{{labels}}} {running}\nvllm:kv_cache_usage_perc{{{labels}}} {usage}\n"
        f"vllm:generation_tokens_total{{{labels}}} {tokens}\n{capacity}"
        f'vllm:inter_token_latency_seconds_bucket{{{labels},le="0.01"}} {below}\n'
        f'vllm:inter_token_latency_seconds_bucket{{{labels},le="0.025"}} {middle}\n'
        f'vllm:inter_token_latency_seconds_bucket{{{labels},le="+Inf"}} {every}\n'
        f"vllm:inter_token_latency_seconds_sum{{{labels}}} {every / 100}\n"
    )


def test_two_ranks_at_60_and_70_percent_are_not_at_130():
    found = figures(rank(0, usage=0.6) + rank(1, usage=0.7))
    assert math.isnan(found.usage)
    ratios = document(found).ratios["kv_cache_usage"]
    assert (ratios.low, ratios.high, ratios.series) == (0.6, 0.7, 2)
    assert math.isnan(document(found).snapshot.gauges.kv_cache_usage)


def test_ratios_are_weighed_where_every_capacity_is_known():
    assert figures(rank(0, usage=0.6, blocks=100) + rank(1, usage=0.7, blocks=300)).usage == pytest.approx(0.675)
    assert figures(rank(0, usage=0.6, blocks=100) + rank(1, usage=0.6)).usage == 0.6
    assert math.isnan(figures(rank(0, usage=0.6, blocks=100) + rank(1, usage=0.7)).usage)
    assert math.isnan(figures(rank(0, usage=0.6, blocks="None") + rank(1, usage=0.7, blocks=5)).usage)


def test_counts_of_ranks_add_and_their_histograms_merge_by_bucket():
    found = figures(rank(0, running=3, tokens=10, gaps=(5, 7, 8)) + rank(1, running=4, tokens=30, gaps=(1, 9, 9)))
    assert found.gauges[Quantity.REQUESTS_RUNNING] == 7
    assert found.total(Quantity.GENERATION_TOKENS) == 40
    merged = found.histograms[Quantity.INTER_EMISSION_LATENCY]
    assert merged.cumulative == (6, 16, 17)
    assert merged.total == pytest.approx(0.17)
    assert merged.quantile(50) == (0.01, 0.025)


def test_labels_that_every_series_has_are_kept():
    assert figures(rank(0) + rank(1)).labels == {"model_name": "m"}


def test_copies_of_one_schedulers_numbers_count_once():
    text = "".join(
        f'sglang:num_running_reqs{{dp_rank="{dp}",tp_rank="{tp}",pp_rank="0",moe_ep_rank="{tp}"}} {5 + dp}\n'
        f'sglang:token_usage{{dp_rank="{dp}",tp_rank="{tp}",pp_rank="0",moe_ep_rank="{tp}"}} 0.{5 + dp}\n'
        f'sglang:num_retracted_requests_total{{dp_rank="{dp}",tp_rank="{tp}"}} {dp + 1}\n'
        f'sglang:queue_time_seconds_bucket{{dp_rank="{dp}",tp_rank="{tp}",le="+Inf"}} {10 * (dp + 1)}\n'
        for dp in range(2)
        for tp in range(4)
    )
    found = figures(text)
    assert found.gauges[Quantity.REQUESTS_RUNNING] == 5 + 6
    assert found.total(Quantity.PREEMPTIONS) == 1 + 2
    assert found.histograms[Quantity.QUEUE_TIME].count == 10 + 20
    assert sorted(usage.ratio for usage in found.usages) == [0.5, 0.6]


def test_waiting_and_deferred_are_told_apart_where_the_engine_does():
    waiting = "vllm:num_requests_waiting 5\n"
    assert figures(waiting).gauges == {Quantity.REQUESTS_WAITING: 5}
    apart = 'vllm:num_requests_waiting_by_reason{reason="capacity"} 3\nvllm:num_requests_waiting_by_reason{reason="deferred"} 2\n'
    assert figures(waiting + apart).gauges == {Quantity.REQUESTS_WAITING: 3, Quantity.REQUESTS_DEFERRED: 2}
    assert document(figures(waiting + apart)).snapshot.gauges.requests_in_flight == 5


def test_a_source_has_the_labels_that_tell_its_series_from_others_of_the_name():
    found = figures(
        'batchscope_prompt_tokens_total{source="computed"} 7\nbatchscope_prompt_tokens_total{source="cached"} 3\n'
    )
    assert document(found).sources == {
        "prompt_tokens_computed": 'batchscope_prompt_tokens_total{source="computed"}',
        "prompt_tokens_cached": 'batchscope_prompt_tokens_total{source="cached"}',
    }


def test_computed_prompt_tokens_are_all_less_the_cached_ones():
    found = figures('sglang:prompt_tokens_total 100\nsglang:cached_tokens_total{cache_source="device"} 10\n'
                    'sglang:cached_tokens_total{cache_source="host"} 5\n')  # fmt: skip
    totals = document(found).snapshot.totals
    assert (totals.prompt_tokens_computed, totals.prompt_tokens_cached) == (85, 15)
    assert (
        document(found).sources["prompt_tokens_computed"] == "sglang:prompt_tokens_total - sglang:cached_tokens_total"
    )


def test_where_cached_tokens_cannot_be_told_apart_the_definition_says_so():
    found = figures("vllm:prompt_tokens_total 100\n")
    assert document(found).snapshot.totals.prompt_tokens_computed == 100
    assert found.definitions["prompt_tokens_computed"] == CACHED_INCLUDED
    assert "prompt_tokens_cached" in document(found).not_given


def test_what_is_not_there_is_said_so_that_a_zero_is_not_taken_for_a_number():
    found = document(figures("vllm:num_requests_running 1\n"))
    assert found.snapshot.totals.generation_tokens == 0
    assert found.not_given["generation_tokens"] == "not on the page"
    assert found.not_given["requests_received"] == "vLLM counts finished requests only"
    assert "requests_running" not in found.not_given


def test_a_number_that_is_announced_without_a_value_is_told_from_a_missing_one():
    found = reading("# TYPE sglang:queue_time_seconds histogram\nsglang:num_running_reqs 1\n")
    assert found.announced == {Quantity.QUEUE_TIME}


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-5", "-Inf"])
def test_a_count_that_cannot_be_is_left_out_and_named(value):
    found = reading(f"vllm:generation_tokens_total {value}\nvllm:num_requests_running NaN\n")
    assert found.counters == found.gauges == {}
    assert len(found.rejected) == 1
    assert "vllm:generation_tokens_total" in found.rejected[0]


@pytest.mark.parametrize("edge", ["abc", "NaN", ""])
def test_a_histogram_that_cannot_be_is_left_out_and_named(edge):
    found = reading(
        f'vllm:e2e_request_latency_seconds_bucket{{le="{edge}"}} 5\nvllm:e2e_request_latency_seconds_count 5\n'
    )
    assert found.histograms == {}
    assert "vllm:e2e_request_latency_seconds" in found.rejected[0]


def test_a_sum_and_a_count_alone_still_give_the_mean():
    found = figures("vllm:e2e_request_latency_seconds_count 4\nvllm:e2e_request_latency_seconds_sum 10\n")
    assert found.histograms[Quantity.TOTAL_TIME].mean == 2.5
    assert found.histograms[Quantity.TOTAL_TIME].quantile(99) == (0.0, math.inf)


def test_an_average_since_the_start_becomes_the_average_of_the_window():
    page = "llamacpp:n_busy_slots_per_decode {average}\nllamacpp:n_decode_total {decodes}\n"
    found = figures(page.format(average=3, decodes=200), before=page.format(average=2, decodes=100))
    assert document(found).snapshot.iteration_stats.average_requests_per_iteration == (600 - 200) / 100
    since_start = figures(page.format(average=2, decodes=100))
    assert document(since_start).snapshot.iteration_stats.average_requests_per_iteration == 2


def test_an_average_that_rounding_made_smaller_is_no_restart():
    page = "llamacpp:n_busy_slots_per_decode {average}\nllamacpp:n_decode_total {decodes}\n"
    found = figures(page.format(average="1.99998", decodes=100_001), before=page.format(average=2, decodes=100_000))
    assert not found.restarted
    assert math.isnan(document(found).snapshot.iteration_stats.average_requests_per_iteration)


def test_rates_are_gains_by_seconds():
    page = 'vllm:generation_tokens_total {tokens}\nvllm:request_success_total{{finished_reason="stop"}} {stop}\n'
    found = figures(page.format(tokens=500, stop=7), before=page.format(tokens=100, stop=2), seconds=10)
    requests = document(found).snapshot.request_stats
    assert (requests.tokens_per_second, requests.requests_per_second) == (40, 0.5)
    assert requests.completed_requests == 7
    assert found.totals[Key(Quantity.REQUESTS_FINISHED, CompletionReason.EOS_TOKEN_REACHED)] == 7


def test_a_fleet_of_one_engine_is_added_up():
    fleet = combined([figures(rank(0, running=3, usage=0.25, blocks=10, gaps=(5, 7, 8))),
                      figures(rank(0, running=4, usage=0.75, blocks=10, gaps=(1, 1, 2)))])  # fmt: skip
    assert fleet.gauges[Quantity.REQUESTS_RUNNING] == 7
    assert fleet.usage == 0.5
    assert fleet.histograms[Quantity.INTER_EMISSION_LATENCY].cumulative == (6, 8, 10)
    assert fleet.engine.kind == "vllm"
    assert fleet.not_merged == ()


def test_engines_that_mean_different_things_are_not_merged():
    sglang = ('sglang:time_to_first_token_seconds_bucket{le="+Inf"} 5\nsglang:num_running_reqs 2\n'
              'sglang:inter_token_latency_seconds_bucket{le="+Inf"} 5\n')  # fmt: skip
    vllm = 'vllm:time_to_first_token_seconds_bucket{le="+Inf"} 5\nvllm:num_requests_running 3\n'
    fleet = combined([figures(sglang), figures(vllm)])
    assert fleet.gauges[Quantity.REQUESTS_RUNNING] == 5
    assert fleet.not_merged == ("time_to_first_token",)
    assert set(fleet.histograms) == {Quantity.INTER_TOKEN_LATENCY}
    assert "time_to_first_token" not in fleet.definitions
    assert document(fleet).snapshot.engine.kind == "mixed"
    assert document(fleet).partial == {"inter_token_latency": 1}


def test_a_fleets_rate_is_of_all_that_count_the_thing_or_is_not_known():
    timed = figures("vllm:generation_tokens_total 50\nprocess_start_time_seconds 900\n")
    untimed = figures("vllm:generation_tokens_total 50\n")
    key = Key(Quantity.GENERATION_TOKENS)
    assert combined([timed, timed]).rates == {key: 1.0}
    assert combined([timed, untimed]).rates == {}
    assert combined([timed, figures("vllm:num_requests_running 1\n")]).rates == {key: 0.5}


def test_what_only_some_engines_give_is_marked_and_never_divided_by_what_others_give():
    llama = figures("llamacpp:n_busy_slots_per_decode 3\nllamacpp:n_decode_total 100\nllamacpp:requests_processing 3\n")
    vllm = figures(
        "vllm:iteration_tokens_total_count 900\nvllm:num_requests_running 1\nvllm:generation_tokens_total 50\n"
    )
    fleet = document(combined([llama, vllm]))
    assert fleet.partial["generation_tokens"] == fleet.partial["scheduled_requests"] == 1
    assert "requests_running" not in fleet.partial
    assert math.isnan(fleet.snapshot.iteration_stats.average_requests_per_iteration)
    assert fleet.snapshot.iteration_stats.total_iterations == 1000
    assert document(combined([llama, llama])).snapshot.iteration_stats.average_requests_per_iteration == 3


def test_a_newcomers_numbers_since_its_start_stay_out_of_the_fleets_window():
    page = 'vllm:time_to_first_token_seconds_bucket{{le="+Inf"}} {n}\nvllm:generation_tokens_total {n}\n'
    known = figures(page.format(n=110), before=page.format(n=100), seconds=10)
    newcomer = figures(page.format(n=5000))
    fleet = combined([newcomer, known])
    assert not fleet.since_start
    assert fleet.seconds == 10
    assert fleet.histograms[Quantity.TIME_TO_FIRST_TOKEN].count == 10
    assert fleet.rates[Key(Quantity.GENERATION_TOKENS)] == 1
    assert fleet.total(Quantity.GENERATION_TOKENS) == 5110
