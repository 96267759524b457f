"""Rows of one kind from several writers, put in the order of their instants, a bounded block at a time.

Problem: whatever has piled up, a drain must not need memory in proportion to it. Each writer's rows come in
order, so the next block is a merge: the instant up to which there are no more than ``MOST_ROWS`` rows in all is
found from the writers' first instants, and each gives its rows up to there. A block lies in memory that the next
drain uses again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from batchscope.histograms.cells import FURTHEST
from batchscope.recording.unread import ReadyRows, Unread
from batchscope.rows import COLUMNS, Floats, RowKind, Rows

MOST_ROWS = 4096
"""Rows at once: their columns fit a processor's cache, and numpy's price a call is small beside them."""
_FEWEST = 64


class ReusedMemory:
    """Memory for a block of rows: as much as the largest so far needed."""

    def __init__(self) -> None:
        self._buffer = np.empty(0)

    def columns(self, kind: RowKind, rows: int) -> Floats:
        """An array of (columns of ``kind``, ``rows``) with any content, good until the next one is asked for."""
        width = len(COLUMNS[kind])
        if width * rows > len(self._buffer):
            self._buffer = np.empty(width * max(_FEWEST, min(2 * rows, MOST_ROWS)))
        return self._buffer[: width * rows].reshape(width, rows)


class NewMemory(ReusedMemory):
    """New memory each time, for whoever keeps what he is given."""

    def columns(self, kind: RowKind, rows: int) -> Floats:
        """As ``ReusedMemory.columns``, and good for ever."""
        return np.empty((len(COLUMNS[kind]), rows))


def in_order(
    streams: Sequence[Unread | ReadyRows], now: float, scratch: ReusedMemory, *, most: int = MOST_ROWS
) -> Iterator[Rows]:
    """Blocks of at most ``most`` rows by instant; an instant of another clock, later than now, counts as now.

    A block lies in ``scratch``.
    """
    streams = [stream for stream in streams if stream.size]
    while streams:
        count = min(sum([stream.size for stream in streams]), most)
        columns = scratch.columns(streams[0].kind, count)
        yield _sorted(_taken(streams, _shares(streams, now, count), columns), now)
        streams = [stream for stream in streams if stream.size]


def _shares(streams: Sequence[Unread | ReadyRows], now: float, most: int) -> list[int]:
    """How many rows each gives to the next ``most``: those before an instant, and as many of it as there is room."""
    if len(streams) == 1:
        return [most]
    sizes = [stream.size for stream in streams]
    if sum(sizes) <= most:
        return sizes
    heads = [np.maximum.accumulate(np.minimum(stream.instants(most), now)) for stream in streams]
    until = np.partition(np.concatenate(heads), most - 1)[most - 1]
    shares = [int(at.searchsorted(until)) for at in heads]
    room = most - sum(shares)
    for place, at in enumerate(heads):
        more = min(room, int(at.searchsorted(until, side="right")) - shares[place])
        shares[place] += more
        room -= more
    return shares


def _taken(streams: Sequence[Unread | ReadyRows], shares: list[int], columns: Floats) -> Rows:
    objects: list[Any] | None = []
    at = 0
    for stream, share in zip(streams, shares, strict=True):
        if share:
            found = stream.take(columns[:, at : at + share])
            objects = None if found is None or objects is None else objects + found
            at += share
    return Rows(streams[0].kind, columns.T, objects)


def _sorted(rows: Rows, now: float) -> Rows:
    kind, values, objects = rows
    at = values[:, 0]
    at.clip(-FURTHEST, now, out=at)
    if len(values) < 2 or (at[1:] >= at[:-1]).all():
        return rows
    order = at.argsort(kind="stable")
    for column in values.T:  # one by one: the copy of all would be as large as the block
        column[:] = column.take(order)
    return Rows(kind, values, objects and list(map(objects.__getitem__, order.tolist())))
