"""What a ``RecordingSink`` heard as the tables of a ledger: runs for tests without a folder."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from batchscope.rows import LIMITERS, REASONS, IterationColumn, RequestColumn, RowKind, Rows, SpanColumn
from batchscope.testing.sink import RecordedRun

_FLOATS = {"at", "started_at", "finished_at", "arrived_at", "first_scheduled_at", "first_token_at", "last_token_at"}


def tables(run: RecordedRun) -> tuple[pa.Table, pa.Table, pa.Table]:
    """requests, iterations, spans."""
    blocks = [block for block in run.blocks if isinstance(block, Rows) and block.kind is RowKind.REQUEST]
    ids = [str(one) for block in blocks for one in block.objects or []]
    requests = _table(run.rows(RowKind.REQUEST), RequestColumn)
    classes = [run.header.request_classes[int(code)] for code in requests.pop("request_class")]
    reasons = [str(REASONS[int(code)]) for code in requests.pop("reason")]
    requests["request"] = np.asarray(requests.pop("number"), np.int64)
    iterations = _table(run.rows(RowKind.ITERATION), IterationColumn)
    iterations["iteration"] = np.asarray(iterations.pop("ordinal"), np.int64)
    limiters = [str(LIMITERS[int(code)]) for code in iterations.pop("limited_by")]
    spans = {name: np.nan_to_num(column) for name, column in _table(run.rows(RowKind.SPAN), SpanColumn).items()}
    for name in ("request", "first_iteration", "iterations", "tokens", "evicted"):
        spans[name] = spans[name].astype(np.int64)
    return (
        pa.table({**_nulls(requests), "request_id": ids, "request_class": classes, "reason": reasons}),
        pa.table({**_nulls(iterations), "limited_by": limiters}),
        pa.table(spans),
    )


def _table(rows, columns) -> dict[str, np.ndarray]:
    return {column.name.lower(): np.ascontiguousarray(rows[:, column]) for column in columns}


def _nulls(columns) -> dict[str, pa.Array]:
    return {name: pa.array(column, from_pandas=True) for name, column in columns.items()}


class HeardRun:
    """What ``open_run`` gives, as far as explaining needs it."""

    def __init__(self, run: RecordedRun, *, spans: bool = True) -> None:
        self.headers = [run.header]
        self._requests, self._iterations, self._spans = tables(run)
        self._spans = self._spans if spans else self._spans.slice(0, 0)

    def requests(self) -> pa.Table:
        return self._requests

    def iterations(self) -> pa.Table:
        return self._iterations

    def spans(self) -> pa.Table:
        return self._spans
