"""Lives of requests cut into parts and phases: a block of them at once, in numpy, by their spans."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from batchscope.ledger.instants import INSTANTS
from batchscope.ledger.iteration_lines import Ints, Mask
from batchscope.ledger.request_parts import PHASES, Column, Cut, Part, Pieces, Spans
from batchscope.records import BatchLimiter

if TYPE_CHECKING:
    from batchscope.ledger.histories import Histories

TOLERANCE = 1e-6
"""Seconds by which two records of one instant may differ."""
_NONE: Ints = np.empty(0, dtype=np.int64)
_QUEUED, _PREFILL, _DECODE, _PREEMPTED, _RECOMPUTED = range(len(PHASES))


class Cutting:
    """One block of requests, ``rows`` of the table, and their spans, one after the other.

    ``owner`` is the place of each span's request in the block, ``opens`` marks its first. A span's *head* is the time
    from the end of the span before it (or the arrival) to the end of its own first iteration.
    """

    def __init__(self, histories: Histories, rows: Ints) -> None:
        self.histories, self.rows = histories, rows
        self.column = {column: place for place, column in enumerate(histories.columns)}
        self.arrived, self.scheduled, self.first_token, self.last_token, self.finished = (
            histories.instants[name][rows] for name in INSTANTS
        )
        numbers_of = histories.number[rows]
        begin, end = (histories.spans.request.searchsorted(numbers_of, side=side) for side in ("left", "right"))
        self.count = end - begin
        self.owner = np.repeat(np.arange(len(rows)), self.count)
        within = np.arange(len(self.owner)) - np.repeat(np.cumsum(self.count) - self.count, self.count)
        self.chosen = np.repeat(begin, self.count) + within
        self.spans = Spans(*(column[self.chosen] for column in histories.spans))
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
        answered = none[self.histories.emitted[self.rows[none]]]  # not all of them say when they were scheduled
        until[answered] = self.first_token[answered]
        until[scheduled] = self.scheduled[scheduled]
        computed = self.finished.copy()
        computed[emitted] = self.first_token[emitted]
        for rows, begin, end, phase in (
            (out, self.ends[last][self.spans.evicted[last]], self.finished[out], _PREEMPTED),
            (none, self.arrived[none], until[none], _QUEUED),
            (scheduled, self.scheduled[scheduled], computed[scheduled], _PREFILL),
            (answered, self.first_token[answered], self.last_token[answered], _DECODE),
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
        slack = round(TOLERANCE * 2.0**self.histories.ticks.power)
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
        slack = round(TOLERANCE * 2.0**self.histories.ticks.power)
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
        self._head(Part.QUEUED, np.where(self.opens, unknown, 0), BatchLimiter.UNKNOWN)  # it waited, for whatever
        self._head(Part.UNKNOWN, np.where(self.opens, 0, unknown))
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
        unsplit = none & ~scheduled & emitted  # it ran, and nobody says from when on
        until = np.where(scheduled, np.clip(self.scheduled, self.arrived, self.finished), self.finished)
        until = np.where(unsplit, self.arrived, until)
        could = np.where(none, np.minimum(self.histories.lines.rest_of_iteration(behind, line), until), behind)
        *held, between, unknown = self.histories.lines.held(could, until, line)
        waits = none | out
        for rows, into in ((~emitted | none, before), (emitted & ~none, after)):
            for part, mine in ((Part.QUEUED, none & rows), (Part.PREEMPTED, out & rows)):
                for limiter, ticks in zip(self.histories.lines.limiters, held, strict=True):
                    into[:, self.column[Column(part, limiter)]] += np.where(mine, ticks, 0)
            into[:, self.column[Column(Part.ARRIVING)]] += np.where(none & rows, could - behind, 0)
            into[:, self.column[Column(Part.BETWEEN)]] += np.where(waits & rows, between, 0)
            into[:, self.column[Column(Part.QUEUED, BatchLimiter.UNKNOWN)]] += np.where(none & rows, unknown, 0)
            into[:, self.column[Column(Part.UNKNOWN)]] += np.where(out & rows, unknown, 0)
            into[:, self.column[Column(Part.AFTER)]] += np.where(~waits & rows, self.finished - behind, 0)
        self._untold(before, after, scheduled, unsplit, until)

    def _untold(self, before: Ints, after: Ints, scheduled: Mask, unsplit: Mask, since: Ints) -> None:
        """Requests that ran, and no span says in what: between the instants that are known."""
        emitted = (scheduled & self.histories.emitted[self.rows]) | unsplit
        first = np.where(emitted, np.clip(self.first_token, since, self.finished), self.finished)
        last = np.where(emitted, np.clip(self.last_token, first, self.finished), self.finished)
        before[:, self.column[Column(Part.PREFILL_PHASE)]] += np.where(scheduled, first - since, 0)
        before[:, self.column[Column(Part.UNKNOWN)]] += np.where(unsplit, first - since, 0)
        stretched = np.where(emitted, self._stretched_phase(first, last), 0)
        after[:, self.column[Column(Part.STRETCHED)]] += stretched
        after[:, self.column[Column(Part.DECODE_PHASE)]] += np.where(emitted, last - first, 0) - stretched
        after[:, self.column[Column(Part.AFTER)]] += np.where(emitted, self.finished - last, 0)

    def _stretched_phase(self, begin: Ints, end: Ints) -> Ints:
        """What others' prefill took of a decode phase, as modelled; 0 of the preempted."""
        if not self.histories.splits_phases:
            return np.zeros_like(begin)
        until = [self.histories.stretched_until(instants) for instants in (begin, end)]
        return np.where(self.histories.preempted[self.rows], 0, np.clip(until[1] - until[0], 0, end - begin))

    @property
    def _only_line(self) -> int:
        """The line that whoever was never scheduled waited for; -1 where there are several."""
        lines = self.histories.lines
        return int(lines.line[0]) if len(lines.first) == 1 else -1

    def _gap(self) -> tuple[Ints, tuple[Ints, Ints]]:
        """The longest time between two emissions of each request, cut into parts; and from when to when it was."""
        found, ends = self._longest_gap()
        told = self.histories.longest_gap[self.rows]
        slack = round(TOLERANCE * 2.0**self.histories.ticks.power)
        elsewhere = told - found.sum(axis=1) > slack  # it lies in iterations that are not in the record
        found[elsewhere] = 0
        found[elsewhere, self.column[Column(Part.UNKNOWN)]] = told[elsewhere]
        begins = np.where(elsewhere, self.first_token, ends - found.sum(axis=1))
        return found, (begins, np.where(elsewhere, self.last_token, ends))

    def _longest_gap(self) -> tuple[Ints, Ints]:
        """By what spans say: its parts, and when it ended."""
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
