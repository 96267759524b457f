"""What one writer fills: a ring a kind of record, and a log for latencies that come many at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from batchscope.clock import Clock
from batchscope.configuration import SchedulerLimits
from batchscope.reasons import DROPPED, Tally
from batchscope.recording.block import Layout
from batchscope.recording.mistakes import Mistakes
from batchscope.recording.ring import Pressure, Ring
from batchscope.recording.unread import Unread
from batchscope.rows import PACKED_OF_ITERATION, PACKED_OF_REQUEST, GapColumn, Gaps, RequestColumn, RowKind

_BLOCK_ROWS = {RowKind.REQUEST: 512, RowKind.ITERATION: 256, RowKind.BATCH: 512, RowKind.GAP: 1024, RowKind.ERROR: 512}
_MAX_BLOCKS = 10
_OPTIONAL_COUNTS = slice(RequestColumn.PROMPT_TOKENS, RequestColumn.PREEMPTIONS + 1)
_TOKENS = slice(RequestColumn.TOKENS_GENERATED, RequestColumn.TOKENS_GENERATED + 1)
_LAYOUTS = {
    RowKind.REQUEST: Layout(PACKED_OF_REQUEST, (_TOKENS, _OPTIONAL_COUNTS), _OPTIONAL_COUNTS, RequestColumn.REASON),
    RowKind.ITERATION: Layout(PACKED_OF_ITERATION),
}
"""What writers pack: all but the columns that the drain fills; the rest of the kinds is packed whole."""
_RELIEF_AT = 256
_MAX_GAP_ENTRIES = 4096
_GAP_ENTRIES_AT_ONCE = 256  # fewer at once, and sorting them into buckets costs a fifth more
_ENTRY_BYTES = 4096  # so that a number of entries bounds their memory
GapEntry = tuple[float, GapColumn, bytes]
"""Instant, column, packed values."""


class Numbering:
    """Gives each request and each iteration of a collector a number of its own, from 1 on; under the drain's lock.

    Iterations of one ``line`` (a rank of a tracker) follow each other in their numbers, whatever happens between: the
    first line has 1, 2, 3, ..., each further one as many of its own from ``LINE`` on. Floats hold 2**17 lines exactly.
    ``spans_wanted``: somebody listens to spans, so that they and the iterations' numbers are worth their price.
    """

    LINE = 1 << 36

    def __init__(self) -> None:
        self.spans_wanted = False
        self._requests = 1
        self._next: dict[Hashable, int] = {}

    def requests(self, count: int) -> int:
        """The first of ``count`` numbers."""
        first, self._requests = self._requests, self._requests + count
        return first

    def iterations(self, line: Hashable, count: int) -> int:
        """The first of ``count`` numbers of ``line``."""
        first = self._next.get(line) or 1 + len(self._next) * self.LINE
        self._next[line] = first + count
        return first


class ProducerContext(NamedTuple):
    """What all producers of a collector share.

    ``relieve`` drains if nobody else does, without waiting; ``eager`` producers call it after each record.
    ``numbering`` None: each producer numbers its own.
    """

    clock: Clock
    class_codes: Mapping[str | None, float]
    other_class: float
    strict: bool
    relieve: Callable[[], object]
    limits: SchedulerLimits = SchedulerLimits()
    eager: bool = False
    pressure: Pressure | None = None
    mistakes: Mistakes | None = None
    numbering: Numbering | None = None


class GapLog:
    """Latencies that came many at once: packed float64 bytes, appended by the writer, taken by the reader.

    A list's ``append``, slice and slice deletion are atomic, and the reader removes only what it has
    copied, so nothing is lost or seen twice. ``column`` is the ``GapColumn`` that the values belong to.
    """

    __slots__ = ("_entries", "_relieve", "_taken", "tally")

    def __init__(self, relieve: Callable[[], object]) -> None:
        self._entries: list[GapEntry] = []
        self._taken: list[GapEntry] = []
        self._relieve = relieve
        self.tally = Tally()

    def append(self, at: float, column: GapColumn, values: bytes) -> None:
        """Writer: add packed values of one instant."""
        pending = len(self._entries)
        if pending >= _RELIEF_AT:
            self._relieve()
            if pending >= _MAX_GAP_ENTRIES and len(self._entries) >= _MAX_GAP_ENTRIES:
                self.tally.add(DROPPED)
                return
        if len(values) <= _ENTRY_BYTES:
            self._entries.append((at, column, values))
        else:
            starts = range(0, len(values), _ENTRY_BYTES)
            self._entries.extend([(at, column, values[start : start + _ENTRY_BYTES]) for start in starts])

    def drain(self) -> Iterator[Gaps]:
        """Reader: everything logged so far, by column, in pieces; consume it whole."""
        left = len(self._entries)
        while left:
            entries = self._taken = self._entries[: min(left, _GAP_ENTRIES_AT_ONCE)]
            del self._entries[: len(entries)]
            left -= len(entries)
            yield from _joined(entries)
            self._taken = []

    def interrupted(self) -> int:
        """Reader: how many entries a drain took that did not come to its end; some may have been counted."""
        taken, self._taken = self._taken, []
        if taken and self._entries and self._entries[0] is taken[0]:
            return 0  # it came no further than to look at them
        return len(taken)


def _joined(entries: list[GapEntry]) -> Iterator[Gaps]:
    for column in (GapColumn.INTER_TOKEN_LATENCY, GapColumn.INTER_EMISSION_LATENCY):
        chosen = [entry for entry in entries if entry[1] is column]
        if chosen:
            lengths = [len(entry[2]) // 8 for entry in chosen]
            at = np.repeat([entry[0] for entry in chosen], lengths)
            yield Gaps(column, at, np.frombuffer(b"".join([entry[2] for entry in chosen])))


class Rings:
    """The rings of one writer. They outlive their thread and are continued by the next one."""

    def __init__(self, shared: ProducerContext) -> None:
        def ring(kind: RowKind) -> Ring:
            return Ring(
                kind, block_rows=_BLOCK_ROWS[kind], max_blocks=_MAX_BLOCKS, relieve=shared.relieve,
                layout=_LAYOUTS.get(kind), pressure=shared.pressure,
            )  # fmt: skip

        self.requests = ring(RowKind.REQUEST)
        self.iterations = ring(RowKind.ITERATION)
        self.batches = ring(RowKind.BATCH)
        self.gaps = ring(RowKind.GAP)
        self.errors = ring(RowKind.ERROR)
        self.gap_log = GapLog(shared.relieve)
        self.rejected = Tally()

    def _all(self) -> tuple[Ring, ...]:
        return self.iterations, self.requests, self.batches, self.gaps, self.errors

    def unread(self) -> Iterator[Unread | Gaps]:
        """Reader: everything published so far; what it does not take of the rings stays there."""
        found = [ring.unread() for ring in self._all()]
        yield from filter(None, found)
        yield from self.gap_log.drain()

    def discard(self) -> None:
        """Reader: forget everything published so far."""
        for unread in self.unread():
            if isinstance(unread, Unread):
                unread.skip()

    @property
    def dropped(self) -> int:
        """Records lost, since the rings exist, because nobody drained and no memory was allowed."""
        counted = sum(ring.dropped + ring.aside.tally[DROPPED] for ring in self._all())
        return counted + self.gap_log.tally[DROPPED]
