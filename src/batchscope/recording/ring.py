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
from typing import Any

import numpy as np

from batchscope.recording.rows import COLUMNS, Kind, Rows

UNREAD_BLOCKS_BEFORE_RELIEF = 4
_PAUSES = 100
_PAUSE_SECONDS = 0.0005


class Block:
    """``size`` rows of ``width`` floats, with an object a row beside them."""

    __slots__ = ("buffer", "head", "next", "objects", "read", "size", "values")

    def __init__(self, size: int, width: int) -> None:
        self.buffer = bytearray(size * width * 8)
        self.values = np.frombuffer(self.buffer, dtype=np.float64).reshape(size, width)
        self.objects: list[Any] = [None] * size
        self.size = size
        self.head = 0
        self.read = 0
        self.next: Block | None = None


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
        "_max_blocks",
        "_patient",
        "_relieve",
        "block",
        "dropped",
        "kind",
    )

    def __init__(self, kind: Kind, *, block_rows: int, max_blocks: int, relieve: Callable[[], object]) -> None:
        self.kind = kind
        self.dropped = 0
        self._patient = True
        self.block = Block(0, len(COLUMNS[kind]))  # full from the first: memory comes with the first record
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
            self._patient = True
            return block
        if self._allocated >= self._max_blocks:
            return None
        self._allocated += 1
        return Block(self._block_rows, len(COLUMNS[self.kind]))

    def drain(self) -> Iterator[Rows]:
        """Reader: copies of all rows published so far, oldest first; consume it whole."""
        block = self._first
        while True:
            following = block.next  # before head: see the module's text
            head = block.head
            if head > block.read:
                part = slice(block.read, head)
                yield Rows(self.kind, block.values[part].copy(), block.objects[part])
                block.read = head
            if following is None:
                return
            self._first = following
            if block.size:
                block.read = 0
                self._free.append(block)
            block = following
