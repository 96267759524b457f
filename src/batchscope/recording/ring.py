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
from collections.abc import Callable

from batchscope.recording.block import Block, Layout, block_of, packed_whole
from batchscope.recording.rows import Kind
from batchscope.recording.unread import Part, Unread

_PAUSES = 100
_PAUSE_SECONDS = 0.0005
_DROPS_A_PAUSE = 512


class Pressure:
    """Whether some writer of a collector has no room left: then all of them leave the GIL to whoever drains.

    Writers set ``full``, the reader clears it; a store that is lost to a race costs a short pause, or saves one.
    """

    __slots__ = ("full",)

    def __init__(self) -> None:
        self.full = False


class Ring:
    """A chain of blocks of one kind of record, made when first used and bounded by ``max_blocks``.

    ``relieve`` is called by the writer when four fifths are unread, or a writer that shares ``pressure`` has no
    room: it drains, or gives False where somebody else does already; it must not block. When no block comes free,
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
        "_pressure",
        "_relief_at",
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
        pressure: Pressure | None = None,
    ) -> None:
        self.kind = kind
        self._layout = layout or packed_whole(kind)
        self.dropped = 0
        self._patient = True
        self.block = Block(0, self._layout.packed)  # full from the first: memory comes with the first record
        self._first = self.block
        self._free: deque[Block] = deque()
        self._allocated = 0
        self._block_rows = block_rows
        self._max_blocks = max_blocks
        self._relief_at = max_blocks - max_blocks // 5
        self._relieve = relieve
        self._pressure = pressure or Pressure()

    def next_block(self) -> Block | None:
        """Writer: the current block is full; link an empty one, or count a dropped record and give None."""
        due = self._allocated - len(self._free) >= self._relief_at or self._pressure.full
        if due and self._relieve() is False and self._patient:
            time.sleep(_PAUSE_SECONDS)  # somebody else drains: they need the GIL more than we do
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
        here; if the drain is stuck, the writer drops at its own pace until it has moved, but for a short pause
        now and then: a writer that only drops would keep the GIL from it.
        """
        self._pressure.full = True
        for _ in range(_PAUSES if self._patient else self.dropped % _DROPS_A_PAUSE == 0):
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
        return block_of(self.kind, self._block_rows, self._layout)

    def unread(self) -> Unread | None:
        """Reader: all rows published so far, oldest first, for it to take; None with none."""
        self.release()
        block: Block | None = self._first
        parts: deque[Part] = deque()
        while block is not None:
            following = block.next  # before head: see the module's text
            head = block.head
            if head > block.read:
                parts.append((block, block.read, head))
            block = following
        return Unread(self.kind, self._layout, parts, self.release) if parts else None

    def release(self) -> None:
        """Reader: blocks that are read to their end and have a following one go back to the writer."""
        self._pressure.full = False
        while self._first.read == self._first.size and self._first.next is not None:
            block = self._first
            self._first = self._first.next
            if block.size:
                if block.objects:
                    block.objects = [None] * block.size  # no request id is kept for a place in a ring
                block.read = 0
                self._free.append(block)
