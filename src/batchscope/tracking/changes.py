"""What the iterations of one drain change: the slot table, and who ran and who waited when each batch was formed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.configuration import SchedulerLimits
from batchscope.rows import Floats, IterationColumn, distinct
from batchscope.tracking.history import Emissions, History
from batchscope.tracking.iteration_batch import IterationBatch
from batchscope.tracking.runs import Mask, longest_within
from batchscope.tracking.slots import FREE, Indices, SlotTable, Touched

C = IterationColumn
_MAX_DEPARTED = 4096


def changed(history: History, found: Emissions, started: Floats, decoding: Mask, batch: IterationBatch) -> Touched:
    """What becomes of the slots that the iterations touched: places and phases, waits, tokens, first and last times.

    A request that arrived while its first iteration was being formed did not wait: its queue time is 0.
    """
    before, ends = history.before, history.ends
    begun = started[history.begin[history.starts]]
    emits = history.emitting()
    holding = np.ones(len(ends), dtype=np.bool_) if history.evicted is None else ~history.evicted[ends]
    after = before._replace(
        first_scheduled_at=np.where(
            np.isnan(before.first_scheduled_at), np.maximum(begun, before.arrived_at), before.first_scheduled_at
        ),
        preempted_time=before.preempted_time + np.nan_to_num(begun - before.preempted_at),
        preempted_at=np.full(len(ends), np.nan),
        rank=batch.ranks[history.begin[ends]],
        holding=holding,
        decoding=holding & (True if emits is None else decoding[ends] | emits[ends]),
    )
    if history.evicted is not None:
        after = _evicted(after, history, started)
    return _emitted(after, found, batch.finished) if len(found.slot) else after


def _evicted(after: Touched, history: History, started: Floats) -> Touched:
    """Evictions, and the waits of those scheduled again within this drain."""
    evicted, group = history.evicted, history.group
    assert evicted is not None  # noqa: S101  (the caller looked)
    again = np.flatnonzero(evicted[:-1] & ~history.first[1:]) + 1
    waits = started[history.begin[again]] - started[history.begin[again - 1]]
    count = len(after.slot)
    return after._replace(
        preempted_time=after.preempted_time + np.bincount(group[again], weights=waits, minlength=count),
        preempted_at=np.where(after.holding, np.nan, started[history.begin[history.ends]]),
        preemptions=after.preemptions + np.bincount(group[evicted], minlength=count),
    )


def _emitted(after: Touched, found: Emissions, finished: Floats) -> Touched:
    """Tokens, first and last emission and longest gap of each slot that emitted."""
    place = after.slot.searchsorted(found.slot[found.starts])
    ends = np.append(found.starts[1:], len(found.slot)) - 1
    tokens = found.end - found.begin + 1
    if found.tokens is not None:
        tokens *= found.tokens  # one each where a run is longer than one
    longest = np.fmax(found.gap, longest_within(finished, found.begin, found.end))
    first = np.where(np.isnan(after.first_token_at[place]), found.at[found.starts], after.first_token_at[place])
    return after._replace(
        first_token_at=_with(after.first_token_at, place, first),
        last_token_at=_with(after.last_token_at, place, found.last_at[ends]),
        tokens=_with(after.tokens, place, after.tokens[place] + np.add.reduceat(tokens, found.starts)),
        max_gap=_with(
            after.max_gap, place, np.fmax(after.max_gap[place], np.fmax.reduceat(longest, found.starts))
        ),
    )  # fmt: skip


def _with(column: np.ndarray[Any, Any], place: Indices, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    column = column.copy()
    column[place] = values
    return column


class Departures(NamedTuple):
    """Requests that ended, at ``at``, on ``rank``; ``held``: they had a place until then."""

    arrived_at: Floats
    at: Floats
    held: Mask
    rank: Floats

    def after(self, instant: float) -> Departures:
        """Those that ended after ``instant``."""
        later = self.at > instant
        return Departures(*[column[later] for column in self])  # type: ignore[arg-type]

    def joined(self, index: Indices, at: Floats, table: SlotTable) -> Departures:
        """These and the requests at ``index`` that end at ``at``, as far as it is an instant; the last 4,096."""
        finite = np.isfinite(at)
        index, at = index[finite], at[finite]
        more = (table.arrived_at[index], at, table.holding[index], table.rank[index])
        return Departures(*[np.concatenate(pair)[-_MAX_DEPARTED:] for pair in zip(self, more, strict=True)])


NOBODY = Departures(np.empty(0), np.empty(0), np.empty(0, dtype=np.bool_), np.empty(0))


class _Instants(NamedTuple):
    """When something happened, and on which rank; ``nan``: on any."""

    at: Floats
    rank: Floats

    def of(self, rank: float, *, only: bool) -> Floats:
        """Those of ``rank``, sorted; ``only``: there is no other."""
        mine = self.at if only else self.at[(self.rank == rank) | np.isnan(self.rank)]
        return np.sort(mine)


class _Waits(NamedTuple):
    """Spans of waiting: since when, until when (``inf``: still), for which rank, for how many tokens of room."""

    slot: Indices
    begin: Floats
    end: Floats
    rank: Floats
    tokens: Floats

    def of(self, rank: float) -> _Waits:
        """Those for ``rank`` or for any."""
        mine = (self.rank == rank) | np.isnan(self.rank)
        return _Waits(self.slot[mine], self.begin[mine], self.end[mine], self.rank[mine], self.tokens[mine])


class Moves:
    """Requests taking and leaving places during one drain; made after its arrivals, before its iterations.

    ``departed``: who ended in earlier drains, and may still have been there when an iteration that is
    reported only now was formed. A request waits for the rank it ran on last, else for the one it arrived for,
    else for any.
    """

    def __init__(self, table: SlotTable, departed: Departures) -> None:
        self._table = table
        self._departed = departed
        self._held = np.concatenate((table.rank[table.holding & (table.handle != FREE)], departed.rank[departed.held]))
        self._taken = self._left = _Instants(np.empty(0), np.empty(0))
        waiting = np.flatnonzero(~table.holding & (table.handle != FREE))
        begin = np.fmax(table.arrived_at[waiting], table.preempted_at[waiting])
        tokens = table.prompt_tokens[waiting] + table.tokens[waiting]
        self._waits = _Waits(waiting, begin, np.full(len(waiting), np.inf), table.rank[waiting], tokens)

    def collect(self, history: History, started: Floats, ranks: Floats) -> None:
        """Places taken (first scheduled or again) and lost (evicted)."""
        at, rank = started[history.begin], ranks[history.begin]
        first = history.starts
        held = np.empty(len(history.slot), dtype=np.bool_)
        held[first] = history.before.holding
        held[1:] = np.where(history.first[1:], held[1:], True if history.evicted is None else ~history.evicted[:-1])
        before = np.empty(len(rank))  # the rank of the place held
        before[1:] = rank[:-1]
        before[first] = history.before.rank
        taken = ~held if history.evicted is None else ~held & ~history.evicted
        left = np.zeros(len(rank), dtype=np.bool_) if history.evicted is None else history.evicted
        moved = held & ~left & (before != rank)  # to another rank, place and all
        self._taken = _Instants(at[taken | moved], rank[taken | moved])
        self._left = _Instants(at[left | moved], before[left | moved])
        ends = np.full(self._table.capacity, np.inf)
        ends[history.slots] = at[first]
        self._waits = self._waits._replace(end=ends[self._waits.slot])
        if left.any():
            self._evict(history, at, rank, np.flatnonzero(left))

    def _evict(self, history: History, at: Floats, rank: Floats, left: Indices) -> None:
        """Those evicted wait until their next run, for room for all they had."""
        slot = history.slot[left]
        follows = np.append(~history.first[1:], False)[left]
        again = np.where(follows, at[np.minimum(left + 1, len(at) - 1)], np.inf)
        counts = history.end - history.begin + 1
        emitted = np.cumsum(counts if history.tokens is None else counts * history.tokens)
        group = history.group[left]
        base = np.where(history.starts > 0, emitted[history.starts - 1], 0)[group]
        tokens = history.before.prompt_tokens[group] + history.before.tokens[group] + emitted[left] - base
        more = _Waits(slot, at[left], again, rank[left], tokens)
        self._waits = _Waits(*[np.concatenate(pair) for pair in zip(self._waits, more, strict=True)])

    def fill(self, rows: Floats, index: Indices, ends: Floats, limits: SchedulerLimits) -> None:
        """Write running, waiting and standing requests into iteration rows that do not say them, and what the head
        of the queue needs; after the table changed.

        ``index`` and ``ends``: slot indices and instants of the requests that end in this drain.
        """
        table, departed = self._table, self._departed
        ran, away = table.holding[index], departed.held
        left = _Instants(
            np.concatenate((self._left.at, ends[ran], departed.at[away])),
            np.concatenate((self._left.rank, table.rank[index][ran], departed.rank[away])),
        )
        gone = np.full(table.capacity, np.inf)
        gone[index] = ends
        end = np.maximum(np.fmin(self._waits.end, gone[self._waits.slot]), self._waits.begin)
        waits = self._waits = self._waits._replace(end=end)
        begun = _joined(_Instants(waits.begin, waits.rank), departed.arrived_at[~away], departed.rank[~away])
        ended = _joined(_Instants(end, waits.rank), departed.at[~away], departed.rank[~away])
        for rank, mine, only in self._by_rank(rows, left.rank, begun.rank):
            part = rows[mine]
            started, finished = part[:, C.STARTED_AT], part[:, C.FINISHED_AT]
            leaving = left.of(rank, only=only)
            before = len(self._held) if only else np.count_nonzero(self._held == rank)
            held: Floats = before + _up_to(self._taken.of(rank, only=only), started)
            gone_by = _up_to(leaving, started)
            _say(part, C.RUNNING_REQUESTS, held - gone_by)
            waiting = _up_to(begun.of(rank, only=only), started) - _up_to(ended.of(rank, only=only), started)
            _say(part, C.WAITING_REQUESTS, np.maximum(waiting - np.fmax(part[:, C.DEFERRED_REQUESTS], 0.0), 0))
            if limits.pipeline_stages == 1:
                stayed: Floats = held - np.maximum(gone_by, leaving.searchsorted(finished, side="left"))
                part[:, C.STANDING_REQUESTS] = _standing(part, stayed)
            if limits.kv_block_size and limits.kv_cache_blocks:
                part[:, C.HEAD_TOKENS] = self._heads(part, waits if only else waits.of(rank))
            rows[mine] = part

    def _by_rank(self, rows: Floats, *others: Floats) -> Iterator[tuple[float, slice | Indices, bool]]:
        """Each rank of ``rows``, where its rows are, and whether nothing happened on any other."""
        ranks = distinct(rows[:, C.RANK])
        known = (self._held, self._taken.rank, *others)
        if len(ranks) == 1 and all(((each == ranks[0]) | np.isnan(each)).all() for each in known):
            yield ranks[0], slice(None), True
            return
        for rank in ranks:
            yield rank, np.flatnonzero(rows[:, C.RANK] == rank), False

    def tell_heads(self, rows: Floats, heads: npt.NDArray[np.int64]) -> int:
        """Write what the refused requests of ``heads`` (handles, ``FREE``: none) need; how many are stale."""
        told = np.flatnonzero(heads != FREE)
        index = self._table.rows(heads)
        valid = index[told] != FREE
        waits, started = self._waits, rows[:, C.STARTED_AT]
        for slot in set(index[told[valid]].tolist()):
            for span in np.flatnonzero(waits.slot == slot).tolist():
                mine = (index == slot) & (started >= waits.begin[span]) & (started < waits.end[span])
                rows[mine, C.HEAD_TOKENS] = waits.tokens[span]
        return int(np.count_nonzero(~valid))

    def _heads(self, rows: Floats, waits: _Waits) -> Floats:
        """What the request that arrived first of those that wait needs room for; ``nan``: none, or not asked for."""
        heads = np.full(len(rows), np.nan)
        asked = np.isnan(rows[:, C.LIMITED_BY]) & ~np.isnan(rows[:, C.KV_CACHE_USAGE])
        asked &= (rows[:, C.WAITING_REQUESTS] > 0) & ~(rows[:, C.DEFERRED_REQUESTS] > 0)  # else it may be deferred
        places = np.flatnonzero(asked)
        places = places[rows[places, C.STARTED_AT].argsort(kind="stable")]
        started = rows[places, C.STARTED_AT]
        found = np.full(len(places), np.nan)
        order = np.lexsort((self._table.number[waits.slot], self._table.arrived_at[waits.slot]))
        begin, end = started.searchsorted(waits.begin[order]), started.searchsorted(waits.end[order])
        visible = np.flatnonzero((end > begin) & ~_hidden(begin, end))
        for span in visible[::-1].tolist():  # the first in the queue is painted last, over the others
            found[begin[span] : end[span]] = waits.tokens[order[span]]
        heads[places] = found
        return heads


def _hidden(begin: Indices, end: Indices) -> Mask:
    """Spans within one before them: within the first of those that end last."""
    longest = np.maximum.accumulate(end)
    later = np.append(True, longest[1:] > longest[:-1])[: len(end)]
    last = np.maximum.accumulate(np.where(later, np.arange(len(end)), 0))
    hidden = np.zeros(len(end), dtype=np.bool_)
    hidden[1:] = (end[1:] <= longest[:-1]) & (begin[1:] >= begin[last[:-1]])
    return hidden


def _joined(instants: _Instants, at: Floats, rank: Floats) -> _Instants:
    return _Instants(np.concatenate((instants.at, at)), np.concatenate((instants.rank, rank)))


def _standing(rows: Floats, stayed: Floats) -> Floats:
    """Who had a place from before the iteration until after it, and was not in it.

    A request that left meanwhile did not stand still: its end was not known yet, or its finish is told late.
    """
    size = rows[:, C.REQUEST_COUNT]
    return np.maximum(np.minimum(stayed, rows[:, C.RUNNING_REQUESTS]) - size, 0)


def _say(rows: Floats, column: IterationColumn, counted: Floats) -> None:
    """Fill what the engine did not say."""
    rows[:, column] = np.where(np.isnan(rows[:, column]), counted, rows[:, column])


def _up_to(instants: Floats, at: Floats) -> Floats:
    """How many of ``instants``, sorted, are not after each of ``at``."""
    return instants.searchsorted(at, side="right").astype(np.float64)
