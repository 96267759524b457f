"""Requests that vLLM lost sight of: found from what it still counts, never claimed without proof."""

from hypothesis import given
from hypothesis import strategies as st
from vllm_doubles import Finished, Heard, PrefixCache, Reason, Scheduler, outputs

from batchscope.engines.vllm.losses import StartedRequests, Step
from batchscope.engines.vllm.source import FrontEnd


def account(heard):
    totals = heard.totals
    return totals.requests_received, totals.requests_lost


def test_an_aborted_request_is_lost_as_soon_as_the_engine_no_longer_holds_it():
    heard = Heard()
    heard.step(Scheduler(2), outputs([0.125, 0.125]))
    heard.step(Scheduler(1), outputs(gaps=[0.125]))
    assert account(heard) == (2, 1)
    heard.step(Scheduler(0), outputs(gaps=[0.125], finished=[Finished()]))
    assert account(heard) == (2, 1)


def test_one_given_up_in_the_queue_is_lost_though_it_never_had_a_token():
    heard = Heard()
    heard.step(Scheduler(1, 3), outputs([0.125]))
    heard.step(Scheduler(1, 2), outputs(gaps=[0.125]))
    assert account(heard) == (4, 1)


def test_one_whose_place_is_taken_in_the_same_step_is_lost_at_the_latest_when_the_engine_is_idle():
    heard = Heard()
    heard.step(Scheduler(1), outputs([0.125]))
    heard.step(Scheduler(1), outputs([0.125]))  # another one: the first was aborted
    heard.step(Scheduler(0), outputs(gaps=[0.125], finished=[Finished()]))
    assert account(heard) == (2, 1)


def test_one_that_was_admitted_and_aborted_before_its_first_token_is_lost():
    heard = Heard()
    heard.step(Scheduler(1, prefix_cache_stats=PrefixCache(1)), None)
    heard.step(Scheduler(1, prefix_cache_stats=PrefixCache(1)), None)
    heard.step(Scheduler(0), outputs([0.125], finished=[Finished()]))
    assert account(heard) == (2, 1)


def test_a_stop_string_that_the_engine_learns_of_later_loses_nobody():
    heard = Heard()
    heard.step(Scheduler(1), outputs([0.125]))
    heard.step(Scheduler(1), outputs(gaps=[0.125], finished=[Finished(finish_reason=Reason.STOP)]))
    heard.step(Scheduler(0), None)
    assert account(heard) == (1, 0)


def test_aborts_that_vllm_does_tell_of_are_cancelled_and_not_lost():
    heard = Heard()
    heard.step(Scheduler(2, 1), outputs([0.125, 0.125]))
    aborted = [Finished(finish_reason=Reason.ABORT)] * 3
    heard.step(
        None, outputs([0.125], finished=aborted)
    )  # as when it is sent to sleep: no step, no scheduler statistics
    heard.step(Scheduler(0), None)
    assert account(heard) == (3, 0)
    assert heard.totals.requests_by_reason["cancelled"] == 3


def test_what_other_front_ends_requests_do_to_the_engine_is_not_taken_for_ours():
    heard = Heard(front_end=FrontEnd(1, 2))
    heard.step(Scheduler(9, 5), outputs([0.125]))
    heard.step(Scheduler(3, 0), outputs(gaps=[0.125]))
    assert account(heard) == (1, 0)
    heard.step(Scheduler(0, 0), None)
    assert account(heard) == (1, 1)


def test_an_account_without_scheduler_statistics_claims_no_loss():
    started = StartedRequests()
    started.add(Step(0.0, None, 0, 0, 5, 2, 0))
    assert (started.received, started.lost) == (5, 0)


actions = st.lists(
    st.tuples(st.sampled_from(["arrive", "first", "finish", "stop", "abort", "step"]), st.integers(0, 3))
)


@given(actions)
def test_never_more_are_lost_than_were_and_at_rest_all_that_had_a_token_are(history):
    """A small engine: what it says after each step, against what really happened."""
    started, engine, lingering = StartedRequests(), [], 0
    arrived = lost = lost_with_token = 0
    firsts = finished = stopped = 0

    def tell():
        nonlocal firsts, finished, stopped, lingering
        held = len(engine) + lingering
        started.add(Step(0.0, held, held, 0, firsts, finished, stopped))
        firsts = finished = stopped = lingering = 0
        assert started.lost <= lost
        assert started.received <= arrived

    for what, which in history:
        if what == "arrive":
            engine.append(False)
            arrived += 1
        elif what == "step":
            tell()
        elif which < len(engine):
            had_token = engine[which]
            if what == "first" and not had_token:
                engine[which] = True
                firsts += 1
            elif what in ("finish", "stop") and had_token:
                del engine[which]
                finished += 1
                stopped += what == "stop"
                lingering += what == "stop"
            elif what == "abort":
                del engine[which]
                lost += 1
                lost_with_token += had_token
    while engine:
        if not engine.pop():
            firsts += 1
        finished += 1
    tell()
    tell()
    assert started.lost >= lost_with_token
    assert started.received == started.finished + started.lost
