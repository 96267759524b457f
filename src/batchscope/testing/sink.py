"""A ``Sink`` that keeps everything it is told, run by run."""

from __future__ import annotations

from collections import defaultdict
from math import nan

import numpy as np

from batchscope.rows import COLUMNS, Floats, IterationColumn, RowKind, Rows, SpanColumn
from batchscope.sinks import Drained, Missed, RunHeader

S = SpanColumn


class RecordedRun:
    """What was told of one run: its header, its blocks in order, what was missed, and whether its end was told."""

    def __init__(self, header: RunHeader) -> None:
        self.header = header
        self.blocks: list[Drained] = []
        self.missed: list[Missed] = []
        self.ended = False

    def rows(self, kind: RowKind) -> Floats:
        """All rows of ``kind``; shape (n, columns of the kind)."""
        found = [block.values for block in self.blocks if isinstance(block, Rows) and block.kind is kind]
        return np.concatenate([np.empty((0, len(COLUMNS[kind]))), *found])

    def token_instants(self) -> dict[int, list[float]]:
        """The instant of every token that was emitted in this run, by the number of its request, in order.

        ``nan``: the iteration that emitted it was rejected.
        """
        ended = self.rows(RowKind.ITERATION)[:, (IterationColumn.ORDINAL, IterationColumn.FINISHED_AT)]
        finished = dict(ended.tolist())
        spans = self.rows(RowKind.SPAN)
        spans = spans[np.lexsort((spans[:, S.FIRST_ITERATION], spans[:, S.AT]))]
        spans = spans[spans[:, S.TOKENS] > 0]
        found: dict[int, list[float]] = defaultdict(list)
        chosen = spans[:, (S.REQUEST, S.FIRST_ITERATION, S.ITERATIONS, S.TOKENS)].astype(np.int64)
        for request, first, iterations, tokens in chosen.tolist():
            for ordinal in range(first, first + iterations):
                found[request] += [finished.get(ordinal, nan)] * tokens
        return dict(found)


class RecordingSink:
    """Subscribe it to a collector: ``runs`` then has all it says, unbounded: for tests."""

    def __init__(self) -> None:
        self.runs: list[RecordedRun] = []

    def begin(self, header: RunHeader) -> None:
        """Another run."""
        self.runs.append(RecordedRun(header))

    def take(self, block: Drained) -> None:
        """Keep a block."""
        self.runs[-1].blocks.append(block)

    def missed(self, missed: Missed) -> None:
        """Keep what a ``HandOver`` had no room for."""
        self.runs[-1].missed.append(missed)

    def end(self) -> None:
        """The last run is over."""
        self.runs[-1].ended = True
