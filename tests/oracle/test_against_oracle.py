"""Random histories through tracker and collector: every figure equals what the brute-force oracle finds."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from oracle_modules import needs_oracle, oracle
from pytest import approx  # noqa: PT013
from scripted_engine import (
    CANCELLED,
    COMPLETED,
    EVICT,
    FAILED,
    NOT_COMPLETED,
    SCRIPTS,
    Arrive,
    End,
    Iterate,
    Read,
    RequestFacts,
    ScriptedEngine,
    Time,
    limiter,
)

from batchscope import (
    CompletionReason,
    DistributionSummary,
    MetricsConfiguration,
    MetricsSnapshot,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
)

pytestmark = needs_oracle

START = 4096.25
WINDOW, CELL = 15.0, 0.25
PLACES, BUDGET = 4, 12
SLO = {
    "chat": SloTargets(time_to_first_token=0.5, time_per_output_token=0.25),
    "batch": SloTargets(e2e_latency=2.0, max_emission_gap=0.5),
}
LATENCIES = {
    "queue_time": "queue",
    "time_to_first_token": "ttft",
    "prefill_time": "prefill",
    "decode_time": "decode",
    "time_per_output_token": "tpot",
    "total_time": "e2e",
}


@dataclass
class Run:
    engine: ScriptedEngine
    snapshot: MetricsSnapshot
    collector: SchedulerMetricsCollector
    now: float

    @property
    def requests(self) -> list:
        """The oracle's view of the requests."""
        return [as_oracle(facts) for facts in self.engine.requests]

    @property
    def iterations(self) -> list:
        return [
            oracle.Iteration(
                f.started, f.finished - f.started, f.size, f.waiting, decode_tokens=f.tokens,
                tokens=f.scheduled or 0, preempted=f.preemptions,
            )
            for f in self.engine.iterations
        ]  # fmt: skip


def as_oracle(facts: RequestFacts):
    reason = None if facts.reason is None else str(facts.reason)
    return oracle.Request(
        facts.request_id, facts.arrival, facts.first_scheduled, None, facts.finish, reason, facts.prompt,
        token_times=facts.token_times, preemptions=len(facts.evicted),
    )  # fmt: skip


def play(script, *, scheduled_given: bool = True, reads: bool = True) -> Run:
    time = Time(START)
    collector = SchedulerMetricsCollector(
        MetricsConfiguration(slo=SLO, counter_window_seconds=WINDOW),
        limits=SchedulerLimits(max_running_requests=PLACES, max_scheduled_tokens=BUDGET),
        clock=time,
    )
    read = collector.get_snapshot if reads else lambda: None
    engine = ScriptedEngine(collector, time, scheduled_given=scheduled_given, read=read)
    for step in script:
        if not isinstance(step, Read):
            engine.play(step)
        else:
            read()
    time.now = math.floor(time.now / CELL + 1) * CELL  # the next cell edge: rates are exact there
    run = Run(engine, collector.get_snapshot(), collector, time.now)
    assert oracle.problems(run.requests) == []
    assert run.snapshot.totals.rejected_records == {}
    return run


def same(value: float, expected: float | None) -> bool:
    """Equal to 1e-9 relative; what the oracle leaves undefined is ``nan``."""
    if expected is None:
        return math.isnan(value)
    return value == approx(expected, rel=1e-9, abs=1e-12)


def assert_exact(summary: DistributionSummary, expected: dict, name: str) -> None:
    assert summary.count == expected["count"], name
    for percentile in (50, 90, 95, 99):
        assert same(getattr(summary, f"p{percentile}"), expected[f"p{percentile}_linear"]), (name, percentile)
    assert same(summary.mean, expected["mean"]), name
    assert same(summary.max, expected["max"]), name


def assert_histogram(histogram, observed: list[float], name: str) -> None:
    """Count, sum, min and max exact; quantiles within the guarantee of the nearest-rank value."""
    assert histogram.count == len(observed), name
    if not observed:
        return
    assert same(histogram.sum, math.fsum(observed)), name
    assert (histogram.min, histogram.max) == (approx(min(observed)), approx(max(observed))), name
    for percentile in (1, 25, 50, 90, 95, 99, 100):
        nearest = oracle.percentile_nearest(observed, percentile)
        estimate = histogram.quantile(percentile / 100)
        assert abs(estimate - nearest) <= histogram.relative_error * nearest * (1 + 1e-9), (name, percentile)


def class_of(facts: RequestFacts) -> str:
    return facts.request_class if facts.request_class in SLO else "other"


ON_THE_LIMIT = [  # TTFT exactly 0.5 s and TPOT exactly 0.25 s
    Arrive(0, 3, "chat", True), Iterate(2, 30, (1,), False, ()), Iterate(0, 16, (1,), False, ()), End(0, 0, 1),
]  # fmt: skip
OUT_AT_THE_END = [  # completes while it is evicted
    Arrive(0, 3, None, True), Iterate(0, 4, (1,), True, ()), Iterate(0, 4, (EVICT,), False, ()), End(7, 0, 1),
]  # fmt: skip


def histories(test):
    """Random ones, and those whose edge cases chance seldom meets."""
    drawn = given(SCRIPTS, st.booleans())(test)
    return example(ON_THE_LIMIT, True)(example(OUT_AT_THE_END, True)(drawn))


many = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@histories
def test_requests_are_counted_by_reason_and_outcome_and_none_is_missing(script, given_):
    run = play(script, scheduled_given=given_)
    totals, stats, gauges = run.snapshot.totals, run.snapshot.request_stats, run.snapshot.gauges
    counted = oracle.counts_by_reason(run.requests)
    for reason in CompletionReason:
        assert totals.requests_by_reason[reason] == counted.get(f"reason:{reason}", 0)
    by_outcome = Counter(str(facts.reason.outcome) for facts in run.engine.requests if facts.reason)
    assert stats.completed_requests == by_outcome["completed"]
    assert stats.failed_requests == by_outcome["failed"]
    assert stats.cancelled_requests == by_outcome["cancelled"]
    assert stats.total_requests == counted["finished"]
    assert stats.total_requests == stats.completed_requests + stats.failed_requests + stats.cancelled_requests
    assert totals.requests_received == counted["total"]
    assert totals.requests_received == stats.total_requests + gauges.requests_in_flight + totals.requests_lost
    assert gauges.requests_in_flight == counted["in_flight"]
    assert gauges.requests_running == sum(facts.holding for facts in run.engine.live)
    assert gauges.requests_waiting == sum(not facts.holding for facts in run.engine.live)
    oldest = min((facts.arrival for facts in run.engine.live if not facts.holding), default=run.now)
    assert gauges.oldest_waiting_seconds == run.now - oldest
    assert totals.preemptions == sum(len(facts.evicted) for facts in run.engine.requests)
    assert totals.generation_tokens == sum(len(facts.token_times) for facts in run.engine.requests)
    assert totals.prompt_tokens_computed == sum(
        facts.prompt for facts in run.engine.requests if facts.token_times and facts.reason
    )


@many
@histories
def test_latencies_of_completed_requests_are_exact(script, given_):
    run = play(script, scheduled_given=given_)
    stats = run.snapshot.request_stats
    expected = oracle.request_stats(run.requests, [str(reason) for reason in COMPLETED])
    for ours, theirs in LATENCIES.items():
        assert_exact(getattr(stats, ours), expected[theirs], ours)
    preempted = [facts.preempted_time for facts in run.engine.requests if facts.reason in COMPLETED]
    assert_exact(stats.preempted_time, oracle.summary(preempted), "preempted_time")
    assert same(stats.average_queue_time, expected["queue"]["mean"])
    assert same(stats.average_processing_time, expected["inference"]["mean"])
    assert same(stats.average_tokens_per_request, expected["output_tokens"]["mean"])
    assert same(stats.p50_latency, expected["e2e"]["p50_linear"])
    assert same(stats.p95_latency, expected["e2e"]["p95_linear"])
    assert same(stats.p99_latency, expected["e2e"]["p99_linear"])


@many
@histories
def test_histograms_hold_every_observation_within_their_guarantee(script, given_):
    run = play(script, scheduled_given=given_)
    found, requests = run.snapshot.histograms, run.requests
    stats = run.snapshot.request_stats
    gaps = {
        "inter_token_latency": [gap for r in requests for gap in r.itls()],
        "inter_emission_latency": [gap for r in requests for gap in r.emission_gaps()],
    }
    for name, observed in gaps.items():
        assert_histogram(found[name][""], observed, name)
        summary = getattr(stats, name)
        assert (summary.count, summary.source) == (len(observed), "histogram")
        assert same(summary.mean, oracle.mean(observed))
        for percentile in (50, 90, 95, 99):
            if observed:
                nearest = oracle.percentile_nearest(observed, percentile)
                assert getattr(summary, f"p{percentile}") == approx(nearest, rel=summary.relative_error * 1.000001)
    iterations = run.engine.iterations
    assert_histogram(found["iteration_duration"][""], [f.finished - f.started for f in iterations], "duration")
    assert_histogram(found["batch_size"][""], [f.size for f in iterations], "batch_size")
    scheduled = [f.scheduled for f in iterations if f.scheduled is not None]
    assert_histogram(found["iteration_scheduled_tokens"][""], scheduled, "scheduled_tokens")
    done = [(r, f) for r, f in zip(requests, run.engine.requests, strict=True) if f.reason in COMPLETED]
    for name, observed in (
        ("prefill_time", [r.prefill for r, _ in done]),
        ("decode_time", [r.decode for r, _ in done]),
        ("preempted_time", [f.preempted_time for _, f in done]),
    ):
        assert_histogram(found[name][""], [value for value in observed if value is not None], name)
    for class_name in (*SLO, "other"):
        of_class = [(r, f) for r, f in zip(requests, run.engine.requests, strict=True) if class_of(f) == class_name]
        ended = [r for r, f in of_class if f.reason in COMPLETED]
        for name, observed in (
            ("queue_time", [r.queue for r, _ in of_class]),  # when it happens: of all, finished or not
            ("time_to_first_token", [r.ttft for r, _ in of_class]),
            ("total_time", [r.e2e for r in ended]),
            ("time_per_output_token", [r.tpot() for r in ended]),
        ):
            assert_histogram(found[name][class_name], [v for v in observed if v is not None], f"{name} {class_name}")


@many
@histories
def test_rates_at_a_cell_edge_are_those_of_the_window(script, given_):
    run = play(script, scheduled_given=given_)
    edge = {"denominator": "elapsed", "origin": START}
    stats, now = run.snapshot.request_stats, run.now
    assert same(stats.requests_per_second, oracle.requests_per_second(run.requests, now, WINDOW, **edge))
    assert same(stats.tokens_per_second, oracle.tokens_per_second(run.requests, now, WINDOW, **edge))
    ends = [(iteration.end, 1) for iteration in run.iterations]
    assert same(run.snapshot.iteration_stats.iterations_per_second, oracle.window_rate(ends, now, WINDOW, **edge))


@many
@histories
def test_slo_attainment_and_goodput_count_requests_that_met_all_their_targets(script, given_):
    run = play(script, scheduled_given=given_)
    for class_name, targets in SLO.items():
        members = [(as_oracle(f), f) for f in run.engine.requests if class_of(f) == class_name]
        limits = {
            "ttft": targets.time_to_first_token,
            "tpot": targets.time_per_output_token,
            "e2e": targets.e2e_latency,
            "itl_max": targets.max_emission_gap,
        }
        bad = [str(reason) for reason in NOT_COMPLETED]
        met = [r for r, _ in members if oracle.meets_slo(r, **limits, bad_reasons=bad)]
        judged = Counter(judge(r, f, targets) for r, f in members if f.reason)
        found = run.snapshot.slo_stats[class_name]
        assert found.met == len(met) == judged["met"]
        assert found.missed == judged["missed"]
        assert found.unmeasured == judged["unmeasured"]
        assert found.not_evaluated == judged["not_evaluated"]
        assert found.evaluated == found.met + found.missed
        assert same(found.attainment, found.met / found.evaluated if found.evaluated else None)
        good = [(r.finish, 1) for r in met]
        rate = oracle.window_rate(good, run.now, WINDOW, denominator="elapsed", origin=START)
        assert same(found.goodput_per_second, rate)
        passing = oracle.goodput([r for r, _ in members], **limits, bad_reasons=bad)
        assert passing["good"] == found.met


def judge(r, facts: RequestFacts, targets: SloTargets) -> str:
    """What section 3 says of one finished request, written out."""
    if facts.reason in FAILED:
        return "missed"
    gave_up = facts.reason in CANCELLED
    gaps = r.emission_gaps()
    if gave_up and r.token_times:
        gaps = [*gaps, r.finish - r.last_token]
    longest = max(gaps, default=0.0 if r.output_tokens < 2 or gave_up else None)
    quantities = (
        (targets.time_to_first_token, r.e2e if gave_up and r.ttft is None else r.ttft),
        (targets.time_per_output_token, r.tpot() if r.output_tokens >= 2 else 0.0),
        (targets.e2e_latency, r.e2e),
        (targets.max_emission_gap, longest),
    )
    wanted = [(limit, value) for limit, value in quantities if limit is not None]
    if any(value is not None and value > limit for limit, value in wanted):
        return "missed"
    if gave_up:
        return "not_evaluated"
    return "unmeasured" if any(value is None for _, value in wanted) else "met"


@many
@histories
def test_iterations_are_averaged_weighed_by_time_and_attributed(script, given_):
    run = play(script, scheduled_given=given_)
    stats, totals = run.snapshot.iteration_stats, run.snapshot.totals
    facts = run.engine.iterations
    expected = oracle.iteration_stats(run.iterations, max_batch=PLACES)
    assert stats.total_iterations == totals.batches == expected["count"]
    assert_exact(stats.processing_time, expected["duration"], "processing_time")
    assert same(stats.average_requests_per_iteration, expected["running"]["mean"])
    assert same(stats.average_tokens_per_iteration, oracle.mean([f.tokens for f in facts]))
    assert same(stats.average_waiting_requests, expected["waiting"]["mean"])
    assert same(stats.average_utilization, expected.get("batch_occupancy"))
    assert same(stats.time_weighted_utilization, expected.get("batch_occupancy_time_weighted"))
    assert stats.preemptions == expected["preempted_total"]
    known = [f.scheduled for f in facts if f.scheduled is not None]
    assert same(stats.token_utilization, oracle.mean([tokens / BUDGET for tokens in known]))
    assert same(totals.busy_seconds, expected["busy"])
    elapsed = run.now - START
    assert same(stats.busy_ratio, expected["busy"] / elapsed if facts else None)
    running = math.fsum(f.running * (f.finished - f.started) for f in facts)
    waiting = math.fsum(f.waiting * (f.finished - f.started) for f in facts)
    assert same(totals.running_request_seconds, running if facts else None)
    assert same(totals.waiting_request_seconds, waiting if facts else None)
    assert totals.running_reported_seconds == totals.waiting_reported_seconds == totals.busy_seconds
    batches = run.snapshot.batch_stats
    assert same(batches.average_batch_size, expected["running"]["mean"])
    assert same(batches.average_utilization, expected.get("batch_occupancy"))
    assert batches.max_batch_size == max((f.size for f in facts), default=None)
    assert batches.min_batch_size == min((f.size for f in facts), default=None)

    busy, lost = Counter(), Counter()
    for f in facts:
        name = str(limiter(f, PLACES, BUDGET))
        busy[name] += f.finished - f.started
        lost[name] += max(PLACES - f.size, 0) * (f.finished - f.started)
    for name, share in stats.limited_by.items():
        assert same(share, busy[name] / expected["busy"] if facts else None), name
        assert stats.lost_slot_seconds[name] == lost[name], name


@many
@histories
def test_samples_say_each_iteration_and_each_request_as_it_was(script, given_):
    run = play(script, scheduled_given=given_)
    samples = run.collector.iteration_samples()
    assert [
        (
            s.request_count,
            s.tokens_generated,
            s.processing_time,
            s.running_requests,
            s.waiting_requests,
            s.scheduled_tokens,
        )
        for s in samples
    ] == [(f.size, f.tokens, f.finished - f.started, f.running, f.waiting, f.scheduled) for f in run.engine.iterations]
    facts = {f.request_id: f for f in run.engine.requests if f.reason}
    found = run.collector.request_samples()
    assert sorted(s.request_id for s in found) == sorted(facts)
    for sample in found:
        f, r = facts[sample.request_id], as_oracle(facts[sample.request_id])
        assert (sample.reason, sample.tokens_generated, sample.prompt_tokens) == (
            f.reason,
            len(f.token_times),
            f.prompt,
        )
        assert (sample.preemptions, sample.preempted_time) == (len(f.evicted), f.preempted_time)
        assert sample.request_class == class_of(f)
        for ours, theirs in (*LATENCIES.items(), ("processing_time", "inference")):
            assert same(getattr(sample, ours), oracle.FIELDS[theirs](r)), ours
        assert same(sample.max_emission_gap, max(r.emission_gaps(), default=None))


@many
@histories
def test_identities_between_the_durations_of_each_request_hold(script, given_):
    run = play(script, scheduled_given=given_)
    facts = {f.request_id: f for f in run.engine.requests}
    for sample in run.collector.request_samples():
        f = facts[sample.request_id]
        if math.isnan(sample.time_to_first_token):
            assert not f.token_times
            continue
        assert sample.time_to_first_token == sample.queue_time + sample.prefill_time
        after = f.finish - f.token_times[-1]
        assert sample.total_time == sample.time_to_first_token + sample.decode_time + after
        assert sample.total_time == sample.queue_time + sample.processing_time


@many
@histories
def test_reading_in_between_changes_nothing(script, given_):
    read, unread = play(script, scheduled_given=given_), play(script, scheduled_given=given_, reads=False)
    assert essence(read.snapshot) == essence(unread.snapshot)
    assert read.collector.read_totals().totals == read.snapshot.totals


def essence(snapshot: MetricsSnapshot) -> dict:
    """All figures of a snapshot; sums of floats may differ in their last digit by the order of addition."""
    import json

    document = json.loads(snapshot.to_json(histograms=True))
    for name in ("snapshot_time", "started_at", "instance_id", "sequence"):
        del document[name]
    return rounded(document)


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value
