"""The last N rows of numbers, kept in one array so that statistics are columns and not objects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from batchscope.errors import ConfigurationError

Floats = npt.NDArray[np.float64]

_FIRST_ALLOCATION = 64


class RowBuffer:
    """The last ``capacity`` rows of ``columns`` float64 each, and one object beside each row.

    Memory grows by doubling up to ``capacity`` rows. Not thread-safe: one writer, readers under its lock.
    """

    def __init__(self, capacity: int, columns: int) -> None:
        if capacity < 1:
            raise ConfigurationError("capacity", capacity, "an integer >= 1")
        if columns < 1:
            raise ConfigurationError("columns", columns, "an integer >= 1")
        self._capacity = capacity
        self._columns = columns
        self.clear()

    def clear(self) -> None:
        """Forget every row and object, and give the memory back."""
        self._rows: Floats = np.empty((self._columns, 0)).T  # columns lie contiguous: they are what is read
        self._objects: list[Any] | None = None  # made when the first object comes
        self.appended = 0  # rows ever written: one number says how many there are and where the next goes

    def __len__(self) -> int:
        return min(self.appended, self._capacity)

    @property
    def _next(self) -> int:
        """Where the next row goes; the oldest row once the buffer is full."""
        return self.appended % self._capacity

    @property
    def capacity(self) -> int:
        """The number of rows after which the oldest is overwritten."""
        return self._capacity

    def append(self, rows: Floats, objects: Sequence[Any] | None = None) -> None:
        """Add ``rows``, shape (n, columns), oldest first; ``objects`` are n more, or None for each.

        Rows are copied. With n > capacity only the last ``capacity`` remain.
        """
        if rows.ndim != 2 or rows.shape[1] != self._columns:
            raise ValueError(f"rows have shape {rows.shape}: expected (n, {self._columns})")
        if objects is not None and len(objects) != len(rows):
            raise ValueError(f"{len(objects)} objects for {len(rows)} rows: expected one each")
        if len(rows) > self._capacity:
            rows = rows[-self._capacity :]
            objects = None if objects is None else objects[-self._capacity :]
        self._reserve(len(self) + len(rows))
        first = self._next
        fits = min(len(rows), self._capacity - first)
        self._write(first, rows[:fits], None if objects is None else objects[:fits])
        if fits < len(rows):
            self._write(0, rows[fits:], None if objects is None else objects[fits:])
        self.appended += len(rows)

    def rows(self) -> Floats:
        """Every row, oldest first, shape (len, columns): a view until the buffer wraps, then a copy."""
        if self._wraps():
            return np.concatenate((self._rows[self._next :], self._rows[: self._next]))
        return self._rows[: len(self)]

    def since(self, appended: int) -> list[Floats]:
        """The rows that are left of those written after the first ``appended``, oldest first: views, at most two."""
        count = min(self.appended - appended, self._capacity)
        start, stop = (self.appended - count) % self._capacity, self._next
        parts = [(start, stop)] if start < stop else [(start, self._capacity), (0, stop)]
        return [self._rows[first:last] for first, last in parts if count and first < last]

    def column(self, index: int) -> Floats:
        """One column, oldest first, shape (len,): a view until the buffer wraps, then a copy."""
        if self.appended <= self._capacity:
            return self._rows[: self.appended, index]
        return np.concatenate((self._rows[self._next :, index], self._rows[: self._next, index]))

    def objects(self) -> list[Any]:
        """The objects, aligned with ``rows()``: a new list; None where a row came without one."""
        if self._objects is None:
            return [None] * len(self)
        if self._wraps():
            return self._objects[self._next :] + self._objects[: self._next]
        return self._objects[: len(self)]

    def _wraps(self) -> bool:
        return self.appended > self._capacity and self._next > 0

    def _reserve(self, wanted: int) -> None:
        wanted = min(wanted, self._capacity)
        if wanted <= len(self._rows):
            return
        allocated = max(len(self._rows), _FIRST_ALLOCATION)
        while allocated < wanted:
            allocated *= 2
        grown = np.empty((self._columns, min(allocated, self._capacity))).T
        grown[: len(self)] = self._rows[: len(self)]  # a buffer that still grows has not wrapped
        self._rows = grown

    def _write(self, at: int, rows: Floats, objects: Sequence[Any] | None) -> None:
        stop = at + len(rows)
        self._rows[at:stop] = rows
        if self._objects is None and objects is None:
            return
        held = self._objects if self._objects is not None else []
        held.extend(repeat(None, len(self._rows) - len(held)))  # as many as rows, whoever came first
        held[at:stop] = repeat(None, stop - at) if objects is None else objects
        self._objects = held
