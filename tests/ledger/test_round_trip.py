"""What is read is to the bit what was heard, on random histories, however often it was written and converted between."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from random_histories import random_run

from batchscope import CompletionReason, RequestResult, SchedulerLimits, SchedulerMetricsCollector
from batchscope.ledger import open_run
from batchscope.ledger.derived import bare_iterations, bare_requests, fill_iterations, fill_requests
from batchscope.ledger.document import RunDocument
from batchscope.ledger.schema import COLUMNS, MEASURED, SCHEMAS, Level, Table
from batchscope.ledger.writer import RunWriter
from batchscope.rows import IterationColumn, RequestColumn, RowKind, empty_rows


def written(heard, folder, rng, level=Level.DEFAULT):
    """A run of what was heard, written at random moments, and converted at some of them."""
    now = [0.0]
    writer = RunWriter(folder, RunDocument(level=level), lambda: now[0], part_seconds=50.0, pace=lambda: now[0])
    writer.begin(heard.header)
    for block in heard.blocks:
        writer.take(block)
        now[0] += rng.choice((0.0, 1.0, 9.0))
        if rng.random() < 0.3:
            writer.flush()
    writer.end()
    writer.close({})
    return open_run(folder)


def equal_to_the_bit(table, rows, kind):
    for column in MEASURED[kind]:
        found = table.column(column.name.lower()).to_pandas().to_numpy(dtype=np.float64, na_value=np.nan)
        np.testing.assert_array_equal(
            found.view(np.int64)[~np.isnan(found)], rows[:, column][~np.isnan(found)].view(np.int64)
        )
        np.testing.assert_array_equal(np.isnan(found), np.isnan(rows[:, column]), err_msg=column.name)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), ranks=st.sampled_from([1, 1, 2]), drains=st.sampled_from([1, 3, 50]))
def test_every_column_and_every_tokens_instant_is_what_a_sink_heard(seed, ranks, drains):
    heard = random_run(seed, ranks=ranks, drains=drains)
    with tempfile.TemporaryDirectory() as folder:
        run = written(heard, Path(folder), Random(seed))
        assert (run.state, run.problems, run.headers) == ("finished", [], [heard.header])
        equal_to_the_bit(run.requests(), heard.rows(RowKind.REQUEST), RowKind.REQUEST)
        equal_to_the_bit(run.iterations(), heard.rows(RowKind.ITERATION), RowKind.ITERATION)
        tokens = run.tokens()
        at = tokens.column("at").to_pandas().to_numpy()
        requests = tokens.column("request").to_numpy()
        instants = heard.token_instants()
        assert {int(request): at[requests == request].tolist() for request in np.unique(requests)} == instants
        assert sum(map(len, instants.values())) == len(tokens)
        numbers = heard.rows(RowKind.REQUEST)[:, RequestColumn.NUMBER]
        assert run.unfinished() == sorted(set(heard.rows(RowKind.SPAN)[:, 1].astype(int)) - set(numbers.astype(int)))


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_spans_are_as_few_as_if_it_had_been_drained_once(seed):
    """The same history, drained at every iteration or never, and cut into parts or not: the same spans."""
    often, once = random_run(seed, drains=1), random_run(seed, drains=1000)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        spans = written(often, Path(first), Random(1)).spans()
        assert spans.equals(written(once, Path(second), Random(2)).spans())


def test_a_lean_run_has_all_but_the_spans():
    heard = random_run(5)
    with tempfile.TemporaryDirectory() as folder:
        run = written(heard, Path(folder), Random(5), Level.LEAN)
        assert (run.spans().num_rows, run.tokens().num_rows, run.unfinished()) == (0, 0, [])
        assert not list(run.path.glob("spans*"))
        assert run.document.left_out["span"] == len(heard.rows(RowKind.SPAN))
        equal_to_the_bit(run.requests(), heard.rows(RowKind.REQUEST), RowKind.REQUEST)


floats = st.one_of(st.just(np.nan), st.floats(0, 1e6), st.integers(0, 8).map(float))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(floats, min_size=len(RequestColumn), max_size=len(RequestColumn)), max_size=6))
def test_what_is_left_out_of_requests_comes_back_to_the_bit(values):
    """Whatever durations were given beside the instants; those that could be derived were."""
    rows = np.asfortranarray(np.array(values, dtype=np.float64).reshape(len(values), len(RequestColumn)))
    fill_requests(rows)  # as the drain does
    back = bare_requests(rows)
    fill_requests(back)
    np.testing.assert_array_equal(back, rows)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(floats, min_size=len(IterationColumn), max_size=len(IterationColumn)), max_size=6),
    st.sampled_from([SchedulerLimits(), SchedulerLimits(3, 7), SchedulerLimits(8, 100, pipeline_stages=3)]),
)
def test_what_is_left_out_of_iterations_comes_back_to_the_bit(values, limits):
    rows = np.asfortranarray(np.array(values, dtype=np.float64).reshape(len(values), len(IterationColumn)))
    fill_iterations(rows, limits)
    back = bare_iterations(rows, limits)
    fill_iterations(back, limits)
    np.testing.assert_array_equal(back, rows)


def test_columns_and_rows_have_the_same_numbers():
    for kind, table in ((RowKind.REQUEST, Table.REQUESTS), (RowKind.ITERATION, Table.ITERATIONS)):
        assert empty_rows(kind, 0).shape[1] > len(MEASURED[kind])
        assert {column.name.lower() for column in MEASURED[kind]} < {column.name for column in COLUMNS[table]}


def test_ids_and_errors_of_any_text_are_kept(tmp_path):
    names = ["plain", "äöü \U0001f600", "lone \udc80 surrogate", "", "x" * 1000, 17, None, ("a", 1)]
    with SchedulerMetricsCollector() as collector:
        collector.record_to(tmp_path)
        for name in names:
            collector.record_request_completion(RequestResult(name, 1, CompletionReason.OTHER, 0.5))
        collector.record_error("lone \udc80 surrogate")
    run = open_run(tmp_path)
    ids = run.requests().column("request_id").to_pylist()
    assert ids[:4] == ["plain", "äöü \U0001f600", "lone \\udc80 surrogate", ""]
    assert (len(ids[4]), ids[5:]) == (256, ["17", "", "('a', 1)"])
    assert run.requests().column("request").to_pylist() == list(range(1, 9))
    assert run.requests().column("arrived_at").null_count == 8
    assert run.events().column("name").to_pylist() == ["lone \\udc80 surrogate"]


def test_duckdb_pandas_and_polars_read_it_without_batchscope(tmp_path):
    """The statement of docs/ledger.md gives each what batchscope gives: what follows from other columns is null."""
    heard = random_run(11, iterations=80)
    run = written(heard, tmp_path, Random(11))
    ours = run.requests().to_pandas()
    files = str(tmp_path / "requests-*.parquet")
    statement = f"""
        SELECT request, coalesce(total_time, finished_at - arrived_at) AS total_time,
               coalesce(time_to_first_token, first_token_at - arrived_at) AS time_to_first_token
        FROM '{files}' ORDER BY finished_at, request
    """  # noqa: S608  (a path of the test's own)
    of_duckdb = duckdb.sql(statement).df()
    of_polars = pl.scan_parquet(files).with_columns(
        pl.coalesce("total_time", pl.col("finished_at") - pl.col("arrived_at")).alias("total_time")
    ).sort("finished_at", "request").collect()  # fmt: skip
    of_pandas = pd.concat([pd.read_parquet(path) for path in sorted(tmp_path.glob("requests-*.parquet"))])
    ours = ours.sort_values(["finished_at", "request"])
    for column in ("total_time", "time_to_first_token"):
        np.testing.assert_array_equal(of_duckdb[column], ours[column])
    np.testing.assert_array_equal(of_polars["total_time"].to_numpy(), ours["total_time"])
    assert sorted(of_pandas["request"]) == sorted(ours["request"])
    spans = duckdb.sql(f"SELECT sum(iterations * tokens) FROM '{tmp_path}/spans-*.parquet'").fetchall()[0][0]  # noqa: S608
    assert spans == run.tokens().num_rows
    assert pl.scan_parquet(tmp_path / "iterations-*.parquet").select(pl.len()).collect().item() == len(run.iterations())


def test_units_and_meanings_stand_in_the_files(tmp_path):
    written(random_run(3), tmp_path, Random(3))
    for path in tmp_path.glob("*.parquet"):
        schema = pq.read_schema(path)
        table = Table(path.name.split("-")[0])
        assert schema.metadata[b"schema"] == b"batchscope.ledger/1"
        assert schema.remove_metadata().equals(SCHEMAS[table].remove_metadata())
        for field in schema:
            assert field.metadata[b"unit"] == SCHEMAS[table].field(field.name).metadata[b"unit"]
            assert field.metadata[b"meaning"]
