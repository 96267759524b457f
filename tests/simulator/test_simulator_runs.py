"""The simulator as its user meets it: outcomes, pace, interruption, and runs on real traces."""

from __future__ import annotations

import signal
import statistics
import threading

import pytest
from simulator_doubles import ONE_SECOND, RecordingTracker, simulate, specs

from batchscope.errors import ConfigurationError, WorkloadError
from batchscope.records import CompletionReason
from batchscope.simulator import (
    Disturbances,
    LinearCostModel,
    RequestSpec,
    SchedulerOptions,
    Simulator,
    SyntheticWorkload,
    VirtualClock,
)


def test_the_first_token_comes_with_the_end_of_the_prefill_and_then_one_an_iteration():
    options = SchedulerOptions(max_running_requests=4, max_scheduled_tokens=100)
    tracker, result = simulate(specs((2.5, 250, 3)), options=options)
    assert [i.scheduled_tokens for i in tracker.iterations] == [[100], [100], [50], [1], [1]]
    assert tracker.requests[0].emitted_at == [5.5, 6.5, 7.5]
    assert result.iterations == 5
    assert result.virtual_seconds == 7.5


def test_decodes_come_before_prefills():
    options = SchedulerOptions(max_running_requests=4, max_scheduled_tokens=100)
    tracker, _ = simulate(specs((0, 10, 4), (0.5, 150, 1)), options=options)
    assert [i.scheduled_tokens for i in tracker.iterations] == [[10], [1, 99], [1, 51], [1]]


def test_time_of_an_iteration_is_what_the_cost_model_says_of_its_batch():
    cost = LinearCostModel(1.0, 0.01, 10.0, 1000.0)
    tracker, _ = simulate(specs((0, 100, 3)), cost=cost)
    durations = [i.finished_at - i.started_at for i in tracker.iterations]
    assert durations == pytest.approx([2.0, 11 + 101_000, 11 + 102_000])
    assert [i.facts["decode_context_tokens"] for i in tracker.iterations] == [0, 101, 102]


def test_a_shared_prefix_is_computed_once():
    first = RequestSpec("a", 0, 1300, 1, (1, 2, 3))
    second = RequestSpec("b", 5, 1200, 1, (1, 2, 4))
    tracker, result = simulate([first, second])
    assert [i.scheduled_tokens for i in tracker.iterations] == [[1300], [1200 - 1024]]
    assert result.cached_prompt_tokens == 1024
    assert tracker.by_id()["b"].cached_tokens == 1024
    assert tracker.iterations[1].facts["kv_cache_usage"] == 75 / 11_008


def test_the_last_block_of_a_prompt_that_is_wholly_cached_is_computed_again():
    tracker, _ = simulate([RequestSpec(n, 5 * n, 1024, 1, (1, 2)) for n in range(2)])
    assert [i.scheduled_tokens for i in tracker.iterations] == [[1024], [512]]


def test_without_prefix_caching_nothing_is_shared():
    workload = [RequestSpec(n, 5 * n, 1024, 1, (1, 2)) for n in range(2)]
    tracker, _ = simulate(workload, options=SchedulerOptions(prefix_caching=False))
    assert [i.scheduled_tokens for i in tracker.iterations] == [[1024], [1024]]


def test_an_evicted_request_computes_its_prompt_and_its_output_again_and_goes_on():
    options = SchedulerOptions(kv_cache_blocks=5, watermark_ratio=0.0)
    tracker, result = simulate(specs((0, 32, 4), (0, 31, 6)), options=options)
    evicted = tracker.requests[1]
    assert evicted.preempted_at == [2.0]
    assert evicted.emitted_at == [1.0, 2.0, 5.0, 6.0, 7.0, 8.0]
    assert evicted.scheduled_tokens == 31 + 1 + 33 + 3
    assert evicted.recomputed_tokens == result.recomputed_tokens == 32
    assert tracker.requests[0].emitted_at == [1.0, 2.0, 3.0, 4.0]


def test_a_more_urgent_request_keeps_its_place_and_the_less_urgent_is_evicted():
    options = SchedulerOptions(kv_cache_blocks=5, watermark_ratio=0.0)
    workload = [RequestSpec(0, 0, 32, 4, priority=0), RequestSpec(1, 0, 32, 4, priority=5)]
    tracker, _ = simulate(workload, options=options)
    assert tracker.requests[0].preempted_at == [1.0]
    assert not tracker.requests[1].preempted_at


def test_a_request_that_never_fits_is_rejected_when_it_arrives():
    options = SchedulerOptions(kv_cache_blocks=4)
    tracker, result = simulate(specs((0, 60, 5), (1.5, 60, 6)), options=options)
    assert [request.reason.value for request in tracker.requests] == ["eos_token_reached", "rejected"]
    assert tracker.requests[1].finished_at == 1.5
    assert result.failed == 1


def test_a_request_without_output_is_a_failure_of_the_trace_and_costs_nothing():
    tracker, result = simulate(specs((1.0, 100, 0), (2.0, 0, 0)))
    assert [(r.reason.value, r.finished_at) for r in tracker.requests] == [("error", 1.0), ("error", 2.0)]
    assert not tracker.iterations
    assert result.failed == 2


def test_a_deadline_that_passes_ends_a_request_wherever_it_is():
    late = Disturbances(timeout_probability=1.0, timeout_seconds=3.5)
    options = SchedulerOptions(max_running_requests=1)
    tracker, result = simulate(specs((0, 10, 9), (0, 10, 9)), options=options, disturbances=late)
    assert [request.reason for request in tracker.requests] == [CompletionReason.TIMEOUT] * 2
    assert [len(request.emitted_at) for request in tracker.requests] == [4, 0]
    assert [request.finished_at for request in tracker.requests] == [4.0, 4.0]
    assert result.failed == 2


def test_users_leave_an_idle_engine_at_every_point_of_a_request():
    workload = [RequestSpec(n, 100.0 * n, 400, 16) for n in range(400)]
    options = SchedulerOptions(max_running_requests=10, max_scheduled_tokens=200)
    tracker, result = simulate(workload, options=options, disturbances=Disturbances(cancel_probability=1.0))
    emitted = [len(request.emitted_at) for request in tracker.ended(CompletionReason.CANCELLED)]
    assert result.cancelled > 350  # those who leave during the last iteration are served to the end
    assert min(emitted) == 0
    assert max(emitted) == 15
    assert statistics.mean(emitted) == pytest.approx(7, abs=1.5)


def test_users_leave_a_crowded_engine_while_they_wait():
    options = SchedulerOptions(max_running_requests=1)
    leave = Disturbances(cancel_probability=0.5)
    tracker, _ = simulate(specs(*[(0, 10, 20)] * 100), options=options, disturbances=leave)
    cancelled = tracker.ended(CompletionReason.CANCELLED)
    assert len(cancelled) == pytest.approx(50, abs=15)
    assert sum(not request.scheduled_at for request in cancelled) > 0.8 * len(cancelled)


def test_one_probability_changed_leaves_the_other_fates_as_they_were():
    def cancelled(**others):
        trouble = Disturbances(cancel_probability=0.3, **others)
        tracker, _ = simulate([RequestSpec(n, 100.0 * n, 10, 16) for n in range(100)], disturbances=trouble)
        return {r.request_id for r in tracker.ended(CompletionReason.CANCELLED)}

    assert cancelled() == cancelled(deferral_probability=0.0, timeout_probability=1.0, timeout_seconds=99.0)


def test_an_event_after_a_requests_end_does_not_prolong_the_run():
    late = Disturbances(timeout_probability=1.0, timeout_seconds=1000.0)
    _, result = simulate(specs((0, 10, 2)), disturbances=late)
    assert result.virtual_seconds == 2.0


def test_the_clock_is_shared_and_may_start_anywhere():
    clock = VirtualClock(500.0)
    seen = []
    tracker = RecordingTracker(on_iteration=lambda: seen.append(clock()))
    result = Simulator(specs((1, 10, 2)), tracker, cost=ONE_SECOND, clock=clock).run()
    assert seen == [502.0, 503.0]
    assert tracker.requests[0].arrived_at == 501.0
    assert result.virtual_seconds == 3.0


@pytest.mark.parametrize("start", [1000.1 + k / 7 for k in range(50)])
def test_a_pause_ends_wherever_the_clock_starts(start):
    """Sums of floats are rounded: an end that is never quite reached would hang the run."""
    options = SchedulerOptions(pauses=((0.1, 0.3), (0.7, 1.3)))
    simulator = Simulator(
        specs((0.2, 10, 1), (0.9, 10, 1)), RecordingTracker(), options=options, clock=VirtualClock(start)
    )
    turns = iter(range(100))
    assert simulator.run(should_stop=lambda: next(turns, None) is None).completed == 2


def test_a_clock_never_goes_back():
    clock = VirtualClock()
    clock.advance_to(2.0)
    clock.advance_to(1.0)
    assert clock() == 2.0


class _RealTime:
    """A machine whose clock goes on only while somebody sleeps, or is busy."""

    def __init__(self, late: float = 0.0) -> None:
        self.now, self.slept, self.late = 1000.0, 0.0, late

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.05
        self.now += seconds + self.late
        self.slept += seconds


@pytest.mark.parametrize("speed", [1.0, 10.0, 0.5])
def test_a_paced_run_takes_its_virtual_time_divided_by_its_speed(speed):
    real = _RealTime()
    clock, tracker = VirtualClock(), RecordingTracker()
    behind = []
    tracker.on_iteration = lambda: behind.append(real.now - 1000.0 - clock() / speed)
    simulator = Simulator(
        specs((0, 10, 3), (7, 10, 2)), tracker, cost=ONE_SECOND, clock=clock,
        speed=speed, sleep=real.sleep, real_clock=real.clock,
    )  # fmt: skip
    result = simulator.run()
    assert result.virtual_seconds == 9.0
    assert real.slept == pytest.approx(9.0 / speed)
    assert behind == pytest.approx([0.0] * 5, abs=1e-6)


def test_a_machine_too_slow_for_the_pace_does_not_sleep_and_loses_nothing():
    real, tracker = _RealTime(), RecordingTracker()

    def busy():
        real.now += 2.0

    tracker.on_iteration = busy
    simulator = Simulator(
        specs((0, 10, 5)), tracker, cost=ONE_SECOND, speed=1.0, sleep=real.sleep, real_clock=real.clock
    )
    assert simulator.run().completed == 1
    assert real.slept == pytest.approx(1.0)  # before the first report only


def test_sleep_that_lasts_too_long_does_not_add_up():
    real = _RealTime(late=0.01)
    simulator = Simulator(
        specs((0, 10, 50)), RecordingTracker(), cost=ONE_SECOND, speed=1.0,
        sleep=real.sleep, real_clock=real.clock,
    )  # fmt: skip
    simulator.run()
    assert real.now - 1000.0 == pytest.approx(50.0, abs=0.02)


def test_ctrl_c_ends_the_run_behind_the_iteration_and_another_run_goes_on():
    workload = specs(*[(k / 2, 10, 5) for k in range(10)])
    whole, expected = simulate(workload)
    tracker = RecordingTracker()

    def interrupt_once():
        if len(tracker.iterations) == 4:
            signal.raise_signal(signal.SIGINT)

    tracker.on_iteration = interrupt_once
    simulator = Simulator(workload, tracker, cost=ONE_SECOND)
    result = simulator.run()
    assert result.interrupted
    assert result.iterations == len(tracker.iterations) == 4
    assert result.in_flight == len(tracker.live) > 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert simulator.run() == expected
    assert tracker.iterations == whole.iterations


def test_a_second_ctrl_c_does_not_wait_for_the_iteration():
    passed = []

    def report():
        for number in range(3):
            signal.raise_signal(signal.SIGINT)
            passed.append(number)

    result = Simulator(specs((0, 10, 5)), RecordingTracker(report), cost=ONE_SECOND).run()
    assert passed == [0]
    assert result.interrupted
    assert result.arrived == 1


def test_ctrl_c_during_a_long_wait_ends_it():
    real = _RealTime()

    def sleep(seconds):
        real.sleep(seconds)
        signal.raise_signal(signal.SIGINT)

    simulator = Simulator(specs((3600, 10, 5)), RecordingTracker(), speed=1.0, sleep=sleep, real_clock=real.clock)
    result = simulator.run()
    assert result.interrupted
    assert result.arrived == 0
    assert result.virtual_seconds == pytest.approx(0.05)


def test_ctrl_c_in_the_middle_of_a_paced_iteration_ends_it_at_its_own_instant():
    real, tracker, clock = _RealTime(), RecordingTracker(), VirtualClock()

    def sleep(seconds):
        real.sleep(seconds)
        signal.raise_signal(signal.SIGINT)

    simulator = Simulator(
        specs((0, 10, 5)),
        tracker,
        cost=ONE_SECOND,
        clock=clock,
        speed=1.0,
        sleep=sleep,
        real_clock=real.clock,
    )
    result = simulator.run()
    assert result.interrupted
    assert real.slept == 0.05
    assert [iteration.finished_at for iteration in tracker.iterations] == [1.0] == [clock()]


def test_a_keyboard_interrupt_raised_by_a_callback_gives_a_result_too():
    def impatient(_):
        raise KeyboardInterrupt

    tracker = RecordingTracker()
    simulator = Simulator(specs((0, 10, 500)), tracker, cost=ONE_SECOND)
    result = simulator.run(on_progress=impatient)
    assert result.interrupted
    assert result.iterations == len(tracker.iterations) == 100
    assert result.in_flight == 1


def test_an_applications_own_handler_of_ctrl_c_is_left_alone():
    calls = []
    before = signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    try:
        tracker = RecordingTracker(on_iteration=lambda: signal.raise_signal(signal.SIGINT))
        result = Simulator(specs((0, 10, 3)), tracker, cost=ONE_SECOND).run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not result.interrupted
    assert len(calls) == 3


def test_a_run_in_another_thread_is_the_same_run():
    results = []
    thread = threading.Thread(target=lambda: results.append(simulate(specs((0, 10, 3)))[1]))
    thread.start()
    thread.join()
    assert results == [simulate(specs((0, 10, 3)))[1]]


def test_progress_is_told_every_100_iterations_with_the_counts_so_far():
    seen = []
    Simulator(specs((0, 10, 350)), RecordingTracker(), cost=ONE_SECOND).run(on_progress=seen.append)
    assert [(result.iterations, result.output_tokens) for result in seen] == [(n, n) for n in (100, 200, 300)]


def test_a_workload_is_read_no_further_than_needed():
    read = []

    def endless():
        for number in range(10**9):
            read.append(number)
            yield RequestSpec(number, float(number), 10, 1)

    tracker = RecordingTracker()
    simulator = Simulator(endless(), tracker, cost=ONE_SECOND)
    simulator.run(should_stop=lambda: len(tracker.iterations) == 20)
    assert len(read) <= 22


def test_a_workload_whose_time_goes_backwards_is_an_error_that_names_the_request():
    with pytest.raises(WorkloadError, match=r"request 1: arrival = 1\.0: time goes backwards"):
        simulate(specs((2.0, 10, 1), (1.0, 10, 1)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((-1.0, 1, 1), "arrival = -1.0"),
        ((float("nan"), 1, 1), "arrival = nan"),
        ((0.0, 0, 1), "prompt_tokens = 0: expected 1"),
        ((0.0, -1, 0), "prompt_tokens = -1: expected 0"),
        ((0.0, 1, -1), "output_tokens = -1"),
        ((0.0, 2**31, 1), "prompt_tokens = 2147483648"),
    ],
)
def test_an_impossible_request_cannot_be_made(wrong, message):
    with pytest.raises(WorkloadError, match=message):
        RequestSpec("x", *wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_running_requests": 0},
        {"max_running_requests": True},
        {"max_running_requests": 4096},
        {"max_scheduled_tokens": 255},
        {"kv_cache_blocks": 0},
        {"kv_cache_blocks": 1.5},
        {"block_size": 0},
        {"block_size": 48},
        {"hash_block_tokens": 8},
        {"watermark_ratio": 1.5},
        {"watermark_ratio": float("nan")},
        {"max_prefill_requests": 0},
        {"pauses": ((2.0, 1.0),)},
        {"pauses": ((1.0, 3.0), (2.0, 4.0))},
        {"kv_bytes_per_token": 0},
    ],
)
def test_a_wrong_scheduler_option_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="expected"):
        SchedulerOptions(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cancel_probability": 1.1},
        {"timeout_probability": -0.1},
        {"timeout_seconds": 0},
        {"deferral_seconds": -1},
    ],
)
def test_a_wrong_disturbance_is_refused_with_its_name(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Disturbances(**wrong)


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_a_wrong_speed_is_refused(speed):
    with pytest.raises(ConfigurationError, match="speed"):
        Simulator([], RecordingTracker(), speed=speed)


def test_an_empty_workload_is_a_run_without_iterations():
    _, result = simulate([])
    assert result.arrived == result.iterations == 0
    assert not result.interrupted


def test_a_synthetic_workload_with_classes_priorities_and_every_disturbance_runs_to_its_end():
    trouble = Disturbances(0.1, 0.1, 20.0, 0.1, 2.0)
    tracker, result = simulate(
        SyntheticWorkload(500, rate=8.0, burstiness=2.0), cost=LinearCostModel(), disturbances=trouble
    )
    assert result.arrived == 500 == result.completed + result.failed + result.cancelled
    assert min(result.completed, result.failed, result.cancelled) > 0
    assert not tracker.live
