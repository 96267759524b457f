"""Why admission stopped, reported by the scheduler: right, carried to the right step, and never in its way."""

import logging
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm_doubles import Details, Heard, Scheduler, outputs

from batchscope import BatchLimiter
from batchscope.engines.vllm.admission import PREFIX, Admission, AdmissionReporter, decoded

L = BatchLimiter


class Engine:
    """What is read of vLLM's scheduler, 8 places and 256 tokens a step."""

    def __init__(self, running=(), waiting=0, deferred=0, pause="UNPAUSED", chunked=True, slots=None, **cadence):
        self.running = [
            SimpleNamespace(is_prefill_chunk=prefill, request_id=str(name)) for name, prefill in enumerate(running)
        ]
        self.deferred_waiting = set(range(deferred))
        self.waiting = waiting + deferred
        self.num_waiting_for_streaming_input = 0
        self.max_num_active_reqs, self.max_num_scheduled_tokens = 8, 256
        self.scheduler_config = SimpleNamespace(enable_chunked_prefill=chunked, max_num_batched_tokens=256)
        speculation = SimpleNamespace(max_num_new_slots_for_drafting=slots) if slots else None
        self.vllm_config = SimpleNamespace(speculative_config=speculation)
        self.__dict__ |= cadence
        self._pause_state = SimpleNamespace(name=pause)
        self.free = 10
        self.kv_cache_manager = SimpleNamespace(allocate_slots=self.allocate)

    def allocate(self, request, count, *, reserve=0):
        if count + reserve > self.free:
            return None
        self.free -= count
        return [request] * count

    def get_request_counts(self):
        return len(self.running), self.waiting


def output(*tokens, drafts=None):
    scheduled = {str(name): count for name, count in enumerate(tokens)}
    return SimpleNamespace(
        num_scheduled_tokens=scheduled,
        total_num_scheduled_tokens=sum(tokens),
        scheduled_spec_decode_tokens=drafts or {},
    )


def stats():
    return SimpleNamespace(num_kv_fetch_reqs_by_stage={"in_progress": 0})


def told(reporter, step):
    reporter.processing(step)
    said = stats()
    reporter.tell(said)
    return decoded(said.num_kv_fetch_reqs_by_stage)


@pytest.mark.parametrize(
    ("engine", "step", "limiter"),
    [
        (Engine([False] * 3), output(1, 1, 1), L.DEMAND),
        (Engine([False] * 3, deferred=2), output(1, 1, 1), L.DEFERRED),
        (Engine([False] * 8, waiting=1), output(*[1] * 8), L.REQUEST_SLOTS),
        (Engine([False, True], waiting=1), output(1, 255), L.TOKEN_BUDGET),
        (Engine([False, True]), output(1, 255), L.TOKEN_BUDGET),
        (Engine([False, False]), output(1, 255), L.DEMAND),
        # A chunk that a cadence held back, with nobody waiting; and with all places taken.
        (Engine([False, True]), output(1), L.POLICY),
        (Engine([False, True], deferred=1), output(1), L.POLICY),
        (Engine([False] * 7 + [True], waiting=1), output(*[1] * 7), L.REQUEST_SLOTS),
        (Engine([False, True]), output(1, 64), L.DEMAND),
        # Each request in the batch takes 4 inputs for its drafts: 233 tokens and 6 x 4 leave room for none.
        (Engine([False] * 6, waiting=1, slots=4), output(*[1] * 5, 228), L.TOKEN_BUDGET),
        (Engine([False] * 7, slots=4), output(*[1] * 5, 228), L.TOKEN_BUDGET),
        (Engine([False] * 6, waiting=1, slots=4), output(*[1] * 5, 222), L.POLICY),
        (Engine([False] * 2, waiting=1), output(1, 1), L.POLICY),
        (Engine([False] * 2, waiting=1, chunked=False), output(1, 1), L.TOKEN_BUDGET),
        (Engine([False] * 2, waiting=1, pause="PAUSED_NEW"), output(1, 1), L.PAUSED),
        # vLLM 0.33's own cadence: the last prefill was two steps ago, of four; it is due; there was one in this step.
        (Engine([False] * 2, waiting=1, chunked=False, local_prefill_interval=4, num_executed_steps=9,
                last_prefill_step=7), output(1, 1), L.POLICY),
        (Engine([False] * 2, waiting=1, chunked=False, local_prefill_interval=4, num_executed_steps=9,
                last_prefill_step=5), output(1, 1), L.TOKEN_BUDGET),
        (Engine([False] * 2, waiting=1, chunked=False, local_prefill_interval=4, num_executed_steps=9,
                last_prefill_step=9), output(1, 1), L.TOKEN_BUDGET),
    ],
)  # fmt: skip
def test_the_limiter_is_what_stopped_the_last_attempt(engine, step, limiter):
    reporter = AdmissionReporter(engine)
    reporter.scheduled(step)
    assert told(reporter, step).limited_by is limiter


def test_a_whole_prompt_that_data_parallel_ranks_hold_back_waits_for_its_turn():
    reporter, step = AdmissionReporter(Engine([False], waiting=1, chunked=False)), output(1)
    reporter.scheduled(step, throttled=True)
    assert told(reporter, step).limited_by is L.POLICY


def test_a_version_without_drafting_slots_or_a_cadence_is_read_all_the_same():
    engine = Engine([False] * 2, waiting=1, chunked=False)
    del engine.vllm_config, engine.scheduler_config.max_num_batched_tokens
    reporter, step = AdmissionReporter(engine), output(1, 1)
    reporter.scheduled(step)
    assert (told(reporter, step).limited_by, reporter.failures) == (L.TOKEN_BUDGET, 0)


def test_steps_that_overlap_share_the_time_between_their_ends_and_idleness_belongs_to_nobody():
    now = [0.0]
    engine = Engine([False])
    reporter = AdmissionReporter(engine, lambda: now[0])
    first, second, third = output(1), output(1), output(1)

    def at(instant, what, *arguments):
        now[0] = instant
        what(*arguments)

    def ended(instant, step):
        now[0] = instant
        said = told(reporter, step)
        return said.step_us, said.ended_us

    at(1.0, reporter.scheduling)
    reporter.scheduled(first)
    at(1.25, reporter.scheduling)
    reporter.scheduled(second)  # while the first one runs
    assert ended(2.0, first) == (1_000_000, 2_000_000)
    engine.running = []
    assert ended(2.5, second) == (500_000, 2_500_000)
    engine.running = [SimpleNamespace(is_prefill_chunk=False, request_id="0")]
    at(60.0, reporter.scheduling)
    reporter.scheduled(third)
    assert ended(60.25, third) == (250_000, 60_250_000)


def test_a_refused_allocation_is_the_kv_caches_and_is_forgotten_after_the_step():
    engine = Engine([False] * 2, waiting=1)
    reporter = AdmissionReporter(engine)
    assert engine.kv_cache_manager.allocate_slots("a", 4, reserve=2) == ["a"] * 4
    assert engine.kv_cache_manager.allocate_slots("b", 7) is None
    first, second = output(1, 1), output(1, 1)
    reporter.scheduled(first)
    reporter.scheduled(second)
    assert [told(reporter, step).limited_by for step in (first, second)] == [L.KV_CACHE, L.POLICY]


def test_the_batch_is_told_by_phase_and_drafts_are_no_prefill():
    reporter = AdmissionReporter(Engine())
    plain, speculative = output(1, 1, 60), output(1, 4, 60, drafts={"1": [7, 7, 7]})
    for step, batch in ((plain, (3, 62, 1, 60)), (speculative, (3, 65, 1, 60))):
        reporter.scheduled(step)
        assert told(reporter, step)[1:5] == batch


def test_with_steps_in_flight_each_ones_statistics_get_its_own_report():
    reporter = AdmissionReporter(Engine())
    steps = [output(*[1] * count) for count in (1, 2, 3)]
    for step in steps:
        reporter.scheduled(step)
    assert [told(reporter, step).request_count for step in steps] == [1, 2, 3]


def test_statistics_of_no_step_or_made_twice_are_left_alone():
    reporter, step = AdmissionReporter(Engine()), output(1)
    reporter.scheduled(step)
    assert told(reporter, output(9)) is None
    reporter.tell(None)
    once_more = stats()
    reporter.tell(once_more)
    assert once_more.num_kv_fetch_reqs_by_stage == {"in_progress": 0}


def test_the_report_is_a_count_of_nothing():
    reporter, step, said = AdmissionReporter(Engine()), output(1), stats()
    reporter.scheduled(step)
    reporter.processing(step)
    reporter.tell(said)
    assert not any(said.num_kv_fetch_reqs_by_stage.values())


@pytest.mark.parametrize("broken", ["kv_cache_manager", "get_request_counts", "_pause_state", "running"])
def test_at_the_first_failure_it_ends_and_says_so_once(broken, caplog):
    engine = Engine([True], waiting=1)
    setattr(engine, broken, None)
    with caplog.at_level(logging.WARNING):
        reporter = AdmissionReporter(engine)
        for _ in range(3):
            step = output(256)
            reporter.scheduled(step)
            assert told(reporter, step) is None
    assert (reporter.failures, len(caplog.records)) == (1, 1)


def test_statistics_without_the_mapping_end_the_reports_and_nothing_else(caplog):
    reporter, step = AdmissionReporter(Engine()), output(1)
    reporter.scheduled(step)
    reporter.processing(step)
    reporter.tell(SimpleNamespace())
    assert reporter.failures == 1
    assert "no longer reports" in caplog.text


@given(st.sampled_from(list(L)), st.lists(st.integers(0, 10**15 - 1), min_size=6, max_size=6))
def test_what_is_encoded_is_decoded(limiter, counts):
    admission = Admission(limiter, *counts)
    assert decoded({"in_progress": 3, admission.encoded(): 0}) == admission


@given(
    st.one_of(
        st.none(),
        st.text(),
        st.dictionaries(st.one_of(st.text(), st.integers(), st.text().map(lambda text: PREFIX + text)), st.integers()),
    )
)
def test_what_is_not_ours_is_nothing(stages):
    found = decoded(stages)
    assert found is None or found.encoded() in stages


def test_the_front_end_takes_the_report_for_the_step_it_came_with():
    heard = Heard()
    said = Admission(L.POLICY, 3, 62, 1, 60).encoded()
    details = Details(7, 2, 61, 1, 1, elapsed_ms=31.25)
    heard.step(
        Scheduler(3, 1, num_kv_fetch_reqs_by_stage={said: 0}, iteration_details=details), outputs(gaps=[0.125] * 3)
    )
    heard.step(Scheduler(3, 1), outputs(gaps=[0.125] * 3))
    first, second = heard.iterations
    assert (first.limited_by, first.limiter_reported) == (L.POLICY, True)
    assert (first.request_count, first.scheduled_tokens, first.iteration_number) == (3, 62, 7)
    assert (second.limited_by, second.limiter_reported) == (L.UNKNOWN, False)
    assert heard.totals.scheduled_prefill_tokens == 60


def test_the_schedulers_times_hold_however_late_the_front_end_hears_of_the_steps():
    """Two steps' results arrive together, as when the event loop was busy: both took their time."""
    heard = Heard()
    ends = (heard.now + 0.25, heard.now + 0.5)
    for end in ends:
        said = Admission(L.DEMAND, 1, 1, 0, 0, step_us=250_000, ended_us=round(end * 1e6)).encoded()
        heard.now = ends[-1] + 0.125
        heard.step(Scheduler(1, num_kv_fetch_reqs_by_stage={said: 0}), outputs(gaps=[0.25]), after=0.0)
    assert [iteration.processing_time for iteration in heard.iterations] == [0.25, 0.25]
    assert heard.totals.busy_seconds == 0.5


def test_where_the_engine_core_has_another_machines_clock_only_the_length_of_the_step_is_taken():
    heard = Heard()
    for _ in range(2):
        said = Admission(L.DEMAND, 1, 1, 0, 0, step_us=125_000, ended_us=77_000_000).encoded()
        heard.step(Scheduler(1, num_kv_fetch_reqs_by_stage={said: 0}), outputs(gaps=[0.25]), after=0.25)
    assert heard.totals.busy_seconds == 0.25
    assert heard.snapshot.gauges.seconds_since_last_iteration == 0.0
