"""Resources in the snapshot: statistics, facts, energy per token, JSON and merging; and in the catalogue."""

import math

import msgspec
import pytest

from batchscope import (
    CompletionReason,
    InvalidRecordError,
    IterationResult,
    MetricsConfiguration,
    RequestResult,
    SchedulerMetricsCollector,
    decode_snapshot,
)
from batchscope.catalog import CATALOG, PREFIX, values
from batchscope.errors import ConfigurationError
from batchscope.records import ResourceSample
from batchscope.statistics.cumulative import cumulative_of
from batchscope.statistics.merge import merge_snapshots


class Engine:
    """A collector under a clock of its own."""

    def __init__(self, **settings):
        self.now = 1000.0
        self.collector = SchedulerMetricsCollector(MetricsConfiguration(**settings), clock=lambda: self.now)

    def sample(self, *samples, seconds=1.0, facts=None):
        self.now += seconds
        self.collector.record_resources(samples, facts=facts, interval=1.0)

    def tokens(self, count):
        self.collector.record_iteration(IterationResult(1, 1, count, 0, 0.5))

    def snapshot(self):
        return self.collector.get_snapshot()


def gpu(quantity, value, device="0", identity=""):
    return ResourceSample("gpu", device, quantity, value, "", identity)


def memory(value):
    return ResourceSample("process", "", "resident_memory_bytes", value, "bytes")


def exported(state, name):
    metric = next(metric for metric in CATALOG if metric.name == PREFIX + name)
    return dict(values(metric, state))


def test_a_quantity_has_its_last_value_and_its_distribution():
    engine = Engine()
    for watts in (100.0, 300.0, 200.0):
        engine.sample(gpu("power_watts", watts, identity="GPU-a"), memory(5.0))
    engine.now += 2
    found = engine.snapshot().resource_stats
    assert found.keys() == {"gpu.0.power_watts", "process.resident_memory_bytes"}
    power = found["gpu.0.power_watts"]
    assert (power.resource, power.device, power.quantity, power.identity) == ("gpu", "0", "power_watts", "GPU-a")
    assert (power.last, power.last_sampled_seconds_ago) == (200.0, 2.0)
    assert (power.summary.count, power.summary.mean, power.summary.max) == (3, 200.0, 300.0)
    assert power.summary.span_seconds == 2.0


def test_when_the_sampler_dies_gauges_vanish_and_counters_stay():
    engine = Engine()
    for joules in (50.0, 80.0):
        engine.sample(gpu("power_watts", 100.0), gpu("energy_joules", joules))
    engine.now += 3
    assert exported(engine.collector.read_totals(), "gpu_power_watts") == {("0",): 100.0}
    engine.now += 0.5
    stats = engine.snapshot().resource_stats
    assert math.isnan(stats["gpu.0.power_watts"].last)
    assert stats["gpu.0.power_watts"].last_sampled_seconds_ago == 3.5
    assert stats["gpu.0.power_watts"].summary.count == 2
    assert stats["gpu.0.energy_joules"].last == 30.0
    state = engine.collector.read_totals()
    assert exported(state, "gpu_power_watts") == {}
    assert exported(state, "gpu_energy_joules_total") == {("0",): 30.0}


def test_a_scrape_computes_no_distribution():
    engine = Engine()
    engine.sample(gpu("power_watts", 100.0))
    assert engine.collector.read_totals().resources["gpu.0.power_watts"].summary.count == 0


def test_energy_per_token_without_a_gpu_or_tokens_is_not_known():
    engine = Engine()
    engine.tokens(10)
    energy = engine.snapshot().energy_stats
    assert math.isnan(energy.joules)
    assert math.isnan(energy.joules_per_token)
    engine.sample(gpu("energy_joules", 1.0))
    engine.sample(gpu("energy_joules", 5.0))
    energy = engine.snapshot().energy_stats
    assert energy.joules == 4.0
    assert math.isnan(energy.joules_per_token)


def test_tokens_of_finished_requests_count_where_no_iteration_is_recorded():
    engine = Engine()
    engine.sample(gpu("energy_joules", 0.0))
    engine.collector.record_request_completion(RequestResult("a", 20, CompletionReason.OTHER, 1.0))
    engine.sample(gpu("energy_joules", 100.0))
    assert engine.snapshot().energy_stats.joules_per_token == 5.0


def test_a_reset_begins_energy_and_tokens_anew():
    engine = Engine()
    for joules in (0.0, 500.0):
        engine.sample(gpu("energy_joules", joules), facts={"nvml": "x"})
        engine.tokens(100)
    engine.collector.reset()
    assert engine.snapshot().resource_stats == engine.snapshot().resource_facts == {}
    engine.sample(gpu("energy_joules", 510.0))
    engine.tokens(5)
    engine.sample(gpu("energy_joules", 530.0))
    found = engine.snapshot()
    assert found.resource_stats["gpu.0.energy_joules"].last == 20.0
    assert found.energy_stats.joules_per_token == 4.0


def test_json_there_and_back():
    engine = Engine()
    engine.tokens(1)
    engine.sample(gpu("energy_joules", 1.0, identity="GPU-a"), gpu("power_watts", 3.0), facts={"nvml": 'a "fact"'})
    engine.tokens(4)
    engine.sample(gpu("energy_joules", 9.0, identity="GPU-a"))
    snapshot = engine.snapshot()
    back = decode_snapshot(snapshot.to_json())
    assert back.energy_stats == snapshot.energy_stats
    assert back.energy_stats.joules_by_gpu == {"GPU-a": 8.0}
    assert back.resource_facts == {"nvml": 'a "fact"'}
    assert msgspec.to_builtins(back.resource_stats["gpu.0.power_watts"].summary) == msgspec.to_builtins(
        snapshot.resource_stats["gpu.0.power_watts"].summary
    )


def fleet():
    """Three processes: two on one machine sample the same two GPUs, the third has one without a UUID."""
    found = []
    for tokens, samples in (
        (100, {"GPU-a": 300.0, "GPU-b": 100.0}), (60, {"GPU-a": 290.0, "GPU-b": 110.0}), (40, {"": 90.0}),
    ):  # fmt: skip
        engine = Engine()
        for share in (0.0, 1.0):
            engine.sample(
                *(gpu("energy_joules", 7.0 + joules * share, str(index), identity)
                  for index, (identity, joules) in enumerate(samples.items())),
                *(gpu("power_watts", joules, str(index), identity)
                  for index, (identity, joules) in enumerate(samples.items())),
                memory(1000.0), facts={"amdsmi": "none"},
            )  # fmt: skip
            engine.tokens(tokens)
        engine.sample(*(gpu("energy_joules", 7.0 + joules, str(index), identity)
                        for index, (identity, joules) in enumerate(samples.items())))  # fmt: skip
        found.append(engine.collector.get_snapshot())
    return found


def test_a_gpu_that_two_processes_sample_counts_once_and_tokens_add_up():
    parts = fleet()
    energy = merge_snapshots(parts).energy_stats
    third = parts[2].instance_id
    assert energy.joules_by_gpu == {"GPU-a": 300.0, "GPU-b": 110.0, f"{third}/gpu.0.energy_joules": 90.0}
    assert energy.joules == 500.0
    assert energy.tokens_of_iterations == 2 * (100 + 60 + 40)
    assert energy.joules_per_token == 500.0 / 400
    assert merge_snapshots([merge_snapshots(parts[:2]), parts[2]]).energy_stats == energy
    assert merge_snapshots(parts[::-1]).energy_stats == energy


def test_facts_keep_their_owners():
    parts = fleet()
    assert merge_snapshots(parts).resource_facts == {f"{part.instance_id}/amdsmi": "none" for part in parts}


def test_a_merged_state_exports_each_gpu_once_and_the_sum_of_processes():
    parts = fleet()
    state = cumulative_of(merge_snapshots(parts))
    third = f"{parts[2].instance_id}/0"
    assert exported(state, "gpu_energy_joules_total") == {("GPU-a",): 300.0, ("GPU-b",): 110.0, (third,): 90.0}
    assert exported(state, "gpu_power_watts").keys() == {("GPU-a",), ("GPU-b",), (third,)}
    assert exported(state, "process_resident_memory_bytes") == {(): 3000.0}


def test_of_two_readings_of_one_gpu_the_fresher_is_exported():
    engines = [Engine(), Engine()]
    for engine, watts in zip(engines, (100.0, 50.0), strict=True):
        engine.sample(gpu("power_watts", watts, identity="GPU-a"))
    engines[0].now += 1
    state = cumulative_of(merge_snapshots([engine.snapshot() for engine in engines]))
    assert exported(state, "gpu_power_watts") == {("GPU-a",): 50.0}


def test_throttle_reasons_are_exported_by_name():
    engine = Engine()
    engine.sample(gpu("throttled", 1.0), gpu("throttle_sw_power_cap", 1.0), gpu("throttle_hw_slowdown", 0.0))
    state = engine.collector.read_totals()
    assert exported(state, "gpu_throttled") == {("0",): 1.0}
    assert exported(state, "gpu_throttle_reason") == {("0", "sw_power_cap"): 1.0, ("0", "hw_slowdown"): 0.0}


def test_a_bad_sample_is_counted_among_rejected_records():
    engine = Engine()
    engine.sample(gpu("power_watts", -1.0))
    assert engine.snapshot().totals.rejected_records == {"negative": 1}


def test_a_strict_collector_says_what_is_wrong():
    engine = Engine(strict=True)
    with pytest.raises(InvalidRecordError, match=r"negative.*power_watts"):
        engine.sample(gpu("power_watts", -1.0))


@pytest.mark.parametrize("interval", [0.0, -1.0, math.nan, math.inf])
def test_an_interval_that_is_none_is_refused(interval):
    with pytest.raises(ConfigurationError, match="interval"):
        Engine().collector.record_resources([], interval=interval)
