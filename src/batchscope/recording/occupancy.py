"""How many requests ran and waited when each iteration's batch was formed, from the instants of their moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from batchscope.recording.history import History
from batchscope.recording.rows import Floats, IterationColumn
from batchscope.recording.slots import SlotTable


class Departure(NamedTuple):
    """A request that ended; ``held``: it had a place until then."""

    arrived_at: float
    at: float
    held: bool


class Moves:
    """Requests taking and leaving places during one drain; made after its arrivals, before its iterations.

    ``departed``: who ended in earlier drains, and may still have been there when an iteration that is
    reported only now was formed.
    """

    def __init__(self, table: SlotTable, departed: Sequence[Departure] = ()) -> None:
        self._table = table
        self._departed = departed
        self._held_before = int(np.count_nonzero(table.holding[table.live()])) + sum(one.held for one in departed)
        self._taken: Floats = np.empty(0)
        self._left: Floats = np.empty(0)

    def collect(self, history: History, started: Floats) -> None:
        """Places taken (first scheduled or again) and lost (evicted); call before the table changes."""
        at = started[history.begin]
        held = np.empty(len(history.slot), dtype=np.bool_)
        held[history.starts] = self._table.holding[history.slots]
        if history.evicted is None:
            self._taken = at[history.starts][~held[history.starts]]
            return
        held[1:] = np.where(history.first[1:], held[1:], ~history.evicted[:-1])
        self._taken = at[~held & ~history.evicted]
        self._left = at[history.evicted]

    def fill(self, rows: Floats, leaving: Sequence[tuple[int, float]]) -> None:
        """Write running and waiting requests into iteration rows that do not say them; after the table changed.

        ``leaving``: slot index and instant of the requests that end in this drain.
        """
        table, started = self._table, rows[:, IterationColumn.STARTED_AT]
        ends = [at for index, at in leaving if table.holding[index]]
        ends += [one.at for one in self._departed if one.held]
        left = np.concatenate([self._left, ends])
        running = self._held_before + _up_to(self._taken, started) - _up_to(left, started)
        arrived = np.append(table.arrived_at[table.live()], [one.arrived_at for one in self._departed])
        gone = np.array([*(at for _, at in leaving), *(one.at for one in self._departed)])
        present = _up_to(arrived, started) - _up_to(gone, started)
        deferred = np.nan_to_num(rows[:, IterationColumn.DEFERRED_REQUESTS])
        waiting = np.maximum(present - running - deferred, 0)
        for column, counted in (
            (IterationColumn.RUNNING_REQUESTS, running),
            (IterationColumn.WAITING_REQUESTS, waiting),
        ):
            rows[:, column] = np.where(np.isnan(rows[:, column]), counted, rows[:, column])


def _up_to(instants: Floats, at: Floats) -> Floats:
    """How many of ``instants`` are not after each of ``at``."""
    return np.searchsorted(np.sort(instants), at, side="right").astype(np.float64)
