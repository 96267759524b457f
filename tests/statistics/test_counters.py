"""Totals only grow, whatever is recorded in whatever order; what nobody measured is not there."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from batchscope import CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.catalog import CATALOG, MetricKind, values
from spec.fakes import EOS, FakeClock, iteration, make, request

COUNTERS = [metric for metric in CATALOG if metric.kind is MetricKind.COUNTER]
MAYBE = st.none() | st.integers(0, 9)


def exported(collector):
    """Every counter's series and its value."""
    state = collector.read_totals()
    return {(metric.name, labels): value for metric in COUNTERS for labels, value in values(metric, state)}


class Records(RuleBasedStateMachine):
    """A collector that is told things in any order, by records and by a tracker, and read in between."""

    @initialize()
    def begin(self):
        self.clock = FakeClock(0.0)
        self.collector = SchedulerMetricsCollector(limits=SchedulerLimits(4, 64), clock=self.clock)
        self.tracker = RequestTracker(self.collector)
        self.slots, self.seen, self.unread, self.ids = [], {}, 0, 0

    @rule(seconds=st.integers(1, 8))
    def time_passes(self, seconds):
        self.clock.advance(seconds / 8)

    @rule(later=st.integers(-8, 0), size=st.integers(0, 6), tokens=st.integers(0, 9), said=st.fixed_dictionaries(
        dict.fromkeys(("running_requests", "waiting_requests", "scheduled_tokens", "prefill_tokens", "recomputed_tokens", "draft_tokens", "preemptions"), MAYBE)))  # fmt: skip
    def an_iteration(self, later, size, tokens, said):
        end = self.clock.now + later / 8
        self.collector.record_iteration(iteration(1, size, tokens, 0, 0.5, finished_at=end, **said))

    @rule(tokens=st.integers(0, 9), reason=st.sampled_from(CompletionReason), prompt=MAYBE, cached=MAYBE, again=MAYBE)
    def a_completion(self, tokens, reason, prompt, cached, again):
        said = {"prompt_tokens": prompt, "cached_tokens": cached, "recomputed_tokens": again}
        self.collector.record_request_completion(request("r", tokens, reason, 1.0, **said))

    @rule(prompt=st.integers(0, 9))
    def an_arrival(self, prompt):
        self.ids += 1
        self.slots.append(self.tracker.arrived(self.ids, prompt_tokens=prompt))

    @rule(scheduled=st.booleans(), data=st.data())
    def a_tracked_iteration(self, scheduled, data):
        if self.slots:
            chosen = data.draw(st.lists(st.sampled_from(self.slots), unique=True, max_size=4))
            given = {"scheduled_tokens": [3] * len(chosen)} if scheduled else {}
            self.tracker.iteration(chosen, data.draw(st.just([1] * len(chosen)) | st.none()), **given)

    @rule(data=st.data())
    def a_finish(self, data):
        if self.slots:
            slot = self.slots.pop(data.draw(st.integers(0, len(self.slots) - 1)))
            self.tracker.finished(slot, data.draw(st.sampled_from([EOS, CompletionReason.CANCELLED])))

    @rule()
    def a_reset(self):
        """The exposition says that counting begins anew: a new start time; from there nothing falls again."""
        self.collector.reset()
        self.seen = {}

    @rule(limit=st.none() | st.integers(1, 8))
    def other_limits(self, limit):
        self.collector.set_limits(SchedulerLimits(max_running_requests=limit))

    @rule(steps=st.integers(1, 5))
    def nobody_reads(self, steps):
        self.unread = steps

    @invariant()
    def nothing_falls(self):
        self.unread -= 1
        if self.unread > 0:  # so that one drain takes many records, too
            return
        found = exported(self.collector)
        fallen = {series: (self.seen[series], value) for series, value in found.items()
                  if value < self.seen.get(series, 0)}  # fmt: skip
        assert not fallen
        self.seen = found
        snapshot = self.collector.get_snapshot()
        totals, requests = snapshot.totals, snapshot.request_stats
        assert requests.total_requests == sum(totals.requests_by_reason.values())
        held = requests.total_requests + snapshot.gauges.requests_in_flight + totals.requests_lost
        assert totals.requests_received == held
        assert totals.busy_seconds == pytest.approx(math.fsum(totals.busy_seconds_by_limiter.values()))


Records.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
test_no_exported_counter_falls_under_any_sequence_of_records_resets_and_reads = Records.TestCase


def test_tokens_of_a_request_that_a_reset_caught_in_flight_do_not_fall():
    collector, clock = make()
    tracker = RequestTracker(collector)
    slot = tracker.arrived("a")
    tracker.iteration([slot], [100])
    collector.reset()
    clock.advance(1.0)
    tracker.finished(slot, EOS)
    assert collector.get_snapshot().totals.generation_tokens == 0  # they were counted before
    other = tracker.arrived("b")
    tracker.iteration([other], [1])
    snapshot = collector.get_snapshot()
    assert snapshot.totals.generation_tokens == 1
    assert snapshot.request_stats.tokens_per_second == 1.0


def test_a_completion_before_the_first_iteration_stays_counted():
    collector, _ = make()
    collector.record_request_completion(request(tokens=500))
    assert collector.read_totals().totals.generation_tokens == 500
    collector.record_iteration(iteration(tokens=1))
    assert collector.read_totals().totals.generation_tokens == 500
    collector.record_request_completion(request(tokens=7))
    assert collector.read_totals().totals.generation_tokens == 507


def test_recomputed_tokens_stay_those_of_who_told_of_them_first():
    collector, _ = make()
    collector.record_request_completion(request(recomputed_tokens=100))
    assert collector.read_totals().totals.recomputed_tokens == 100
    collector.record_iteration(iteration(recomputed_tokens=3))
    assert collector.read_totals().totals.recomputed_tokens == 100


def test_more_prefill_tokens_than_scheduled_ones_are_refused():
    collector, _ = make()
    collector.record_iteration(iteration(scheduled_tokens=20, prefill_tokens=0))
    collector.record_iteration(iteration(scheduled_tokens=10, prefill_tokens=20))
    totals = collector.read_totals().totals
    assert (totals.scheduled_decode_tokens, totals.rejected_records) == (20, {"more_than_scheduled": 1})


def test_a_usage_that_is_no_ratio_is_refused_and_one_that_was_rounded_up_is_not():
    collector, _ = make()
    for usage in (0.5, 1.0, 1.004, 97.0):
        collector.record_iteration(iteration(kv_cache_usage=usage))
    snapshot = collector.get_snapshot()
    assert snapshot.totals.rejected_records == {"not_a_ratio": 1}
    assert snapshot.gauges.kv_cache_usage == 1.004


UNMEASURED = {
    "batchscope_running_request_seconds_total", "batchscope_waiting_request_seconds_total",
    "batchscope_scheduled_tokens_total", "batchscope_recomputed_tokens_total", "batchscope_draft_tokens_total",
    "batchscope_accepted_tokens_total", "batchscope_slot_seconds_total", "batchscope_used_slot_seconds_total",
    "batchscope_prompt_tokens_total",
}  # fmt: skip


def test_what_nobody_said_has_no_series():
    collector, _ = make()
    collector.record_iteration(iteration())
    collector.record_request_completion(request())
    assert not {name for name, _ in exported(collector)} & UNMEASURED
    collector.set_limits(SchedulerLimits(max_running_requests=8))
    collector.record_iteration(
        iteration(
            running_requests=4, waiting_requests=0, scheduled_tokens=8, prefill_tokens=4, recomputed_tokens=0,
            draft_tokens=0, accepted_tokens=0,
        )
    )  # fmt: skip
    collector.record_request_completion(request(prompt_tokens=10, cached_tokens=0))
    assert {name for name, _ in exported(collector)} >= UNMEASURED


def test_the_mean_over_time_divides_by_the_time_for_which_it_was_said():
    collector, clock = make()
    for number in range(4):
        clock.advance(1.0)
        collector.record_iteration(iteration(number, processing_time=1.0, waiting_requests=8 if number % 2 else None))
    snapshot = collector.get_snapshot()
    totals = snapshot.totals
    assert totals.waiting_request_seconds / totals.waiting_reported_seconds == 8
    assert snapshot.iteration_stats.average_waiting_requests == 8
    assert (totals.waiting_reported_seconds, totals.busy_seconds) == (2.0, 4.0)
    assert math.isnan(totals.running_request_seconds)


def test_decode_tokens_of_mixed_iterations_count_where_prefill_tokens_are_not_known():
    collector, _ = make()
    tracker = RequestTracker(collector)
    first = tracker.arrived("a", prompt_tokens=30)
    tracker.iteration([first])  # its prefill
    second = tracker.arrived("b", prompt_tokens=5)
    tracker.iteration([first, second])  # a decode and a prefill
    tracker.iteration([first, second])
    totals = collector.read_totals().totals
    assert (totals.scheduled_prefill_tokens, totals.scheduled_decode_tokens) == (None, 3)


def test_utilization_of_a_record_is_that_at_the_limits_of_its_time():
    collector, _ = make(limits=SchedulerLimits(max_running_requests=4, max_scheduled_tokens=10))
    collector.record_iteration(iteration(requests=4, scheduled_tokens=10))
    collector.set_limits(SchedulerLimits(max_running_requests=8, max_scheduled_tokens=40))
    found = collector.get_iteration_statistics()
    assert (found.average_utilization, found.token_utilization, found.time_weighted_utilization) == (1.0, 1.0, 1.0)
    collector.record_iteration(iteration(requests=4, scheduled_tokens=10))
    found = collector.get_iteration_statistics()
    assert (found.average_utilization, found.token_utilization) == (0.75, 0.625)


def test_deferred_requests_are_still_deferred_when_the_last_iteration_is_long_ago():
    collector, clock = make()
    tracker = RequestTracker(collector)
    running, *held = [tracker.arrived(name) for name in "abcd"]
    tracker.iteration([running], deferred_requests=3)
    tracker.finished(running, EOS)
    for _ in range(3):
        gauges = collector.read_totals().gauges
        assert (gauges.requests_deferred, gauges.requests_waiting) == (3, 0)
        clock.advance(100.0)
    tracker.finished(held[0], CompletionReason.CANCELLED)
    left = collector.read_totals().gauges
    assert (left.requests_deferred, left.requests_waiting) == (2, 0)
