"""Drained rows as record batches of the tables, and a table's numbers as rows again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchscope.configuration import SchedulerLimits
from batchscope.ledger.derived import bare_iterations, bare_requests, fill_iterations, fill_requests
from batchscope.ledger.schema import MEASURED, SCHEMAS, Table
from batchscope.rows import (
    LIMITERS,
    REASONS,
    Floats,
    IterationColumn,
    RequestColumn,
    RowKind,
    SpanColumn,
    empty_rows,
)  # fmt: skip
from batchscope.sinks import RunHeader
from batchscope.text import readable

_REASONS = pa.array([reason.value for reason in REASONS])
_LIMITERS = pa.array([limiter.value for limiter in LIMITERS])

_WHOLE_OF_SPAN = tuple(SpanColumn)[SpanColumn.REQUEST : SpanColumn.EVICTED]


def request_batch(rows: Floats, request_ids: list[Any] | None, segment: int, header: RunHeader) -> pa.RecordBatch:
    """Finished requests of one segment."""
    columns = {
        "request": _ints(rows[:, RequestColumn.NUMBER]),
        "request_id": _texts(request_ids, len(rows)),
        "request_class": _names(rows[:, RequestColumn.REQUEST_CLASS], pa.array(header.request_classes, pa.string())),
        "reason": _names(rows[:, RequestColumn.REASON], _REASONS),
    }
    return _batch(Table.REQUESTS, bare_requests(rows), RowKind.REQUEST, columns, segment)


def iteration_batch(rows: Floats, segment: int, header: RunHeader) -> pa.RecordBatch:
    """Iterations of one segment."""
    columns = {
        "iteration": _ints(rows[:, IterationColumn.ORDINAL]),
        "rank": _ints(np.nan_to_num(rows[:, IterationColumn.RANK]), np.int32),
        "limited_by": _names(rows[:, IterationColumn.LIMITED_BY], _LIMITERS),
        "limiter_reported": pa.array(rows[:, IterationColumn.LIMITER_REPORTED] == 1),
    }
    return _batch(Table.ITERATIONS, bare_iterations(rows, header.limits), RowKind.ITERATION, columns, segment)


def span_batch(rows: Floats) -> pa.RecordBatch:
    """Which request took part in which iterations."""
    arrays = [_ints(rows[:, column]) for column in _WHOLE_OF_SPAN]
    return pa.RecordBatch.from_arrays(
        [*arrays, pa.array(rows[:, SpanColumn.EVICTED] == 1)], schema=SCHEMAS[Table.SPANS]
    )


def filled(table: pa.Table, of: Table, limits: Iterable[SchedulerLimits]) -> pa.Table:
    """``table`` of requests or iterations with what follows from its columns; ``limits`` by segment."""
    kind = RowKind.REQUEST if of is Table.REQUESTS else RowKind.ITERATION
    rows = measured_rows(table, kind)
    if kind is RowKind.REQUEST:
        fill_requests(rows)
    else:
        segments = table.column("segment").to_numpy()
        for segment, each in enumerate(limits):
            mine = segments == segment
            some = rows[mine]
            fill_iterations(some, each)
            rows[mine] = some
    for column in MEASURED[kind]:
        name = column.name.lower()
        place = table.schema.get_field_index(name)
        if pa.types.is_floating(table.schema.field(place).type):
            table = table.set_column(place, table.schema.field(place), _floats(rows[:, column]))
    return table


def measured_rows(table: pa.Table, kind: RowKind) -> Floats:
    """The numbers of ``table`` as rows of ``kind``; what the table does not have is ``nan``."""
    rows = empty_rows(kind, len(table))
    for column in MEASURED[kind]:
        values = pc.cast(table.column(column.name.lower()), pa.float64(), safe=False)
        rows[:, column] = pc.fill_null(values, np.nan).to_numpy()
    return rows


def _batch(table: Table, rows: Floats, kind: RowKind, others: dict[str, pa.Array], segment: int) -> pa.RecordBatch:
    numbers = {column.name.lower(): rows[:, column] for column in MEASURED[kind]}
    others["segment"] = pa.array(np.full(len(rows), segment, dtype=np.int32))
    arrays = []
    for field in SCHEMAS[table]:
        if field.name in others:
            arrays.append(others[field.name])
        else:
            made = _ints if pa.types.is_integer(field.type) else _floats
            arrays.append(made(numbers[field.name]))
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMAS[table])


def _floats(values: Floats) -> pa.Array:
    missing = np.isnan(values)
    if missing.all():
        return pa.nulls(len(values), pa.float64())
    return pa.array(np.ascontiguousarray(values), mask=missing)


def _ints(values: Floats, kind: npt.DTypeLike = np.int64) -> pa.Array:
    missing = np.isnan(values)
    if not missing.any():
        return pa.array(values.astype(kind))
    if missing.all():
        return pa.nulls(len(values), pa.from_numpy_dtype(kind))
    return pa.array(np.where(missing, 0.0, values).astype(kind), mask=missing)


def _texts(ids: list[Any] | None, count: int) -> pa.Array:
    """Ids as texts; most are."""
    ids = [None] * count if ids is None else ids
    try:
        return pa.array(ids, pa.string()).fill_null("")
    except (pa.ArrowException, TypeError, UnicodeError):
        return pa.array(["" if each is None else readable(str(each)) for each in ids], pa.string())


def _names(codes: Floats, names: pa.Array) -> pa.Array:
    return names.take(pa.array(codes.astype(np.int64)))
