"""The synthetic workload has the rate, burstiness, lengths and shares that it was asked for, and a seed."""

from __future__ import annotations

import statistics
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchscope.errors import ConfigurationError
from batchscope.simulator import Lengths, RequestClass, SyntheticWorkload


@pytest.mark.parametrize("burstiness", [0.0, 0.5, 1.0, 3.0])
def test_gaps_have_the_mean_and_the_variation_asked_for(burstiness):
    arrivals = [spec.arrival for spec in SyntheticWorkload(40_000, rate=5.0, burstiness=burstiness)]
    gaps = [b - a for a, b in zip([0.0, *arrivals], arrivals, strict=False)]
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.05)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(burstiness, rel=0.05, abs=1e-9)


def test_lengths_have_the_median_and_the_sigma_asked_for_and_stay_under_the_cap():
    workload = SyntheticWorkload(20_000, prompt=Lengths(500, 0.5, 10**6), output=Lengths(100, 1.0, 150))
    prompts, outputs = zip(*((spec.prompt_tokens, spec.output_tokens) for spec in workload), strict=True)
    low, median, high = statistics.quantiles(prompts, n=4)
    assert median == pytest.approx(500, rel=0.03)
    assert high / low == pytest.approx(2.718 ** (0.5 * 1.349), rel=0.05)
    assert max(outputs) == 150
    assert statistics.median(outputs) == pytest.approx(100, rel=0.05)


def test_classes_come_in_their_shares_and_bring_their_priority():
    kinds = (RequestClass("chat", share=3, priority=1), RequestClass("batch"))
    seen = Counter((s.request_class, s.priority) for s in SyntheticWorkload(10_000, classes=kinds))
    assert set(seen) == {("chat", 1), ("batch", 0)}
    assert seen["chat", 1] / 10_000 == pytest.approx(0.75, abs=0.02)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 5),
    st.floats(0, 20),
    st.builds(Lengths, st.floats(0.1, 1e9), st.floats(0, 1e3), st.integers(1, 2**31 - 1)),
)
def test_equal_seeds_give_equal_requests_and_all_are_valid(seed, burstiness, lengths):
    workload = SyntheticWorkload(50, burstiness=burstiness, prompt=lengths, output=lengths, seed=seed)
    requests = list(workload)
    assert (
        requests
        == list(workload)
        == list(SyntheticWorkload(**{f: getattr(workload, f) for f in workload.__struct_fields__}))
    )
    assert all(1 <= spec.prompt_tokens <= lengths.cap for spec in requests)
    assert [spec.arrival for spec in requests] == sorted(spec.arrival for spec in requests)


def test_another_seed_gives_another_workload():
    assert list(SyntheticWorkload(5, seed=1)) != list(SyntheticWorkload(5, seed=2))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (SyntheticWorkload, {"requests": 0}),
        (SyntheticWorkload, {"rate": 0}),
        (SyntheticWorkload, {"burstiness": -1}),
        (SyntheticWorkload, {"burstiness": 101}),
        (SyntheticWorkload, {"rate": float("inf")}),
        (RequestClass, {"name": "x", "share": 0}),
        (Lengths, {"median": 0, "sigma": 1}),
        (Lengths, {"median": 1, "sigma": -1}),
        (Lengths, {"median": 1, "sigma": 1, "cap": 0}),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(kind, wrong):
    with pytest.raises(ConfigurationError, match="|".join(wrong)):
        kind(**wrong)
