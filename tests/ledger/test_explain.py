"""Planted causes are named, the slowest stand beside the others, and what a run does not hold is said, not guessed."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from heard_tables import HeardRun, tables
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_engine import Scripted, simulated
from random_histories import random_run

from batchscope import BatchLimiter, RequestResult, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.ledger import open_run, perfetto
from batchscope.ledger.explain import Explainer, Explanation, Metric, NotToldError, UnknownRequestError
from batchscope.ledger.request_parts import Part
from batchscope.ledger.trace import trace
from batchscope.records import CompletionReason
from batchscope.simulator import RequestSpec, SchedulerOptions, Simulator, VirtualClock
from batchscope.testing import RecordingSink
from batchscope.views.explanation import sentence


def first(explanation: Explanation) -> tuple[Part, str | None]:
    """What is said to make it slow."""
    told = explanation.request.parts if explanation.request is not None else explanation.slowest.parts
    return told[0].part, told[0].limiter


def steady(engine: Scripted, steps: int = 40) -> None:
    """Short requests that come and go, with and without prefill beside decoding: what a model of the cost needs."""
    for step in range(steps):
        name = f"short{step}"
        engine.arrive(name)
        engine.step(name, prefill={name: 8})
        engine.step(name)
        engine.step(name)
        engine.finish(name)


def requests(count: int, prompt: int, output: int, every: float = 0.0) -> list[RequestSpec]:
    return [RequestSpec(str(one), one * every, prompt, output) for one in range(count)]


def test_kv_pressure_is_named_with_its_setting():
    explanation = Explainer(simulated(requests(60, 900, 100), kv_cache_blocks=200)).worst(Metric.TTFT, 0.1)
    assert first(explanation) == (Part.QUEUED, BatchLimiter.KV_CACHE)
    assert explanation.slowest.parts[0].share > 0.9
    assert "queued, held by the KV cache" in sentence(explanation)


def test_a_small_token_budget_is_named():
    run = simulated(requests(200, 900, 2), max_scheduled_tokens=256, kv_cache_blocks=100_000)
    explanation = Explainer(run).worst(Metric.TTFT, 0.1)
    assert first(explanation) == (Part.QUEUED, BatchLimiter.TOKEN_BUDGET)


def beside_a_long_prompt():
    """``victim`` decodes while the prompt of ``long`` is computed in ten chunks."""
    engine = Scripted()
    steady(engine)
    engine.arrive("victim")
    engine.step("victim", prefill={"victim": 8})
    engine.arrive("long", prompt=20_000)
    for step in range(10):
        engine.step("victim", "long", prefill={"long": 2000}, chunk=["long"] * (step < 9))
    engine.finish("victim", "long")
    return engine


def test_a_long_prompt_beside_decoders_is_named_as_stretching_them_and_marked_as_modelled():
    engine = beside_a_long_prompt()
    explainer = Explainer(engine.run())
    explanation = explainer.request("victim")
    assert first(explanation) == (Part.STRETCHED, None)
    stretched = explanation.request.parts[0]
    assert stretched.modelled
    assert stretched.seconds == pytest.approx(10 * 0.2, rel=0.02)
    assert explainer.worst(Metric.TPOT, 0.02).slowest.worst[0].request_id == "victim"
    assert first(explainer.worst(Metric.TPOT, 0.02)) == (Part.STRETCHED, None)


def test_where_nobody_said_how_many_tokens_were_scheduled_the_note_says_what_to_give():
    collector, sink = SchedulerMetricsCollector(clock=lambda: 9.0), RecordingSink()
    collector.subscribe(sink)
    tracker = RequestTracker(collector)
    for number in range(80):
        slot = tracker.arrived(str(number), prompt_tokens=8, at=0.1 * number)
        for step in range(2):
            begin = 0.1 * number + 0.05 * step
            tracker.iteration([slot], started_at=begin, finished_at=begin + 0.05)
        tracker.finished(slot, CompletionReason.EOS_TOKEN_REACHED, at=0.1 * (number + 1))
    collector.close()
    explanation = Explainer(HeardRun(sink.runs[0])).worst(Metric.TPOT)
    (note,) = [note for note in explanation.notes if "prefill tokens" in note]
    assert note.startswith("not recorded: prefill tokens of 80 of 160 iterations")
    assert "scheduled_tokens=" in note
    assert explanation.cost_model is None


def test_a_preemption_is_named_and_what_it_made_compute_again():
    engine = Scripted()
    steady(engine)
    engine.arrive("victim", "other")
    engine.step("victim", "other", prefill={"victim": 500, "other": 8})
    engine.step("other", evict=["victim"], limiter=BatchLimiter.KV_CACHE)
    for _ in range(30):
        engine.step("other", limiter=BatchLimiter.KV_CACHE)
    engine.step("victim", "other", prefill={"victim": 501})
    engine.finish("victim", "other")
    explainer = Explainer(engine.run())
    victim = explainer.request("victim")
    assert first(victim) == (Part.PREEMPTED, BatchLimiter.KV_CACHE)
    parts = {part.part: part.seconds for part in victim.request.parts}
    assert parts[Part.PREEMPTED] == pytest.approx(0.31)
    assert parts[Part.RECOMPUTED] == pytest.approx(0.0601)
    assert first(explainer.worst(Metric.GAP, 0.01)) == (Part.PREEMPTED, BatchLimiter.KV_CACHE)
    assert explainer.worst(Metric.GAP, 0.01).slowest.worst[0].request_id == "victim"


def test_an_idle_gap_is_named():
    engine = Scripted()
    steady(engine)
    engine.arrive("victim")
    engine.step("victim", prefill={"victim": 8})
    engine.now += 3.0
    engine.step("victim")
    engine.finish("victim")
    explainer = Explainer(engine.run())
    assert first(explainer.request("victim")) == (Part.BETWEEN, None)
    worst = explainer.worst(Metric.GAP, 0.01).slowest
    assert (worst.worst[0].request_id, worst.parts[0].part) == ("victim", Part.BETWEEN)
    (stretch,) = worst.stretches
    assert stretch.end - stretch.begin == pytest.approx(3.01)


def test_standing_still_with_a_place_is_told_from_waiting_for_one():
    engine = Scripted()
    engine.arrive("a", "b")
    engine.step("a", "b", prefill={"a": 8, "b": 8})
    for _ in range(5):
        engine.step("a", limiter=BatchLimiter.POLICY)
    engine.step("a", "b")
    engine.finish("a", "b")
    assert first(Explainer(engine.run()).request("b")) == (Part.STOOD_STILL, BatchLimiter.POLICY)


def test_the_slowest_share_stands_beside_the_others_and_the_shares_are_of_all_their_time():
    run = simulated(requests(100, 900, 100, every=0.05), kv_cache_blocks=400)
    slowest = Explainer(run).worst(Metric.E2E, 0.05).slowest
    assert (slowest.requests, slowest.others) == (5, 95)
    assert sum(part.share for part in slowest.parts) == pytest.approx(1)
    assert sum(part.share_of_others for part in slowest.parts) == pytest.approx(1)
    assert sum(part.mean for part in slowest.parts) == pytest.approx(slowest.mean)
    assert sum(part.mean_of_others for part in slowest.parts) == pytest.approx(slowest.mean_of_others)
    values = sorted(run.requests().column("total_time").to_pylist(), reverse=True)
    assert [one.value for one in slowest.worst] == values[:5]
    assert slowest.threshold == values[4]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(list(Metric)), st.sampled_from((0.01, 0.2, 1.0)))
def test_every_metric_is_split_without_a_rest(seed, metric, share):
    run = HeardRun(random_run(seed, 60))
    try:
        slowest = Explainer(run).worst(metric, share).slowest
    except NotToldError:
        assert metric.quantity in run.requests().column_names
        return
    if metric is not Metric.TPOT:  # its mean is over tokens, the metric's over requests
        assert sum(part.mean for part in slowest.parts) == pytest.approx(slowest.mean, abs=1e-9)
    assert sum(part.share for part in slowest.parts) == pytest.approx(1)
    assert sum(stretch.requests for stretch in slowest.stretches) <= slowest.requests


def without_spans(run: HeardRun) -> HeardRun:
    lean = HeardRun.__new__(HeardRun)
    lean.__dict__ = {**run.__dict__, "_spans": run.spans().slice(0, 0)}
    return lean


def durations_alone(run: HeardRun) -> HeardRun:
    """As vLLM's statistics tell of a request: when it ended, and how long what took."""
    bare, table = without_spans(run), run.requests()
    for name in ("arrived_at", "first_scheduled_at", "first_token_at", "last_token_at"):
        table = table.set_column(table.schema.get_field_index(name), name, pa.nulls(len(table), pa.float64()))
    bare._requests = table
    return bare


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((Metric.TTFT, Metric.E2E)))
def test_durations_and_the_end_alone_explain_as_instants_do_without_spans(seed, metric):
    run = HeardRun(random_run(seed, 40))
    lean, bare = (Explainer(one).worst(metric, 0.2) for one in (without_spans(run), durations_alone(run)))
    split = [
        {(part.part, part.limiter): part.mean for part in one.slowest.parts if part.mean > 1e-9} for one in (lean, bare)
    ]
    assert split[0] == pytest.approx(split[1], abs=1e-8)
    assert sum(split[1].values()) == pytest.approx(bare.slowest.mean, abs=1e-8)
    assert "told durations, no instants" in " ".join(bare.notes)


def test_of_a_request_that_ran_without_a_word_on_its_phases_nothing_follows_from_how_long_it_ran():
    run = durations_alone(simulated(requests(3, 30, 3)))
    table = run.requests()
    for name in ("queue_time", "time_to_first_token"):
        table = table.set_column(table.schema.get_field_index(name), name, pa.nulls(len(table), pa.float64()))
    run._requests = table
    with pytest.raises(NotToldError, match="durations that they follow from"):
        Explainer(run)


def test_without_spans_others_prefill_is_cut_out_of_decoding_as_modelled_but_not_of_the_preempted():
    engine = beside_a_long_prompt()
    run = engine.run(spans=False)
    victim = Explainer(run).request("victim")
    assert first(victim) == (Part.STRETCHED, None)
    assert victim.request.parts[0].modelled
    assert victim.request.parts[0].seconds == pytest.approx(10 * 0.2, rel=0.02)
    assert sum(part.seconds for part in victim.request.parts) == pytest.approx(victim.request.total_time, abs=1e-9)
    table = run.requests()
    place = table.schema.get_field_index("preemptions")
    run._requests = table.set_column(place, "preemptions", pa.array([1.0] * len(table)))
    assert Part.STRETCHED not in {part.part for part in Explainer(run).request("victim").request.parts}


def test_without_spans_only_the_queue_is_split_and_it_says_so():
    run = simulated(requests(60, 900, 100), kv_cache_blocks=200)
    lean = without_spans(run)
    whole, bare = Explainer(run).worst(Metric.TTFT), Explainer(lean).worst(Metric.TTFT)
    assert whole.complete
    assert bare.complete
    assert (whole.not_recorded, bare.not_recorded) == ((), ("spans",))
    assert "not recorded: spans" in bare.notes[0]
    assert {part.part for part in bare.slowest.parts} <= {Part.QUEUED, Part.ARRIVING, Part.BETWEEN, Part.PREFILL_PHASE}
    queued = [
        {part.limiter: round(part.mean, 9) for part in one.slowest.parts if part.part is Part.QUEUED}
        for one in (whole, bare)
    ]
    assert queued[0] == queued[1]


def test_of_requests_alone_the_queue_and_the_phases_are_known_and_not_who_held_it():
    run = simulated(requests(60, 900, 100), kv_cache_blocks=200)
    run._iterations, run._spans = run.iterations().slice(0, 0), run.spans().slice(0, 0)
    explanation = Explainer(run).worst(Metric.E2E, 1.0)
    means = {(part.part, part.limiter): part.mean for part in explanation.slowest.parts}
    recorded = {
        name: np.mean(run.requests().column(name).to_pylist()) for name in ("queue_time", "prefill_time", "decode_time")
    }
    assert means == pytest.approx({
        (Part.QUEUED, BatchLimiter.UNKNOWN): recorded["queue_time"], (Part.PREFILL_PHASE, None): recorded["prefill_time"],
        (Part.DECODE_PHASE, None): recorded["decode_time"],
    }, abs=1e-9)  # fmt: skip
    assert explanation.not_recorded == ("spans", "iterations")
    assert any("not recorded: iterations" in note for note in explanation.notes)


def test_of_a_clients_record_the_time_to_the_first_token_is_whole_and_unknown_and_never_called_queued():
    run = simulated(requests(60, 900, 100), kv_cache_blocks=200)
    run._iterations, run._spans = run.iterations().slice(0, 0), run.spans().slice(0, 0)
    table = run.requests()
    place = table.schema.get_field_index("first_scheduled_at")
    run._requests = table.set_column(place, "first_scheduled_at", pa.nulls(len(table), pa.float64()))
    explanation = Explainer(run).worst(Metric.TTFT, 0.1)
    (part,) = explanation.slowest.parts
    assert (part.part, part.limiter, part.share) == (Part.UNKNOWN, None, 1.0)
    assert part.mean == pytest.approx(explanation.slowest.mean, abs=1e-9)
    assert not explanation.complete
    assert any("60 of 60 requests do not say when they were scheduled" in note for note in explanation.notes)
    whole = {part.part: part.mean for part in Explainer(run).worst(Metric.E2E, 1.0).slowest.parts}
    assert whole[Part.DECODE_PHASE] == pytest.approx(np.mean(table.column("decode_time").to_pylist()), abs=1e-9)
    assert Part.QUEUED not in whole


def test_a_gap_that_no_span_tells_of_is_unknown_and_the_answer_not_complete():
    run = HeardRun(random_run(3, 60))
    run._iterations = run.iterations().slice(0, 0)
    for spans in (run.spans(), run.spans().slice(0, 0)):
        run._spans = spans
        explanation = Explainer(run).worst(Metric.GAP, 0.1)
        assert [part.part for part in explanation.slowest.parts] == [Part.UNKNOWN]
        assert explanation.slowest.parts[0].mean == pytest.approx(explanation.slowest.mean)
        assert not explanation.complete


def test_requests_without_instants_are_counted_and_a_run_of_them_is_refused():
    sink = RecordingSink()
    with SchedulerMetricsCollector(clock=lambda: 1.0) as collector:
        collector.subscribe(sink)
        collector.record_request_completion(RequestResult("a", 3, CompletionReason.EOS_TOKEN_REACHED, 0.5))
    with pytest.raises(NotToldError, match="instants"):
        Explainer(HeardRun(sink.runs[0]))


def test_a_run_in_which_nothing_finished_is_refused():
    with pytest.raises(NotToldError, match="no request finished"):
        Explainer(Scripted().run())


def test_an_id_that_is_not_there_or_not_unique_is_refused_and_a_number_tells_them_apart():
    engine = Scripted()
    for _ in range(2):
        engine.arrive("twin")
        engine.step("twin", prefill={"twin": 8})
        engine.finish("twin")
    explainer = Explainer(engine.run())
    for nobody in ("nobody", "", "#", "#3", "#-1", "#\u00b2", "#" + "9" * 40):
        with pytest.raises(UnknownRequestError, match="no finished request"):
            explainer.request(nobody)
    with pytest.raises(UnknownRequestError, match="2 requests have this id: ask for one of '#1', '#2'"):
        explainer.request("twin")
    assert explainer.request("#2").request.request == 2


def test_a_request_that_did_not_finish_is_said_to_have_not():
    engine = Scripted()
    engine.arrive("done", "stuck")
    engine.step("done", "stuck", prefill={"done": 8, "stuck": 8})
    engine.finish("done")
    with pytest.raises(UnknownRequestError, match="did not finish in this run"):
        Explainer(engine.run()).request("#2")


def test_iterations_that_are_missing_make_time_unknown_not_idle():
    run = HeardRun(random_run(11, 80))
    iterations = run.iterations()
    kept = np.ones(len(iterations), dtype=bool)
    kept[len(kept) // 3 : len(kept) // 2] = False
    run._iterations = iterations.filter(kept)
    explainer = Explainer(run)
    parts = {(part.part, part.limiter): part.share for part in explainer.worst(Metric.E2E, 1.0).slowest.parts}
    assert parts[Part.UNKNOWN, None] > 0.02
    assert parts[Part.QUEUED, BatchLimiter.UNKNOWN] > 0.02
    assert any("not in the record" in note for note in explainer.worst(Metric.E2E, 1.0).notes)


def test_the_document_is_json_with_null_for_what_is_not_known():
    explanation = Explainer(HeardRun(random_run(5))).worst(Metric.TTFT)
    document = msgspec.json.decode(msgspec.json.encode(explanation))
    assert document["schema"] == "batchscope.explain/1"
    assert document["slowest"]["metric"] == "ttft"
    assert document["request"] is None


def test_a_run_that_was_written_and_read_again_is_explained_and_drawn_the_same(tmp_path):
    clock, sink = VirtualClock(), RecordingSink()
    options = SchedulerOptions(max_running_requests=16, kv_cache_blocks=300)
    with SchedulerMetricsCollector(limits=SchedulerLimits(max_running_requests=16), clock=clock) as collector:
        collector.subscribe(sink)
        collector.record_to(tmp_path)
        Simulator(requests(120, 300, 60, every=0.05), RequestTracker(collector), options=options, clock=clock).run()
    heard, written = HeardRun(sink.runs[0]), open_run(tmp_path)
    for metric in Metric:
        assert Explainer(written).worst(metric, 0.1).slowest.parts == Explainer(heard).worst(metric, 0.1).slowest.parts
    assert b"".join(perfetto.encode(trace(written))) == b"".join(perfetto.encode(trace(heard)))


def test_requests_and_spans_may_come_in_any_order():
    run = HeardRun(random_run(9, 80))
    plain = Explainer(run).worst(Metric.E2E, 0.3)
    requests, iterations, spans = tables(random_run(9, 80))
    rng = np.random.default_rng(0)
    run._requests, run._iterations, run._spans = (
        table.take(rng.permutation(len(table))) for table in (requests, iterations, spans)
    )
    shuffled = Explainer(run).worst(Metric.E2E, 0.3)
    assert shuffled.slowest.parts == plain.slowest.parts
