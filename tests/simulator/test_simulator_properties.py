"""What holds of every run, whatever the workload, the options and the disturbances."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_doubles import RecordingTracker, simulate

from batchscope.records import BatchLimiter, CompletionReason
from batchscope.simulator import (
    Disturbances,
    LinearCostModel,
    RequestSpec,
    SchedulerOptions,
    Simulator,
    VirtualClock,
)

COST = LinearCostModel(0.5, 0.25, 0.125, 0.0)  # binary fractions: sums of times are exact
BLOCK, HASH_BLOCK = 4, 8
many = settings(max_examples=200, deadline=None)


@st.composite
def workloads(draw, *, failures: bool = True):
    """Up to 25 requests in bursts; prompts share prefixes, as conversations do."""
    arrival, out = 0.0, []
    for number in range(draw(st.integers(1, 25))):
        arrival += draw(st.sampled_from([0.0, 0.0, 0.25, 1.0, 8.0, 60.0]))
        prompt = draw(st.integers(1, 60))
        family = draw(st.integers(0, 2))
        forks_at = draw(st.integers(0, 8))
        hashes = [1000 * (family if k < forks_at else 10 + number) + k for k in range(-(-prompt // HASH_BLOCK))]
        output = draw(st.integers(0 if failures else 1, 20))
        priority = draw(st.integers(0, 2))
        out.append(RequestSpec(number, arrival, prompt, output, tuple(hashes), priority=priority))
    return out


@st.composite
def scheduler_options(draw):
    """Small enough for every bound to bind."""
    places = draw(st.integers(1, 6))
    return SchedulerOptions(
        max_running_requests=places,
        max_scheduled_tokens=places + draw(st.integers(0, 40)),
        kv_cache_blocks=draw(st.integers(4, 60)),
        block_size=BLOCK,
        hash_block_tokens=HASH_BLOCK,
        prefix_caching=draw(st.booleans()),
        watermark_ratio=draw(st.sampled_from([0.0, 0.01, 0.3, 1.0])),
        max_prefill_requests=draw(st.sampled_from([None, None, 1, 2])),
        pauses=draw(st.sampled_from([(), (), ((2.0, 30.0), (40.0, 41.0))])),
    )


disturbances = st.builds(
    Disturbances,
    cancel_probability=st.sampled_from([0.0, 0.3, 1.0]),
    timeout_probability=st.sampled_from([0.0, 0.3, 1.0]),
    timeout_seconds=st.sampled_from([0.1, 5.0, 40.0]),
    deferral_probability=st.sampled_from([0.0, 0.3, 1.0]),
    deferral_seconds=st.sampled_from([0.1, 7.0]),
)
quiet = Disturbances()


@many
@given(workloads(), scheduler_options(), disturbances, st.integers(0, 3))
def test_every_request_ends_exactly_once(workload, options, trouble, seed):
    tracker, result = simulate(workload, options=options, cost=COST, disturbances=trouble, seed=seed)
    assert [request.request_id for request in tracker.requests] == [spec.request_id for spec in workload]
    assert not tracker.live
    assert result.arrived == len(workload) == result.completed + result.failed + result.cancelled
    assert result.in_flight == 0
    assert not result.interrupted
    ends = [request.reason.outcome.value for request in tracker.requests]
    assert [result.completed, result.failed, result.cancelled] == [
        ends.count(end) for end in ("completed", "failed", "cancelled")
    ]


@many
@given(workloads(), scheduler_options(), disturbances, st.integers(0, 3))
def test_tokens_add_up(workload, options, trouble, seed):
    tracker, result = simulate(workload, options=options, cost=COST, disturbances=trouble, seed=seed)
    for spec, request in zip(workload, tracker.requests, strict=True):
        computed = request.scheduled_tokens + request.cached_tokens - request.recomputed_tokens
        if request.reason is CompletionReason.EOS_TOKEN_REACHED:
            assert len(request.emitted_at) == spec.output_tokens
            assert computed == spec.prompt_tokens + spec.output_tokens - 1
            assert request.finished_at == request.emitted_at[-1]
        else:
            assert len(request.emitted_at) < max(1, spec.output_tokens)
            assert computed < spec.prompt_tokens + max(1, spec.output_tokens) - 1 or not request.scheduled_at
    assert result.output_tokens == sum(len(request.emitted_at) for request in tracker.requests)
    assert result.prompt_tokens == sum(spec.prompt_tokens for spec in workload)
    facts = [iteration.facts for iteration in tracker.iterations]
    assert result.recomputed_tokens == sum(fact["recomputed_tokens"] for fact in facts)
    assert result.cached_prompt_tokens == sum(fact["cached_prompt_tokens"] for fact in facts)
    assert result.cached_prompt_tokens >= sum(request.cached_tokens for request in tracker.requests)


@many
@given(workloads(), scheduler_options(), disturbances)
def test_no_batch_is_over_its_budget_or_its_places(workload, options, trouble):
    tracker, _ = simulate(workload, options=options, cost=COST, disturbances=trouble)
    for iteration in tracker.iterations:
        assert sum(iteration.scheduled_tokens) <= options.max_scheduled_tokens
        assert len(iteration.slots) <= iteration.facts["running_requests"] <= options.max_running_requests
        assert 0 < iteration.facts["kv_cache_usage"] <= 1


class _CacheAuditor(RecordingTracker):
    """Counts the blocks of the live requests itself, at every iteration."""

    simulator: Simulator

    def iteration(self, *args, **kwargs):
        super().iteration(*args, **kwargs)
        scheduler = self.simulator._scheduler
        running = [*scheduler.decoding, *scheduler._prefilling]
        shared = {name for request in running for name in request.blocks.shared}
        per_hash = HASH_BLOCK // BLOCK
        held = sum(request.blocks.private for request in running) + per_hash * len(shared)
        held += sum(map(scheduler.decoding.opened, scheduler.decoding))
        assert all(request.blocks.private >= 0 for request in running)
        assert held <= scheduler.cache.held <= scheduler.cache.blocks  # what ended now is still to be released


@many
@given(workloads(), scheduler_options(), disturbances)
def test_blocks_are_never_over_allocated_and_all_come_back(workload, options, trouble):
    auditor = _CacheAuditor()
    simulator = Simulator(workload, auditor, options=options, cost=COST, disturbances=trouble)
    auditor.simulator = simulator
    simulator.run()
    cache = simulator._scheduler.cache
    assert cache.held == 0
    assert cache.available == cache.blocks


@many
@given(workloads(), scheduler_options(), disturbances)
def test_a_preempted_request_comes_back_unless_it_is_withdrawn(workload, options, trouble):
    tracker, _ = simulate(workload, options=options, cost=COST, disturbances=trouble)
    for request in tracker.requests:
        if request.preempted_at and request.reason is CompletionReason.EOS_TOKEN_REACHED:
            assert request.scheduled_at[-1] > request.preempted_at[-1]
        for instant in request.preempted_at:
            assert any(scheduled < instant for scheduled in request.scheduled_at), "it had a place"


@many
@given(workloads(), scheduler_options())
def test_equals_are_served_in_order_of_arrival_and_the_more_urgent_first(workload, options):
    tracker, _ = simulate(workload, options=options, cost=COST)
    served = [
        (spec.priority, request.scheduled_at[0])
        for spec, request in zip(workload, tracker.requests, strict=True)
        if request.scheduled_at
    ]
    for priority in range(3):
        starts = [start for p, start in served if p == priority]
        assert starts == sorted(starts)
    for spec, request in zip(workload, tracker.requests, strict=True):
        for other_spec, other in zip(workload, tracker.requests, strict=True):
            if request.scheduled_at and other.scheduled_at and other_spec.priority > spec.priority:
                waits = other.arrived_at <= request.scheduled_at[0]
                assert not waits or other.scheduled_at[0] <= request.scheduled_at[0]


@many
@given(workloads(), scheduler_options())
def test_only_the_last_in_rank_is_evicted(workload, options):
    tracker, _ = simulate(workload, options=options, cost=COST)
    rank = [(-spec.priority, number) for number, spec in enumerate(workload)]
    for iteration in tracker.iterations:
        if iteration.preempted:
            assert min(rank[slot] for slot in iteration.preempted) > max(rank[slot] for slot in iteration.slots)


@many
@given(workloads(), scheduler_options(), disturbances)
def test_the_limiter_is_the_true_one(workload, options, trouble):
    tracker, _ = simulate(workload, options=options, cost=COST, disturbances=trouble)
    for iteration in tracker.iterations:
        _check_limiter(iteration, options)


def _check_limiter(iteration, options):
    facts, limiter = iteration.facts, iteration.limited_by
    somebody_waits = facts["waiting"] > 0
    budget_used_up = sum(iteration.scheduled_tokens) == options.max_scheduled_tokens
    paused = any(start <= iteration.started_at < end for start, end in options.pauses)
    if iteration.preempted:
        assert limiter is BatchLimiter.KV_CACHE
    elif not somebody_waits:
        cut, held_back = facts["unscheduled_prefill_tokens"] > 0, facts["deferred_requests"] > 0
        assert limiter is (
            BatchLimiter.TOKEN_BUDGET if cut else BatchLimiter.DEFERRED if held_back else BatchLimiter.DEMAND
        )
    elif paused:
        assert limiter is BatchLimiter.PAUSED
    elif budget_used_up:
        assert limiter is BatchLimiter.TOKEN_BUDGET
    elif facts["running_requests"] == options.max_running_requests:
        assert limiter is BatchLimiter.REQUEST_SLOTS
    else:
        prefills = sum(scheduled != 1 or not emitted for scheduled, emitted in zip(
            iteration.scheduled_tokens, iteration.tokens, strict=True))  # fmt: skip
        capped = options.max_prefill_requests is not None and limiter is BatchLimiter.POLICY
        assert capped or limiter is BatchLimiter.KV_CACHE
        assert prefills <= (options.max_prefill_requests or math.inf)


@many
@given(workloads(), scheduler_options())
def test_littles_law_holds_between_the_counts_and_the_instants(workload, options):
    """Time-weighted requests in the system = sum of the times in it: two figures from different reports."""
    options = SchedulerOptions(**{f: getattr(options, f) for f in options.__struct_fields__} | {"pauses": ()})
    tracker, result = simulate(workload, options=options, cost=COST)
    counted = sum(
        (iteration.facts["waiting"] + iteration.facts["running_requests"])
        * (iteration.finished_at - iteration.started_at)
        for iteration in tracker.iterations
    )
    starts = [iteration.started_at for iteration in tracker.iterations]
    noticed = [min((s for s in starts if s >= r.arrived_at), default=math.inf) for r in tracker.requests]
    in_system = [max(0.0, r.finished_at - n) for r, n in zip(tracker.requests, noticed, strict=True)]
    assert math.isclose(counted, sum(in_system), rel_tol=1e-12)
    total_time = sum(request.finished_at - request.arrived_at for request in tracker.requests)
    longest = max((i.finished_at - i.started_at for i in tracker.iterations), default=0.0)
    assert -1e-9 <= total_time - counted <= result.arrived * longest


@many
@given(workloads(), scheduler_options(), disturbances, st.integers(0, 3), st.sampled_from([0.0, 1000.0]))
def test_equal_arguments_give_equal_runs_wherever_the_clock_starts(workload, options, trouble, seed, start):
    def run(at):
        tracker = RecordingTracker()
        clock = VirtualClock(at)
        result = Simulator(
            workload, tracker, options=options, cost=COST, disturbances=trouble, seed=seed, clock=clock
        ).run()
        return result, tracker.iterations

    (first, iterations), (again, same) = run(0.0), run(0.0)
    assert (first, iterations) == (again, same)
    if trouble == quiet:
        assert run(start)[0] == first


@many
@given(workloads(), scheduler_options(), disturbances, st.lists(st.integers(1, 12), max_size=6))
def test_a_run_that_is_stopped_and_goes_on_is_the_same_run(workload, options, trouble, stops):
    whole, expected = simulate(workload, options=options, cost=COST, disturbances=trouble)
    tracker = RecordingTracker()
    simulator = Simulator(workload, tracker, options=options, cost=COST, disturbances=trouble)
    for turns in stops:
        countdown = iter(range(turns))
        result = simulator.run(should_stop=lambda turn=countdown: next(turn, None) is None)
        assert result.in_flight == len(tracker.live)
    assert simulator.run() == expected
    assert tracker.iterations == whole.iterations
