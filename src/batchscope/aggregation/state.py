"""Everything a collector knows since its last reset, fed with drained rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from math import inf
from typing import NamedTuple

import numpy as np

from batchscope.aggregation.batches import BatchAggregate, ErrorAggregate
from batchscope.aggregation.checks import Rejections, acceptable
from batchscope.aggregation.iterations import IterationAggregate
from batchscope.aggregation.ordering import NewMemory, ReusedMemory, in_order
from batchscope.aggregation.requests import ClassNames, RequestAggregate
from batchscope.aggregation.resources import ResourceAggregate, Tokens
from batchscope.configuration import MetricsConfiguration, SchedulerLimits
from batchscope.histograms.bucketed import Observations
from batchscope.histograms.cells import FURTHEST
from batchscope.histograms.instrument import Instrument
from batchscope.reasons import RejectReason
from batchscope.recording.unread import ReadyRows, Unread
from batchscope.rows import Floats, GapColumn, Gaps, IterationColumn, RowKind, Rows
from batchscope.sinks import Drained, Listener

_MAX_COUNT = 2**31
_ORDER = (RowKind.ITERATION, RowKind.BATCH, RowKind.SPAN, RowKind.START, RowKind.REQUEST, RowKind.ERROR)
_NO_RECORDS = (RowKind.START, RowKind.SPAN)


class TokenSource(StrEnum):
    """Who tells of tokens: iterations when they emit them, finished requests at their end."""

    ITERATIONS = "iterations"
    REQUESTS = "requests"


class TokenSources:
    """Which of the two is counted: both tell of the same tokens. A choice stays, over a reset, too: no total falls."""

    def __init__(self) -> None:
        self.generation: TokenSource | None = None
        self.recomputed: TokenSource | None = None

    def choose(self, iterations: IterationAggregate, requests: RequestAggregate) -> None:
        """Settle what is open: iterations where there are any, else requests as soon as they tell of tokens."""
        if self.generation is None:
            self.generation = _first(iterations.count, requests.tokens_generated)
        if self.recomputed is None:
            self.recomputed = _first(iterations.sums["recomputed_tokens"], requests.recomputed_tokens or 0)


def _first(of_iterations: int, of_requests: int) -> TokenSource | None:
    if of_iterations:
        return TokenSource.ITERATIONS
    return TokenSource.REQUESTS if of_requests else None


class _Underway(NamedTuple):
    """A block of rows that is being taken and counted, and where everything stood before."""

    kind: RowKind
    streams: Sequence[Unread | ReadyRows]
    read: int
    read_of_trackers: int
    counted: int
    rejected: int
    interrupted: int
    left: int


class State:
    """The aggregates of one generation (between two resets)."""

    def __init__(
        self, configuration: MetricsConfiguration, limits: SchedulerLimits, classes: ClassNames, now: float
    ) -> None:
        self.started = now
        self.sources = TokenSources()
        self._scratch = ReusedMemory()
        self._underway: _Underway | None = None
        self.rejections = Rejections()
        self.requests = RequestAggregate(configuration, classes, self.rejections, now)
        self.iterations = IterationAggregate(configuration, limits, self.rejections, now)
        self.batches = BatchAggregate(configuration, self.rejections)
        self.errors = ErrorAggregate(configuration.max_error_types)
        scale = configuration.histogram_scale
        self.inter_token_latency = Instrument(scale)
        self.inter_emission_latency = Instrument(scale)
        self.resources = ResourceAggregate(self.rejections)

    @property
    def generation_tokens(self) -> dict[str, int]:
        """Output tokens, counted once, under the name of who told of them: their sum does not fall."""
        return self._told(self.tokens(), self.sources.generation)

    def recent_tokens(self, tokens: Tokens) -> dict[str, int]:
        """Likewise ``tokens`` of some span: those of iterations as soon as one was recorded."""
        return self._told(tokens, TokenSource.ITERATIONS if self.iterations.count else self.sources.generation)

    def _told(self, tokens: Tokens, source: TokenSource | None) -> dict[str, int]:
        if source is TokenSource.ITERATIONS:
            return {source.value: tokens.of_iterations} if self.iterations.count else {}
        return {TokenSource.REQUESTS.value: tokens.of_requests} if tokens.of_requests else {}

    @property
    def recomputed_tokens(self) -> int | None:
        """Tokens computed again, counted once; None where nobody said."""
        of_iterations, of_requests = self.iterations.told("recomputed_tokens"), self.requests.recomputed_tokens
        if self.sources.recomputed is None:
            return of_requests if of_iterations is None else of_iterations
        return of_requests if self.sources.recomputed is TokenSource.REQUESTS else of_iterations

    def tokens(self) -> Tokens:
        """Output tokens so far, as iterations and as finished requests count them."""
        return Tokens(self.iterations.sums["tokens_generated"], self.requests.tokens_generated)

    def settle(self) -> None:
        """Count as interrupted what an earlier ``consume``, ended by an exception, took and did not come to count."""
        before = self._underway
        if before is not None and before.kind not in _NO_RECORDS:
            now = self._standing(before.kind, before.streams)
            taken = now.read - before.read
            missing = taken - (now.counted - before.counted) - (now.rejected - before.rejected)
            if missing > 0:
                counted = now.interrupted - before.interrupted
                self.rejections.counts.add(RejectReason.INTERRUPTED, missing - counted)
            if before.kind is RowKind.REQUEST:  # in flight no more, and not seen to finish
                gone = now.read_of_trackers - before.read_of_trackers - (now.left - before.left)
                self.requests.lost += max(gone, 0)
        self._underway = None

    def _standing(self, kind: RowKind, streams: Sequence[Unread | ReadyRows]) -> _Underway:
        read = sum([stream.read for stream in streams])
        of_trackers = sum([stream.read for stream in streams if isinstance(stream, ReadyRows)])
        interrupted = self.rejections.counts[RejectReason.INTERRUPTED]
        left = self.requests.tracked + self.requests.lost
        rejected = self.rejections.total - interrupted
        return _Underway(kind, streams, read, of_trackers, self._counted(kind), rejected, interrupted, left)

    def _counted(self, kind: RowKind) -> int:
        """Good rows so far; of latencies nobody knows."""
        if kind is RowKind.REQUEST:
            return self.requests.total
        if kind is RowKind.ITERATION:
            return self.iterations.count
        if kind is RowKind.BATCH:
            return self.batches.count
        return self.errors.total if kind is RowKind.ERROR else 0

    def consume(
        self, drained: Iterable[Unread | ReadyRows | Drained], now: float, sinks: Iterable[Listener] = ()
    ) -> None:
        """Count what was drained: rows of a kind from several writers are put in the order of their instants."""
        by_kind: dict[RowKind, list[Unread | ReadyRows]] = {}
        for block in drained:
            if isinstance(block, Gaps):
                self._count_gaps(block, now, sinks)
            else:
                by_kind.setdefault(block.kind, []).append(ReadyRows(block) if isinstance(block, Rows) else block)
        scratch = NewMemory() if sinks else self._scratch  # whoever is given rows may keep them
        for kind in filter(by_kind.__contains__, (*_ORDER, RowKind.GAP)):
            self._consume_kind(kind, by_kind[kind], now, scratch, sinks)
        self.sources.choose(self.iterations, self.requests)
        for streams in by_kind.values():
            for stream in streams:
                stream.release()

    def _consume_kind(
        self,
        kind: RowKind,
        streams: Sequence[Unread | ReadyRows],
        now: float,
        scratch: ReusedMemory,
        sinks: Iterable[Listener],
    ) -> None:
        """Block by block; where an exception comes between, ``settle`` finds what became of the block."""
        blocks = in_order(streams, now, scratch)
        while any(stream.size for stream in streams):
            self._underway = self._standing(kind, streams)
            rows = next(blocks)
            if kind is RowKind.GAP:
                for gaps in _pairs(rows.values, self.rejections):
                    self._count_gaps(gaps, now, sinks)
            else:
                good = self._count(rows)
                self._underway = None
                self._publish(good, sinks)
        self._underway = None

    def _count(self, rows: Rows) -> Rows:
        if rows.kind is RowKind.ITERATION:
            counted = self.iterations.consume(rows.values)
            self.requests.cached_by_iterations(counted.values[:, IterationColumn.CACHED_PROMPT_TOKENS])
            return counted
        if rows.kind is RowKind.REQUEST:
            return self.requests.consume(rows.values, rows.objects)
        if rows.kind is RowKind.BATCH:
            return self.batches.consume(rows.values)
        if rows.kind is RowKind.START:
            self.requests.started(rows.values)
        elif rows.kind is RowKind.ERROR:
            self.errors.consume(rows.values[:, 0], rows.objects or ())
        return rows

    def _count_gaps(self, gaps: Gaps, now: float, sinks: Iterable[Listener]) -> None:
        if not len(gaps.values):
            return
        low, high = float(gaps.values.min()), float(gaps.values.max())
        if not (low >= 0.0 and high < inf):
            good = acceptable(gaps.values, self.rejections)
            counts = None if gaps.counts is None else gaps.counts[good]
            self._count_gaps(Gaps(gaps.column, gaps.at[good], gaps.values[good], counts), now, sinks)
            return
        at = gaps.at
        if at.max() > now or at.min() < -FURTHEST:
            at = at.clip(-FURTHEST, now)
        token = gaps.column is GapColumn.INTER_TOKEN_LATENCY
        instrument = self.inter_token_latency if token else self.inter_emission_latency
        values = np.ascontiguousarray(gaps.values)
        instrument.hold(Observations(values, gaps.counts, at))
        self._publish(gaps, sinks)

    @staticmethod
    def _publish(block: Drained, sinks: Iterable[Listener]) -> None:
        for sink in sinks:
            sink(block)


def _pairs(values: Floats, rejections: Rejections) -> Iterable[Gaps]:
    """(latency, count) rows as gaps; a count that is no whole number > 0 is refused."""
    for column in (GapColumn.INTER_TOKEN_LATENCY, GapColumn.INTER_EMISSION_LATENCY):
        at, latencies, counts = (values[:, place] for place in (GapColumn.AT, column, column + 1))
        if not counts.all():
            counted = counts != 0
            if not counted.any():
                continue
            at, latencies, counts = at[counted], latencies[counted], counts[counted]
        fit = (counts > 0) & (counts < _MAX_COUNT) & (counts == np.floor(counts))
        refused = len(fit) - int(np.count_nonzero(fit))
        if refused:
            rejections.add(RejectReason.NOT_WHOLE, refused, "the count of a (latency, count) pair")
            at, latencies, counts = at[fit], latencies[fit], counts[fit]
        yield Gaps(column, at, latencies, counts.astype(np.int64))
