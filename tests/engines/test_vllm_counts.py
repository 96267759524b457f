"""What only vLLM's statistics tell is added up as it is told; what was never told is not there."""

import enum

import pytest
from vllm_doubles import Graph, Heard, PrefixCache, Scheduler, outputs

from batchscope import MetricsSnapshot, decode_snapshot
from batchscope.catalog import CATALOG, values
from batchscope.engines.vllm.source import FrontEnd

NAMES = (
    "prefix_cache_queried_tokens", "prefix_cache_hit_tokens", "graph_tokens", "graph_padding_tokens",
    "corrupted_requests",
)  # fmt: skip


class Tier(str, enum.Enum):  # noqa: UP042  (as vLLM's CacheHitSource is one)
    HOST = "host"
    DISK = "disk"


@pytest.fixture
def heard():
    return Heard()


def step(heard, **facts):
    heard.step(Scheduler(1, **facts), outputs(gaps=[0.125]))


def counts(snapshot):
    return tuple(getattr(snapshot.totals, name) for name in NAMES)


def series(collector):
    """The exported values of these figures, by name and labels."""
    state = collector.read_totals()
    found = {}
    for metric in CATALOG:
        short = metric.name.removeprefix("batchscope_").removesuffix("_total")
        if short.startswith(("prefix_cache", "graph", "corrupted")):
            found |= {(short, *labels): value for labels, value in values(metric, state)}
    return found


def test_what_was_never_told_has_no_figure_and_no_series(heard):
    step(heard)
    assert counts(heard.snapshot) == (None, {}, None, None, None)
    assert series(heard.collector) == {}
    assert heard.snapshot.gauges.requests_by_adapter == {}


def test_cached_tokens_are_told_by_where_they_were_found(heard):
    local = PrefixCache(2, 100, 32)
    step(heard, prefix_cache_stats=local)
    connector = PrefixCache(2, 68, 48, hits_by_source={Tier.HOST: 32, Tier.DISK: 16})
    step(heard, prefix_cache_stats=local, connector_prefix_cache_stats=connector)
    assert series(heard.collector) == {
        ("prefix_cache_queried_tokens",): 200,
        ("prefix_cache_hit_tokens", "device"): 64,
        ("prefix_cache_hit_tokens", "host"): 32,
        ("prefix_cache_hit_tokens", "disk"): 16,
    }


@pytest.mark.parametrize("said", [{}, {Tier.HOST: 7}, None, {Tier.HOST: "many"}])
def test_a_connectors_hits_without_tiers_that_add_up_are_unspecified(heard, said):
    step(heard, connector_prefix_cache_stats=PrefixCache(1, 68, 48, hits_by_source=said))
    assert heard.totals.prefix_cache_hit_tokens == {"external_unspecified": 48}


def test_padding_is_told_beside_the_tokens_of_the_same_steps(heard):
    step(heard, cudagraph_stats=Graph(5, 8, 3))
    step(heard)
    step(heard, cudagraph_stats=Graph(8, 8, 0))
    assert series(heard.collector) == {("graph_tokens", "scheduled"): 13, ("graph_tokens", "padding"): 3}


def test_requests_with_nans_count(heard):
    heard.step(Scheduler(0), outputs(gaps=[0.125], num_corrupted_reqs=2))
    assert heard.totals.corrupted_requests == 2


def test_what_came_back_after_a_preemption_and_was_found_nowhere_is_recomputed(heard):
    cache = PrefixCache(0, 0, 0, preempted_requests=2, preempted_queries=202, preempted_hits=64)
    connector = PrefixCache(preempted_requests=2, preempted_queries=138, preempted_hits=32)
    step(heard, prefix_cache_stats=cache, connector_prefix_cache_stats=connector)
    step(heard)
    assert heard.totals.recomputed_tokens == 202 - 64 - 32 - 2


def test_each_adapters_requests_are_in_the_snapshot_and_never_a_label(heard):
    step(heard, running_lora_adapters={"sql": 2, "chat": 0}, waiting_lora_adapters={"sql": 1, "chat": 4})
    by_adapter = {"sql": {"running": 2, "waiting": 1}, "chat": {"waiting": 4}}
    assert heard.snapshot.gauges.requests_by_adapter == by_adapter
    assert all("adapter" not in metric.labels for metric in CATALOG)
    step(heard)
    assert heard.snapshot.gauges.requests_by_adapter == {}


def test_many_adapters_are_told_by_sixteen_names_and_the_others_together(heard):
    step(heard, running_lora_adapters={f"a{number:02d}": 1 for number in range(40)})
    by_adapter = heard.snapshot.gauges.requests_by_adapter
    assert len(by_adapter) == 17
    assert by_adapter["other"] == {"running": 24}


def test_the_figures_of_several_front_ends_add_up_also_when_they_come_as_json():
    first, second, silent = (Heard(front_end=FrontEnd(rank, 3)) for rank in range(3))
    for heard in (first, second):
        step(
            heard, prefix_cache_stats=PrefixCache(1, 100, 40), cudagraph_stats=Graph(5, 8, 3),
            running_lora_adapters={"sql": 2},
        )  # fmt: skip
    step(silent)
    told = [decode_snapshot(heard.snapshot.to_json(histograms=True)) for heard in (silent, first, second)]
    merged = MetricsSnapshot.merge(*told)
    assert counts(merged) == (200, {"device": 80}, 10, 6, None)
    assert merged.gauges.requests_by_adapter == {"sql": {"running": 4}}


def test_a_reset_counts_anew(heard):
    step(heard, prefix_cache_stats=PrefixCache(1, 100, 40))
    heard.collector.reset()
    step(heard)
    assert counts(heard.snapshot) == (None, {}, None, None, None)
