"""Why the batch was not fuller, by scripted iterations whose cause is known; time computed by hand."""

from itertools import accumulate, pairwise
from math import nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope import BatchLimiter, IterationResult, SchedulerLimits, SchedulerMetricsCollector
from batchscope.aggregation.limiter import BusyClock
from batchscope.rows import IterationColumn, RowKind, empty_rows

LIMITS = SchedulerLimits(max_running_requests=8, max_scheduled_tokens=100, kv_cache_blocks=50, kv_block_size=16)
FULL = 1 - 1 / 50
FREE_PLACES_AND_TOKENS = {"waiting_requests": 1, "running_requests": 4, "scheduled_tokens": 99}


class Script:
    """Iterations reported one after the other, their figures read at the end."""

    def __init__(self, limits=LIMITS):
        self.now = 0.0
        self.collector = SchedulerMetricsCollector(limits=limits, clock=lambda: self.now)

    def ran(self, start, end, requests=4, **fields):
        self.now = max(self.now, end)
        self.collector.record_iteration(
            IterationResult(1, requests, 0, 0, end - start, started_at=start, finished_at=end, **fields)
        )
        return self

    @property
    def statistics(self):
        return self.collector.get_iteration_statistics()

    @property
    def limiter(self):
        return self.collector.iteration_samples()[-1].limited_by


@pytest.mark.parametrize("limiter", BatchLimiter)
def test_what_the_scheduler_reports_is_believed_whatever_the_figures_say(limiter):
    script = Script().ran(0, 1, limited_by=limiter, preemptions=3, waiting_requests=5, running_requests=8)
    assert script.limiter is limiter
    assert script.statistics.limited_by[limiter] == 1.0
    assert script.statistics.limiter_reported_ratio == 1.0


@pytest.mark.parametrize(
    ("cause", "expected", "fields"),
    [
        ("a running request was evicted", "kv_cache", {"preemptions": 1, "waiting_requests": 1}),
        ("evicted, though the budget was used up too", "kv_cache",
         {"preemptions": 1, "waiting_requests": 9, "scheduled_tokens": 100, "unscheduled_prefill_tokens": 5}),
        ("a running request's prompt was cut off", "token_budget",
         {"unscheduled_prefill_tokens": 20, "waiting_requests": 0}),
        ("cut off, and it is not said who waits", "token_budget", {"unscheduled_prefill_tokens": 20}),
        ("one waits and the budget is used up", "token_budget", {"waiting_requests": 1, "scheduled_tokens": 100}),
        ("budget and places are both used up", "token_budget",
         {"waiting_requests": 1, "scheduled_tokens": 120, "running_requests": 8}),
        ("one waits and every place is taken", "request_slots",
         {"waiting_requests": 1, "running_requests": 8, "scheduled_tokens": 8}),
        ("places taken and the cache full", "request_slots",
         {"waiting_requests": 1, "running_requests": 8, "kv_cache_usage": 1.0}),
        ("nobody can run, some are held back", "deferred", {"waiting_requests": 0, "deferred_requests": 2}),
        ("nobody wants to run", "demand", {"waiting_requests": 0}),
        ("nobody wants to run, places taken", "demand",
         {"waiting_requests": 0, "running_requests": 8, "requests": 8}),
        ("some who run take no part", "policy", {"waiting_requests": 0, "running_requests": 8}),
        ("some who run take no part, and the batch is full", "request_slots",
         {"waiting_requests": 0, "running_requests": 9, "requests": 8}),
        ("some who run take no part, one waits", "policy",
         {"waiting_requests": 1, "running_requests": 7, "scheduled_tokens": 99}),
        ("who runs and takes no part is counted by the engine", "demand",
         {"waiting_requests": 0, "running_requests": 8, "standing_requests": 0}),
        ("some take no part, and some are held back", "policy",
         {"waiting_requests": 0, "running_requests": 8, "deferred_requests": 1}),
        ("nobody wants to run, budget used up", "demand", {"waiting_requests": 0, "scheduled_tokens": 100}),
        ("one waits and not a block is free", "kv_cache", {"waiting_requests": 1, "kv_cache_usage": FULL}),
        ("one waits and a block is free", "unknown", {"waiting_requests": 1, "kv_cache_usage": FULL - 0.001}),
        ("the first in the queue needs a block more than is free", "kv_cache",
         {"waiting_requests": 1, "kv_cache_usage": 0.5, "head_tokens": 25 * 16 + 1}),
        ("the first in the queue fits, and no budget is told", "unknown",
         {"waiting_requests": 1, "kv_cache_usage": 0.5, "head_tokens": 25 * 16}),
        ("the first in the queue fits, and nothing else is short", "kv_cache",
         {**FREE_PLACES_AND_TOKENS, "kv_cache_usage": 0.5, "head_tokens": 25 * 16}),
        ("one waits, nothing is used up", "kv_cache", FREE_PLACES_AND_TOKENS),
        ("one waits, nothing is used up, but some are held back", "unknown",
         {**FREE_PLACES_AND_TOKENS, "deferred_requests": 1}),
        ("prompts go first, and the next one is larger than the rest of the budget", "token_budget",
         {"waiting_requests": 1, "running_requests": 7, "scheduled_tokens": 99, "head_tokens": 2}),
        ("prompts go first, and the next one fits the budget and the blocks", "kv_cache",
         {"waiting_requests": 1, "running_requests": 7, "scheduled_tokens": 90, "head_tokens": 2, "kv_cache_usage": 0.1}),
        ("one waits while some are deferred", "unknown", {"waiting_requests": 1, "deferred_requests": 2}),
        ("it is not said who waits", "unknown", {"running_requests": 8, "scheduled_tokens": 100}),
        ("nothing is said", "unknown", {}),
    ],
)  # fmt: skip
def test_where_it_is_not_reported_the_first_rule_that_matches_says_it(cause, expected, fields):
    script = Script().ran(0, 1, **{"requests": 4, **fields})
    assert script.limiter == expected, cause
    assert script.statistics.limited_by[expected] == 1.0
    assert script.statistics.limiter_reported_ratio == 0.0


@pytest.mark.parametrize("blocks", [3, 7, 19, 27, 50, 63, 171, 219, 399, 4096, 11_008])
def test_all_blocks_but_one_held_is_full_whatever_floats_make_of_it(blocks):
    limits = SchedulerLimits(kv_cache_blocks=blocks)
    for held, expected in ((blocks - 1, "kv_cache"), (blocks - 2, "unknown")):
        script = Script(limits).ran(0, 1, waiting_requests=1, kv_cache_usage=held / blocks)
        assert script.limiter == expected


@pytest.mark.parametrize("left_out", ["max_running_requests", "max_scheduled_tokens", "kv_cache_blocks"])
def test_nothing_is_left_by_elimination_where_a_limit_is_not_given(left_out):
    limits = {"max_running_requests": 8, "max_scheduled_tokens": 100, "kv_cache_blocks": 50}
    fields = {**FREE_PLACES_AND_TOKENS, "kv_cache_usage": 0.5}
    assert Script(SchedulerLimits(**limits)).ran(0, 1, **fields).limiter == "kv_cache"
    assert Script(SchedulerLimits(**{**limits, left_out: None})).ran(0, 1, **fields).limiter == "unknown"


def test_without_running_requests_the_batch_itself_is_what_holds_places():
    assert Script().ran(0, 1, requests=8, waiting_requests=1).limiter == "request_slots"


@pytest.mark.parametrize(
    "fields",
    [{"waiting_requests": 1, "requests": 10**6}, {"waiting_requests": 1, "scheduled_tokens": 10**6},
     {"waiting_requests": 1, "kv_cache_usage": 1.0}],
)  # fmt: skip
def test_what_has_no_limit_is_never_inferred_to_limit(fields):
    assert Script(SchedulerLimits()).ran(0, 1, **fields).limiter == "unknown"


def test_shares_are_of_time_and_not_of_iterations():
    script = Script()
    for start in range(3):
        script.ran(start, start + 1, waiting_requests=0)
    script.ran(3, 12, limited_by=BatchLimiter.TOKEN_BUDGET)
    found = script.statistics
    assert found.limited_by["demand"] == 3 / 12
    assert found.limited_by["token_budget"] == 9 / 12
    assert sum(found.limited_by.values()) == 1.0
    assert found.limiter_reported_ratio == 9 / 12


def test_idle_time_between_iterations_is_nobodys():
    script = Script().ran(2, 4, waiting_requests=0).ran(6, 7, limited_by=BatchLimiter.PAUSED)
    script.now = 8.0
    found = script.statistics
    assert found.busy_ratio == 3 / 8
    assert found.limited_by["demand"] == 2 / 3
    assert found.limited_by["paused"] == 1 / 3


def test_overlapping_iterations_count_their_time_once():
    script = Script()
    script.ran(0, 4, requests=8, waiting_requests=0)
    script.ran(2, 6, requests=6, limited_by=BatchLimiter.KV_CACHE)  # 2 of its 4 seconds were busy already
    script.ran(5, 6, requests=1, limited_by=BatchLimiter.POLICY)  # wholly within
    script.now = 8.0
    found = script.statistics
    assert found.busy_ratio == 6 / 8
    assert (found.limited_by["demand"], found.limited_by["kv_cache"], found.limited_by["policy"]) == (4 / 6, 2 / 6, 0.0)
    assert found.lost_slot_seconds["demand"] == 0.0
    assert found.lost_slot_seconds["kv_cache"] == 2 * 2
    assert found.time_weighted_utilization == (8 * 4 + 6 * 2) / (8 * 6)


def test_overlap_is_found_across_drains_too():
    one, many = Script(), Script()
    for start, end in ((0, 4), (2, 6), (3, 7)):
        one.ran(start, end, waiting_requests=0)
        many.ran(start, end, waiting_requests=0)
        many.collector.read_totals()
    assert one.collector.read_totals().totals.busy_seconds == 7.0
    assert many.collector.read_totals().totals.busy_seconds == 7.0


def test_two_ranks_are_busy_side_by_side():
    script = Script()
    script.ran(0, 4, requests=8, rank=0, waiting_requests=0)
    script.ran(0, 4, requests=4, rank=1, limited_by=BatchLimiter.KV_CACHE)
    script.ran(4, 6, requests=2, rank=1, limited_by=BatchLimiter.KV_CACHE)
    script.now = 8.0
    found = script.statistics
    assert script.collector.read_totals().totals.busy_seconds == 10.0
    assert found.busy_ratio == 10 / 16  # of two ranks' eight seconds
    assert found.limited_by["kv_cache"] == 6 / 10
    assert found.lost_slot_seconds["kv_cache"] == 4 * 4 + 6 * 2
    assert found.time_weighted_utilization == (8 * 4 + 4 * 4 + 2 * 2) / (8 * 10)


def test_what_runs_in_another_pipeline_stage_does_not_stand_still():
    script = Script(SchedulerLimits(max_running_requests=8, pipeline_stages=2))
    script.ran(0, 4, requests=3, running_requests=3, waiting_requests=0)
    script.ran(2, 6, requests=2, running_requests=5, waiting_requests=0)
    assert script.limiter == "demand"
    script.collector.read_totals()  # what another stage holds is remembered over a read
    script.ran(4, 8, requests=3, running_requests=5, waiting_requests=0)
    assert script.limiter == "demand"
    script.ran(6, 9, requests=2, running_requests=6, waiting_requests=0)
    assert script.limiter == "policy"
    script.ran(8, 10, requests=4, running_requests=7, waiting_requests=0)
    assert script.limiter == "request_slots"  # its share is taken, and one more could run


def test_a_batch_of_one_stage_is_measured_against_its_share_of_the_places():
    script = Script(SchedulerLimits(max_running_requests=8, pipeline_stages=2))
    script.ran(0, 4, requests=4, waiting_requests=0).ran(2, 6, requests=3, waiting_requests=0)
    found = script.statistics
    assert found.average_utilization == 7 / 8
    assert found.time_weighted_utilization == (4 * 4 + 3 * 2) / (4 * 6)
    assert found.lost_slot_seconds["demand"] == 1 * 2


def test_lost_slot_seconds_are_empty_places_times_time_by_limiter():
    script = Script()
    script.ran(0, 2, requests=3, waiting_requests=0)
    script.ran(2, 3, requests=8, limited_by=BatchLimiter.REQUEST_SLOTS)
    script.ran(3, 7, requests=6, preemptions=1)
    found = script.statistics.lost_slot_seconds
    assert found["demand"] == 5 * 2
    assert found["request_slots"] == 0.0
    assert found["kv_cache"] == 2 * 4


def test_a_batch_above_the_limit_loses_nothing_and_gives_nothing_back():
    script = Script().ran(0, 1, requests=12, waiting_requests=0).ran(1, 2, requests=7, waiting_requests=0)
    assert script.statistics.lost_slot_seconds["demand"] == 1.0


def test_without_a_limit_no_slot_is_lost_and_utilization_is_not_measured():
    found = Script(SchedulerLimits()).ran(0, 1, waiting_requests=0).statistics
    assert found.lost_slot_seconds == {}
    assert np.isnan(found.time_weighted_utilization)
    assert np.isnan(found.average_utilization)


def test_an_iteration_without_instants_ends_when_it_was_recorded():
    script = Script()
    script.now = 4.0
    script.collector.record_iteration(IterationResult(1, 4, 0, 0, 1.5, waiting_requests=0))
    assert script.collector.read_totals().totals.busy_seconds == 1.5
    script.now = 5.0  # recorded 1 s later, lasted 3 s: 2 of them overlap
    script.collector.record_iteration(IterationResult(2, 4, 0, 0, 3.0, waiting_requests=0))
    assert script.collector.read_totals().totals.busy_seconds == 2.5


def test_a_start_alone_is_completed_by_the_duration():
    script = Script()
    script.now = 3.0
    script.collector.record_iteration(IterationResult(1, 4, 0, 0, 2.0, started_at=1.0, waiting_requests=0))
    script.now = 5.0
    script.collector.record_iteration(IterationResult(2, 4, 0, 0, nan, started_at=2.0, finished_at=5.0))
    assert script.collector.read_totals().totals.busy_seconds == 4.0


def rows(*spans, rank=0.0):
    values = empty_rows(RowKind.ITERATION, len(spans))
    values[:, IterationColumn.RANK] = rank
    values[:, IterationColumn.STARTED_AT] = [start for start, _ in spans]
    values[:, IterationColumn.FINISHED_AT] = [end for _, end in spans]
    return values


def test_the_busy_clock_of_one_rank_never_goes_back():
    clock = BusyClock()
    assert clock.advance(rows((0, 10), (1, 3), (9, 12))).tolist() == [10.0, 0.0, 2.0]
    assert clock.advance(rows((2, 11), (11, 13))).tolist() == [0.0, 1.0]
    assert clock.ranks == 1


def test_after_a_restart_ranks_are_forgotten_and_their_time_is_not():
    clock = BusyClock()
    clock.advance(rows((0, 10)))
    clock.restart()
    assert clock.ranks == 0
    assert clock.advance(rows((8, 11))).tolist() == [1.0]
    assert clock.ranks == 1


SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=12)


@given(steps=SPANS, order=st.randoms(use_true_random=False), cuts=st.sets(st.integers(1, 11)))
def test_busy_time_does_not_depend_on_the_order_of_reports_nor_on_who_looked_in_between(steps, order, cuts):
    """Of iterations that each began no earlier and ended later than the one before: any engine's, however it overlaps."""
    starts = accumulate(rest for rest, _, _ in steps)
    spans, last = [], 0
    for start, (_, length, _) in zip(starts, steps, strict=True):
        last = max(last + 1, start + length)
        spans.append((start, last))
    whole = float(BusyClock().advance(rows(*spans)).sum())
    order.shuffle(spans)
    clock, found, bounds = BusyClock(), 0.0, [0, *sorted(cut for cut in cuts if cut < len(spans)), len(spans)]
    for begin, end in pairwise(bounds):
        drained = sorted(spans[begin:end], key=lambda span: span[1])  # a drain puts its rows in order
        found += float(clock.advance(rows(*drained)).sum())
    assert found == whole


def test_a_late_report_finds_at_most_the_last_idle_spans():
    clock = BusyClock()
    for start in range(0, 400, 2):
        clock.advance(rows((start, start + 1)))
    assert clock.advance(rows((397, 398))).tolist() == [1.0]  # idle, and remembered
    assert clock.advance(rows((397, 398))).tolist() == [0.0]  # taken
    assert clock.advance(rows((1, 2))).tolist() == [0.0]  # too long ago
