"""Arrow tables of the ledger's shape from what a ``RecordingSink`` heard."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from batchscope.ledger.analysis.tables import RunTables, duckdb_connection
from batchscope.rows import LIMITERS, REASONS, IterationColumn, RequestColumn, RowKind, SpanColumn, Trait

R, I, S = RequestColumn, IterationColumn, SpanColumn
WHOLE_OF_REQUEST = ("tokens_generated", "prompt_tokens", "cached_tokens", "recomputed_tokens", "preemptions")


def floats(values):
    return pa.array(np.ascontiguousarray(values), from_pandas=True)


def whole(values):
    return pa.compute.cast(floats(values), pa.int64())


def arrow_tables(sink):
    """requests, iterations, spans, events."""
    requests, iterations, spans = [], [], []
    for segment, run in enumerate(sink.runs):
        for block in run.blocks:
            kind = getattr(block, "kind", None)
            if kind is RowKind.REQUEST:
                requests.append(request_table(block, segment, run.header))
            elif kind is RowKind.ITERATION:
                iterations.append(iteration_table(block.values, segment))
            elif kind is RowKind.SPAN:
                columns = {c.name.lower(): whole(block.values[:, c]) for c in S if c is not S.AT}
                spans.append(pa.table({**columns, "evicted": pa.array(block.values[:, S.EVICTED] == 1)}))
    events = pa.table(
        {
            "at": pa.array([], pa.float64()), "segment": pa.array([], pa.int32()), "kind": pa.array([], pa.string()),
            "name": pa.array([], pa.string()), "count": pa.array([], pa.int64()), "detail": pa.array([], pa.string()),
        }
    )  # fmt: skip
    return pa.concat_tables(requests), pa.concat_tables(iterations), pa.concat_tables(spans), events


def request_table(block, segment, header):
    values = block.values
    columns = {
        "request": whole(values[:, R.NUMBER]),
        "request_id": pa.array([str(each) for each in block.objects], pa.string()),
        "segment": pa.array(np.full(len(values), segment), pa.int32()),
        "request_class": pa.array([header.request_classes[int(code)] for code in values[:, R.REQUEST_CLASS]]),
        "reason": pa.array([str(REASONS[int(code)]) for code in values[:, R.REASON]]),
    }
    left_out = (R.NUMBER, R.REQUEST_CLASS, R.REASON, R.OBSERVED)
    for column in R:
        if column not in left_out:
            name = column.name.lower()
            columns[name] = (whole if name in WHOLE_OF_REQUEST else floats)(values[:, column])
    return pa.table(columns)


def iteration_table(values, segment):
    columns = {"segment": pa.array(np.full(len(values), segment), pa.int32())}
    for column in I:
        name = "iteration" if column is I.ORDINAL else column.name.lower()
        if column is I.LIMITED_BY:
            columns[name] = pa.array([str(LIMITERS[int(code)]) for code in values[:, column]])
        elif column is I.LIMITER_REPORTED:
            columns[name] = pa.array(values[:, column] == 1)
        elif column.traits & (Trait.COUNT | Trait.BYTES) or column in (I.ORDINAL, I.DECODE_TOKENS):
            columns[name] = whole(values[:, column])
        else:
            columns[name] = floats(values[:, column])
    return pa.table(columns)


def tables_of(sink, ended):
    """The same as expressions on a DuckDB of their own."""
    con = duckdb_connection(threads=1)
    names = ("requests", "iterations", "spans", "events")
    for name, table in zip(names, arrow_tables(sink), strict=True):
        con.con.register(name, table)
    header = sink.runs[0].header
    began = header.anchor_instant + (header.started_at - header.anchor_time).total_seconds()
    return RunTables(*map(con.table, names), [run.header for run in sink.runs], began, ended)
