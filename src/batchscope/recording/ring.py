"""Single-writer rings: preallocated float64 rows that one thread fills and the drain empties, without a lock.

Why this is safe, with or without the GIL. A ring is a chain of blocks. The writer alone writes rows,
``head`` and ``next``; the reader (there is one at a time: it holds the drain's lock) alone writes ``read``
and the chain's beginning. A row is published by the store of ``head`` that follows it, a block by the store
of ``next`` that follows its last row, so whatever the reader sees published is whole. The reader takes
``next`` before ``head``: when it then finds a following block, the one before is complete and never
written again, until the writer takes it back from ``free``, whose append and pop are atomic.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from batchscope.recording.rows import COLUMNS, NOT_GIVEN, Floats, Kind, Rows

UNREAD_BLOCKS_BEFORE_RELIEF = 4
_ROWS_AT_ONCE = 512  # rows that stay in the cache while they are read column by column
_PAUSES = 100
_PAUSE_SECONDS = 0.0005


class Block:
    """``size`` rows of ``width`` words, with an object a row beside them; ``loose`` rows hold floats only."""

    __slots__ = ("buffer", "head", "loose", "next", "objects", "read", "size", "values", "whole")

    def __init__(self, size: int, width: int) -> None:
        self.buffer = bytearray(size * width * 8)
        self.values = np.frombuffer(self.buffer, dtype=np.float64).reshape(size, width)
        self.whole = self.values.view(np.int64)
        self.objects: list[Any] = [None] * size
        self.loose: list[int] = []
        self.size = size
        self.head = 0
        self.read = 0
        self.next: Block | None = None


class Layout(NamedTuple):
    """How rows of a kind are packed: their first ``packed`` columns, those of ``whole`` as int64.

    ``optional``: whole ones that may be ``NOT_GIVEN``. A row that does not fit (a count that is no integer) is
    packed as floats alone, and named in its block's ``loose``.
    """

    packed: int
    whole: tuple[slice, ...] = ()
    optional: slice = slice(0, 0)


class Ring:
    """A chain of blocks of one kind of record, made when first used and bounded by ``max_blocks``.

    ``relieve`` is called by the writer when nobody drains: it must not block. When even that frees no block,
    the writer waits once, 50 ms at most; then the record is dropped and counted in ``dropped``.
    """

    __slots__ = (
        "_allocated",
        "_block_rows",
        "_first",
        "_free",
        "_layout",
        "_max_blocks",
        "_patient",
        "_relieve",
        "block",
        "dropped",
        "kind",
    )

    def __init__(
        self,
        kind: Kind,
        *,
        block_rows: int,
        max_blocks: int,
        relieve: Callable[[], object],
        layout: Layout | None = None,
    ) -> None:
        self.kind = kind
        self._layout = layout or Layout(len(COLUMNS[kind]))
        self.dropped = 0
        self._patient = True
        self.block = Block(0, self._layout.packed)  # full from the first: memory comes with the first record
        self._first = self.block
        self._free: deque[Block] = deque()
        self._allocated = 0
        self._block_rows = block_rows
        self._max_blocks = max_blocks
        self._relieve = relieve

    def next_block(self) -> Block | None:
        """Writer: the current block is full; link an empty one, or count a dropped record and give None."""
        if self._allocated - len(self._free) >= UNREAD_BLOCKS_BEFORE_RELIEF:
            self._relieve()
        fresh = self._take() or self._wait()
        if fresh is None:
            self.dropped += 1
            return None
        self.block.next = fresh
        self.block = fresh
        return fresh

    def _wait(self) -> Block | None:
        """All memory is full while somebody drains: let them have the GIL, once, for a bounded time.

        Only writers that outrun the drain by a whole ring (hundreds of thousands of records a second) come
        here; if the drain is stuck, the writer does not wait for it again until it has moved.
        """
        for _ in range(_PAUSES if self._patient else 0):
            time.sleep(_PAUSE_SECONDS)
            self._relieve()
            fresh = self._take()
            if fresh is not None:
                return fresh
        self._patient = False
        return None

    def _take(self) -> Block | None:
        if self._free:
            block = self._free.popleft()
            block.head = 0
            block.next = None
            block.loose.clear()
            self._patient = True
            return block
        if self._allocated >= self._max_blocks:
            return None
        self._allocated += 1
        return Block(self._block_rows, self._layout.packed)

    def drain(self) -> Iterator[Rows]:
        """Reader: a copy of all rows published so far, oldest first, in columns; consume it whole."""
        block: Block | None = self._first
        chain: list[tuple[Block, int]] = []
        while block is not None:
            following = block.next  # before head: see the module's text
            chain.append((block, block.head))
            block = following
        parts = [(block, block.read, head) for block, head in chain if head > block.read]
        if parts:
            yield self._copied(parts)
        self._first, read = chain.pop()
        self._first.read = read
        for block, _ in chain:
            if block.size:
                block.read = 0
                self._free.append(block)

    def _copied(self, parts: list[tuple[Block, int, int]]) -> Rows:
        """One array of all parts: each column lies contiguous, so that each of the drain's passes is short."""
        columns = np.empty((len(COLUMNS[self.kind]), sum(stop - start for _, start, stop in parts)))
        columns[self._layout.packed :] = 0.0
        objects: list[Any] = []
        at = 0
        for block, begin, end in parts:
            for start in range(begin, end, _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, end)
                self._unpack(block, start, stop, columns[:, at : at + stop - start])
                at += stop - start
            objects += block.objects[begin:end]
        return Rows(self.kind, columns.T, objects)

    def _unpack(self, block: Block, start: int, stop: int, columns: Floats) -> None:
        packed, whole, optional = self._layout
        columns[:packed] = block.values[start:stop].T
        for part in whole:
            columns[part] = block.whole[start:stop, part].T
        missing = columns[optional] == NOT_GIVEN
        if missing.any():
            columns[optional][missing] = np.nan
        for row in block.loose if whole else ():
            if start <= row < stop:
                columns[:packed, row - start] = block.values[row]
