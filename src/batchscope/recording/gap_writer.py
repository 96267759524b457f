"""The part of a writer that takes latencies between tokens: one by one, as pairs, or many at once."""

from __future__ import annotations

from collections import deque
from math import nan
from typing import Never

from batchscope.errors import InvalidRecordError
from batchscope.recording.aside import Aside
from batchscope.recording.mistakes import Mistakes, in_words
from batchscope.recording.packing import BAD_VALUE, GAP_BYTES, pack_gap, packed_copy
from batchscope.recording.ring import Ring
from batchscope.recording.rings import ProducerContext, Rings
from batchscope.recording.tally import WRONG_TYPE
from batchscope.records import Latencies
from batchscope.rows import GapColumn


class LatencyWriter:
    """What ``Writer`` is made of: its rings, and the latencies between tokens.

    A record takes its ring for as long as it lasts and leaves ``aside`` in its place: whatever else this thread
    records meanwhile goes there (see ``ring`` and ``aside``).
    """

    __slots__ = (
        "__weakref__", "_batches", "_clock", "_codes", "_default", "_errors", "_gap_log", "_gaps", "_iterations",
        "_mistakes", "_orphans", "_other", "_requests", "_rings", "_strict",
    )  # fmt: skip

    def __init__(self, shared: ProducerContext, rings: Rings, orphans: deque[Rings]) -> None:
        self._rings = rings
        self._orphans = orphans
        self._clock = shared.clock
        self._codes = shared.class_codes
        self._other = shared.other_class
        self._default = shared.class_codes.get(None, shared.other_class)
        self._strict = shared.strict
        self._mistakes = shared.mistakes or Mistakes()
        self._requests: Ring | Aside = rings.requests
        self._iterations: Ring | Aside = rings.iterations
        self._batches: Ring | Aside = rings.batches
        self._gaps: Ring | Aside = rings.gaps
        self._errors: Ring | Aside = rings.errors
        self._gap_log = rings.gap_log

    def __del__(self) -> None:
        # Nobody can write to these rings any more: the next thread continues them, so that
        # memory follows the number of threads alive at once, not the number ever started.
        self._orphans.append(self._rings)

    def __reduce__(self) -> Never:
        raise TypeError(
            "a writer cannot be copied: its rings have one writer; expected collector.writer() in each thread"
        )

    def inter_token_latency(self, latency: float, count: int = 1) -> None:
        """``count`` tokens, each this long after the one before (an emission of k tokens: gap / k)."""
        try:
            at = self._clock()
        except BAD_VALUE as error:
            self._reject(error)
        else:
            self._gap(at, latency, count, nan, 0.0)

    def inter_emission_latency(self, latency: float, count: int = 1) -> None:
        """``count`` emissions (output events), each this long after the one before of its request."""
        ring = self._gaps
        try:
            self._gaps = ring.aside
            block = ring.block
            row = block.head
            if row == block.size:
                fresh = ring.next_block()
                if fresh is None:
                    return
                block, row = fresh, fresh.head
            pack_gap(block.buffer, row * GAP_BYTES, self._clock(), nan, 0.0, latency, count)
            block.head = row + 1
        except BAD_VALUE as error:
            self._reject(error)
        finally:
            self._gaps = ring

    def inter_token_latencies(self, latencies: Latencies) -> None:
        """Many at once: a list or array of latencies, or (latency, count) pairs."""
        self._latencies(GapColumn.INTER_TOKEN_LATENCY, latencies)

    def inter_emission_latencies(self, latencies: Latencies) -> None:
        """Many at once: a list or array of latencies, or (latency, count) pairs."""
        self._latencies(GapColumn.INTER_EMISSION_LATENCY, latencies)

    def _latencies(self, column: GapColumn, latencies: Latencies) -> None:
        try:
            read = packed_copy(latencies)
            at = self._clock()
        except BAD_VALUE as error:
            self._reject(error)
        else:
            self._take(at, column, read)

    def _take(self, at: float, column: GapColumn, latencies: bytes | list[tuple[float, float]]) -> None:
        if isinstance(latencies, bytes):
            self._gap_log.append(at, column, latencies)
            return
        for latency, count in latencies:
            if column is GapColumn.INTER_TOKEN_LATENCY:
                self._gap(at, latency, count, nan, 0.0)
            else:
                self._gap(at, nan, 0.0, latency, count)

    def _gap(self, at: float, token: float, tokens: float, emission: float, emissions: float) -> None:
        ring = self._gaps
        try:
            self._gaps = ring.aside
            block = ring.block
            row = block.head
            if row == block.size:
                fresh = ring.next_block()
                if fresh is None:
                    return
                block, row = fresh, fresh.head
            pack_gap(block.buffer, row * GAP_BYTES, at, token, tokens, emission, emissions)
            block.head = row + 1
        except BAD_VALUE as error:
            self._reject(error)
        finally:
            self._gaps = ring

    def _reject(self, error: Exception) -> None:
        self._rings.rejected.add(WRONG_TYPE)
        self._mistakes.note_call(WRONG_TYPE, "Writer", error)
        if self._strict:
            raise InvalidRecordError(in_words(WRONG_TYPE, "Writer", error)) from error
