"""A tracker's rows as records: for metrics objects that have the four ``record_*`` methods and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from batchscope.configuration import SchedulerLimits
from batchscope.recording.producer import Attachable, Source
from batchscope.recording.rings import ProducerContext
from batchscope.records import IterationResult, RequestResult, SchedulerMetrics
from batchscope.rows import (
    LIMITERS,
    REASONS,
    BatchColumn,
    Floats,
    GapColumn,
    Gaps,
    IterationColumn,
    RequestColumn,
    RowKind,
    Rows,
)
from batchscope.tracking.events import Event, Telling

_REQUEST_FIELDS = [
    (column.name.lower(), column)
    for column in RequestColumn
    if column.name.lower() in RequestResult.__struct_fields__ and column.name != "REASON"
]
_ITERATION_FIELDS = [
    (column.name.lower(), column)
    for column in IterationColumn
    if column.name.lower() in IterationResult.__struct_fields__ and column.name != "LIMITED_BY"
]
_WHOLE = {
    name
    for record in (RequestResult, IterationResult)
    for name, kind in record.__annotations__.items()
    if "int" in str(kind)
}


class _ClassCodes(dict[str | None, float]):
    """Every class is told apart: a code the first time it is asked for."""

    def __missing__(self, key: str | None) -> float:
        return self.setdefault(key, float(len(self)))

    def get(self, key: str | None, default: Any = None) -> Any:  # noqa: ARG002
        return self[key]


def attached(collector: SchedulerMetrics, source: Source) -> ProducerContext:
    """Have ``source`` drained by ``collector``; one that does not drain is told each record at once."""
    return (collector if isinstance(collector, Attachable) else Forward(collector)).attach(source)


class Forward:
    """Reports a source's rows at once, record by record."""

    def __init__(self, metrics: SchedulerMetrics) -> None:
        self._metrics = metrics
        self._source: Source | None = None
        self._classes = _ClassCodes()
        self._hear: Callable[[Source, Sequence[Event]], None] | None = None

    def attach(self, source: Source) -> ProducerContext:
        """Forward ``source``; it drains itself after each call.

        A double that wants to know it, and what it was told before that became rows, has ``watch`` and ``hear``.
        """
        self._source = source
        watch = getattr(self._metrics, "watch", None)
        if callable(watch):
            watch(source)
        if isinstance(source, Telling):
            self._hear = getattr(self._metrics, "hear", None)
        return ProducerContext(
            time.monotonic, self._classes, 0.0, strict=False, relieve=self._forward,
            limits=getattr(self._metrics, "limits", None) or SchedulerLimits(), eager=True,
        )  # fmt: skip

    def _forward(self) -> None:
        if self._source is None:
            return
        if self._hear is not None and isinstance(self._source, Telling):
            self._hear(self._source, self._source.undrained())
        blocks = self._source.drain()
        gaps = [block for block in blocks if isinstance(block, Gaps)]
        for block in blocks:
            if isinstance(block, Rows):
                self._report(block, gaps)
        blocks.clear()

    def _report(self, block: Rows, gaps: list[Gaps]) -> None:
        names: list[str | None] = list(self._classes)
        if block.kind is RowKind.REQUEST:
            for row, request_id in zip(block.values, block.objects or (), strict=True):
                self._metrics.record_request_completion(_request(row, request_id, names))
        elif block.kind is RowKind.ITERATION:
            for row in block.values:
                self._metrics.record_iteration(_iteration(row, gaps))
        elif block.kind is RowKind.BATCH:
            for row in block.values:
                self._metrics.record_batch_utilization(
                    float(row[BatchColumn.UTILIZATION]),
                    batch_id=_whole(row[BatchColumn.BATCH_ID]),
                    request_count=_whole(row[BatchColumn.REQUEST_COUNT]),
                    memory_bytes_used=_whole(row[BatchColumn.MEMORY_BYTES_USED]),
                )


def _whole(value: float) -> int | None:
    return None if np.isnan(value) else int(value)


def _fields(row: Floats, fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: _whole(row[column]) if name in _WHOLE else float(row[column]) for name, column in fields}


def _request(row: Floats, request_id: Any, classes: list[str | None]) -> RequestResult:
    fields = _fields(row, [pair for pair in _REQUEST_FIELDS if pair[0] != "request_class"])
    return RequestResult(
        request_id=request_id,
        reason=REASONS[int(row[RequestColumn.REASON])],
        request_class=classes[int(row[RequestColumn.REQUEST_CLASS])],
        **fields,
    )


def _iteration(row: Floats, gaps: list[Gaps]) -> IterationResult:
    limiter = row[IterationColumn.LIMITED_BY]
    return IterationResult(
        limited_by=None if np.isnan(limiter) else LIMITERS[int(limiter)],
        inter_token_latencies=_latencies(GapColumn.INTER_TOKEN_LATENCY, row, gaps),
        inter_emission_latencies=_latencies(GapColumn.INTER_EMISSION_LATENCY, row, gaps),
        **_fields(row, _ITERATION_FIELDS),
    )


def _latencies(column: GapColumn, row: Floats, gaps: list[Gaps]) -> list[tuple[float, int]] | None:
    """The (latency, count) pairs of this iteration's end."""
    pairs: list[tuple[float, int]] = []
    for block in gaps:
        if block.column is column:
            mine = block.at == row[IterationColumn.FINISHED_AT]
            counts = np.ones(len(block.values), dtype=np.int64) if block.counts is None else block.counts
            pairs += zip(block.values[mine].tolist(), counts[mine].tolist(), strict=True)
    return pairs or None
