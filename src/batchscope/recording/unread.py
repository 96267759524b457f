"""What a ring held at one moment, for the reader to take in pieces: a drain need not hold all of it at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from batchscope.recording.block import WITH_OBJECTS, Block, Layout
from batchscope.rows import Floats, RowKind, Rows

Part = tuple[Block, int, int]
"""A block, its first row that is unread, and where its unread rows stop."""


class Unread:
    """Published rows of one ring, oldest first: for the reader, under the drain's lock.

    What is not taken stays in the ring, for the next drain. ``release`` gives blocks that were read back to the
    writer: at the end of a drain, since a writer that goes on takes the GIL from it.
    """

    __slots__ = ("_blocks", "_layout", "_parts", "kind", "release", "size")

    def __init__(self, kind: RowKind, layout: Layout, parts: deque[Part], release: Callable[[], object]) -> None:
        self.kind = kind
        self.size = sum([stop - start for _, start, stop in parts])
        self._layout = layout
        self._parts = parts
        self._blocks = [block for block, _, _ in parts]
        self.release = release

    @property
    def read(self) -> int:
        """A number that grows with every row taken; its differences count them, until they are released."""
        return sum([block.read for block in self._blocks])

    def instants(self, count: int) -> Floats:
        """The instants of the first ``count`` rows, or of all: a copy."""
        found, missing = [], count
        for block, start, stop in self._parts:
            found.append(block.values[start : min(stop, start + missing), 0])
            missing -= len(found[-1])
            if missing == 0:
                break
        return np.concatenate(found)

    def take(self, columns: Floats) -> list[Any] | None:
        """Move as many rows as ``columns`` has, shape (columns of the kind, rows), there; gives their objects.

        There must be as many. None for a kind without objects.
        """
        objects: list[Any] = []
        at, count = 0, columns.shape[1]
        self.size -= count
        while at < count:
            block, start, last = self._parts[0]
            stop = min(last, start + count - at)
            block.unpack(self._layout, start, stop, columns[:, at : at + stop - start])
            objects += block.objects[start:stop]
            at += stop - start
            self._read(block, start, stop, last)
        return objects if self.kind in WITH_OBJECTS else None

    def skip(self) -> None:
        """Forget them all."""
        while self._parts:
            block, start, last = self._parts[0]
            self._read(block, start, last, last)
        self.size = 0
        self.release()

    def _read(self, block: Block, start: int, stop: int, last: int) -> None:
        block.read = stop
        if block.objects:
            block.objects[start:stop] = [None] * (stop - start)  # no request id is kept for a place in a ring
        if stop < last:
            self._parts[0] = (block, stop, last)
        else:
            self._parts.popleft()


class ReadyRows:
    """Rows that are copies already (a tracker derived them), to be taken as those of a ring are."""

    __slots__ = ("kind", "read", "rows")

    def __init__(self, rows: Rows) -> None:
        self.kind = rows.kind
        self.rows = rows
        self.read = 0

    @property
    def size(self) -> int:
        """How many rows have not been taken."""
        return len(self.rows.values) - self.read

    def instants(self, count: int) -> Floats:
        """The instants of the first ``count`` rows, or of all."""
        return self.rows.values[self.read : self.read + count, 0]

    def release(self) -> None:
        """Nothing waits for it."""

    def take(self, columns: Floats) -> list[Any] | None:
        """As ``Unread.take``."""
        part = slice(self.read, self.read + columns.shape[1])
        columns[:] = self.rows.values.T[:, part]
        self.read = part.stop
        return None if self.rows.objects is None else self.rows.objects[part]
