"""Each policy keeps its engine's rules, loses nobody, and gives the same run whichever way it is simulated."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from simulator_doubles import ONE_SECOND, RecordingTracker, simulate, specs
from test_simulator_properties import BLOCK, COST, HASH_BLOCK, workloads

from batchscope.errors import ConfigurationError
from batchscope.records import BatchLimiter, CompletionReason
from batchscope.simulator import RequestSpec, SchedulerOptions, Simulator
from batchscope.simulator.instants import simulate_instants
from batchscope.simulator.policies import POLICIES
from batchscope.simulator.scheduler import Scheduler

some = settings(max_examples=60, deadline=None)


@st.composite
def policy_options(draw):
    places = draw(st.integers(1, 6))
    return SchedulerOptions(
        policy=draw(st.sampled_from(list(POLICIES))),
        max_running_requests=places,
        max_scheduled_tokens=places + draw(st.integers(0, 40)),
        kv_cache_blocks=draw(st.integers(20, 60)),
        block_size=BLOCK,
        hash_block_tokens=draw(st.sampled_from([BLOCK, HASH_BLOCK])),
        prefix_caching=draw(st.booleans()),
        max_sequence_tokens=draw(st.sampled_from([None, None, 50])),
    )


@some
@given(workloads(failures=False), policy_options())
def test_everybody_is_served_and_every_block_comes_back(workload, options):
    tracker = RecordingTracker()
    simulator = Simulator(workload, tracker, options=options, cost=COST)
    result = simulator.run()
    assert result.in_flight == 0
    assert result.completed + result.failed == len(workload)
    assert simulator._scheduler.cache.held == 0
    for spec, request in zip(workload, tracker.requests, strict=True):
        longest = options.max_sequence_tokens or math.inf
        if request.reason is not CompletionReason.REJECTED:
            assert len(request.emitted_at) == min(spec.output_tokens, longest - spec.prompt_tokens)


@some
@given(workloads(failures=False), policy_options())
def test_instants_alone_are_those_of_the_whole_simulation(workload, options):
    tracker, result = simulate(workload, options=options, cost=COST)
    instants = simulate_instants(workload, options, COST)
    assert instants.iterations == result.iterations
    assert instants.preemptions.sum() == result.preemptions
    for index, request in enumerate(tracker.requests):
        seen = (request.scheduled_at[:1], request.emitted_at[:1], request.emitted_at[-1:])
        ours = (instants.first_scheduled[index], instants.first_token[index], instants.last_token[index])
        assert np.array_equal(ours, [each[0] if each else math.nan for each in seen], equal_nan=True)


@some
@given(workloads(failures=False), policy_options())
def test_going_through_repeated_iterations_at_once_changes_nothing(workload, options):
    at_once, result = simulate(workload, options=options, cost=COST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "steady_stretch", lambda self, batch: 0)
        one_by_one, expected = simulate(workload, options=options, cost=COST)
    assert result == expected
    assert at_once.iterations == one_by_one.iterations


def _options(policy: str, **changed: object) -> SchedulerOptions:
    defaults = {"block_size": 1, "hash_block_tokens": 1, "max_scheduled_tokens": 64, "max_running_requests": 8}
    return SchedulerOptions(policy=policy, **{**defaults, **changed})


EVICTING = _options("sglang", kv_cache_blocks=900, max_running_requests=60, prefix_caching=False)


def _evicting_crowd():
    """Who answers more than the cache of ``EVICTING`` holds; all have come before the first eviction."""
    random = Random(2)
    return specs(*((4.0 * at, random.randint(2, 30), random.randint(10, 300)) for at in range(150)))


def test_vllm_evicts_who_was_admitted_last_and_serves_it_first_again():
    tracker, _ = simulate(
        specs((0.0, 8, 12), (0.0, 8, 12), (8.5, 8, 2)), options=_options("vllm", kv_cache_blocks=30), cost=ONE_SECOND
    )
    first, second, third = tracker.requests
    assert not first.preempted_at
    assert second.preempted_at
    again = next(instant for instant in second.scheduled_at if instant > second.preempted_at[0])
    assert again <= third.scheduled_at[0]


def test_one_block_of_vllms_cache_is_nobodys():
    alone = specs((0.0, 8, 9))  # 16 tokens at its end: those of the last token are never kept
    full, _ = simulate(alone, options=_options("vllm", kv_cache_blocks=17), cost=ONE_SECOND)
    short, _ = simulate(alone, options=_options("vllm", kv_cache_blocks=16), cost=ONE_SECOND)
    assert full.iterations[-1].facts["kv_cache_usage"] == 1.0
    assert short.requests[0].reason is CompletionReason.REJECTED
    with pytest.raises(ConfigurationError, match="no request gets 1 of them"):
        _options("vllm", kv_cache_blocks=1)


def test_what_vllm_evicts_finds_its_blocks_again_where_nobody_took_them():
    options = _options("vllm", kv_cache_blocks=30)
    with_cache, _ = simulate(specs((0.0, 8, 12), (0.0, 8, 12)), options=options, cost=ONE_SECOND)
    without, _ = simulate(
        specs((0.0, 8, 12), (0.0, 8, 12)),
        options=_options("vllm", kv_cache_blocks=30, prefix_caching=False),
        cost=ONE_SECOND,
    )
    assert with_cache.requests[1].preempted_at == without.requests[1].preempted_at
    assert with_cache.requests[1].recomputed_tokens < without.requests[1].recomputed_tokens


def test_sarathi_admits_what_vllm_admits_only_above_its_watermark():
    crowd = specs((0.0, 8, 4), (0.0, 8, 4))
    vllm, _ = simulate(crowd, options=_options("vllm", kv_cache_blocks=17, watermark_ratio=0.5), cost=ONE_SECOND)
    sarathi, _ = simulate(crowd, options=_options("sarathi", kv_cache_blocks=17, watermark_ratio=0.5), cost=ONE_SECOND)
    assert vllm.requests[1].scheduled_at[0] == 0.0
    assert sarathi.requests[1].scheduled_at[0] > 0.0


def test_sglang_keeps_room_for_the_answers_that_are_still_to_come():
    crowd = specs((0.0, 8, 40), (0.0, 8, 40))
    options = _options("sglang", kv_cache_blocks=60)
    tracker, _ = simulate(crowd, options=options, cost=ONE_SECOND)
    assert not any(request.preempted_at for request in tracker.requests)
    assert tracker.requests[1].scheduled_at[0] >= tracker.requests[0].finished_at
    vllm, _ = simulate(crowd, options=_options("vllm", kv_cache_blocks=60), cost=ONE_SECOND)
    assert vllm.requests[1].preempted_at


def test_sglang_evicts_who_has_answered_least_and_no_more_than_the_next_tokens_need():
    crowd = _evicting_crowd()
    tracker, _ = simulate(crowd, options=EVICTING, cost=ONE_SECOND)
    evictions = [each for each in tracker.iterations if each.preempted]
    assert len(evictions) > 5

    def answered(slot, instant):
        return sum(at <= instant for at in tracker.requests[slot].emitted_at)

    for each in evictions:
        least, last = min(answered(slot, each.started_at) for slot in each.slots), each.preempted[-1]
        assert answered(last, each.started_at) <= least
        held = crowd[last].prompt_tokens + answered(last, each.started_at) - 1
        free = (1 - each.facts["kv_cache_usage"]) * EVICTING.kv_cache_blocks + len(each.slots)
        assert round(free - held) < len(each.slots) + 1


def test_sglang_forms_a_batch_while_the_one_before_computes():
    crowd = specs((0.0, 8, 12), (3.5, 8, 2), (20.5, 8, 2))
    tracker, _ = simulate(crowd, options=_options("sglang", kv_cache_blocks=400), cost=ONE_SECOND)
    vllm, _ = simulate(crowd, options=_options("vllm", kv_cache_blocks=400), cost=ONE_SECOND)
    assert [each.scheduled_at[0] for each in vllm.requests] == [0.0, 4.0, 20.5]
    assert [each.scheduled_at[0] for each in tracker.requests] == [0.0, 5.0, 20.5]  # an idle engine begins at once


def test_who_comes_while_sglang_forms_a_batch_waits_behind_whom_it_evicts():
    crowd = _evicting_crowd()
    evictions = [each for each in simulate(crowd, options=EVICTING, cost=ONE_SECOND)[0].iterations if each.preempted]
    assert len(evictions) > 5
    for each in evictions:
        late = RequestSpec(len(crowd), each.started_at - 0.5, 8, 8)
        tracker, _ = simulate([*crowd, late], options=EVICTING, cost=ONE_SECOND)
        again = [at for at in tracker.requests[each.preempted[-1]].scheduled_at if at > each.started_at]
        assert tracker.requests[-1].scheduled_at[0] >= again[0]


def test_sglang_counts_on_what_was_answered_before_the_batch_that_computes():
    scheduler = Scheduler(EVICTING)
    for slot, spec in enumerate(_evicting_crowd()):
        scheduler.enqueue(scheduler.accept(spec, slot))
    while not (batch := scheduler.form_batch()).preempted:
        scheduler.complete(batch)
    left = list(scheduler.decoding)
    known = sum(scheduler.decoding.emitted(member) - 1 for member in left)
    asked = sum(member.spec.output_tokens for member in left)
    assert scheduler.policy.ratio == (known + 20 * len(left)) / (asked + 1)


def test_sglang_counts_a_prefix_that_others_hold_once():
    shared = [replace(spec, prefix_hashes=tuple(range(30))) for spec in specs((0.0, 31, 20), (3.5, 31, 20))]
    apart = specs((0.0, 31, 20), (3.5, 31, 20))
    options = _options("sglang", kv_cache_blocks=75)
    together, one_by_one = (simulate(crowd, options=options, cost=ONE_SECOND)[0] for crowd in (shared, apart))
    assert together.requests[1].scheduled_at[0] < together.requests[0].finished_at
    assert one_by_one.requests[1].scheduled_at[0] >= one_by_one.requests[0].finished_at


def test_transformers_admits_nobody_while_little_of_the_cache_is_free():
    crowd = specs((0.0, 18, 4), (0.5, 1, 4))
    tracker, _ = simulate(crowd, options=_options("transformers", kv_cache_blocks=21), cost=ONE_SECOND)
    assert tracker.requests[1].scheduled_at[0] >= tracker.requests[0].finished_at
    roomy, _ = simulate(crowd, options=_options("transformers", kv_cache_blocks=40), cost=ONE_SECOND)
    assert roomy.requests[1].scheduled_at[0] < roomy.requests[0].finished_at


def test_transformers_lets_a_small_prompt_pass_one_that_finds_no_room():
    crowd = specs((0.0, 10, 30), (0.0, 40, 2), (0.0, 5, 2))
    tracker, _ = simulate(crowd, options=_options("transformers", kv_cache_blocks=45), cost=ONE_SECOND)
    assert tracker.requests[2].scheduled_at[0] == 0.0
    assert tracker.requests[1].scheduled_at[0] >= tracker.requests[0].finished_at
    vllm, _ = simulate(crowd, options=_options("vllm", kv_cache_blocks=45), cost=ONE_SECOND)
    assert vllm.requests[2].scheduled_at[0] >= vllm.requests[1].scheduled_at[0]


def test_transformers_evicts_who_finds_no_block_and_serves_it_behind_the_others():
    crowd = specs((0.0, 8, 12), (0.0, 8, 12), (3.0, 2, 2))
    tracker, _ = simulate(crowd, options=_options("transformers", kv_cache_blocks=27), cost=ONE_SECOND)
    first, second, third = tracker.requests
    assert not first.preempted_at
    assert second.preempted_at
    assert second.scheduled_at[-1] >= first.finished_at
    assert third.scheduled_at[0] <= second.scheduled_at[-1]


def test_transformers_takes_the_blocks_of_a_prompt_chunk_by_chunk():
    crowd = specs((0.0, 4, 12), (0.0, 24, 2))
    halves = {"kv_cache_blocks": 27, "max_scheduled_tokens": 16}
    tracker, _ = simulate(crowd, options=_options("transformers", **halves), cost=ONE_SECOND)
    assert tracker.requests[1].scheduled_at[0] == 0.0
    assert tracker.iterations[0].facts["kv_cache_usage"] == pytest.approx(16 / 27)
    vllm, _ = simulate(crowd, options=_options("vllm", **halves), cost=ONE_SECOND)
    assert vllm.requests[1].scheduled_at[0] >= vllm.requests[0].finished_at


def test_of_transformers_who_finds_no_block_stands_still_and_the_others_go_on_in_the_next_iteration():
    crowd = specs((0.0, 7, 12), (0.0, 7, 12), (0.0, 7, 12))
    tracker, _ = simulate(crowd, options=_options("transformers", kv_cache_blocks=25), cost=ONE_SECOND)
    short = next(each for each in tracker.iterations if each.preempted)
    assert (short.slots, short.preempted, short.facts["kv_cache_usage"]) == ([0], [2], 1.0)
    after = tracker.iterations[tracker.iterations.index(short) + 1]
    assert sorted(after.slots) == [0, 1]


def test_prefill_first_computes_a_prompt_whole_while_who_decodes_stands_still():
    crowd = specs((0.0, 10, 6), (1.5, 200, 3))
    tracker, _ = simulate(crowd, options=_options("prefill-first", kv_cache_blocks=400), cost=ONE_SECOND)
    alone = [each for each in tracker.iterations if 200 in each.scheduled_tokens]
    assert [each.slots for each in alone] == [[1]]
    assert alone[0].limited_by is BatchLimiter.POLICY
    chunked, _ = simulate(crowd, options=_options("sarathi", kv_cache_blocks=400), cost=ONE_SECOND)
    assert max(max(each.scheduled_tokens) for each in chunked.iterations) < 64


def test_a_longer_sequence_than_the_engine_takes_is_cut_and_a_longer_prompt_refused():
    tracker, _ = simulate(
        specs((0.0, 10, 50), (0.0, 30, 5)), options=_options("vllm", kv_cache_blocks=400, max_sequence_tokens=30)
    )
    cut, refused = tracker.requests
    assert (cut.reason, len(cut.emitted_at)) == (CompletionReason.LENGTH_REACHED, 20)
    assert refused.reason is CompletionReason.REJECTED


def test_what_was_cached_when_it_was_recorded_is_not_computed():
    known = [replace(spec, cached_tokens=30) for spec in specs((0.0, 40, 2))]
    tracker, result = simulate(known, options=_options("vllm", kv_cache_blocks=400))
    assert (tracker.iterations[0].scheduled_tokens, result.cached_prompt_tokens) == ([10], 30)


def test_an_unknown_policy_is_refused_with_those_there_are():
    with pytest.raises(ConfigurationError, match="expected one of sarathi, vllm, sglang, prefill-first, transformers"):
        SchedulerOptions(policy="fifo")
