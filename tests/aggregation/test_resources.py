"""Resources: last value, instant and last samples of each quantity; counters by growth; all of it bounded."""

import math

import pytest

from batchscope.aggregation.checks import Rejections
from batchscope.aggregation.resources import MAX_FACTS, MAX_SAMPLES, MAX_SERIES, ResourceAggregate, Tokens
from batchscope.records import ResourceSample


def make():
    rejections = Rejections()
    return ResourceAggregate(rejections), rejections


def power(value, device="0"):
    return ResourceSample("gpu", device, "power_watts", value, "watts", f"GPU-{device}")


def energy(value, device="0"):
    return ResourceSample("gpu", device, "energy_joules", value, "joules", f"GPU-{device}")


def record(resources, *samples, now=0.0, interval=1.0, tokens=Tokens(), facts=()):  # noqa: B008
    resources.record(samples, dict(facts), now, interval, tokens)


def test_a_gauge_is_its_last_reading_and_keeps_the_last_samples():
    resources, _ = make()
    for second in range(MAX_SAMPLES + 5):
        record(resources, power(float(second)), now=second)
    series = resources.series["gpu.0.power_watts"]
    assert series.last == MAX_SAMPLES + 4
    assert series.samples().tolist() == [[second, second] for second in range(5, MAX_SAMPLES + 5)]


def test_a_gauge_is_present_for_three_intervals():
    resources, _ = make()
    record(resources, power(1.0), now=10.0, interval=2.0)
    series = resources.series["gpu.0.power_watts"]
    assert [series.present(now) for now in (10.0, 16.0, 16.5)] == [True, True, False]
    assert series.age(16.5) == 6.5


def test_a_counter_counts_its_growth_and_survives_a_new_beginning():
    resources, _ = make()
    shown = []
    for reading in (100.0, 130.0, 130.0, 7.0, 9.0):  # the driver was loaded anew before the 7
        record(resources, energy(reading))
        shown.append(resources.series["gpu.0.energy_joules"].last)
    assert shown == [0.0, 30.0, 30.0, 37.0, 39.0]
    assert len(resources.series["gpu.0.energy_joules"].samples()) == 0


def test_tokens_are_counted_from_the_first_reading_of_energy_to_the_last():
    resources, _ = make()
    record(resources, power(1.0), tokens=Tokens(10, 1))
    assert resources.tokens() == Tokens(0, 0)
    record(resources, energy(5.0), tokens=Tokens(20, 2))
    record(resources, energy(9.0), tokens=Tokens(50, 7))
    record(resources, power(1.0), tokens=Tokens(99, 9))
    assert resources.tokens() == Tokens(30, 5)
    assert resources.energy() == {"gpu.0.energy_joules": 4.0}


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (power(math.inf), "infinite"), (power(-1.0), "negative"), (power("1"), "not_a_resource_sample"),
        (power(None), "not_a_resource_sample"), ("a text", "not_a_resource_sample"),
        (power(1.0, device=7), "not_a_resource_sample"), (power(1.0, device="x" * 999), "not_a_resource_sample"),
    ],
)  # fmt: skip
def test_a_bad_sample_is_counted_and_changes_nothing(sample, reason):
    resources, rejections = make()
    record(resources, sample, power(2.0, "1"))
    assert rejections.counts == {reason: 1}
    assert list(resources.series) == ["gpu.1.power_watts"]


def test_frost_is_no_fault_and_what_was_not_measured_neither():
    resources, rejections = make()
    record(resources, ResourceSample("gpu", "0", "temperature_celsius", -5.0), power(math.nan))
    assert rejections.counts == {}
    assert list(resources.series) == ["gpu.0.temperature_celsius"]


def test_the_number_of_series_is_bounded_and_the_excess_counted():
    resources, rejections = make()
    for _ in range(2):
        record(resources, *(power(1.0, str(device)) for device in range(MAX_SERIES + 3)))
    assert len(resources.series) == MAX_SERIES
    assert rejections.counts == {"too_many_resources": 6}


def test_facts_stay_until_they_are_ended_and_are_bounded():
    resources, rejections = make()
    record(resources, facts={"nvml": "not found", "gpu.0": "lost"})
    record(resources, facts={"gpu.0": "", "unheard of": ""})
    assert resources.facts == {"nvml": "not found"}
    record(resources, facts={f"fact {number}": "x" * 999 for number in range(MAX_FACTS)})
    assert len(resources.facts) == MAX_FACTS
    assert max(map(len, resources.facts.values())) == 200
    assert rejections.counts == {"too_many_resources": 1}
