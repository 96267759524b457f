"""How many requests ran and waited when each iteration's batch was formed, from the instants of their moves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.recording.history import History
from batchscope.recording.rows import Floats, IterationColumn
from batchscope.recording.slots import FREE, Indices, SlotTable

_MAX_DEPARTED = 4096


class Departures(NamedTuple):
    """Requests that ended, at ``at``; ``held``: they had a place until then."""

    arrived_at: Floats
    at: Floats
    held: npt.NDArray[np.bool_]

    def after(self, instant: float) -> Departures:
        """Those that ended after ``instant``."""
        later = self.at > instant
        return Departures(self.arrived_at[later], self.at[later], self.held[later])

    def joined(self, index: Indices, at: Floats, table: SlotTable) -> Departures:
        """These and the requests at ``index`` that end at ``at``, as far as it is an instant; the last 4,096."""
        finite = np.isfinite(at)
        index, at = index[finite], at[finite]
        more = (table.arrived_at[index], at, table.holding[index])
        return Departures(*[np.concatenate(pair)[-_MAX_DEPARTED:] for pair in zip(self, more, strict=True)])


NOBODY = Departures(np.empty(0), np.empty(0), np.empty(0, dtype=np.bool_))


class Moves:
    """Requests taking and leaving places during one drain; made after its arrivals, before its iterations.

    ``departed``: who ended in earlier drains, and may still have been there when an iteration that is
    reported only now was formed.
    """

    def __init__(self, table: SlotTable, departed: Departures) -> None:
        self._table = table
        self._departed = departed
        held = np.count_nonzero(table.holding & (table.handle != FREE)) + np.count_nonzero(departed.held)
        self._held_before = int(held)
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

    def fill(self, rows: Floats, index: Indices, ends: Floats) -> None:
        """Write running and waiting requests into iteration rows that do not say them; after the table changed.

        ``index`` and ``ends``: slot indices and instants of the requests that end in this drain.
        """
        table, departed, started = self._table, self._departed, rows[:, IterationColumn.STARTED_AT]
        left = np.concatenate((self._left, ends[table.holding[index]], departed.at[departed.held]))
        running = self._held_before + _up_to(self._taken, started) - _up_to(left, started)
        arrived = np.concatenate((table.arrived_at[table.live()], departed.arrived_at))
        present = _up_to(arrived, started) - _up_to(np.concatenate((ends, departed.at)), started)
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
