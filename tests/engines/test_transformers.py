"""transformers' continuous batching, by hooks on a hand-driven stand-in; engine_tests/ does it with the engine."""

import queue

import pytest
from fake_transformers import Manager, state

from batchscope import BatchLimiter, SchedulerMetricsCollector
from batchscope.engines.transformers import attach, limits_of
from batchscope.testing import RecordingMetrics, assert_conforms

L = BatchLimiter


class Clock:
    now = 0.0

    def __call__(self):
        self.now += 0.125
        return self.now


@pytest.fixture
def collector():
    return SchedulerMetricsCollector(clock=Clock())


@pytest.fixture
def manager(collector):
    manager = Manager()
    attach(manager, collector)
    manager.start()
    return manager


def last_limiter(collector):
    return collector.iteration_samples()[-1].limited_by


def test_a_request_has_its_whole_timeline(collector, manager):
    one = state("a", prompt=10)
    manager.add_request(one)
    manager.step([(one, 6, False)])
    for _ in range(3):
        manager.step([(one, 4 if not one.generated_tokens else 1, True)])
    [sample] = collector.request_samples()
    assert (sample.request_id, sample.tokens_generated, sample.prompt_tokens) == ("a", 3, 10)
    assert sample.reason == "max_tokens_reached"
    assert 0 < sample.queue_time < sample.time_to_first_token < sample.total_time
    snapshot = collector.get_snapshot()
    assert snapshot.totals.scheduled_prefill_tokens == 10
    assert snapshot.request_stats.inter_token_latency.count == 2
    assert_conforms(snapshot, drained=True)


def test_an_end_of_sequence_token_is_told_from_the_limit(collector, manager):
    one = state("a", eos=[2])
    manager.batch_processor.tokens["a"] = 2
    manager.add_request(one)
    manager.step([(one, 4, True)])
    assert collector.request_samples()[0].reason == "eos_token_reached"


def test_a_preempted_request_keeps_its_instants_and_counts_what_is_computed_again(collector, manager):
    one, other = state("a", prompt=8), state("b", prompt=4)
    manager.add_request(one)
    manager.add_request(other)
    manager.step([(one, 8, True), (other, 4, True)])
    manager.batch_processor.to_offload = [one]
    manager.step(None, [(other, 1, True)])
    again = manager.batch_processor.scheduler.waiting_requests["a"]
    again.limit = 2
    manager.step([(again, 9, True), (other, 1, True)])
    manager.step([(again, 1, True)])
    snapshot = collector.get_snapshot()
    assert snapshot.totals.preemptions == 1
    assert snapshot.totals.recomputed_tokens == 8
    sample = next(sample for sample in collector.request_samples() if sample.request_id == "a")
    assert (sample.tokens_generated, sample.preemptions, sample.recomputed_tokens) == (3, 1, 8)
    assert sample.preempted_time > 0
    assert_conforms(snapshot, drained=True)


def test_a_cancelled_request_ends_as_such_whether_it_waits_or_runs(collector, manager):
    waits, runs = state("waits"), state("runs")
    manager.add_request(waits)
    manager.add_request(runs)
    manager.step([(runs, 4, True)])
    manager.batch_processor.scheduler.cancelled = [waits, runs]
    manager.step()
    snapshot = collector.get_snapshot()
    assert snapshot.request_stats.cancelled_requests == 2
    assert snapshot.gauges.requests_in_flight == 0


def test_a_failed_request_is_an_error_of_its_name(collector, manager):
    one = state("a")
    manager.add_request(one)
    manager.output_router.fail_and_deliver(one, ValueError("too long"))
    manager.output_router.fail_and_deliver(state("never seen"), ValueError("x"))
    snapshot = collector.get_snapshot()
    assert snapshot.request_stats.failed_requests == 1
    assert snapshot.error_stats.errors_by_type == {"ValueError": 1}


def test_a_full_input_queue_is_a_rejection_and_still_raises(collector):
    manager = Manager(queue_size=1)
    attach(manager, collector)
    manager.add_request(state("a"))
    with pytest.raises(queue.Full):
        manager.add_request(state("b"))
    snapshot = collector.get_snapshot()
    assert snapshot.totals.requests_by_reason["rejected"] == 1
    assert snapshot.gauges.requests_in_flight == 1


def test_cached_prompt_tokens_are_the_prefix_that_matched(collector, manager):
    one = state("a", prompt=10)
    manager.add_request(one)
    one.position_offset = 6
    for _ in range(3):
        manager.step([(one, 4 if not one.generated_tokens else 1, True)])
    totals = collector.get_snapshot().totals
    assert (totals.prompt_tokens_cached, totals.prompt_tokens_computed) == (6, 4)


def test_asynchronous_batches_are_updated_in_the_order_they_were_formed(collector, manager):
    one, other = state("a", limit=1), state("b", limit=1)
    manager.add_request(one)
    manager.add_request(other)
    processor = manager.batch_processor
    for batch in ([(one, 4, True)], [(other, 4, True)]):
        processor.scheduler.next_batches = [batch]
        processor.prepare_next_batch()
        processor._generation_step(None)
    processor.update_batch()
    assert [sample.request_id for sample in collector.request_samples()] == ["a"]
    processor.update_batch()
    assert [sample.request_id for sample in collector.request_samples()] == ["a", "b"]
    assert collector.get_snapshot().totals.rejected_records == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, L.DEMAND),
        ({"waiting": True, "max_requests_per_batch": 1}, L.REQUEST_SLOTS),
        ({"waiting": True, "length": 64}, L.TOKEN_BUDGET),
        ({"cut_off": True}, L.TOKEN_BUDGET),
        ({"starved_requests": [1]}, L.KV_CACHE),
        ({"waiting": True, "block_new_requests": True}, L.KV_CACHE),
        ({"waiting": True, "safety_margin": 0.5}, L.KV_CACHE),
        ({"waiting": True}, L.KV_CACHE),
    ],
)
def test_what_stopped_admission_is_reported(collector, manager, change, expected):
    one = state("a")
    manager.add_request(one)
    scheduler = manager.batch_processor.scheduler
    if change.pop("waiting", False):
        manager.add_request(state("waits"))
    if change.pop("cut_off", False):
        one.remaining_prefill_tokens = [1, 2]
    length = change.pop("length", 4)
    for name, value in change.items():
        setattr(scheduler, name, value)
    manager.step([(one, length, True)])
    assert last_limiter(collector) is expected
    assert collector.get_snapshot().gauges.kv_cache_usage == 0.75


def test_limits_and_engine_become_known(collector, manager):
    assert limits_of(manager).max_running_requests == 4
    assert collector.limits.max_scheduled_tokens == 64
    assert collector.limits.kv_cache_blocks is None
    snapshot = collector.get_snapshot()
    assert snapshot.engine.kind == "transformers"
    assert "input queue" in snapshot.definitions["queue_time"]


def test_what_a_version_lacks_is_said_and_the_rest_measured(collector):
    manager = Manager()
    attachment = attach(manager, collector)
    manager.start()
    assert attachment.missing == []
    other = Manager()
    other.output_router = object()
    assert attach(other, collector).missing == ["fail_and_deliver"]
    assert "fail_and_deliver" in collector.get_snapshot().definitions["missing"]


def test_a_hook_that_fails_never_reaches_the_engine(collector, caplog):
    manager = Manager()
    attachment = attach(manager, collector)
    manager.start()
    one = state("a")
    del one.initial_tokens
    manager.add_request(one)
    assert attachment.failures == 1
    assert "the engine goes on" in caplog.text
    assert not manager.input_queue.empty()


def test_an_engine_error_goes_on_and_leaves_no_step_behind(collector, manager):
    one = state("a")
    manager.add_request(one)
    manager.batch_processor.fail_update = True
    with pytest.raises(RuntimeError, match="device lost"):
        manager.step([(one, 4, True)])
    manager.output_router.fail_and_deliver(one, RuntimeError("device lost"))
    assert collector.get_snapshot().request_stats.failed_requests == 1


def test_a_reset_scheduler_loses_what_it_held_and_nothing_of_the_queue(collector, manager):
    held, queued = state("held"), state("queued")
    manager.add_request(held)
    manager.step()
    manager.add_request(queued)
    manager.start()
    snapshot = collector.get_snapshot()
    assert (snapshot.totals.requests_lost, snapshot.gauges.requests_in_flight) == (1, 1)


def test_detached_everything_is_as_before():
    manager = Manager()
    attachment = attach(manager, RecordingMetrics())
    manager.start()
    manager.add_request(state("a"))
    attachment.detach()
    assert "put" not in vars(manager.input_queue)
    assert "schedule_batch" not in vars(manager.batch_processor.scheduler)
    assert "_create_batch_processor" not in vars(manager)


def test_a_model_is_measured_through_the_managers_it_makes(collector):
    class Model:
        def init_continuous_batching(self):
            return Manager()

    model = Model()
    attach(model, collector)
    manager = model.init_continuous_batching()
    manager.start()
    manager.add_request(state("a"))
    assert collector.get_snapshot().totals.requests_received == 1


def test_something_else_is_refused_by_name():
    with pytest.raises(TypeError, match="cannot attach to a dict: expected a ContinuousBatchingManager"):
        attach({}, RecordingMetrics())


def test_where_the_environment_says_so_the_run_is_recorded(collector, tmp_path, monkeypatch):
    from batchscope.ledger import open_run

    monkeypatch.setenv("BATCHSCOPE_RECORD", str(tmp_path))
    manager = Manager()
    attach(manager, collector)
    attach(manager, collector)  # again is no second run
    manager.start()
    one = state("a", prompt=10)
    manager.add_request(one)
    manager.step([(one, 10, True)])
    manager.step([(one, 1, True)])
    collector.close()
    run = open_run(tmp_path)
    assert run.header.engine.kind == "transformers"
    assert run.iterations().num_rows == collector.get_snapshot().totals.iterations
    assert run.header.limits == collector.limits
