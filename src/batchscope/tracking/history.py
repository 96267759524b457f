"""The runs of one drain by slot, and what follows from neighbours: phases, emissions, gaps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from batchscope.rows import Floats, GapColumn, Gaps
from batchscope.tracking.runs import Ints, Mask, Runs, covering, group_starts
from batchscope.tracking.slots import Indices, SlotTable


class History:
    """Runs sorted by slot, each slot's in the order of iterations; ``before``: what was known of these slots."""

    def __init__(self, runs: Runs, table: SlotTable) -> None:
        self.slot, self.begin, self.end, self.tokens, self.scheduled, self.evicted = runs
        self.starts, self.first = group_starts(self.slot)
        self.before = table.read(self.slot[self.starts])

    @property
    def slots(self) -> Indices:
        """The slots, once each, ascending."""
        return self.before.slot

    @property
    def ends(self) -> Indices:
        """The position of each slot's last run."""
        return np.append(self.starts[1:], len(self.slot))[: len(self.starts)] - 1

    @property
    def group(self) -> Indices:
        """The place of each run's slot among ``slots``."""
        places: Indices = np.cumsum(self.first) - 1
        return places

    def repeated(self) -> Mask:
        """Runs that name a slot a second time in the same iteration."""
        again = np.zeros(len(self.slot), dtype=np.bool_)
        np.less_equal(self.begin[1:], self.end[:-1], out=again[1:])
        again &= ~self.first
        return again

    def not_running(self) -> Mask:
        """Evictions of slots that held no place."""
        if self.evicted is None:
            return np.zeros(len(self.slot), dtype=np.bool_)
        held = np.empty(len(self.slot), dtype=np.bool_)
        held[1:] = ~self.evicted[:-1]
        held[self.starts] = self.before.holding
        return self.evicted & ~held

    def emitting(self) -> Mask | None:
        """Runs that emit tokens; None = all of them."""
        if self.tokens is None:
            return None
        emits = self.tokens > 0
        if self.evicted is not None:
            emits &= ~self.evicted
        return None if emits.all() else emits

    def decoding(self) -> Mask:
        """Runs whose slot had emitted, before, since it was last taken in: the others begin with prefill."""
        emits = self.emitting()
        if emits is None:
            emitted = np.ones(len(self.slot), dtype=np.bool_)
            emitted[self.starts] = self.before.decoding
            return emitted
        opens = self.first.copy()
        if self.evicted is not None:
            opens[1:] |= self.evicted[:-1]
        segments = np.flatnonzero(opens)
        emitted_before: Ints = np.cumsum(emits) - emits
        lengths = np.diff(np.append(segments, len(self.slot)))
        since: Ints = emitted_before - np.repeat(emitted_before[segments], lengths)
        inherited = self.first[segments] & self.before.decoding[self.group[segments]]
        return (since > 0) | np.repeat(inherited, lengths)


class Emissions(NamedTuple):
    """The runs that emit, with the time between a run's first emission and the one before (``nan``: none before).

    ``at`` and ``last_at``: a run's first and last emission. ``follows``: the first is one token, and the emission
    before was in the iteration just before; as the rest of a run, all such of an iteration share one gap.
    """

    slot: Indices
    begin: Ints
    end: Ints
    tokens: Ints | None
    starts: Indices
    at: Floats
    last_at: Floats
    gap: Floats
    follows: Mask


def emissions(history: History, finished: Floats) -> Emissions:
    """Emissions of all slots, sorted by slot."""
    emits = history.emitting()
    slot, begin, end = history.slot, history.begin, history.end
    tokens, starts = history.tokens, history.starts
    if emits is not None:
        slot, begin, end = slot[emits], begin[emits], end[emits]
        tokens = None if tokens is None else tokens[emits]
        starts, _ = group_starts(slot)
    at, last_at = finished[begin], finished[end]
    gap = np.empty_like(at)
    np.subtract(at[1:], last_at[:-1], out=gap[1:])
    gap[starts] = at[starts] - history.before.last_token_at[history.slots.searchsorted(slot[starts])]
    follows = np.empty(len(slot), dtype=np.bool_)
    np.equal(begin[1:], end[:-1] + 1, out=follows[1:])
    follows[starts] = False
    if tokens is not None:
        follows &= tokens == 1
    return Emissions(slot, begin, end, tokens, starts, at, last_at, gap, follows)


def gaps(found: Emissions, finished: Floats) -> list[Gaps]:
    """Inter-token and inter-emission latencies; slots that emitted in two iterations running share one pair."""
    own = np.flatnonzero(~found.follows)
    shared = covering(found.begin, found.end, len(finished))
    shared = (shared - np.bincount(found.begin[own], minlength=len(finished)))[1:]
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
