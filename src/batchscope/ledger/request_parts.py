"""Where each request's time went: its life cut at instants of the record, without a rest.

A request's life, from its arrival to its end, is cut where its spans begin and end: it waits, takes part in
iterations, stands still, is evicted, takes part again. While it takes part, the time is its own: of its prefill, of
its decoding, or of computing again what an eviction lost. While it does not, the time is held by what stopped the
line's last attempt to admit (``iteration_lines``), or nothing ran. Every cut is an instant of the record, in whole
ticks, so the parts add up to the life exactly. Only ``STRETCHED`` is a model's (``prefill_cost``): it is cut out of
decoding, and together they are what the instants say.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from batchscope.ledger.iteration_lines import Ints, Lines, Mask, Ticks, numbers
from batchscope.ledger.prefill_cost import PrefillCost, prefill_cost

_BLOCK = 1 << 16
"""Requests that are cut at once: memory does not grow with the run beyond its columns."""
_TOLERANCE = 1e-6
"""Seconds by which two records of one instant may differ."""


class Part(StrEnum):
    """What a piece of a request's life was; the first three are told apart by who held it meanwhile."""

    QUEUED = "queued"
    """Waited to be scheduled for the first time, after at least one attempt to admit had left it out."""
    STOOD_STILL = "stood_still"
    """Held a place and was in no batch."""
    PREEMPTED = "preempted"
    """Evicted, waiting to be scheduled again."""
    ARRIVING = "arriving"
    """The rest of the iteration in which it arrived: nobody could be admitted."""
    PREFILL = "prefill"
    """Took part in iterations up to its first token."""
    RECOMPUTED = "recomputed"
    """Took part in iterations after an eviction, up to its next token: computed again."""
    DECODE = "decode"
    """Took part in iterations after its first token, without what is modelled as stretched."""
    STRETCHED = "stretched"
    """Modelled: what prefill of other requests took of the iterations in which it decoded."""
    BETWEEN = "between_iterations"
    """Nothing ran: the engine idled, or did something else than iterate."""
    AFTER = "after_last_token"
    """From its last part in an iteration to its end."""
    UNKNOWN = "unknown"
    """The record does not say: iterations of that time are missing, or nobody knows which rank it waited for."""


HELD = (Part.QUEUED, Part.STOOD_STILL, Part.PREEMPTED)
_OTHERS = tuple(part for part in Part if part not in HELD)


class Column(NamedTuple):
    """A part, and the limiter that held it where there is one."""

    part: Part
    limiter: str | None = None

    @property
    def modelled(self) -> bool:
        """Whether it is a model's; the others follow from instants."""
        return self.part in {Part.STRETCHED, Part.DECODE}


class Cut(NamedTuple):
    """Requests (``rows`` of the table) cut into parts: ticks, a row a request, a column a part.

    ``before`` and ``after`` the first token; of one that never emitted all is before. ``gap``: the longest time between
    two emissions of each, cut likewise, where it was asked for; 0 with a single emission.
    """

    rows: Ints
    before: Ints
    after: Ints
    gap: Ints | None
    gap_ends: Ints | None
    """When that gap ended."""


class Phase(StrEnum):
    """What a request is in from one instant to another, whatever holds it meanwhile; ``PHASES`` has them by code."""

    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"
    PREEMPTED = "preempted"
    RECOMPUTED = "computed again"


PHASES = tuple(Phase)
_QUEUED, _PREFILL, _DECODE, _PREEMPTED, _RECOMPUTED = range(len(PHASES))


class Pieces(NamedTuple):
    """Lives as phases, by request and time: ``row`` of the table, from ``begin`` to ``end`` (ticks), code of the phase.

    A request that stands still stays in its phase. What comes after its last iteration is in none.
    """

    row: Ints
    begin: Ints
    end: Ints
    phase: Ints


class _Spans(NamedTuple):
    """By request and time; ``first`` and ``last`` are places of ``Lines``."""

    request: Ints
    first: Ints
    last: Ints
    tokens: Ints
    evicted: Mask


class Histories:
    """What a run's tables say of its requests' lives. ``spans`` None or empty: nobody says who took part in what."""

    def __init__(self, requests: pa.Table, iterations: pa.Table, spans: pa.Table | None) -> None:
        self.requests = requests
        known = {name: numbers(requests, name) for name in _INSTANTS}
        bounds = [numbers(iterations, name) for name in ("started_at", "finished_at")]
        self.ticks = Ticks.spanning(*known.values(), *bounds)
        begun = float(np.nanmin(bounds[0])) if np.isfinite(bounds[0]).any() else np.nan
        late = bool((known["first_scheduled_at"] < begun - _TOLERANCE).any())
        self.lines = Lines(iterations, self.ticks, begins_late=late)
        self.cost: PrefillCost | None = prefill_cost(iterations, self.lines)
        self.columns = (
            *(Column(part, limiter) for part in HELD for limiter in self.lines.limiters),
            *(Column(part) for part in _OTHERS),
        )
        self.number = np.nan_to_num(numbers(requests, "request"), nan=-1).astype(np.int64)
        self.told: Ints = np.flatnonzero(np.isfinite(known["arrived_at"]) & np.isfinite(known["finished_at"]))
        """The requests whose life is known: rows of ``requests``."""
        self.instants = {name: self.ticks.of(column) for name, column in known.items()}
        self.was_scheduled, self.emitted = (np.isfinite(known[name]) for name in _INSTANTS[1:3])
        self.has_spans = spans is not None and len(spans) > 0
        self.spans = self._sorted(spans) if spans is not None and len(spans) else _NO_SPANS

    def cut(self, rows: Ints, *, gaps: bool = False) -> Iterator[Cut]:
        """These requests (some of ``told``), in blocks, by number."""
        rows = rows[np.argsort(self.number[rows], kind="stable")]
        for begin in range(0, len(rows), _BLOCK):
            yield _Cutting(self, rows[begin : begin + _BLOCK]).cut(gaps=gaps)

    def phases(self, rows: Ints) -> Iterator[Pieces]:
        """These requests (some of ``told``) as phases, in blocks, by number."""
        rows = rows[np.argsort(self.number[rows], kind="stable")]
        for begin in range(0, len(rows), _BLOCK):
            yield _Cutting(self, rows[begin : begin + _BLOCK]).pieces()

    def _sorted(self, spans: pa.Table) -> _Spans:
        lines = self.lines
        first, count, request = (
            spans.column(name).to_numpy().astype(np.int64) for name in ("first_iteration", "iterations", "request")
        )
        place, until = (
            lines.ordinal.searchsorted(first),
            lines.ordinal.searchsorted(first + count - 1, side="right") - 1,
        )
        known = np.flatnonzero(place <= until)  # of the others all iterations are missing
        place, until, request = place[known], until[known], request[known]
        tokens = np.nan_to_num(numbers(spans, "tokens"))[known].astype(np.int64)
        evicted = numbers(spans, "evicted")[known] > 0
        order = np.lexsort((until, lines.starts[place], request))
        return _Spans(request[order], place[order], until[order], tokens[order], evicted[order])

    @cached_property
    def decoding(self) -> dict[Part, Ints]:
        """Summed up from the first iteration on: what somebody who decodes in each spends on what."""
        lines = self.lines
        stretched = self.stretched(lines.own, np.arange(len(lines)))
        parts = {
            Part.DECODE: lines.own - stretched,
            Part.STRETCHED: stretched,
            Part.BETWEEN: np.where(lines.lost, 0, lines.idle),
            Part.UNKNOWN: np.where(lines.lost, lines.idle, 0),
        }
        return {part: np.concatenate(([0], np.cumsum(column))) for part, column in parts.items()}

    def stretched(self, ticks: Ints, places: Ints) -> Ints:
        """What other requests' prefill took of so much time in these iterations."""
        if self.cost is None:
            return np.zeros_like(ticks)
        return np.rint(ticks * self.cost.share[places]).astype(np.int64)

    @cached_property
    def longest_within(self) -> tuple[Ints, Ints]:
        """Of each span the longest time from one end of its iterations to the next, and the place of the later one.

        By the longest of every 2^k in a row: a span's is the greater of two that overlap. -1 where it has one only.
        """
        steps = np.append(np.diff(self.lines.ends), 0)
        at = np.arange(1, len(steps) + 1)
        length, place = np.full(len(self.spans.first), -1, dtype=np.int64), np.zeros(len(self.spans.first), np.int64)
        several = np.flatnonzero(self.spans.last > self.spans.first)
        low, count = self.spans.first[several], (self.spans.last - self.spans.first)[several]
        level = np.frexp(count)[1].astype(np.int64) - 1  # the greatest power of two that is not more
        for power in range(int(level.max(initial=-1)) + 1):
            if power:
                half = 1 << (power - 1)
                later = steps[half:] > steps[:-half]
                at = np.where(later, at[half:], at[:-half])
                steps = np.where(later, steps[half:], steps[:-half])
            mine = np.flatnonzero(level == power)
            left, right = low[mine], low[mine] + count[mine] - (1 << power)
            chosen = np.where(steps[right] > steps[left], right, left)
            length[several[mine]], place[several[mine]] = steps[chosen], at[chosen]
        return length, place


_INSTANTS = ("arrived_at", "first_scheduled_at", "first_token_at", "last_token_at", "finished_at")
_NONE: Ints = np.empty(0, dtype=np.int64)
_NO_SPANS = _Spans(_NONE, _NONE, _NONE, _NONE, np.empty(0, dtype=np.bool_))


class _Cutting:
    """One block of requests, ``rows`` of the table, and their spans, one after the other.

    ``owner`` is the place of each span's request in the block, ``opens`` marks its first. A span's *head* is the time
    from the end of the span before it (or the arrival) to the end of its own first iteration.
    """

    def __init__(self, histories: Histories, rows: Ints) -> None:
        self.histories, self.rows = histories, rows
        self.column = {column: place for place, column in enumerate(histories.columns)}
        self.arrived, self.scheduled, self.first_token, self.last_token, self.finished = (
            histories.instants[name][rows] for name in _INSTANTS
        )
        numbers_of = histories.number[rows]
        begin, end = (histories.spans.request.searchsorted(numbers_of, side=side) for side in ("left", "right"))
        self.count = end - begin
        self.owner = np.repeat(np.arange(len(rows)), self.count)
        within = np.arange(len(self.owner)) - np.repeat(np.cumsum(self.count) - self.count, self.count)
        self.chosen = np.repeat(begin, self.count) + within
        self.spans = _Spans(*(column[self.chosen] for column in histories.spans))
        self.opens = within == 0
        self.groups = np.flatnonzero(self.opens)
        self.having = np.flatnonzero(self.count)
        self._bound()
        self.heads: dict[Column, Ints] = {}

    def _bound(self) -> None:
        """Where each head begins, where its request comes in, where its first iteration ends, where the span ends."""
        lines, owner = self.histories.lines, self.owner
        low, high = self.arrived[owner], self.finished[owner]
        start = np.clip(lines.starts[self.spans.first], low, high)
        ends = np.where(self.spans.evicted, start, np.clip(lines.ends[self.spans.last], start, high))
        following = np.flatnonzero(~self.opens)
        while (ends[following] < ends[following - 1]).any():  # it moved to a rank whose time overlaps
            ends[following] = np.maximum(ends[following], ends[following - 1])
        before = np.where(self.opens, low, np.roll(ends, 1))
        self.begins, self.ends = before, ends
        self.comes_in = np.clip(start, before, ends)
        first_ends = np.where(self.spans.evicted, self.comes_in, lines.ends[self.spans.first])
        self.first_ends = np.clip(first_ends, self.comes_in, ends)

    def cut(self, *, gaps: bool) -> Cut:
        """All of it."""
        self._hold()
        self._take_part()
        before = np.zeros((len(self.rows), len(self.column)), dtype=np.int64)
        after = np.zeros_like(before)
        late = self._emitted_before
        for column, ticks in self.heads.items():
            before[self.having, self.column[column]] = self._by_request(np.where(late, 0, ticks))
            after[self.having, self.column[column]] = self._by_request(np.where(late, ticks, 0))
        for column, ticks in self._further().items():
            after[self.having, self.column[column]] += self._by_request(ticks)
        self._end(before, after)
        return Cut(self.rows, before, after, *(self._gap() if gaps else (None, None)))

    def pieces(self) -> Pieces:
        """From one change of phase to the next."""
        was_evicted = np.roll(self.spans.evicted, 1) & ~self.opens
        own = np.select([self._lost_before, self._emitted_before], [_RECOMPUTED, _DECODE], _PREFILL)
        waits = np.select([self.opens, was_evicted], [_QUEUED, _PREEMPTED], own)
        parts = [
            (self.owner, self.begins, self.comes_in, waits),
            (self.owner, self.comes_in, self.first_ends, own),
            (self.owner, self.first_ends, self.ends, np.full(len(own), _DECODE)),
            *self._pieces_without_spans(),
        ]
        owner, begin, end, phase = (np.concatenate(column) for column in zip(*parts, strict=True))
        lasting = np.flatnonzero(end > begin)
        order = lasting[np.lexsort((begin[lasting], owner[lasting]))]
        owner, begin, end, phase = owner[order], begin[order], end[order], phase[order]
        opens = np.ones(len(owner), dtype=np.bool_)
        opens[1:] = (owner[1:] != owner[:-1]) | (phase[1:] != phase[:-1]) | (begin[1:] != end[:-1])
        firsts = np.flatnonzero(opens)
        lasts = np.append(firsts[1:], len(owner))[: len(firsts)] - 1
        return Pieces(self.rows[owner[firsts]], begin[firsts], end[lasts], phase[firsts])

    def _pieces_without_spans(self) -> Iterator[tuple[Ints, Ints, Ints, Ints]]:
        """What no span says: who was evicted and did not come back, and by instants alone those who have no span."""
        last = np.append(self.groups[1:], len(self.owner))[: len(self.groups)] - 1
        out = self.having[self.spans.evicted[last]]
        none = np.flatnonzero(self.count == 0)
        scheduled = none[self.histories.was_scheduled[self.rows[none]]]
        emitted = scheduled[self.histories.emitted[self.rows[scheduled]]]
        until = self.finished.copy()
        until[scheduled] = self.scheduled[scheduled]
        computed = self.finished.copy()
        computed[emitted] = self.first_token[emitted]
        for rows, begin, end, phase in (
            (out, self.ends[last][self.spans.evicted[last]], self.finished[out], _PREEMPTED),
            (none, self.arrived[none], until[none], _QUEUED),
            (scheduled, self.scheduled[scheduled], computed[scheduled], _PREFILL),
            (emitted, self.first_token[emitted], self.last_token[emitted], _DECODE),
        ):
            yield rows, begin, end, np.full(len(rows), phase)

    def _by_request(self, ticks: Ints) -> Ints:
        return np.add.reduceat(ticks, self.groups) if len(self.groups) else _NONE

    def _head(self, part: Part, ticks: Ints, limiter: str | None = None) -> None:
        column = Column(part, limiter)
        self.heads[column] = self.heads[column] + ticks if column in self.heads else ticks

    @cached_property
    def _emits(self) -> Mask:
        return (self.spans.tokens > 0) & ~self.spans.evicted

    @cached_property
    def _emitted_before(self) -> Mask:
        """Of each span, whether its request had its first token before: by its spans, or by its record."""
        told: Ints = np.cumsum(self._emits) - self._emits
        told -= np.repeat(told[self.groups], self.count[self.having])
        slack = round(_TOLERANCE * 2.0**self.histories.ticks.power)
        later = self.first_token[self.owner] < self.first_ends - slack
        return (told > 0) | (self.histories.emitted[self.rows][self.owner] & later)

    @cached_property
    def _lost_before(self) -> Mask:
        """Of each span, whether its request was evicted and has emitted nothing since."""
        place = np.arange(len(self.owner))
        evicted = np.maximum.accumulate(np.where(self.spans.evicted, place, -1)) if len(place) else place
        emitted = np.maximum.accumulate(np.where(self._emits, place, -1)) if len(place) else place
        evicted, emitted = np.roll(evicted, 1), np.roll(emitted, 1)
        own = np.repeat(self.groups, self.count[self.having])
        lost: Mask = ~self.opens & (evicted >= own) & (evicted > emitted)
        return lost

    def _hold(self) -> None:
        """The time before each span comes in: by what held it, and as what."""
        lines = self.histories.lines
        line = lines.line[self.spans.first]
        was_evicted = np.roll(self.spans.evicted, 1) & ~self.opens
        begin, end = self.begins.copy(), self.comes_in.copy()
        told = np.minimum(self.scheduled[self.owner], end)  # the record may begin after a request did
        slack = round(_TOLERANCE * 2.0**self.histories.ticks.power)
        misses = self.opens & self.histories.was_scheduled[self.rows][self.owner] & (end - told > slack)
        end[misses] = np.maximum(told, begin)[misses]
        self._head(Part.UNKNOWN, self.comes_in - end)
        could = np.minimum(lines.rest_of_iteration(begin[self.groups], line[self.groups]), end[self.groups])
        arriving = np.zeros_like(begin)
        arriving[self.groups] = could - begin[self.groups]
        self._head(Part.ARRIVING, arriving)
        begin[self.groups] = could
        *held, between, unknown = lines.held(begin, end, line)
        self._head(Part.BETWEEN, between)
        self._head(Part.UNKNOWN, unknown)
        for part, mine in (
            (Part.QUEUED, self.opens),
            (Part.PREEMPTED, was_evicted),
            (Part.STOOD_STILL, ~self.opens & ~was_evicted),
        ):
            for limiter, ticks in zip(lines.limiters, held, strict=True):
                self._head(part, np.where(mine, ticks, 0), limiter)

    def _take_part(self) -> None:
        """The first iteration of each span."""
        own = self.first_ends - self.comes_in
        again, decodes = self._lost_before, self._emitted_before & ~self._lost_before
        stretched = np.where(decodes, self.histories.stretched(own, self.spans.first), 0)
        self._head(Part.RECOMPUTED, np.where(again, own, 0))
        self._head(Part.PREFILL, np.where(again | decodes, 0, own))
        self._head(Part.STRETCHED, stretched)
        self._head(Part.DECODE, np.where(decodes, own, 0) - stretched)

    def _further(self) -> dict[Column, Ints]:
        """The other iterations of each span, all of which decode."""
        rest = self.ends - self.first_ends
        sums = {
            part: cumulated[self.spans.last + 1] - cumulated[self.spans.first + 1]
            for part, cumulated in self.histories.decoding.items()
        }
        whole = np.sum(list(sums.values()), axis=0) == rest  # else it was cut short by its end, or overlaps
        found = {Column(part): np.where(whole, ticks, 0) for part, ticks in sums.items()}
        found[Column(Part.DECODE)] += np.where(whole, 0, rest)
        return found

    def _end(self, before: Ints, after: Ints) -> None:
        """What comes behind the last span; and the lives of those who have none."""
        emitted = self.histories.emitted[self.rows]
        behind = self.arrived.copy()
        last = np.append(self.groups[1:], len(self.owner))[: len(self.groups)] - 1
        behind[self.having] = self.ends[last]
        line = np.full(len(self.rows), self._only_line, dtype=np.int64)
        line[self.having] = self.histories.lines.line[self.spans.first[last]]
        out = np.zeros(len(self.rows), dtype=np.bool_)
        out[self.having] = self.spans.evicted[last]
        none = self.count == 0
        scheduled = none & self.histories.was_scheduled[self.rows]
        until = np.where(scheduled, np.clip(self.scheduled, self.arrived, self.finished), self.finished)
        could = np.where(none, np.minimum(self.histories.lines.rest_of_iteration(behind, line), until), behind)
        *held, between, unknown = self.histories.lines.held(could, until, line)
        waits = none | out
        for rows, into in ((~emitted | none, before), (emitted & ~none, after)):
            for part, mine in ((Part.QUEUED, none & rows), (Part.PREEMPTED, out & rows)):
                for limiter, ticks in zip(self.histories.lines.limiters, held, strict=True):
                    into[:, self.column[Column(part, limiter)]] += np.where(mine, ticks, 0)
            into[:, self.column[Column(Part.ARRIVING)]] += np.where(none & rows, could - behind, 0)
            into[:, self.column[Column(Part.BETWEEN)]] += np.where(waits & rows, between, 0)
            into[:, self.column[Column(Part.UNKNOWN)]] += np.where(waits & rows, unknown, 0)
            into[:, self.column[Column(Part.AFTER)]] += np.where(~waits & rows, self.finished - behind, 0)
        self._untold(before, after, scheduled, until)

    def _untold(self, before: Ints, after: Ints, scheduled: Mask, since: Ints) -> None:
        """Requests that were scheduled, and no span says in what: between the instants that are known."""
        emitted = scheduled & self.histories.emitted[self.rows]
        first = np.where(emitted, np.clip(self.first_token, since, self.finished), self.finished)
        last = np.where(emitted, np.clip(self.last_token, first, self.finished), self.finished)
        unknown, behind = self.column[Column(Part.UNKNOWN)], self.column[Column(Part.AFTER)]
        before[:, unknown] += np.where(scheduled, first - since, 0)
        after[:, unknown] += np.where(emitted, last - first, 0)
        after[:, behind] += np.where(emitted, self.finished - last, 0)

    @property
    def _only_line(self) -> int:
        """The line that whoever was never scheduled waited for; -1 where there are several."""
        lines = self.histories.lines
        return int(lines.line[0]) if len(lines.first) == 1 else -1

    def _gap(self) -> tuple[Ints, Ints]:
        """The longest time between two emissions of each request, cut into parts; and when it ended."""
        found = np.zeros((len(self.rows), len(self.column)), dtype=np.int64)
        gap_ends = self.last_token.copy()
        if not len(self.owner):
            return found, gap_ends
        place = np.arange(len(self.owner))
        before = np.roll(np.maximum.accumulate(np.where(self._emits, place, -1)), 1)
        has_one = ~self.opens & (before >= np.repeat(self.groups, self.count[self.having]))
        up_to = np.where(self._emits & has_one, self.first_ends - self.ends[before], -1)
        within, at = (column[self.chosen] for column in self.histories.longest_within)
        best = self._longest_of_each(np.maximum(up_to, within))
        inside = within[best] > up_to[best]
        for column, ticks in self.heads.items():
            summed = np.concatenate(([0], np.cumsum(ticks)))
            between = summed[best + 1] - summed[before[best] + 1]
            found[self.having, self.column[column]] = np.where(inside | (up_to[best] < 0), 0, between)
        for part, summed in self.histories.decoding.items():
            one = summed[at[best] + 1] - summed[at[best]]
            found[self.having, self.column[Column(part)]] += np.where(inside, one, 0)
        gap_ends[self.having] = np.where(inside, self.histories.lines.ends[at[best]], self.first_ends[best])
        return found, gap_ends

    def _longest_of_each(self, length: Ints) -> Ints:
        """The first of each request's spans with the greatest ``length``."""
        greatest = np.repeat(np.maximum.reduceat(length, self.groups), self.count[self.having])
        candidates = np.flatnonzero(length == greatest)
        return candidates[np.unique(self.owner[candidates], return_index=True)[1]]
