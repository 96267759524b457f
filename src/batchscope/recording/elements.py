"""What happened to each slot, over many iterations at once: sorted by slot, everything is a difference of rows.

An element is one slot in one iteration: scheduled, with its tokens, or evicted. Sorting the elements by
slot, stably, puts each request's history side by side, so that gaps, phases and waits are differences of
neighbours; no Python loop runs over slots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.recording.rows import Floats, GapColumn, Gaps
from batchscope.recording.slots import Indices, SlotTable

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
_RADIX_SLOTS = 1 << 16


class Elements(NamedTuple):
    """Elements in the order of iterations; None: one token each, scheduled tokens not given, nobody evicted."""

    slot: Indices
    iteration: npt.NDArray[np.int32]
    tokens: Ints | None
    scheduled: Ints | None
    evicted: Mask | None

    def take(self, chosen: Mask | Indices) -> Elements:
        """Some of them, or all in another order."""
        return Elements(*[None if column is None else column[chosen] for column in self])  # type: ignore[arg-type]


class History:
    """Elements sorted by slot, each slot's in the order of iterations."""

    def __init__(self, elements: Elements, slots: int) -> None:
        key = elements.slot.astype(np.uint16) if slots <= _RADIX_SLOTS else elements.slot
        order = key.argsort(kind="stable")  # a radix sort for 16 bits: 2 ns an element
        by_slot = elements.take(order)
        self.order = order
        self.slot, self.iteration, self.tokens, self.scheduled, self.evicted = by_slot
        self.starts, self.first = group_starts(self.slot)

    @property
    def slots(self) -> Indices:
        """The slots, once each, ascending."""
        return self.slot[self.starts]

    @property
    def ends(self) -> Indices:
        """The position of each slot's last element."""
        return np.append(self.starts[1:], len(self.slot))[: len(self.starts)] - 1

    def repeated(self) -> Mask:
        """Elements that name a slot a second time in the same iteration."""
        again = np.zeros(len(self.slot), dtype=np.bool_)
        np.equal(self.iteration[1:], self.iteration[:-1], out=again[1:])
        again &= ~self.first
        return again

    def not_running(self, table: SlotTable) -> Mask:
        """Evictions of slots that held no place."""
        if self.evicted is None:
            return np.zeros(len(self.slot), dtype=np.bool_)
        held = np.empty(len(self.slot), dtype=np.bool_)
        held[1:] = ~self.evicted[:-1]
        held[self.starts] = table.holding[self.slots]
        return self.evicted & ~held

    def emitting(self) -> Mask | None:
        """Elements that emit tokens; None = all of them."""
        if self.tokens is None:
            return None
        emits = self.tokens > 0
        if self.evicted is not None:
            emits &= ~self.evicted
        return None if emits.all() else emits

    def decoding(self, table: SlotTable) -> Mask:
        """Elements of slots that have emitted since they were last taken in: the rest is prefill."""
        emits = self.emitting()
        if emits is None:
            before = np.ones(len(self.slot), dtype=np.bool_)
            before[self.starts] = table.decoding[self.slots]
            return before
        opens = self.first.copy()
        if self.evicted is not None:
            opens[1:] |= self.evicted[:-1]
        segments = np.flatnonzero(opens)
        emitted_before: Ints = np.cumsum(emits) - emits
        lengths = np.diff(np.append(segments, len(self.slot)))
        since: Ints = emitted_before - np.repeat(emitted_before[segments], lengths)
        inherited = self.first[segments] & table.decoding[self.slot[segments]]
        return (since > 0) | np.repeat(inherited, lengths)


def group_starts(slot: Indices) -> tuple[Indices, Mask]:
    """Where each run of equal slots begins, as positions and as a mask."""
    first = np.empty(len(slot), dtype=np.bool_)
    first[:1] = True
    np.not_equal(slot[1:], slot[:-1], out=first[1:])
    return np.flatnonzero(first), first


class Emissions(NamedTuple):
    """The elements that emit, with the time since the emission before (``nan`` for a request's first).

    ``follows``: one token, and the emission before was in the iteration just before; all such share one gap.
    """

    slot: Indices
    iteration: npt.NDArray[np.int32]
    tokens: Ints | None
    starts: Indices
    at: Floats
    gap: Floats
    follows: Mask


def emissions(history: History, table: SlotTable, finished: Floats) -> Emissions:
    """Emissions of all slots, sorted by slot."""
    emits = history.emitting()
    slot, iteration, tokens, starts = history.slot, history.iteration, history.tokens, history.starts
    if emits is not None:
        slot, iteration = slot[emits], iteration[emits]
        tokens = None if tokens is None else tokens[emits]
        starts, _ = group_starts(slot)
    at = finished[iteration]
    gap = np.empty_like(at)
    np.subtract(at[1:], at[:-1], out=gap[1:])
    gap[starts] = at[starts] - table.last_token_at[slot[starts]]
    follows = np.empty(len(slot), dtype=np.bool_)
    np.equal(iteration[1:], iteration[:-1] + 1, out=follows[1:])
    follows[starts] = False
    if tokens is not None:
        follows &= tokens == 1
    return Emissions(slot, iteration, tokens, starts, at, gap, follows)


def gaps(found: Emissions, finished: Floats) -> list[Gaps]:
    """Inter-token and inter-emission latencies; slots that emitted in two iterations running share one pair."""
    own = np.flatnonzero(~found.follows)
    shared = np.bincount(found.iteration, minlength=len(finished))
    shared = (shared - np.bincount(found.iteration[own], minlength=len(finished)))[1:]
    used = np.flatnonzero(shared)
    common, counts, at = np.diff(finished)[used], shared[used], finished[1:][used]
    own = own[~np.isnan(found.gap[own])]
    own_gap, own_at = found.gap[own], found.at[own]
    ones = np.ones(len(own_gap), dtype=np.int64)
    own_tokens = ones if found.tokens is None else found.tokens[own]
    if not len(common) + len(own_gap):
        return []
    instants = np.concatenate([at, own_at])
    each = np.concatenate([common, own_gap])
    per_token = np.concatenate([common, own_gap / own_tokens])
    return [
        Gaps(GapColumn.INTER_TOKEN_LATENCY, instants, per_token, np.concatenate([counts, own_tokens])),
        Gaps(GapColumn.INTER_EMISSION_LATENCY, instants, each, np.concatenate([counts, ones])),
    ]
