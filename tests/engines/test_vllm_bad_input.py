"""Whatever vLLM says, or another version of it: nothing is raised, one number is missing, and it is said which."""

import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm_doubles import BOOTED, Finished, Heard, Outputs, PrefixCache, Reason, Scheduler, outputs

from batchscope.reasons import RejectReason


@pytest.fixture
def heard():
    return Heard()


class Without:
    """An object of another version: it has not those attributes."""

    def __init__(self, thing, *names):
        self.__dict__.update({name: value for name, value in vars(thing).items() if name not in names})


@pytest.mark.parametrize(
    ("interval", "reason"),
    [
        ({"queued_time": -3.5}, "negative"),
        ({"prefill_time": -BOOTED}, "negative"),
        ({"decode_time": BOOTED}, RejectReason.UNSET_INSTANT),
        ({"e2e_latency": 1.7e9}, RejectReason.UNSET_INSTANT),
        ({"inference_time": math.inf}, RejectReason.UNSET_INSTANT),
        ({"decode_time": "soon"}, "wrong_type"),
        ({"num_prompt_tokens": -7}, "negative"),
        ({"num_prompt_tokens": 1e300}, "too_large"),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_the_request_counts(heard, interval, reason):
    heard.step(Scheduler(), outputs(finished=[Finished(**interval)]))
    (name,) = interval
    assert heard.totals.requests_by_reason["max_tokens_reached"] == 1
    assert heard.rejected == {reason: 1}
    ours = {"queued_time": "queue_time", "e2e_latency": "total_time", "num_prompt_tokens": "prompt_tokens"}
    value = getattr(heard.request, ours.get(name, name), math.nan)
    if name == "e2e_latency":
        assert value == 0.25 + 1.25  # as the specification has it: queue and processing
    elif name == "num_prompt_tokens":
        assert value is None
    else:
        assert math.isnan(value)


def test_a_request_that_was_never_scheduled_has_no_queue_time_even_where_both_instants_are_unset(heard):
    never = Finished(queued_time=0.0, prefill_time=BOOTED, inference_time=BOOTED, decode_time=0.0)
    heard.step(Scheduler(), outputs(finished=[never]))
    assert math.isnan(heard.request.queue_time)
    assert heard.request.processing_time == 2.0
    assert heard.rejected == {RejectReason.UNSET_INSTANT: 2}


@pytest.mark.parametrize("reason", [Reason.ABORT, Reason.ERROR])
def test_a_request_that_ended_in_the_queue_is_an_ordinary_end(heard, reason):
    """As vLLM says it: scheduled at 0.0, the first token at the end, which is its first output event."""
    ended = Finished(
        finish_reason=reason, e2e_latency=1.5, queued_time=-BOOTED, prefill_time=BOOTED + 1, inference_time=BOOTED + 1,
        decode_time=0.0, num_generation_tokens=0, num_cached_tokens=-1,
    )  # fmt: skip
    heard.step(Scheduler(1), outputs([1.5, 0.25], finished=[ended]))
    request = heard.request
    assert heard.rejected == {}
    assert request.total_time == 1.5
    times = (request.queue_time, request.processing_time, request.prefill_time, request.time_to_first_token)
    assert all(math.isnan(time) for time in times)
    assert heard.histogram("time_to_first_token") == (1, 0.25)
    assert heard.totals.prompt_tokens_computed == 0


def test_where_the_inference_time_is_unset_what_is_left_after_the_queue_is_the_processing_time(heard):
    heard.step(Scheduler(), outputs(finished=[Finished(inference_time=None)]))
    assert heard.request.processing_time == 1.75


@pytest.mark.parametrize(
    ("gap", "reason"),
    [(-0.5, "negative"), (BOOTED, RejectReason.UNSET_INSTANT), (math.inf, RejectReason.UNSET_INSTANT), (math.nan, "not_a_number"), ("x", "wrong_type"), (None, "wrong_type")],
)  # fmt: skip
def test_a_gap_that_cannot_be_is_refused_and_the_others_count(heard, gap, reason):
    heard.step(Scheduler(3), outputs(gaps=[0.125, gap, 0.25]))
    assert heard.histogram("inter_emission_latency") == (2, 0.375)
    assert heard.rejected == {reason: 1}


@pytest.mark.parametrize(
    ("first", "reason"),
    [(-0.5, "negative"), (1.7e9, RejectReason.UNSET_INSTANT), (math.nan, "not_a_number"), (b"", "wrong_type")],
)
def test_a_first_token_that_cannot_be_is_refused_and_the_others_count(heard, first, reason):
    heard.step(Scheduler(3), outputs([0.125, first]))
    assert heard.histogram("time_to_first_token") == (1, 0.125)
    assert heard.rejected == {reason: 1}


@pytest.mark.parametrize(
    "name",
    ["num_running_reqs", "num_waiting_reqs", "num_skipped_waiting_reqs", "kv_cache_usage", "prefix_cache_stats",
     "spec_decoding_stats", "iteration_details", "connector_prefix_cache_stats", "cudagraph_stats",
     "running_lora_adapters", "waiting_lora_adapters"],
)  # fmt: skip
def test_a_scheduler_field_that_is_missing_is_named_and_the_iteration_counts(heard, name):
    heard.step(Without(Scheduler(3, 1), name), outputs(gaps=[0.125] * 3))
    snapshot = heard.snapshot
    assert f"SchedulerStats.{name}" in snapshot.definitions["missing"]
    assert (snapshot.totals.iterations, snapshot.totals.generation_tokens, snapshot.totals.rejected_records) == (
        1,
        3,
        {},
    )


@pytest.mark.parametrize(
    "name",
    ["num_generation_tokens", "num_preempted_reqs", "prompt_token_stats", "time_to_first_tokens_iter",
     "inter_token_latencies_iter", "finished_requests", "num_corrupted_reqs"],
)  # fmt: skip
def test_an_iteration_field_that_is_missing_is_named_and_the_rest_counts(heard, name):
    heard.step(Scheduler(1), Without(outputs([0.125], [0.25], [Finished()]), name))
    snapshot = heard.snapshot
    assert f"IterationStats.{name}" in snapshot.definitions["missing"]
    assert (snapshot.totals.iterations, snapshot.totals.rejected_records) == (1, {})
    assert snapshot.request_stats.total_requests == (name != "finished_requests")


@pytest.mark.parametrize("name", [name for name in vars(Finished()) if name != "num_generation_tokens"])
def test_a_field_of_a_finished_request_that_is_missing_is_named_and_the_request_counts(heard, name):
    heard.step(Scheduler(), outputs(finished=[Without(Finished(), name)]))
    snapshot = heard.snapshot
    assert snapshot.definitions["missing"].endswith(f"FinishedRequestStats.{name}")
    assert (snapshot.request_stats.total_requests, snapshot.totals.rejected_records) == (1, {})


def test_a_missing_field_is_named_once_however_often_it_is_missed(heard):
    for _ in range(3):
        heard.step(Without(Scheduler(1), "kv_cache_usage"), None)
    assert heard.snapshot.definitions["missing"].count("kv_cache_usage") == 1


def test_what_cannot_be_understood_at_all_is_counted_and_logged_once(heard, caplog):
    class Explodes:
        @property
        def num_running_reqs(self):
            raise RuntimeError("no")

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            heard.step(Explodes(), None)
        heard.step(Scheduler(1), outputs(gaps=[0.125]))
    assert heard.rejected == {RejectReason.INTEGRATION_FAILED: 3}
    assert heard.totals.iterations == 1
    (line,) = [record.getMessage() for record in caplog.records if "batchscope" in record.getMessage()]
    assert "RuntimeError('no')" in line


def test_a_record_that_cannot_be_read_does_not_cost_the_ones_beside_it(heard):
    heard.step(Scheduler(1), outputs(gaps=[0.125]))
    heard.source._log.append((heard.now, 0, False, ("too", "short"), None))
    heard.step(Scheduler(1), outputs(gaps=[0.125]))
    totals = heard.totals
    assert (totals.iterations, totals.generation_tokens, totals.rejected_records) == (
        2,
        2,
        {RejectReason.INTEGRATION_FAILED: 1},
    )


def test_without_a_reader_memory_is_bounded_and_what_is_dropped_is_counted(heard, monkeypatch):
    monkeypatch.setattr(heard.source._log, "_relieve", lambda: None)
    for _ in range(20_000):
        heard.step(Scheduler(1), None)
    assert len(heard.source._log) <= 4 * 4096
    totals = heard.totals
    assert totals.dropped_records > 0
    assert totals.iterations + totals.dropped_records == 20_000


def test_refused_requests_that_nobody_reads_are_bounded_and_counted(heard, monkeypatch):
    monkeypatch.setattr(heard.source._log, "_relieve", lambda: None)
    for _ in range(20_000):
        heard.source.turned_away()
    totals = heard.totals
    assert totals.requests_by_reason["rejected"] + totals.dropped_records == 20_000
    assert totals.dropped_records == 20_000 - 4 * 4096


def test_a_forked_child_starts_empty(heard):
    heard.step(Scheduler(2), outputs([0.125, 0.125]))
    heard.source.after_fork()
    assert heard.source.drain() == []
    assert heard.source.counts().received == 0


junk = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=5), st.booleans(), st.lists(st.floats(), max_size=3)
)
adapters = st.dictionaries(junk.filter(lambda value: not isinstance(value, list)), junk, max_size=3)
objects = st.builds(
    Outputs,
    junk,
    st.one_of(junk, st.lists(junk, max_size=4)),
    st.one_of(junk, st.lists(junk, max_size=4)),
    st.one_of(junk, st.lists(st.one_of(junk, st.builds(Finished, *[junk] * 12)), max_size=3)),
    junk,
    junk,
    junk,
)


@given(
    st.lists(
        st.tuples(
            st.one_of(
                junk, st.builds(Scheduler, *[st.one_of(junk, st.builds(PrefixCache, *[junk] * 7), adapters)] * 12)
            ),
            st.one_of(st.none(), junk, objects),
            junk,
        ),
        max_size=5,
    )
)
def test_nothing_that_vllm_could_ever_hand_over_raises_or_breaks_a_snapshot(calls):
    heard = Heard()
    logging.getLogger("batchscope").disabled = True
    try:
        for scheduler, iteration, rank in calls:
            heard.step(scheduler, iteration, rank=rank)
        before = heard.totals
        heard.step(Scheduler(1), outputs(gaps=[0.125]))
        assert heard.totals.generation_tokens >= before.generation_tokens + 1
        assert heard.snapshot.to_json(histograms=True)
    finally:
        logging.getLogger("batchscope").disabled = False
