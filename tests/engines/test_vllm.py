"""What vLLM's statistics become: requests, iterations, latencies, on stand-ins; engine_tests/ does it with vLLM."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm_doubles import Details, Finished, Heard, PrefixCache, Reason, Scheduler, Speculation, outputs

from batchscope import (
    BatchLimiter,
    CompletionReason,
    MetricsConfiguration,
    MetricsSnapshot,
    SchedulerMetricsCollector,
    SloTargets,
)
from batchscope.engines.vllm.source import FrontEnd, VllmSource
from batchscope.testing import RecordingMetrics, violations


@pytest.fixture
def heard():
    return Heard()


def test_a_finished_request_has_vllms_durations(heard):
    heard.step(Scheduler(), outputs(finished=[Finished(request_id="a")]))
    request = heard.request
    assert (request.request_id, request.tokens_generated, request.total_time) == ("a", 5, 2.0)
    assert (request.queue_time, request.prefill_time, request.decode_time) == (0.25, 0.25, 1.0)
    assert (request.processing_time, request.time_per_output_token) == (1.25, 0.25)
    assert (request.prompt_tokens, request.cached_tokens, request.preemptions) == (10, 4, 0)


def test_time_to_first_token_of_a_request_is_queue_and_prefill_by_the_engines_clock(heard):
    heard.step(Scheduler(), outputs(finished=[Finished(queued_time=0.5, prefill_time=0.25)]))
    assert heard.request.time_to_first_token == 0.75


def test_a_one_token_answer_has_no_time_per_output_token(heard):
    heard.step(Scheduler(), outputs(finished=[Finished(num_generation_tokens=1, decode_time=0.0)]))
    assert heard.request.time_per_output_token != heard.request.time_per_output_token
    assert heard.histogram("time_per_output_token") == (0, 0.0)
    assert heard.histogram("decode_time") == (1, 0.0)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (Finished(finish_reason=Reason.STOP), CompletionReason.EOS_TOKEN_REACHED),
        (Finished(finish_reason=Reason.LENGTH), CompletionReason.MAX_TOKENS_REACHED),
        (Finished(finish_reason=Reason.LENGTH, num_prompt_tokens=507), CompletionReason.LENGTH_REACHED),
        (Finished(finish_reason=Reason.ABORT), CompletionReason.CANCELLED),
        (Finished(finish_reason=Reason.ERROR), CompletionReason.ERROR),
        (Finished(finish_reason=Reason.REPETITION), CompletionReason.OTHER),
        (Finished(finish_reason="stop"), CompletionReason.EOS_TOKEN_REACHED),
        (Finished(finish_reason="something new"), CompletionReason.OTHER),
        (Finished(finish_reason=None), CompletionReason.OTHER),
    ],
)
def test_every_finish_reason_has_a_meaning(heard, said, meant):
    heard.step(Scheduler(), outputs(finished=[said]))
    assert {name for name, count in heard.totals.requests_by_reason.items() if count} == {meant}


def test_first_tokens_are_observed_when_they_happen_for_requests_that_never_finish(heard):
    heard.step(Scheduler(2), outputs([0.5, 0.25]))
    assert heard.histogram("time_to_first_token") == (2, 0.75)
    heard.step(Scheduler(1), outputs(finished=[Finished()]))
    assert heard.histogram("time_to_first_token") == (2, 0.75)
    assert heard.histogram("queue_time") == (1, 0.25)


def test_gaps_are_emission_gaps_and_never_inter_token_latencies(heard):
    heard.step(Scheduler(2), outputs(gaps=[0.125, 0.25]))
    assert heard.histogram("inter_emission_latency") == (2, 0.375)
    assert heard.histogram("inter_token_latency") == (0, 0.0)


def test_tokens_come_from_vllms_count_not_from_events(heard):
    heard.step(Scheduler(1), outputs(gaps=[0.125]))
    speculative = outputs(gaps=[0.125])
    speculative.num_generation_tokens = 4
    heard.step(Scheduler(1, spec_decoding_stats=Speculation(5, 3)), speculative)
    totals = heard.totals
    assert (totals.generation_tokens, totals.draft_tokens, totals.accepted_tokens) == (5, 5, 3)


def test_without_details_a_step_lasts_from_the_end_of_the_one_before_while_there_was_work(heard):
    heard.step(Scheduler(1), outputs([0.0625]))
    heard.step(Scheduler(0), outputs(gaps=[0.125], finished=[Finished()]), after=0.25)
    assert [iteration.processing_time for iteration in heard.iterations] == [0.0625, 0.25]


def test_after_idleness_a_step_starts_when_its_first_request_arrived(heard):
    heard.step(Scheduler(0), outputs([0.0625], finished=[Finished()]))
    heard.step(Scheduler(1), outputs([0.5, 0.25]), after=60.0)
    assert heard.iterations[-1].processing_time == 0.5


def test_a_first_chunk_after_idleness_takes_no_time_rather_than_an_invented_one(heard):
    heard.step(Scheduler(0), outputs([0.0625], finished=[Finished()]))
    heard.step(Scheduler(1), None, after=60.0)
    assert heard.iterations[-1].processing_time == 0.0


def test_details_give_the_steps_composition(heard):
    details = Details(7, 1, 60, 2, 2, elapsed_ms=31.25)
    heard.step(Scheduler(3, iteration_details=details), outputs([0.5], [0.125, 0.125]))
    iteration = heard.iterations[-1]
    assert (iteration.iteration_number, iteration.request_count, iteration.scheduled_tokens) == (7, 3, 62)
    totals = heard.totals
    assert (totals.scheduled_prefill_tokens, totals.scheduled_decode_tokens) == (60, 2)


@given(st.lists(st.tuples(st.sampled_from([0.125, 0.25, 0.5]), st.floats(0, 1000)), min_size=1, max_size=20))
def test_however_long_vllm_waited_for_a_result_busy_time_is_the_time_in_which_work_was_held(steps):
    """vLLM's elapsed time is the wait for a result: next to nothing where the model ran before, and more than came
    between two results here where the first one was late."""
    heard = Heard()
    heard.step(Scheduler(2), outputs([0.0625, 0.0625]))
    for seconds, waited_ms in steps:
        told = Details(1, 0, 0, 2, 2, elapsed_ms=waited_ms)
        heard.step(Scheduler(2, iteration_details=told), outputs(gaps=[seconds] * 2), after=seconds)
    wall = 0.0625 + sum(seconds for seconds, _ in steps)
    assert heard.totals.busy_seconds == wall
    assert sum(iteration.processing_time for iteration in heard.iterations) == wall


def test_a_step_after_idleness_lasted_at_least_as_long_as_vllm_waited_for_it(heard):
    told = Details(1, 1, 60, 0, 0, elapsed_ms=31.25)
    heard.step(Scheduler(1, iteration_details=told), None, after=60.0)
    assert heard.iterations[-1].processing_time == 0.03125


def test_of_several_front_ends_each_takes_vllms_elapsed_time_for_between_its_steps_lie_others():
    heard = Heard(front_end=FrontEnd(0, 2))
    for _ in range(2):
        told = Details(1, 0, 0, 2, 2, elapsed_ms=31.25)
        heard.step(Scheduler(2, iteration_details=told), outputs(gaps=[0.25] * 2), after=0.25)
    assert heard.totals.busy_seconds == 0.0625


@pytest.mark.parametrize(
    ("running", "emitted", "batch"),
    [
        (1, 1, 1),  # alone: it is still among the running
        (0, 1, 1),  # a stop token: the engine knows that it ended
        (7, 7, 7),  # seven of eight places
        (7, 8, 8),
    ],
)
def test_a_request_that_ended_by_a_stop_string_is_in_the_batch_once(heard, running, emitted, batch):
    heard.step(Scheduler(running), outputs(gaps=[0.125] * emitted, finished=[Finished(finish_reason=Reason.STOP)]))
    (iteration,) = heard.iterations
    assert (iteration.request_count, iteration.running_requests) == (batch, batch)
    assert iteration.limited_by is BatchLimiter.DEMAND


def test_who_finished_in_a_step_was_running_in_it_but_never_more_than_there_are_places(heard):
    heard.step(Scheduler(7, 2), outputs(gaps=[0.125] * 8, finished=[Finished()]))
    heard.step(Scheduler(8, 1), outputs(gaps=[0.125] * 8, finished=[Finished(finish_reason=Reason.STOP)]))
    assert [iteration.running_requests for iteration in heard.iterations] == [8, 8]
    assert [iteration.limited_by for iteration in heard.iterations] == [BatchLimiter.REQUEST_SLOTS] * 2


@pytest.mark.parametrize(
    ("scheduler", "facts", "limiter"),
    [
        (Scheduler(8, 2), {}, BatchLimiter.REQUEST_SLOTS),
        (Scheduler(2, 0), {}, BatchLimiter.DEMAND),
        (Scheduler(2, 0, 3), {}, BatchLimiter.DEFERRED),
        (Scheduler(2, 3, kv_cache_usage=1.0), {}, BatchLimiter.KV_CACHE),
        (Scheduler(2, 3), {"num_preempted_reqs": 1}, BatchLimiter.KV_CACHE),
        (Scheduler(2, 3), {}, BatchLimiter.UNKNOWN),
        (Scheduler(2, 3, iteration_details=Details(1, 1, 254, 2, 2, 1.0)), {}, BatchLimiter.TOKEN_BUDGET),
    ],
)
def test_the_limiter_is_inferred_from_the_schedulers_counts(heard, scheduler, facts, limiter):
    heard.step(scheduler, outputs(gaps=[0.125], **facts))
    (iteration,) = heard.iterations
    assert (iteration.limited_by, iteration.limiter_reported) == (limiter, False)


def test_while_the_engine_sleeps_its_iterations_are_paused(heard):
    heard.source.slept(True)
    heard.step(Scheduler(1, 1), outputs(gaps=[0.125]))
    heard.source.slept(False)
    heard.step(Scheduler(1, 0), outputs(gaps=[0.125]))
    assert [iteration.limited_by for iteration in heard.iterations] == [BatchLimiter.PAUSED, BatchLimiter.DEMAND]


def test_steps_for_nobody_are_no_iterations(heard):
    heard.step(Scheduler(0, 0), None)
    heard.step(Scheduler(1, 0, iteration_details=Details(3, 0, 0, 0, 0, 1.0, is_dummy=True)), None)
    assert heard.totals.iterations == 0


def test_tokens_of_outputs_without_scheduler_statistics_join_the_next_iteration(heard):
    heard.step(None, outputs(gaps=[0.125] * 3, num_preempted_reqs=1))
    heard.step(Scheduler(3), outputs(gaps=[0.125] * 3), rank=1)
    assert heard.totals.generation_tokens == 3
    heard.step(Scheduler(3), outputs(gaps=[0.125] * 3))
    totals = heard.totals
    assert (totals.iterations, totals.generation_tokens, totals.preemptions) == (2, 9, 1)


def test_all_ranks_are_in_one_collector_each_with_its_own_time(heard):
    for _ in range(2):
        for rank in (0, 1):
            heard.step(Scheduler(2), outputs(gaps=[0.125]), after=0.5, rank=rank)
    assert heard.snapshot.gauges.requests_running == 4
    assert [iteration.processing_time for iteration in heard.iterations] == [0.0, 0.0, 1.0, 1.0]


def test_with_several_ranks_gauges_are_of_all_ranks_whichever_stepped_last(heard):
    for _ in range(2):
        for rank, held_back in ((0, 3), (1, 0)):
            heard.step(Scheduler(2, 1, held_back, kv_cache_usage=0.25 + rank / 2), outputs(gaps=[0.125]), rank=rank)
            if heard.totals.iterations > 1:
                gauges = heard.snapshot.gauges
                assert (gauges.requests_running, gauges.requests_waiting, gauges.requests_deferred) == (4, 2, 3)
                assert gauges.kv_cache_usage == 0.5


def test_deferred_requests_stay_deferred_however_long_nothing_happens(heard):
    heard.step(Scheduler(0, 0, 3), None)
    heard.now += 3600.0
    gauges = heard.snapshot.gauges
    assert (gauges.requests_waiting, gauges.requests_deferred) == (0, 3)


def test_prompts_of_pooling_requests_count_though_no_token_comes(heard):
    pooled = Finished(
        finish_reason=Reason.STOP, num_prompt_tokens=100, num_cached_tokens=20, num_generation_tokens=0, decode_time=0.0
    )
    heard.step(Scheduler(), outputs([0.5] * 4, finished=[pooled] * 4))
    totals = heard.totals
    assert (totals.prompt_tokens_computed, totals.prompt_tokens_cached) == (320, 80)
    assert totals.generation_tokens_of_requests == 0


def test_tokens_whose_statistics_went_to_another_front_end_come_with_the_next_and_are_known_by_requests_at_once():
    heard = Heard(front_end=FrontEnd(1, 2))
    heard.step(Scheduler(1), outputs(gaps=[0.125] * 2))
    heard.step(None, outputs(gaps=[0.125], finished=[Finished(num_generation_tokens=3)]))
    assert (heard.totals.generation_tokens, heard.totals.generation_tokens_of_requests) == (2, 3)
    heard.step(Scheduler(1), outputs(gaps=[0.125]))
    assert heard.totals.generation_tokens == 4


def test_of_several_front_ends_only_the_first_says_who_is_in_the_engine():
    counts = []
    for rank in (0, 1):
        heard = Heard(front_end=FrontEnd(rank, 2))
        heard.step(Scheduler(3, 2), outputs(gaps=[0.125]))
        counts.append(heard.snapshot.gauges.requests_in_flight)
    assert counts == [5, 0]


def test_batch_utilization_is_recorded_with_each_iteration(heard):
    heard.step(Scheduler(4), outputs(gaps=[0.125] * 4))
    batches = heard.snapshot.batch_stats
    assert (batches.total_batches, batches.average_batch_size, batches.average_utilization) == (1, 4.0, 0.5)


def test_requests_refused_at_admission_are_received_and_failed(heard):
    heard.source.turned_away()
    totals = heard.totals
    assert (totals.requests_received, totals.requests_by_reason["rejected"]) == (1, 1)


def test_the_snapshot_says_what_vllms_figures_mean(heard):
    definitions = heard.snapshot.definitions
    assert "queue_time + prefill_time" in definitions["time_to_first_token"]
    assert "not measured" in definitions["inter_token_latency"]
    assert "missing" not in definitions


def test_an_slo_is_judged_by_the_requests_own_times():
    now = [0.0]
    slo = SloTargets(time_to_first_token=0.5, time_per_output_token=0.25)
    collector = SchedulerMetricsCollector(MetricsConfiguration(slo=slo), clock=lambda: now[0])
    source = VllmSource(collector)
    now[0] = 10.0
    source.record(Scheduler(), outputs(finished=[Finished(), Finished(prefill_time=0.5)]))
    stats = collector.get_snapshot().slo_stats["default"]
    assert (stats.met, stats.missed, stats.missed_by["time_to_first_token"]) == (1, 1, 1)


def test_a_metrics_object_of_ones_own_gets_records_at_once():
    recorded = RecordingMetrics()
    source = VllmSource(recorded)
    source.record(Scheduler(1), outputs([0.0]))
    source.record(Scheduler(0), outputs(gaps=[0.0], finished=[Finished()]))
    assert [iteration.tokens_generated for iteration in recorded.iterations] == [1, 1]
    assert [iteration.inter_emission_latencies for iteration in recorded.iterations] == [None, [(0.0, 1)]]
    assert [request.request_id for request in recorded.requests] == ["r"]


def test_a_whole_run_conforms(heard):
    heard.step(Scheduler(2, 1, prefix_cache_stats=PrefixCache(2)), outputs([0.125, 0.125]))
    heard.step(Scheduler(1, 0, prefix_cache_stats=PrefixCache(1)), outputs([0.25], [0.125] * 2, [Finished()] * 2))
    heard.step(Scheduler(0, 0), outputs(gaps=[0.125], finished=[Finished()]))
    assert violations(heard.snapshot) == []


def test_a_reset_counts_anew_and_keeps_who_is_in_the_engine(heard):
    heard.step(Scheduler(2), outputs([0.125, 0.125]))
    heard.collector.reset()
    assert (heard.totals.requests_received, heard.totals.iterations) == (2, 0)
    heard.step(Scheduler(0), outputs(gaps=[0.125], finished=[Finished()] * 2))
    totals = heard.totals
    assert (totals.requests_received, totals.requests_lost, totals.iterations) == (2, 0, 1)


def test_the_snapshots_of_several_front_ends_add_up_to_the_engines():
    first, second = (Heard(front_end=FrontEnd(rank, 2)) for rank in (0, 1))
    first.step(Scheduler(4), outputs([0.125] * 2))
    second.step(None, outputs([0.125] * 2))
    first.step(None, outputs(finished=[Finished()] * 2))
    second.step(Scheduler(1), outputs(gaps=[0.125] * 2, finished=[Finished()]))
    first.step(Scheduler(0), None)
    second.step(Scheduler(0), None)
    merged = MetricsSnapshot.merge(first.snapshot, second.snapshot)
    totals = merged.totals
    assert (totals.requests_received, totals.requests_lost, merged.request_stats.total_requests) == (4, 1, 3)
    assert (totals.generation_tokens, totals.iterations, merged.gauges.requests_in_flight) == (6, 2, 0)
