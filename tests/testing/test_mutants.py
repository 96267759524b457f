"""Fifteen mistakes of an integration, one each: the conformance kit finds it, or says which figure it costs."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from block_engine import LIMITS, Call, play, served

from batchscope import (
    BatchLimiter,
    CompletionReason,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
)
from batchscope.simulator import Disturbances, SchedulerOptions, Simulator, SyntheticWorkload
from batchscope.testing import (
    ConformanceWarning,
    RecordingMetrics,
    assert_conforms,
    missing_figures,
    violations,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EOS = CompletionReason.EOS_TOKEN_REACHED
Mutation = Callable[[list[Call]], list[Call]]


def each(do: str, change: Callable[[Call], Call]) -> Mutation:
    return lambda calls: [change(call) if call.do == do else call for call in calls]


def say(do: str, **changes) -> Mutation:
    return each(do, lambda call: call.but(**changes))


def shifted(of_a_time: Callable[[float], float]) -> Mutation:
    return each(
        "iteration",
        lambda call: call.but(
            started_at=of_a_time(call.said["started_at"]), finished_at=of_a_time(call.said["finished_at"])
        ),
    )


def finished_twice(calls: list[Call]) -> list[Call]:
    last = next(place for place, call in enumerate(calls) if call.do == "finished")
    return [*calls[: last + 1], *calls[last:]]


def never_finished(calls: list[Call]) -> list[Call]:
    last = next(place for place, call in enumerate(calls) if call.do == "finished")
    return [*calls[:last], *calls[last + 1 :]]


def finished_before_the_iteration(calls: list[Call]) -> list[Call]:
    out: list[Call] = []
    for call in calls:
        place = max((at for at, before in enumerate(out) if before.do == "iteration"), default=0)
        out.insert(place if call.do == "finished" else len(out), call)
    return out


def preempted_an_iteration_late(calls: list[Call]) -> list[Call]:
    out, held = [], []
    for call in calls:
        if call.do == "iteration":
            held, now = call.said["preempted"], held
            out.append(call.but(preempted=[number for number in now if number not in call.who]))
        else:
            out.append(call)
    return out


MUTANTS = {
    "a request finishes twice": (finished_twice, "stale_slot"),
    "a request finishes before its last iteration": (finished_before_the_iteration, "stale_slot"),
    "a request never finishes": (never_finished, "expected that all have left"),
    "milliseconds for seconds": (shifted(lambda seconds: 1000 * seconds), "lost"),
    "the wall clock": (shifted(lambda seconds: seconds + 1.7e9), "lost"),
    "percent for a ratio": (
        each("iteration", lambda call: call.but(kv_cache_usage=100 * call.said["kv_cache_usage"])),
        "expected 0..1",
    ),
    "more cached than the prompt has": (say("finished", cached_tokens=300), "300 cached tokens of a prompt"),
    "demand while requests wait": (say("iteration", limited_by=BatchLimiter.DEMAND), "limited by demand while"),
    "preempted is never said": (say("iteration", preempted=[]), "nobody said that it was preempted"),
    "preempted is said an iteration late": (preempted_an_iteration_late, "in the iteration that evicts it"),
    "a token for each chunk of a prefill": (say("iteration", tokens=None), "say tokens=0 for a chunk"),
    "nobody waits": (say("iteration", waiting=0), "have no place"),
    "scheduled tokens are not said": (say("iteration", scheduled_tokens=None), "no figure for token utilization"),
    "no prompt tokens": (say("arrived", prompt_tokens=0), "no figure for prompt tokens"),
    "the limiter is always unknown": (
        say("iteration", limited_by=BatchLimiter.UNKNOWN),
        "no figure for what limited the batch: limited_by is always UNKNOWN",
    ),
    "the limiter is never said": (say("iteration", limited_by=None), "no figure for what limited the batch, only"),
    "cached tokens are said of iterations only": (say("finished", cached_tokens=0), "cached_prompt_tokens of iter"),
    "recomputed tokens are counted once too often": (
        each("iteration", lambda call: call.but(recomputed_tokens=call.said["recomputed_tokens"] + 1)),
        "recomputed_tokens of iterations",
    ),
}


def recorded(calls: list[Call]) -> RecordingMetrics:
    double = RecordingMetrics(LIMITS)
    play(calls, double)
    return double


@pytest.mark.parametrize("seed", range(8))
def test_the_sound_integration_has_neither_contradictions_nor_missing_figures(seed):
    calls = served(seed)
    assert any(call.said.get("preempted") for call in calls)
    assert any(call.said.get("cached_prompt_tokens") for call in calls)
    assert any(0 in call.said["tokens"] for call in calls if call.do == "iteration")
    double = recorded(calls)
    assert (violations(double, drained=True), missing_figures(double)) == ([], [])
    collector = SchedulerMetricsCollector(limits=LIMITS, clock=lambda: 1e6)
    play(calls, collector)
    snapshot = collector.get_snapshot()
    assert (violations(snapshot, drained=True), missing_figures(snapshot)) == ([], [])


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.parametrize("seed", range(4))
def test_each_mutant_is_found_or_costs_a_figure_that_is_named(name, seed):
    mutate, said = MUTANTS[name]
    double = recorded(mutate(served(seed)))
    found = violations(double, drained=True) + missing_figures(double)
    assert any(said in sentence for sentence in found), found[:5]


@pytest.mark.parametrize(
    "name",
    ["scheduled tokens are not said", "no prompt tokens", "the limiter is always unknown", "the limiter is never said"],
)
def test_a_collector_names_the_missing_figures_too(name):
    mutate, said = MUTANTS[name]
    collector = SchedulerMetricsCollector(limits=LIMITS, clock=lambda: 1e6)
    play(mutate(served()), collector)
    assert any(said in sentence for sentence in missing_figures(collector.get_snapshot()))


def test_a_collector_shows_percent_where_it_expects_a_ratio():
    mutate, _ = MUTANTS["percent for a ratio"]
    collector = SchedulerMetricsCollector(limits=LIMITS, clock=lambda: 1e6)
    play(mutate(served()), collector)
    found = violations(collector.get_snapshot(), drained=True)
    assert any("kv_cache_usage" in sentence or "rejected" in sentence for sentence in found)


def test_a_missing_figure_is_a_warning_and_a_contradiction_an_error():
    double = recorded(say("iteration", limited_by=None)(served()))
    with pytest.warns(ConformanceWarning, match="no figure for what limited the batch"):
        assert_conforms(double, drained=True)


# Sound engines of other kinds: not a word.


def nothing_is_said(double: RecordingMetrics) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_conforms(double, drained=True)


@pytest.mark.parametrize("drafts_told", [True, False])
def test_speculative_decoding_is_no_prefill_without_a_preemption(drafts_told):
    double = RecordingMetrics()
    tracker = RequestTracker(double)
    slots = [tracker.arrived(number, prompt_tokens=10, at=0.0) for number in range(2)]
    fields = {"waiting": 0, "limited_by": BatchLimiter.DEMAND}
    tracker.iteration(slots, scheduled_tokens=[10, 10], started_at=0.0, finished_at=1.0, **fields)
    for step, tokens in enumerate([[1, 1], [4, 2], [1, 3]], 1):
        drafts = {"draft_tokens": 6, "accepted_tokens": sum(tokens) - 2} if drafts_told else {}
        tracker.iteration(
            slots, tokens, scheduled_tokens=[4, 4], started_at=float(step), finished_at=step + 1.0, **fields, **drafts
        )
    for slot in slots:
        tracker.finished(slot, EOS, at=5.0)
    nothing_is_said(double)


def test_more_than_the_drafts_is_a_prefill_without_a_preemption():
    double = RecordingMetrics()
    tracker = RequestTracker(double)
    slot = tracker.arrived("a", prompt_tokens=10, at=0.0)
    tracker.iteration([slot], scheduled_tokens=[10], started_at=0.0, finished_at=1.0)
    tracker.iteration([slot], [3], scheduled_tokens=[12], draft_tokens=4, started_at=1.0, finished_at=2.0)
    tracker.finished(slot, EOS, at=2.0)
    assert any("computes 12 tokens" in sentence for sentence in violations(double))


def test_overlapping_batches_whose_members_leave_meanwhile_pass():
    double = RecordingMetrics()
    tracker = RequestTracker(double)
    a, b, c, d = (tracker.arrived(name, prompt_tokens=8, at=0.0) for name in "abcd")
    told = {"scheduled_tokens": [8], "limited_by": BatchLimiter.REQUEST_SLOTS}
    tracker.iteration([a], waiting=3, started_at=0.0, finished_at=1.0, **told)
    tracker.finished(d, CompletionReason.CANCELLED, at=1.0)  # after the next batch was formed
    tracker.finished(a, EOS, at=1.0)
    tracker.iteration([b], waiting=2, started_at=0.5, finished_at=2.0, **told)
    tracker.finished(b, EOS, at=2.0)
    tracker.iteration([c], waiting=0, started_at=1.5, finished_at=3.0, **told)
    tracker.finished(c, EOS, at=3.0)
    nothing_is_said(double)


def test_requests_of_two_ranks_wait_for_both_and_each_rank_says_its_own():
    double = RecordingMetrics()
    tracker = RequestTracker(double)
    slots = [tracker.arrived(number, prompt_tokens=4, at=0.0) for number in range(6)]
    for step in range(3):
        for rank in (0, 1):
            slot = slots[2 * step + rank]
            at = {"started_at": float(step), "finished_at": step + 1.0}
            limiter = BatchLimiter.REQUEST_SLOTS if step < 2 else BatchLimiter.DEMAND
            tracker.iteration([slot], scheduled_tokens=[4], waiting=2 - step, rank=rank, limited_by=limiter, **at)
            tracker.finished(slot, EOS, at=step + 1.0)
    nothing_is_said(double)


def test_a_rank_that_miscounts_its_own_queue_is_found():
    double = RecordingMetrics()
    tracker = RequestTracker(double)
    slots = [tracker.arrived(number, prompt_tokens=4, rank=number % 2, at=0.0) for number in range(8)]
    for step in range(3):
        for rank in (0, 1):
            said = {
                "waiting": 3 - step if rank else 0,
                "rank": rank,
                "started_at": float(step),
                "finished_at": step + 1.0,
            }
            tracker.iteration([slots[2 * step + rank]], scheduled_tokens=[4], **said)
    [found] = violations(double)
    assert found.startswith("iteration 4: waiting = 0, but 1 requests that arrived before")


def test_a_place_wasted_on_a_request_that_has_left_meanwhile_passes():
    double = RecordingMetrics()
    tracker = RequestTracker(double)
    a, b = (tracker.arrived(name, prompt_tokens=8, at=0.0) for name in "ab")
    told = {"waiting": 0, "limited_by": BatchLimiter.DEMAND}
    first = tracker.forming([a, b], scheduled_tokens=[8, 8], started_at=0.0, **told)
    second = tracker.forming([a, b], scheduled_tokens=[1, 1], started_at=0.5, **told)
    tracker.iteration(first, finished_at=1.0)
    tracker.finished(a, EOS, at=1.0)
    tracker.iteration(second, finished_at=2.0)
    tracker.finished(b, EOS, at=2.0)
    nothing_is_said(double)


def test_who_is_held_back_is_deferred_and_not_missing():
    double = RecordingMetrics()
    tracker = RequestTracker(double)
    a, b = (tracker.arrived(name, prompt_tokens=2, at=0.0) for name in "ab")
    deferred = {"waiting": 0, "deferred_requests": 1, "limited_by": BatchLimiter.DEFERRED}
    tracker.iteration([a], scheduled_tokens=[2], started_at=1.0, finished_at=2.0, **deferred)
    tracker.iteration([a], started_at=2.0, finished_at=3.0, **deferred)
    tracker.iteration([a, b], scheduled_tokens=[1, 2], started_at=3.0, finished_at=4.0, waiting=0)
    for slot in (a, b):
        tracker.finished(slot, EOS, at=4.0)
    nothing_is_said(double)


@pytest.mark.parametrize("seed", range(3))
def test_the_simulator_is_without_a_word(seed):
    options = SchedulerOptions(max_running_requests=24, max_scheduled_tokens=512, kv_cache_blocks=400)
    double = RecordingMetrics(SchedulerLimits(24, 512, 400))
    disturbances = Disturbances(cancel_probability=0.1, timeout_probability=0.1, deferral_probability=0.1)
    Simulator(SyntheticWorkload(150, rate=40.0, seed=seed), RequestTracker(double), options=options,
              disturbances=disturbances, seed=seed).run()  # fmt: skip
    assert sum(iteration.preemptions or 0 for iteration in double.iterations)
    nothing_is_said(double)


def test_the_example_engine_has_no_contradiction_and_the_figures_it_does_not_give_are_named(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import attach_tiny_engine as example

    double = RecordingMetrics(SchedulerLimits(max_running_requests=example.PLACES))
    monkeypatch.setattr(example, "tracker", RequestTracker(double, clock=example.clock))
    example.MeasuredEngine(example.clock, example.PLACES).serve(example.toy_workload())
    sys.modules.pop("attach_tiny_engine")
    assert violations(double, drained=True) == []
    [sentence] = missing_figures(double)
    assert sentence.startswith("no figure for token utilization, prefill and decode tokens")
