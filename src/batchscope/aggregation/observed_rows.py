"""The last rows of a kind, which wait among the samples until it is worth to observe them.

A drain brings few rows of many quantities, and giving few to their histograms costs as much as giving thousands:
the calls cost, not the values. So a row is copied once, whatever is known of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from batchscope.histograms.held_values import CAPACITY
from batchscope.histograms.row_buffer import RowBuffer
from batchscope.rows import Floats


class ObservedRows(RowBuffer):
    """A ``RowBuffer`` that gives each row to ``observe`` once: at ``settle``, or before it is overwritten.

    At most as many rows wait as one instrument holds back. An exception in the middle of ``observe`` costs the rows
    that were being observed, and none is observed twice.
    """

    def __init__(self, capacity: int, columns: int, observe: Callable[[Floats], None]) -> None:
        super().__init__(capacity, columns)
        self._observe = observe
        self._most = min(capacity, CAPACITY)

    def clear(self) -> None:
        """Forget every row, those that wait, too."""
        super().clear()
        self._observed = 0

    def append(self, rows: Floats, objects: Sequence[Any] | None = None) -> None:
        """As ``RowBuffer.append``; rows wait until they are the most, or fill the array to its end: one piece."""
        if len(rows) > self._most:
            self.settle()
            super().append(rows, objects)
            self._observed = self.appended
            self._observe(rows)
            return
        room = min(self._most - (self.appended - self._observed), self.capacity - self._next)
        super().append(rows[:room], None if objects is None else objects[:room])
        if len(rows) > room:
            self.settle()
            super().append(rows[room:], None if objects is None else objects[room:])

    def settle(self) -> None:
        """Observe what waits."""
        waiting, self._observed = self.since(self._observed), self.appended
        for rows in waiting:
            self._observe(rows)
