"""Single-writer rings: preallocated float64 rows that one thread fills and the drain empties, without a lock.

Why this is safe, with or without the GIL. A ring is a chain of blocks. The writer alone writes rows,
``head`` and ``next``; the reader (there is one at a time: it holds the drain's lock) alone writes ``read``
and the chain's beginning. A row is published by the store of ``head`` that follows it, a block by the store
of ``next`` that follows its last row, so whatever the reader sees published is whole. The reader takes
``next`` before ``head``: when it then finds a following block, the one before is complete and never
written again, until the chain begins behind it: then the writer may have it back. Blocks are numbered as they are
linked, so that is one comparison (``_free``), and the reader gives blocks back by one store (``release``).

Why one thread may record inside a record of its own. A finalizer, a signal handler or a failing subscriber runs
in the middle of any call. So a record takes the ring out of its writer for as long as it lasts and leaves ``aside``
in its place (see ``aside``): a nested record finds that and gets a row of its own, and the ring is always where
the outer one left it. What is left of a record that an exception ended (Ctrl-C) is a row that was not published,
and a chain whose steps, each one store, are gone through again (``_fresh``).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from batchscope.recording.aside import Aside
from batchscope.recording.block import Block, Layout, block_of, packed_whole
from batchscope.recording.unread import Part, Unread
from batchscope.rows import RowKind

_PAUSES = 100
_PAUSE_SECONDS = 0.0005
_DROPS_A_PAUSE = 512
OURSELVES = "ourselves"
"""What ``relieve`` gives where the drain is one that this very thread is in: there is nobody to wait for."""


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
        "_block_rows",
        "_blocks",
        "_first",
        "_fresh",
        "_layout",
        "_max_blocks",
        "_patient",
        "_pressure",
        "_relief_at",
        "_relieve",
        "aside",
        "block",
        "dropped",
        "kind",
    )

    def __init__(
        self,
        kind: RowKind,
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
        self.aside = Aside(kind, self._layout, relieve)
        self.block.serial = 0
        self._first = self.block
        self._fresh: Block | None = None
        self._blocks: list[Block] = []
        self._block_rows = block_rows
        self._max_blocks = max_blocks
        self._relief_at = max_blocks - max_blocks // 5
        self._relieve = relieve
        self._pressure = pressure or Pressure()

    def next_block(self) -> Block | None:
        """Writer: one with room, if need be a fresh one linked to a full one; None counts a dropped record."""
        block = self._last()
        if block.head < block.size:
            return block
        unread = block.serial - max(self._first.serial, 1) + 1
        due = unread >= self._relief_at or self._pressure.full
        if due and self._relieve() is False and self._patient:
            time.sleep(_PAUSE_SECONDS)  # somebody else drains: they need the GIL more than we do
        fresh = self._take() or self._wait()
        if fresh is None:
            self.dropped += 1
            return None
        block.next = fresh
        return self._last()

    def _last(self) -> Block:
        """The end of the chain; what an exception left undone after a link is done now."""
        if self.block.next is not None:
            self.block = self.block.next
        if self._fresh is self.block:
            self._fresh = None
        return self.block

    def _free(self) -> Block | None:
        begin = self._first.serial
        for block in self._blocks:
            if block.serial < begin:
                return block
        return None

    def _wait(self) -> Block | None:
        """All memory is full while somebody drains: let them have the GIL, once, for a bounded time.

        Only writers that outrun the drain by a whole ring (hundreds of thousands of records a second) come
        here; if the drain is stuck, the writer drops at its own pace until it has moved, but for a short pause
        now and then: a writer that only drops would keep the GIL from it.
        """
        self._pressure.full = True
        for _ in range(_PAUSES if self._patient else self.dropped % _DROPS_A_PAUSE == 0):
            time.sleep(_PAUSE_SECONDS)
            if self._relieve() is OURSELVES:
                return None
            fresh = self._take()
            if fresh is not None:
                return fresh
        self._patient = False
        return None

    def _take(self) -> Block | None:
        """An empty block, ours from now on, also if an exception keeps it from being linked; None with none free."""
        if self._fresh is None:
            free = self._free()
            if free is None:
                if len(self._blocks) >= self._max_blocks:
                    return None
                free = block_of(self.kind, self._block_rows, self._layout)
                self._blocks.append(free)
            self._fresh = free
        fresh = self._fresh
        fresh.serial = self.block.serial + 1
        fresh.head = fresh.read = 0
        fresh.next = None
        fresh.loose = False
        self._patient = True
        return fresh

    def unread(self) -> Unread | None:
        """Reader: all rows published so far, oldest first, for it to take; None with none."""
        self.release()
        first = self._first
        if first.next is None and first.head == first.read and not self.aside.published:
            return None  # most kinds, at most drains
        block: Block | None = first
        parts: deque[Part] = deque()
        while block is not None:
            following = block.next  # before head: see the module's text
            head = block.head
            if head > block.read:
                parts.append((block, block.read, head))
            block = following
        parts.extend(self.aside.unread())
        return Unread(self.kind, self._layout, parts, self.release) if parts else None

    def release(self) -> None:
        """Reader: blocks that are read to their end and have a following one go back to the writer."""
        self._pressure.full = False
        self.aside.release()
        while (block := self._first).read == block.size and block.next is not None:
            self._first = block.next
