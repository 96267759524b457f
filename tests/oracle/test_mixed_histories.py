"""Histories as real engines make them: overlapping iterations, several ranks, trackers and writers, resets in between.

The oracle is this file: lists of what was told, and sums over them. Time runs in ticks of 1/64 s, so that every
sum of instants is exact.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pytest import approx  # noqa: PT013

from batchscope import (
    CompletionReason,
    IterationResult,
    MetricsConfiguration,
    MetricsSnapshot,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
    decode_snapshot,
)
from batchscope.rows import IterationColumn, RequestColumn, RowKind
from batchscope.testing import RecordingSink

TICK = 1 / 64
PLACES = 3
TTFT = 0.5
SKIP, EVICT = "skip", "evict"
RUNS, WAITS = "runs", "waits"
BOTH, START, FINISH, NEITHER = "both", "start", "finish", "neither"
REASONS = (CompletionReason.EOS_TOKEN_REACHED, CompletionReason.TIMEOUT, CompletionReason.CANCELLED)


@dataclass
class Request:
    slot: int
    arrived: float
    prompt: int
    first_scheduled: float | None = None
    emissions: list[tuple[float, int]] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)
    evicted: list[float] = field(default_factory=list)
    finished: float | None = None
    reason: CompletionReason | None = None
    places: list[tuple[float, str, int | None]] = field(default_factory=list)  # since when, what, on which rank

    @property
    def holding(self) -> bool:
        return len(self.taken) > len(self.evicted)

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.emissions)

    def is_at(self, instant: float, what: str, rank: int) -> bool:
        """Whether it runs or waits there; who never ran waits for any rank."""
        known = [place for place in self.places if place[0] <= instant]
        if not known or (self.finished is not None and self.finished <= instant):
            return False
        return known[-1][1] == what and known[-1][2] in (rank, None)


@dataclass
class Iteration:
    rank: int
    started: float
    finished: float
    size: int
    tokens: int
    preemptions: int
    running: int | None
    waiting: int | None


@dataclass
class Emission:
    gap: float
    tokens: int


class Engine:
    """One collector, two trackers, a writer; ``said`` is what was told since the last reset."""

    def __init__(self) -> None:
        self.now = 4096.0
        self.collector = SchedulerMetricsCollector(
            MetricsConfiguration(slo=SloTargets(time_to_first_token=TTFT)),
            limits=SchedulerLimits(max_running_requests=PLACES),
            clock=lambda: self.now,
        )
        self.sink = RecordingSink()
        self.collector.subscribe(self.sink)
        self.trackers = [RequestTracker(self.collector) for _ in range(2)]
        self.requests: list[list[Request]] = [[], []]
        self.last_finish: list[float | None] = [None, None]
        self.last_start = Counter()  # by rank, and by tracker
        self.iterations: list[Iteration] = []
        self.busy_until: dict[int, float] = {}
        self.received = self.ended = 0
        self._forget()

    def _forget(self) -> None:
        self.said: list[Iteration] = []
        self.emitted: list[Emission] = []
        self.first_tokens: list[float] = []
        self.queued: list[float] = []
        self.finished: list[Request] = []
        self.busy = 0.0
        self.lost_slots = 0.0

    def live(self, which: int) -> list[Request]:
        return [request for request in self.requests[which] if request.finished is None]

    def arrive(self, which: int, prompt: int) -> None:
        self.now += TICK  # not the instant of anything else
        slot = self.trackers[which].arrived(len(self.requests[which]), prompt_tokens=prompt)
        self.requests[which].append(Request(slot, self.now, prompt, places=[(self.now, WAITS, None)]))
        self.received += 1

    def end(self, which: int, place: int, reason: CompletionReason) -> None:
        live = self.live(which)
        if not live:
            return
        request = live[place % len(live)]
        if request.first_scheduled is None:
            reason = CompletionReason.CANCELLED
        self.trackers[which].finished(request.slot, reason)
        request.finished, request.reason = self.now, reason
        self.finished.append(request)

    def reset(self) -> None:
        self.collector.reset()
        self.received = len(self.live(0)) + len(self.live(1))
        self._forget()

    def _span(self, back: int, duration: int, rank: int, tracker: int | None) -> tuple[float, float]:
        """The next iteration: it may start before the last of its rank ended, never before that one started."""
        lasts = [self.last_start[rank], *([] if tracker is None else [self.last_start[f"tracker {tracker}"]])]
        started = max([self.now - back * TICK, *[last + TICK for last in lasts]])
        self.now = max(self.now, started) + duration * TICK
        return started, self.now

    def _tell(self, iteration: Iteration) -> None:
        covered = self.busy_until.get(iteration.rank, -math.inf)
        busy = max(iteration.finished - max(iteration.started, covered), 0.0)
        self.busy_until[iteration.rank] = max(covered, iteration.finished)
        self.busy += busy
        self.lost_slots += max(PLACES - iteration.size, 0) * busy
        self.said.append(iteration)
        self.last_start[iteration.rank] = max(self.last_start[iteration.rank], iteration.started)

    def write(self, rank: int, back: int, duration: int, size: int, told: str) -> None:
        started, finished = self._span(back, duration, rank, None)
        self.collector.record_iteration(
            IterationResult(
                7, size, 2 * size, 0, finished - started, rank=rank,
                started_at=started if told in (BOTH, START) else math.nan,
                finished_at=finished if told in (BOTH, FINISH) else math.nan,
            )
        )  # fmt: skip
        self._tell(Iteration(rank, started, finished, size, 2 * size, 0, None, None))

    def iterate(self, which: int, rank: int, back: int, duration: int, roles: list, told: str) -> None:
        live = self.live(which)
        roles = [roles[place % len(roles)] for place in range(len(live))]
        evicted = [r for r, role in zip(live, roles, strict=True) if role == EVICT and r.holding]
        started, finished = self._span(back, duration, rank, which)
        batch = [(r, role) for r, role in zip(live, roles, strict=True) if role not in (SKIP, EVICT)]
        if not batch and not evicted:
            told = BOTH  # an empty one is estimated to take no time: two of them begin at one instant
        elif told in (FINISH, NEITHER):
            started = self._estimate(which, [*evicted, *[r for r, _ in batch]], finished)
        batch = [(r, role) for r, role in batch if r.arrived <= started]  # who came later is not in it
        self.trackers[which].iteration(
            [r.slot for r, _ in batch],
            [tokens for _, tokens in batch],
            started_at=started if told in (BOTH, START) else None,
            finished_at=finished if told in (BOTH, FINISH) else None,
            preempted=[r.slot for r in evicted],
            rank=rank,
        )
        self.last_finish[which] = finished
        self.last_start[f"tracker {which}"] = max(self.last_start[f"tracker {which}"], started)
        for request in evicted:
            request.evicted.append(started)
            request.places.append((started, WAITS, rank))
        for request, tokens in batch:
            self._take_part(request, tokens, started, finished)
            request.places.append((started, RUNS, rank))
        there = self.requests[which]
        self._tell(
            Iteration(
                rank, started, finished, len(batch), sum(tokens for _, tokens in batch), len(evicted),
                sum(r.is_at(started, RUNS, rank) for r in there),
                sum(r.is_at(started, WAITS, rank) for r in there),
            )
        )  # fmt: skip

    def _estimate(self, which: int, members: list[Request], finished: float) -> float:
        """A start that nobody told: the end of the iteration before, or when its first request arrived."""
        before = self.last_finish[which]
        first = min(request.arrived for request in members)
        return min(first if before is None else max(before, first), finished)

    def _take_part(self, request: Request, tokens: int, started: float, finished: float) -> None:
        if request.first_scheduled is None:
            request.first_scheduled = max(started, request.arrived)
            self.queued.append(request.first_scheduled - request.arrived)
        if not request.holding:
            request.taken.append(started)
        if tokens:
            if request.emissions:
                self.emitted.append(Emission(finished - request.emissions[-1][0], tokens))
            else:
                self.first_tokens.append(finished - request.arrived)
            request.emissions.append((finished, tokens))


TOLD = st.sampled_from([BOTH, BOTH, START, FINISH, NEITHER])
ROLES = st.lists(st.sampled_from([SKIP, 0, 1, 1, 1, 2, 5, EVICT]), min_size=1, max_size=5)
STEPS = st.one_of(
    st.tuples(st.just("arrive"), st.integers(0, 1), st.integers(0, 9)),
    st.tuples(
        st.just("iterate"), st.integers(0, 1), st.integers(0, 1), st.integers(0, 40), st.integers(1, 20), ROLES, TOLD
    ),
    st.tuples(st.just("iterate"), st.just(0), st.just(0), st.just(4), st.just(8), st.just([1]), st.just(BOTH)),
    st.tuples(st.just("write"), st.integers(0, 2), st.integers(0, 40), st.integers(1, 20), st.integers(0, 5), TOLD),
    st.tuples(st.just("end"), st.integers(0, 1), st.integers(0, 5), st.sampled_from(REASONS)),
    st.tuples(st.just("reset")),
    st.tuples(st.just("read")),
    st.tuples(st.just("wait"), st.integers(1, 50)),
)


def play(script: list[tuple]) -> Engine:
    engine = Engine()
    for what, *arguments in script:
        if what == "wait":
            engine.now += arguments[0] * TICK
        elif what == "read":
            assert_all(engine)
        else:
            getattr(engine, what)(*arguments)
    return engine


def same(value: float, expected: float) -> bool:
    return value == approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


def assert_observed(histogram, observed: list[float], counts: list[int] | None = None) -> None:
    """Count, sum, extremes exact; every quantile within the guarantee of the nearest-rank value."""
    counts = [1] * len(observed) if counts is None else counts
    assert histogram.count == sum(counts)
    if not observed:
        return
    assert same(histogram.sum, math.fsum(v * n for v, n in zip(observed, counts, strict=True)))
    assert (histogram.min, histogram.max) == (approx(min(observed)), approx(max(observed)))
    ordered = sorted(v for v, n in zip(observed, counts, strict=True) for _ in range(n))
    for percent in (0, 10, 50, 90, 99, 100):
        nearest = ordered[max(-(-percent * len(ordered) // 100), 1) - 1]
        error = histogram.relative_error * nearest * (1 + 1e-9) + 1e-12
        assert abs(histogram.quantile(percent / 100) - nearest) <= error, percent


def assert_all(engine: Engine) -> None:
    snapshot = engine.collector.get_snapshot()
    document = snapshot.to_json(histograms=True)
    assert decode_snapshot(document).to_json(histograms=True) == document
    assert_counts(engine, snapshot)
    assert_iterations(engine, snapshot)
    assert_latencies(engine, snapshot)
    assert_windows(engine, snapshot)
    assert MetricsSnapshot.merge(snapshot).totals == snapshot.totals


def assert_counts(engine: Engine, snapshot: MetricsSnapshot) -> None:
    totals, gauges, stats = snapshot.totals, snapshot.gauges, snapshot.request_stats
    assert totals.rejected_records == {}
    assert totals.dropped_records == totals.requests_lost == 0
    by_reason = Counter(str(request.reason) for request in engine.finished)
    assert {reason: count for reason, count in totals.requests_by_reason.items() if count} == by_reason
    assert stats.total_requests == stats.completed_requests + stats.failed_requests + stats.cancelled_requests
    in_flight = [*engine.live(0), *engine.live(1)]
    assert gauges.requests_in_flight == len(in_flight)
    assert gauges.requests_running == sum(request.holding for request in in_flight)
    assert totals.requests_received == engine.received == stats.total_requests + gauges.requests_in_flight
    assert totals.generation_tokens_of_requests == sum(request.tokens for request in engine.finished)
    slo = snapshot.slo_stats["default"]
    assert slo.evaluated == slo.met + slo.missed
    assert slo.evaluated + slo.unmeasured + slo.not_evaluated == stats.total_requests


def assert_iterations(engine: Engine, snapshot: MetricsSnapshot) -> None:
    totals, said = snapshot.totals, engine.said
    assert totals.iterations == len(said)
    assert totals.generation_tokens_of_iterations == sum(i.tokens for i in said)
    assert totals.preemptions == sum(i.preemptions for i in said)
    assert same(totals.busy_seconds, engine.busy)
    assert same(math.fsum(totals.busy_seconds_by_limiter.values()), engine.busy)
    assert same(math.fsum(totals.lost_slot_seconds_by_limiter.values()), engine.lost_slots)
    if engine.busy:
        assert same(math.fsum(snapshot.iteration_stats.limited_by.values()), 1.0)
    assert_observed(snapshot.histograms["iteration_duration"][""], [i.finished - i.started for i in said])
    assert_observed(snapshot.histograms["batch_size"][""], [i.size for i in said])
    samples = engine.collector.iteration_samples()
    found = [(s.processing_time, s.request_count, s.running_requests, s.waiting_requests) for s in samples]
    assert found == [(i.finished - i.started, i.size, i.running, i.waiting) for i in said]


def assert_latencies(engine: Engine, snapshot: MetricsSnapshot) -> None:
    found, emitted = snapshot.histograms, engine.emitted
    assert_observed(found["inter_token_latency"][""], [e.gap / e.tokens for e in emitted], [e.tokens for e in emitted])
    assert_observed(found["inter_emission_latency"][""], [e.gap for e in emitted])
    assert_observed(found["queue_time"]["default"], engine.queued)
    assert_observed(found["time_to_first_token"]["default"], engine.first_tokens)
    samples = engine.collector.request_samples()
    expected = sorted(figures(request) for request in engine.finished)
    assert sorted(
        (s.completed_time.timestamp() >= 0, s.total_time, s.tokens_generated, s.preemptions, s.preempted_time)
        for s in samples
    ) == expected  # fmt: skip


def figures(r: Request) -> tuple:
    back = [*r.taken[1:], r.finished]
    away = math.fsum(again - gone for gone, again in zip(r.evicted, back, strict=False))
    return (True, r.finished - r.arrived, r.tokens, len(r.evicted), away)


def assert_windows(engine: Engine, snapshot: MetricsSnapshot) -> None:
    """The scripts are shorter than a minute and windows forget by cell: one holds all, or what a wait left."""
    for name, by_class in snapshot.windowed_histograms["5m"].items():
        for class_name, histogram in by_class.items():
            whole = snapshot.histograms[name][class_name]
            assert (histogram.count, histogram.min, histogram.max) == (
                approx(whole.count), approx(whole.min, nan_ok=True), approx(whole.max, nan_ok=True),
            )  # fmt: skip


OVERLAPPING = [  # each starts while the one before runs; a request ends, and its place is looked back at
    ("arrive", 0, 3), ("arrive", 0, 3),
    ("iterate", 0, 0, 0, 8, [1, 1], BOTH), ("iterate", 0, 0, 4, 8, [1, 1], BOTH), ("end", 0, 0, REASONS[0]),
    ("read",), ("iterate", 0, 0, 4, 8, [1], BOTH), ("reset",), ("iterate", 0, 0, 6, 8, [3], BOTH), ("read",),
]  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=40))
@example(OVERLAPPING)
def test_overlapping_iterations_ranks_trackers_writers_and_resets_count_as_they_were_told(script):
    engine = play(script)
    assert_all(engine)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=40))
@example(OVERLAPPING)
def test_the_instant_of_every_token_follows_from_what_a_sink_is_given(script):
    engine = play(script)
    for which in range(2):
        for _ in engine.live(which):
            engine.end(which, 0, CompletionReason.CANCELLED)
    engine.collector.close()
    emitted: dict[int, list[float]] = {}
    for run in engine.sink.runs:
        for number, instants in run.token_instants().items():
            emitted.setdefault(number, []).extend(instants)
    rows = [row for run in engine.sink.runs for row in run.rows(RowKind.REQUEST)]
    found = {row[RequestColumn.ARRIVED_AT]: emitted.pop(row[RequestColumn.NUMBER], []) for row in rows}
    told = [request for requests in engine.requests for request in requests]
    assert found == {r.arrived: [at for at, tokens in r.emissions for _ in range(tokens)] for r in told}
    assert emitted == {}
    ordinals = [row[IterationColumn.ORDINAL] for run in engine.sink.runs for row in run.rows(RowKind.ITERATION)]
    assert len(set(ordinals)) == len(ordinals)
