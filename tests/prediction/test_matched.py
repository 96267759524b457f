"""A target in the replay's measure has as many requests within it as really were within the given one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from recorded_engines import recorded

from batchscope.configuration import SloTargets
from batchscope.prediction.matched import in_its_measure, matched_targets

RUN = recorded(requests=60, iterations=False)


def _slower(factor):
    """The run's requests as they would be if everything took so many times as long."""
    instants = RUN.instants
    arrived, first, last = instants.arrived, instants.first_token, instants.last_token
    return replace(
        instants, first_token=arrived + factor * (first - arrived), last_token=arrived + factor * (last - arrived)
    )


@given(st.floats(0.1, 10), st.floats(0.05, 5), st.floats(0.005, 0.2))
def test_of_a_replay_that_takes_so_many_times_as_long_the_targets_do_too(factor, ttft, tpot):
    slo = {"default": SloTargets(time_to_first_token=ttft, time_per_output_token=tpot)}
    found = matched_targets(RUN.workload, RUN.instants, _slower(factor), slo)
    assert [each.off for each in found] == pytest.approx([factor - 1] * 2)
    matched = in_its_measure(slo, found)["default"]
    assert matched.declared == pytest.approx({name: factor * limit for name, limit in slo["default"].declared.items()})


@given(st.floats(0.05, 2))
def test_as_many_are_within_it(ttft):
    slo = {"default": SloTargets(time_to_first_token=ttft)}
    replayed = replace(RUN.instants, first_token=RUN.instants.arrived + np.random.default_rng(0).exponential(1, 60))
    [found] = matched_targets(RUN.workload, RUN.instants, replayed, slo)
    was, again = (each.first_token - each.arrived for each in (RUN.instants, replayed))
    assert found.share == (was <= ttft).mean()
    if 0.01 < found.share < 0.99:
        assert (again <= found.matched).mean() == pytest.approx(found.share, abs=0.1)


def test_what_was_not_recorded_or_of_a_few_stays_as_it_is():
    slo = {"default": SloTargets(time_to_first_token=1.0, max_emission_gap=0.5)}
    few = replace(RUN.instants, first_token=np.where(np.arange(60) < 19, RUN.instants.first_token, math.nan))
    found = matched_targets(RUN.workload, few, _slower(3.0), slo)
    assert [each.target for each in found] == ["time_to_first_token"]
    assert math.isnan(found[0].share)
    assert in_its_measure(slo, found) == slo


def test_each_class_has_its_own():
    mixed = tuple(replace(spec, request_class="chat" if at % 2 else "batch") for at, spec in enumerate(RUN.workload))
    odd = np.arange(60) % 2 == 1
    replayed = replace(RUN.instants, last_token=np.where(odd, _slower(2.0).last_token, RUN.instants.last_token))
    slo = {"chat": SloTargets(e2e_latency=3.0), "batch": SloTargets(e2e_latency=3.0)}
    matched = in_its_measure(slo, matched_targets(mixed, RUN.instants, replayed, slo))
    assert matched["chat"].e2e_latency == pytest.approx(6.0)
    assert matched["batch"].e2e_latency == pytest.approx(3.0)
