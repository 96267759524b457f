"""The verdict, as a table: snapshots and the sentence that each one deserves."""

import math

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_report_view import SNAPSHOTS, served, snapshot_of

from batchscope import BatchLimiter, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.statistics.summaries import DistributionSummary, IterationStatistics, RequestStatistics, SloStatistics
from batchscope.statistics.totals import Gauges, Totals
from batchscope.views.verdict import State, verdict

AT_WORK = Gauges(requests_in_flight=9, requests_running=5, requests_waiting=4, seconds_since_last_iteration=0.02)
IDLE = Gauges(requests_running=0, requests_waiting=0, seconds_since_last_iteration=3600.0)
SERVED = Totals(requests_received=412, iterations=100)
MET = SloStatistics(
    targets={"time_to_first_token": 1.0}, evaluated=412, met=388, attainment=0.941,
    attainment_low=0.91, attainment_high=0.962,
)  # fmt: skip
LIMITS = SchedulerLimits(max_running_requests=64, max_scheduled_tokens=2048, kv_cache_blocks=500)


def live(shares=None, *, reported=1.0, gauges=AT_WORK, totals=SERVED, longest=math.nan, **fields):
    shares = {} if shares is None else shares
    snapshot = snapshot_of(shares, reported=reported, limits=LIMITS, gauges=gauges, totals=totals, **fields)
    iterations = msgspec.structs.replace(
        snapshot.iteration_stats,
        time_weighted_utilization=0.71,
        lost_slot_seconds=dict.fromkeys(shares, 1840.0),
        processing_time=DistributionSummary(count=1, max=longest),
    )
    return msgspec.structs.replace(snapshot, iteration_stats=iterations)


BATCH = "Batch 71.0 % full while busy."
LOST = "1,840 slot-s lost"
SLO = "SLO 94.1 % [91.0..96.2 %], n=412."


@pytest.mark.parametrize(
    ("snapshot", "sentence"),
    [
        (
            live({"token_budget": 0.62, "demand": 0.38}, slo_stats={"default": MET}),
            f"{BATCH} 62.0 % of busy time limited by token_budget: {LOST}; the setting is max_scheduled_tokens, now 2048. TTFT {SLO}",
        ),
        (
            live({"token_budget": 0.62}, reported=0.4),
            f"{BATCH} 62.0 % of busy time limited by token_budget (inferred): 1,840 slot-s lost.",
        ),
        (live({"demand": 0.9}), f"{BATCH} 90.0 % of busy time limited by demand: there was no more to do."),
        (
            live({"demand": 0.6, "kv_cache": 0.4}),
            (
                f"{BATCH} 60.0 % of busy time limited by demand: there was no more to do. "
                f"40.0 % by kv_cache: {LOST}; the setting is kv_cache_blocks, now 500."
            ),
        ),
        (live({"demand": 0.95, "kv_cache": 0.05}), f"{BATCH} 95.0 % of busy time limited by demand: there was no more to do."),
        (live({"unknown": 0.9}), f"{BATCH} 90.0 % of busy time limited by unknown: nobody said, nor can it be inferred."),
        (live({"policy": 0.9}), f"{BATCH} 90.0 % of busy time limited by policy: 1,840 slot-s lost."),
        (live({"a newer one": 0.9}), f"{BATCH} 90.0 % of busy time limited by a newer one: 1,840 slot-s lost."),
        (live(), BATCH),
        (
            live(slo_stats={"chat": msgspec.structs.replace(MET, attainment=0.5, targets={"a": 1.0, "b": 2.0}), "x": MET}),
            f"{BATCH} SLO of chat 50.0 % [91.0..96.2 %], n=412.",
        ),
        (live(slo_stats={"default": SloStatistics(targets={"e2e_latency": 1.0})}), BATCH),
        (
            live({"demand": 1.0}, request_stats=RequestStatistics(total_requests=100),
                 totals=Totals(requests_received=100, requests_by_reason={"rejected": 93})),
            f"{BATCH} Most requests refused at admission: 93 of 100.",
        ),
        (live({"\x1b[31m\u202e": 1.0}), f"{BATCH} 100.0 % of busy time limited by \\x1b[31m\\u202e: 1,840 slot-s lost."),
    ],
)  # fmt: skip
def test_a_live_engine_says_how_full_why_not_fuller_what_it_costs_and_who_is_served_in_time(snapshot, sentence):
    assert verdict(snapshot)[:2] == (State.LIVE, sentence)


NOTHING = SchedulerMetricsCollector(clock=lambda: 0.0).get_snapshot()
WAITS = Gauges(requests_waiting=3, requests_running=0, seconds_since_last_iteration=20.0, oldest_waiting_seconds=12.0)


@pytest.mark.parametrize(
    ("state", "begin", "snapshot", "look"),
    [
        (State.STARTING, "Starting: no request yet.", NOTHING, {}),
        (State.LIVE, BATCH, live(), {"age": 1.9}),
        (State.IDLE, f"Idle: no request to serve. {BATCH}", live(gauges=IDLE), {}),
        (State.IDLE, "Idle", live(gauges=Gauges(seconds_since_last_iteration=900.0)), {}),
        (State.LIVE, BATCH, live(gauges=Gauges(seconds_since_last_iteration=0.1)), {}),
        (State.STALLED, "Stalled: 3 waiting, 0 running, no iteration for 12.0 s.", live(gauges=WAITS, longest=0.1), {}),
        (State.LIVE, BATCH, live(gauges=WAITS, longest=5.0), {}),  # three such iterations are 15 s
        (State.LIVE, BATCH, live(gauges=WAITS), {}),  # the first one may take a minute
        (State.STALE, f"Stale: no answer; all this is 12 s old. {BATCH}", live(), {"age": 12.0}),
        (State.LIVE, BATCH, live(), {"age": 2.5, "interval": 5.0}),
        (State.GONE, "Gone: nobody answers any more; all this is 3 s old.", live(), {"age": 3.0, "gone": True}),
        (State.RESTARTED, "Restarted: it counts anew since 12:00:00 UTC.", live(instance_id="b"),
         {"before": live(instance_id="a")}),
        (State.RESTARTED, "Restarted", live(instance_id="a", generation=1), {"before": live(instance_id="a")}),
        (State.LIVE, BATCH, live(instance_id="a"), {"before": live(instance_id="a")}),
        (State.LIVE, BATCH, live(merged_from=["a", "b"]), {"before": live(merged_from=["a"])}),  # one more joined
        (State.RESTARTED, "Restarted", live(merged_from=["c"]), {"before": live(merged_from=["a", "b"])}),
    ],
)  # fmt: skip
def test_each_state_is_told_from_the_others_and_says_so_first(state, begin, snapshot, look):
    told = verdict(snapshot, **look)
    assert told.state is state
    assert told.sentence.startswith(begin)


def test_the_first_request_after_an_idle_hour_is_no_stall():
    now = [0.0]
    collector = SchedulerMetricsCollector(clock=lambda: now[0])
    tracker = RequestTracker(collector)
    slot = tracker.arrived(1, at=0.0)
    tracker.iteration([slot], started_at=0.0, finished_at=0.1)
    tracker.finished(slot, "eos_token_reached", at=0.1)
    now[0] = 3600.0
    assert verdict(collector.get_snapshot()).state is State.IDLE
    tracker.arrived(2, at=3599.0)
    assert verdict(collector.get_snapshot()).state is State.LIVE
    now[0] = 3610.0
    assert verdict(collector.get_snapshot()).state is State.STALLED


def field(snapshot, path):
    value = snapshot
    for name in path:
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


@settings(max_examples=60, deadline=None, phases=[Phase.generate])
@given(SNAPSHOTS, st.sampled_from([0.0, 1e9]), st.booleans())
def test_whatever_the_figures_it_is_one_line_whose_evidence_is_in_the_snapshot(snapshot, age, gone):
    told = verdict(snapshot, age=age, gone=gone)
    assert told.sentence
    assert told.sentence.isprintable()
    assert "nan" not in told.sentence
    assert [field(snapshot, path) for path, _ in told.evidence] == [value for _, value in told.evidence]


@pytest.mark.parametrize("limiter", list(BatchLimiter))
def test_a_setting_is_named_only_where_the_scheduler_said_so_and_there_is_one(limiter):
    settings_of = {"request_slots", "token_budget", "kv_cache"}
    assert ("the setting is" in verdict(served(limiter).get_snapshot()).sentence) == (limiter in settings_of)
    assert "the setting is" not in verdict(served().get_snapshot()).sentence


def test_a_report_begins_with_it():
    snapshot = served(BatchLimiter.DEMAND).get_snapshot()
    assert snapshot.report(width=140).splitlines()[0] == verdict(snapshot).sentence
    untold = msgspec.structs.replace(snapshot, iteration_stats=IterationStatistics())
    assert untold.report().startswith("At work: of its batch nothing is known.\n")


def minute(*, busy=40.0, evaluated=20, **fields):
    """The last minute of an engine, by ``since``."""
    return live(
        {"kv_cache": 0.9}, elapsed_seconds=60.0, totals=Totals(iterations=9, busy_seconds=busy),
        slo_stats={"default": msgspec.structs.replace(MET, evaluated=evaluated, attainment=0.5 if evaluated else math.nan)},
        **fields,
    )  # fmt: skip


HOUR = {"slo_stats": {"default": MET}}
KV = "90.0 % of busy time limited by kv_cache: 1,840 slot-s lost; the setting is kv_cache_blocks, now 500."
TOKENS = (
    "62.0 % of busy time limited by token_budget: 1,840 slot-s lost; the setting is max_scheduled_tokens, now 2048."
)


@pytest.mark.parametrize(
    ("recent", "sentence"),
    [
        (minute(), f"Batch 71.0 % full while busy, last 60 s. {KV} TTFT SLO 50.0 % [91.0..96.2 %], n=20."),
        (minute(evaluated=0), f"Batch 71.0 % full while busy, last 60 s. {KV} TTFT SLO 94.1 % [91.0..96.2 %], n=412, since start."),
        (minute(busy=0.0), f"Batch 71.0 % full while busy, since start. {TOKENS} TTFT SLO 50.0 % [91.0..96.2 %], n=20, last 60 s."),
    ],
)  # fmt: skip
def test_a_live_view_tells_of_the_last_minute_and_says_so_and_of_the_whole_run_where_that_was_silent(recent, sentence):
    assert verdict(live({"token_budget": 0.62}, **HOUR), recent=recent).sentence == sentence


def test_a_page_whose_counters_stand_while_requests_are_unfinished_is_a_stall_though_it_tells_no_iteration():
    silent = live(gauges=Gauges(requests_running=3, requests_waiting=2))
    assert verdict(silent).state is State.LIVE
    told = verdict(silent, still_seconds=61.0)
    assert told.state is State.STALLED
    assert told.sentence.startswith("Stalled: 2 waiting, 3 running, no iteration for 61.0 s.")


def test_of_a_run_that_is_over_nobody_is_told_that_it_is_idle():
    over = verdict(live(gauges=IDLE), ended=True)
    assert (over.state, over.sentence) == (State.IDLE, BATCH)
