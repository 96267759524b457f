"""Percentiles by counting bits: exact, whatever the values, and in bounded memory."""

from __future__ import annotations

import math

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchscope.ledger.analysis import selection
from batchscope.ledger.analysis.selection import Column, percentiles, rounded, summarize
from batchscope.ledger.analysis.tables import duckdb_connection
from batchscope.statistics.distributions import linear_percentile
from batchscope.statistics.distributions import summarize as summarize_array

durations = st.floats(0, 1e6, allow_nan=False, allow_subnormal=False)
near = st.integers(0, 40).map(lambda step: 0.02 + step * 2.0**-52)
"""Values that differ in their last bits only."""


@pytest.fixture(scope="module")
def con():
    return duckdb_connection(threads=1)


def column(con, values, weights=None):
    columns = {"x": pa.array(values, pa.float64(), from_pandas=True)}
    if weights is not None:
        columns["w"] = pa.array(weights, pa.int64())
    con.con.register("numbers", pa.table(columns))
    return Column(con.table("numbers"), "x", None if weights is None else "w")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.one_of(durations, near), min_size=1, max_size=60), st.sampled_from([1, 3, 1 << 17]))
def test_percentiles_are_those_of_the_sorted_values_to_the_last_bit(con, values, fetched):
    """Whichever pass finds them: buckets too large to fetch are counted again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "MOST_FETCHED", fetched)
        found = percentiles(column(con, values), len(values), (0, 50, 90, 95, 99, 100))
        together = selection.summarize_columns(con.table("numbers"), ["x"], 1.0)["x"]
    ordered = np.sort(np.array(values))
    assert found == [linear_percentile(ordered, percentile) for percentile in (0, 50, 90, 95, 99, 100)]
    assert [together.p50, together.p90, together.p95, together.p99] == found[1:5]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(durations, st.integers(1, 9)), min_size=1, max_size=40))
def test_a_weight_counts_a_value_as_often(con, pairs):
    values, weights = zip(*pairs, strict=True)
    found = summarize(column(con, values, weights))
    wanted = summarize_array(np.repeat(np.array(values), weights))
    assert (found.count, found.p50, found.p90, found.p99, found.max) == (
        wanted.count, wanted.p50, wanted.p90, wanted.p99, wanted.max,
    )  # fmt: skip
    assert found.mean == pytest.approx(wanted.mean, rel=1e-12)


def test_what_was_not_measured_is_left_out_and_of_nothing_nothing_is_known(con):
    assert summarize(column(con, [math.nan, 2.0, math.nan])).p50 == 2.0
    empty = summarize(column(con, [math.nan]))
    assert empty.count == 0
    assert math.isnan(empty.p99)


@given(st.lists(st.floats(0, 1e280, allow_subnormal=False), min_size=2, max_size=20), st.sampled_from([8, 13, 33, 53]))
def test_rounding_keeps_the_order_and_stays_within_its_bits(values, bits):
    ordered = np.sort(np.array(values))
    found = rounded(ordered, bits)
    assert (np.diff(found) >= 0).all()
    assert (np.abs(found - ordered) <= ordered * 2.0**-bits + 5e-324).all()


def test_ten_million_values_fit_where_the_engines_own_quantile_runs_out_of_memory(tmp_path):
    """96 MB. The engine's exact quantile, within the same memory, is the negative control."""
    path = tmp_path / "requests.parquet"
    with duckdb.connect() as maker:
        numbers = "SELECT exp(2 * sin(i) + (hash(i) % 1000003) / 250000.0) AS total_time FROM range(10000000) r(i)"
        maker.sql(numbers).write_parquet(str(path))
    con = duckdb_connection("96MB", threads=2)
    con.raw_sql("SET temp_directory = ''")  # nothing goes to the disk instead
    table = con.read_parquet(str(path))
    found = summarize(Column(table, "total_time"))
    assert found.count == 10_000_000
    below = table.agg(
        **{f"p{p}": (table.total_time <= getattr(found, f"p{p}")).sum() for p in (50, 90, 95, 99)}
    ).to_pyarrow().to_pylist()[0]  # fmt: skip
    for percentile in (50, 90, 95, 99):
        assert below[f"p{percentile}"] == (10_000_000 - 1) * percentile // 100 + 1
    with pytest.raises(duckdb.OutOfMemoryException):
        con.con.execute(f"SELECT quantile_cont(total_time, 0.99) FROM '{path}'").fetchall()  # noqa: S608
