"""A block of rows as a writer packs them, and how they become columns of float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from batchscope.rows import COLUMNS, NOT_GIVEN, Floats, RowKind

WITH_OBJECTS = frozenset((RowKind.REQUEST, RowKind.ERROR))
"""The kinds that have an object beside each row: a request id, an error's name."""


class Layout(NamedTuple):
    """How rows of a kind are packed: their first ``packed`` columns, those of ``whole`` as int64.

    ``optional``: whole ones that may be ``NOT_GIVEN``. A row that does not fit (a count that is no integer) is
    packed as floats alone, and says so itself: its ``mark``, a code >= 0 otherwise, is ``loose_code`` of it.
    """

    packed: int
    whole: tuple[slice, ...] = ()
    optional: slice = slice(0, 0)
    mark: int = 0


def loose_code(code: float) -> float:
    """Of a code >= 0 one below 0, and back."""
    return -1.0 - code


class Block:
    """``size`` rows of ``width`` words, with an object a row beside them; ``serial`` counts a chain's blocks.

    ``loose``: some row may be; which one, rows say themselves.
    """

    __slots__ = ("buffer", "head", "loose", "next", "objects", "read", "serial", "size", "values", "whole")

    def __init__(self, size: int, width: int, *, objects: bool = True) -> None:
        self.buffer = bytearray(size * width * 8)
        self.values = np.frombuffer(self.buffer, dtype=np.float64).reshape(size, width)
        self.whole = self.values.view(np.int64)
        self.objects: list[Any] = [None] * size if objects else []
        self.size = size
        self.head = 0
        self.read = 0
        self.next: Block | None = None
        self.serial = -1
        self.loose = False

    def unpack(self, layout: Layout, start: int, stop: int, columns: Floats) -> None:
        """Copy rows into ``columns``, shape (all of the kind's, stop - start); those not packed are 0."""
        packed, whole, optional, mark = layout
        columns[packed:] = 0.0
        columns[:packed] = self.values[start:stop].T
        if not whole:
            return
        for part in whole:
            columns[part] = self.whole[start:stop, part].T
        missing = columns[optional] == NOT_GIVEN
        if missing.any():
            columns[optional][missing] = np.nan
        if self.loose:
            for row in np.flatnonzero(columns[mark] < 0).tolist():
                columns[:packed, row] = self.values[start + row]
                columns[mark, row] = loose_code(columns[mark, row])


def block_of(kind: RowKind, rows: int, layout: Layout) -> Block:
    """An empty block for rows of ``kind``."""
    return Block(rows, layout.packed, objects=kind in WITH_OBJECTS)


def packed_whole(kind: RowKind) -> Layout:
    """The layout of a kind whose rows are packed as they come out: floats, all columns."""
    return Layout(len(COLUMNS[kind]))
