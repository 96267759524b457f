"""The verdict: what a snapshot says, in one sentence that every view begins with, word for word."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import islice
from math import nan
from typing import NamedTuple

from batchscope.records import BatchLimiter
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.totals import standing_still
from batchscope.text import shown
from batchscope.views.board import Board, Held, Slo, board
from batchscope.views.numbers import amount, count, duration, percent, percent_range, whole_seconds
from batchscope.views.words import setting_of, short_name

_NO_CAUSE = {BatchLimiter.DEMAND, BatchLimiter.UNKNOWN}
_WORTH_TELLING = 0.1
_SINCE_START = ", since start"
_SILENT = "At work: of its batch nothing is known."
STALE_INTERVALS = 2
"""No answer for so many intervals: then nothing looks live any more."""
SLOWER = 3
LEAST_SILENCE = 5.0
FIRST_ITERATION = 60.0
"""Stalled: no iteration for 3 times the longest that was seen, at least 5 s; for 60 s before the first: it compiles."""


class State(StrEnum):
    """Of what is watched; the first that holds, in this order."""

    GONE = "gone"
    STALE = "stale"
    RESTARTED = "restarted"
    STALLED = "stalled"
    STARTING = "starting"
    IDLE = "idle"
    LIVE = "live"


class Evidence(NamedTuple):
    """A figure of the snapshot that the sentence names: the path of its field, and its value."""

    field: tuple[str, ...]
    value: float


class Verdict(NamedTuple):
    """How it stands, in words, and the figures behind them: of the snapshot, or of ``recent`` where that is given."""

    state: State
    sentence: str
    evidence: tuple[Evidence, ...]


def verdict(
    snapshot: MetricsSnapshot,
    *,
    age: float = 0.0,
    interval: float = 1.0,
    gone: bool = False,
    before: MetricsSnapshot | None = None,
    recent: MetricsSnapshot | None = None,
    still_seconds: float = nan,
    ended: bool = False,
) -> Verdict:
    """Whether the batch is full, if not why and what that costs, and whether users are served in time.

    ``age``: seconds since the snapshot was taken; older than two times ``interval``, at which a new one is asked for,
    it is stale. ``gone``: whoever gave it refuses the connection, or ended. ``before``: the snapshot before this one,
    which tells a restart. ``recent``: the last minute or so, as ``views.recent.since`` has it: then the figures are of
    it where anything happened in it, and say so. ``still_seconds``: for how long requests were unfinished and no
    counter moved, where the watch of an engine's page tells. ``ended``: it is the last of a run that is over, of which
    nobody asks how it stands. No setting is named where the limiter has none, is not known, or is mostly inferred: that
    needs the scheduler's word. What another value would bring is not said: the next cause may be near.
    """
    state = state_of(snapshot, age=age, interval=interval, gone=gone, before=before, still_seconds=still_seconds)
    still = _longest(still_seconds, standing_still(snapshot.gauges))
    sentences, evidence = [], []
    stands = () if ended else _of_state(state, snapshot, age, still)
    for text, figures in (*stands, *_figures(snapshot, recent)):
        sentences.append(text)
        evidence += figures
    return Verdict(state, " ".join(sentences) or _SILENT, tuple(evidence))


_Told = tuple[str, list[Evidence]]


def state_of(
    snapshot: MetricsSnapshot,
    *,
    age: float = 0.0,
    interval: float = 1.0,
    gone: bool = False,
    before: MetricsSnapshot | None = None,
    still_seconds: float = nan,
) -> State:
    """The state alone; the arguments are the verdict's."""
    if gone:
        return State.GONE
    if age > STALE_INTERVALS * interval:
        return State.STALE
    restarted = before is not None and _restarted(snapshot, before)
    return State.RESTARTED if restarted else _at_work(snapshot, still_seconds)


def _at_work(snapshot: MetricsSnapshot, still_seconds: float) -> State:
    if _longest(still_seconds, standing_still(snapshot.gauges)) > _patience(snapshot):
        return State.STALLED
    totals, gauges = snapshot.totals, snapshot.gauges
    if not (totals.requests_received or snapshot.request_stats.total_requests or totals.iterations or totals.batches):
        return State.STARTING
    numbers = (gauges.requests_running, gauges.requests_waiting, gauges.requests_deferred)
    if gauges.requests_in_flight or any(numbers):
        return State.LIVE
    told = any(number is not None for number in numbers)
    return State.IDLE if told or gauges.seconds_since_last_iteration > _patience(snapshot) else State.LIVE


def _restarted(snapshot: MetricsSnapshot, before: MetricsSnapshot) -> bool:
    """Of several processes: all others than before, or one of the same was reset."""
    now, then = (set(one.merged_from or [one.instance_id]) for one in (snapshot, before))
    return now.isdisjoint(then) or (now == then and snapshot.generation != before.generation)


def _patience(snapshot: MetricsSnapshot) -> float:
    longest = snapshot.iteration_stats.processing_time.max
    return FIRST_ITERATION if math.isnan(longest) else max(SLOWER * longest, LEAST_SILENCE)


def _of_state(state: State, snapshot: MetricsSnapshot, age: float, still: float) -> Iterator[_Told]:
    gauges = snapshot.gauges
    if state is State.GONE:
        yield f"Gone: nobody answers any more; all this is {whole_seconds(age)} old.", []
    elif state is State.STALE:
        yield f"Stale: no answer; all this is {whole_seconds(age)} old.", []
    elif state is State.RESTARTED:
        yield f"Restarted: it counts anew since {snapshot.started_at:%H:%M:%S %Z}.", []
    elif state is State.STALLED:
        waiting, running = gauges.requests_waiting or 0, gauges.requests_running or 0
        known = {"requests_waiting": waiting, "requests_running": running,
                 "seconds_since_last_iteration": gauges.seconds_since_last_iteration}  # fmt: skip
        text = f"Stalled: {count(waiting)} waiting, {count(running)} running"
        evidence = [Evidence(("gauges", name), value) for name, value in known.items() if not math.isnan(value)]
        yield f"{text}, no iteration for {duration(still)}.", evidence
    elif state is State.STARTING:
        yield "Starting: no request yet.", []
    elif state is State.IDLE:
        yield "Idle: no request to serve.", []


def _longest(*values: float) -> float:
    """The largest of those that are known; ``nan`` of none."""
    return max((value for value in values if not math.isnan(value)), default=nan)


def _figures(snapshot: MetricsSnapshot, recent: MetricsSnapshot | None) -> Iterator[_Told]:
    """Of the last minute where the engine was at work in it, else since it started; of users, too, if anybody came."""
    whole = board(snapshot)
    if recent is None:
        yield from (*_of_batch(whole), *_of_users(whole))
        return
    now, last = board(recent), f", last {whole_seconds(recent.elapsed_seconds)}"
    at_work = recent.totals.busy_seconds > 0
    yield from _of_batch(now, last) if at_work else _of_batch(whole, _SINCE_START)
    rated = any(slo.evaluated for slo in now.slo)
    yield from _of_users(now, "" if at_work else last) if rated else _of_users(whole, _SINCE_START)


def _of_batch(board: Board, over: str = "") -> Iterator[_Told]:
    batch, requests = board.batch, board.requests
    if not math.isnan(batch.full_by_time):
        evidence = [Evidence(("iteration_stats", "time_weighted_utilization"), batch.full_by_time)]
        yield f"Batch {percent(batch.full_by_time)} full while busy{over}.", evidence
    elif not math.isnan(batch.mean_requests):
        evidence = [Evidence(("iteration_stats", "average_requests_per_iteration"), batch.mean_requests)]
        yield f"Batch of {amount(batch.mean_requests)} requests on average.", evidence
    if requests.mostly_refused:
        evidence = [Evidence(("totals", "requests_by_reason", "rejected"), requests.refused)]
        yield f"Most requests refused at admission: {count(requests.refused)} of {count(requests.finished)}.", evidence
    else:
        for place, one in enumerate(_worth_telling(board.held)):
            yield _held(one, board, "by" if place else "of busy time limited by")


def _worth_telling(held: Sequence[Held]) -> Iterator[Held]:
    """The largest; where that is no cause of which anybody could say more, the largest that is one, from 10 % on."""
    if held:
        yield held[0]
    if held and held[0].limiter in _NO_CAUSE:
        causes = (one for one in held if one.limiter not in _NO_CAUSE and one.share >= _WORTH_TELLING)
        yield from islice(causes, 1)


def _of_users(board: Board, over: str = "") -> Iterator[_Told]:
    """The class that fares worst."""
    if rated := [slo for slo in board.slo if not math.isnan(slo.attainment)]:
        yield _slo(min(rated, key=lambda slo: slo.attainment), over, several=len(rated) > 1)


def _held(most: Held, board: Board, by: str) -> _Told:
    """What held the batch longest; its cost where a place could have been used, its setting where one is to blame."""
    limiter = shown(most.limiter, 60)
    evidence = [Evidence(("iteration_stats", "limited_by", most.limiter), most.share)]
    share = f"{percent(most.share)} {by} {limiter}"
    if most.limiter == BatchLimiter.DEMAND:
        return f"{share}: there was no more to do.", evidence
    if most.limiter == BatchLimiter.UNKNOWN:
        return f"{share}: nobody said, nor can it be inferred.", evidence
    lost = ""
    if not math.isnan(most.lost_slot_seconds):
        lost = f": {amount(most.lost_slot_seconds)} slot-s lost"
        evidence.append(Evidence(("iteration_stats", "lost_slot_seconds", most.limiter), most.lost_slot_seconds))
    if not board.reported_ratio >= 0.5:
        return f"{share} (inferred){lost}.", evidence
    setting = setting_of(most.limiter, board.limits)
    if board.processes > 1 and ", now " in setting:
        setting += " in all"
    return f"{share}{lost}{f'; the setting is {setting}' if setting else ''}.", evidence


def _slo(slo: Slo, over: str, *, several: bool) -> _Told:
    """Of its targets the name, where it has one only."""
    path = ("slo_stats", slo.request_class)
    targets = f"{short_name(shown(next(iter(slo.targets)), 60))} " if len(slo.targets) == 1 else ""
    whose = f" of {shown(slo.request_class, 60)}" if several else ""
    low, high = slo.attainment_range
    between = "" if math.isnan(low) else f" [{percent_range(low, high)}]"
    evidence = [Evidence((*path, "attainment"), slo.attainment), Evidence((*path, "evaluated"), slo.evaluated)]
    if between:
        evidence += [Evidence((*path, "attainment_low"), low), Evidence((*path, "attainment_high"), high)]
    return f"{targets}SLO{whose} {percent(slo.attainment)}{between}, n={count(slo.evaluated)}{over}.", evidence
