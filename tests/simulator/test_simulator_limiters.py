"""The limiter that is reported is the true one: each value in a situation whose cause is known."""

from simulator_doubles import simulate, specs

from batchscope.simulator import Disturbances, RequestSpec, SchedulerOptions


def options(**changes):
    return SchedulerOptions(
        **{"max_running_requests": 4, "max_scheduled_tokens": 100, "kv_cache_blocks": 1000, **changes}
    )


def test_a_request_alone_is_limited_by_demand_until_its_end():
    tracker, _ = simulate(specs((0, 10, 3)), options=options())
    assert tracker.limiters == ["demand"] * 3


def test_a_full_engine_is_limited_by_its_slots_while_somebody_waits():
    tracker, _ = simulate(specs((0, 10, 2), (0, 10, 2)), options=options(max_running_requests=1))
    assert tracker.limiters == ["request_slots"] * 2 + ["demand"] * 2


def test_a_full_engine_is_limited_by_demand_when_nobody_waits():
    tracker, _ = simulate(specs((0, 10, 2)), options=options(max_running_requests=1))
    assert tracker.limiters == ["demand"] * 2


def test_the_budget_is_the_limiter_when_it_cuts_a_prefill_though_nobody_waits():
    tracker, _ = simulate(specs((0, 250, 2)), options=options())
    assert tracker.limiters == ["token_budget"] * 2 + ["demand"] * 2
    assert [i.facts["unscheduled_prefill_tokens"] for i in tracker.iterations] == [150, 50, 0, 0]


def test_the_budget_is_the_limiter_when_it_is_used_up_and_somebody_waits():
    tracker, _ = simulate(specs((0, 100, 1), (0, 40, 1)), options=options())
    assert tracker.limiters == ["token_budget", "demand"]


def test_a_budget_used_up_to_the_last_token_limits_nothing_when_nobody_waits():
    tracker, _ = simulate(specs((0, 100, 1)), options=options())
    assert tracker.limiters == ["demand"]


def test_the_cache_is_the_limiter_when_a_waiting_request_does_not_fit():
    tracker, _ = simulate(specs((0, 40, 2), (0, 40, 2)), options=options(kv_cache_blocks=5))
    assert tracker.limiters == ["kv_cache"] * 2 + ["demand"] * 2


def test_the_watermark_keeps_a_waiting_request_out_though_its_blocks_are_free():
    tracker, _ = simulate(specs((0, 40, 2), (0, 40, 2)), options=options(kv_cache_blocks=8, watermark_ratio=0.5))
    assert tracker.limiters == ["kv_cache"] * 2 + ["demand"] * 2


def test_the_cache_is_the_limiter_of_an_iteration_that_evicts():
    # Both prompts fill 2 blocks; the first token after them takes a third, and there are only 5.
    tracker, result = simulate(specs((0, 32, 4), (0, 32, 4)), options=options(kv_cache_blocks=5, watermark_ratio=0.0))
    assert tracker.limiters[:4] == ["demand", "kv_cache", "kv_cache", "kv_cache"]
    assert tracker.iterations[1].preempted == [1]
    assert result.preemptions == 1
    assert result.completed == 2


def test_a_cap_on_prefills_is_a_policy():
    tracker, _ = simulate(specs((0, 10, 2), (0, 10, 2)), options=options(max_prefill_requests=1))
    assert tracker.limiters == ["policy", "demand", "demand"]


def test_a_pause_is_the_limiter_only_while_somebody_waits():
    tracker, _ = simulate(specs((0, 10, 6), (1.5, 10, 2)), options=options(pauses=((1.0, 4.0),)))
    assert tracker.limiters == ["demand"] * 2 + ["paused"] * 2 + ["demand"] * 2
    assert tracker.requests[1].scheduled_at[0] == 4.0


def test_an_idle_engine_starts_again_when_the_pause_ends():
    tracker, _ = simulate(specs((1, 10, 1)), options=options(pauses=((0.5, 7.0), (7.0, 9.0))))
    assert tracker.requests[0].scheduled_at == [9.0]


def test_a_request_that_is_held_back_is_the_limiter_until_it_is_ready():
    held = Disturbances(deferral_probability=0.5, deferral_seconds=2.0)
    workload = specs((0, 10, 5), (0, 10, 5), (0, 10, 5), (0, 10, 5))
    tracker, _ = simulate(workload, options=options(), disturbances=held, seed=1)
    ready = {request.scheduled_at[0] for request in tracker.requests}
    assert ready == {0.0, 2.0}
    assert tracker.limiters[:3] == ["deferred", "deferred", "demand"]
    assert [i.facts["deferred_requests"] > 0 for i in tracker.iterations[:3]] == [True, True, False]


def test_a_deferred_request_does_not_hide_that_the_places_are_full():
    held = Disturbances(deferral_probability=0.5, deferral_seconds=50.0)
    workload = [RequestSpec(n, 0, 10, 3) for n in range(6)]
    tracker, _ = simulate(workload, options=options(max_running_requests=1), disturbances=held, seed=1)
    first = tracker.iterations[0].facts
    assert min(first["deferred_requests"], first["waiting"]) > 0
    assert first["limited_by"].value == "request_slots"
