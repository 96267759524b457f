"""Where records go that are made inside a record of the same thread: a row each, published by one append.

Problem: a ring has one writer, and a call that is interrupted in the middle (by the garbage collector that runs a
finalizer, by a signal handler, by a subscriber that fails in a drain of the writer's own) meets a second one for as
long as that lasts. The second must not find the ring half written, at any point. So the outer call takes the ring
out of the writer, and in its place stands an ``Aside``. That looks like a ring without room, so that the nested call
asks it for a block, and gets one of a single row that nobody else knows. The store of ``head`` that publishes a row
in a ring appends this block to a list: one step, at any depth. What is never published is never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from batchscope.reasons import DROPPED, Tally
from batchscope.recording.block import WITH_OBJECTS, Block, Layout
from batchscope.rows import RowKind

MOST = 4096
"""Rows kept at most; the drain is asked for from an eighth on."""
_RELIEF_AT = MOST // 8
_NO_ROOM = Block(0, 1)


class Aside:
    """What stands in for a ring that is in use by an outer call of the same thread; see the module's text."""

    __slots__ = ("_kind", "_layout", "_relieve", "_rows", "aside", "block", "tally")

    def __init__(self, kind: RowKind, layout: Layout, relieve: Callable[[], object]) -> None:
        self._kind = kind
        self._layout = layout
        self._relieve = relieve
        self._rows: list[Block] = []
        self.block = _NO_ROOM
        self.aside = self
        self.tally = Tally()

    def next_block(self) -> Block | None:
        """Writer: a row of its own; None counts a dropped record."""
        if len(self._rows) >= _RELIEF_AT:
            self._relieve()
            if len(self._rows) >= MOST:
                self.tally.add(DROPPED)
                return None
        return _Row(self._kind, self._layout, self._rows)

    @property
    def published(self) -> bool:
        """Reader: whether there are rows."""
        return bool(self._rows)

    def unread(self) -> Iterator[tuple[Block, int, int]]:
        """Reader: all rows published so far, as parts of an ``Unread``."""
        return ((row, 0, 1) for row in self._rows[:] if not row.read)

    def release(self) -> None:
        """Reader: forget the rows that were read; they are the first."""
        count = 0
        for row in self._rows:
            if not row.read:
                break
            count += 1
        del self._rows[:count]


class _Row(Block):
    """A block of one row, which publishes itself."""

    __slots__ = ("_log",)

    def __init__(self, kind: RowKind, layout: Layout, log: list[Block]) -> None:
        super().__init__(1, layout.packed, objects=kind in WITH_OBJECTS)
        self._log = log

    @property
    def head(self) -> int:
        """Where the next row goes: there is none before this one."""
        return 0

    @head.setter
    def head(self, row: int) -> None:
        if row:
            self._log.append(self)
