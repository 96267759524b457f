"""The time between two looks at one engine, as a snapshot of its own."""

import math

import msgspec
import pytest
from hypothesis import Phase, given, settings
from test_report_view import SNAPSHOTS

from batchscope import (
    BatchLimiter,
    CompletionReason,
    MetricsConfiguration,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
)
from batchscope.views.board import board
from batchscope.views.recent import since

LIMITS = SchedulerLimits(max_running_requests=4)
SLO = MetricsConfiguration(slo=SloTargets(time_to_first_token=1.5))


class Engine:
    """One request after the other, a second each: ``serve`` says what held the batch meanwhile."""

    def __init__(self):
        self.now = 0.0
        self.collector = SchedulerMetricsCollector(SLO, limits=LIMITS, clock=lambda: self.now)
        self.tracker = RequestTracker(self.collector)

    def serve(self, limiter, count=1, waits=0.0):
        for _ in range(count):
            slot = self.tracker.arrived(object(), prompt_tokens=10, at=self.now - waits)
            self.tracker.iteration([slot], started_at=self.now, finished_at=self.now + 1, limited_by=limiter)
            self.now += 1
            self.tracker.finished(slot, CompletionReason.EOS_TOKEN_REACHED, at=self.now)
        return self.collector.get_snapshot()


def test_what_happened_since_is_exactly_what_a_collector_counts_that_began_then():
    engine, fresh = Engine(), Engine()
    before = engine.serve(BatchLimiter.KV_CACHE, 5, waits=3.0)
    recent = since(before, engine.serve(BatchLimiter.TOKEN_BUDGET, 3))
    alone = fresh.serve(BatchLimiter.TOKEN_BUDGET, 3)
    shares = {name: share for name, share in recent.iteration_stats.limited_by.items() if share}
    assert shares == {"token_budget": 1.0}
    for name in (
        "busy_ratio",
        "time_weighted_utilization",
        "limiter_reported_ratio",
        "preemptions",
        "total_iterations",
    ):
        assert getattr(recent.iteration_stats, name) == getattr(alone.iteration_stats, name)
    assert recent.iteration_stats.lost_slot_seconds["token_budget"] == 9.0
    assert recent.slo_stats == alone.slo_stats
    assert (recent.elapsed_seconds, recent.request_stats.completed_requests) == (3.0, 3)
    assert recent.totals.generation_tokens == alone.totals.generation_tokens
    assert board(recent).latencies["time_to_first_token"].source == "histogram"


def test_who_looks_while_an_iteration_goes_on_is_not_told_of_more_time_than_there_was():
    engine = Engine()
    engine.serve(BatchLimiter.DEMAND)
    engine.now = 1.5  # within the next one, which counts when it ends
    before = engine.collector.get_snapshot()
    engine.now = 1.0
    recent = since(before, engine.serve(BatchLimiter.DEMAND))
    assert recent.elapsed_seconds == 0.5
    assert recent.totals.busy_seconds == 1.0
    assert recent.iteration_stats.busy_ratio == 1.0


def test_a_reset_another_instance_and_no_time_between_have_nothing_in_between():
    engine = Engine()
    before = engine.serve(BatchLimiter.DEMAND)
    assert since(before, before) is None
    after = engine.serve(BatchLimiter.DEMAND)
    assert since(after, before) is None
    assert since(before, msgspec.structs.replace(after, instance_id="other")) is None
    fallen = msgspec.structs.replace(after, totals=msgspec.structs.replace(after.totals, iterations=0))
    assert since(before, fallen) is None
    engine.collector.reset()
    engine.now += 9
    assert since(before, engine.collector.get_snapshot()) is None


@settings(max_examples=60, deadline=None, phases=[Phase.generate])
@given(SNAPSHOTS, SNAPSHOTS)
def test_whatever_two_documents_say_it_is_a_snapshot_or_nothing(before, now):
    recent = since(before, msgspec.structs.replace(now, instance_id=before.instance_id))
    if recent is not None:
        assert recent.elapsed_seconds > 0
        board(recent)


@pytest.mark.parametrize("missing", ["windowed", "slo_stats"])
def test_what_an_older_version_did_not_say_stays_unknown(missing):
    engine = Engine()
    before, now = (msgspec.structs.replace(engine.serve(BatchLimiter.DEMAND), **{missing: {}}) for _ in range(2))
    recent = since(before, now)
    assert recent.slo_stats == {} if missing == "slo_stats" else recent.request_stats.completed_requests == 1
    assert not math.isnan(recent.iteration_stats.busy_ratio)
