"""Spark finds what DuckDB finds: every figure of a run, and percentiles of random data to the last bit."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recorded_tables import arrow_tables

from batchscope.ledger.analysis.over_time import over_time
from batchscope.ledger.analysis.selection import Column, percentiles, summarize
from batchscope.ledger.analysis.snapshot import snapshot_of
from batchscope.ledger.analysis.tables import RunTables, duckdb_connection
from batchscope.simulator import Disturbances, RequestSpec, SchedulerOptions
from batchscope.testing import RecordingSink

pytest.importorskip("pyspark", reason="Spark is not installed: make spark has it in an environment of its own")
NAMES = ("requests", "iterations", "spans", "events")


@pytest.fixture(scope="module")
def spark():
    """Ibis on a Spark of this process, with two threads."""
    import ibis
    from pyspark.sql import SparkSession

    settings = {
        "spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "2", "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1", "spark.log.level": "ERROR",
    }  # fmt: skip
    builder = SparkSession.builder.master("local[2]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield ibis.pyspark.connect(session)
    session.stop()


@pytest.fixture(scope="module")
def both(tmp_path_factory, spark):
    """The same random run as tables of DuckDB and of Spark, both reading the same Parquet files."""
    from test_run_snapshot import recorded_in

    random, sink = np.random.default_rng(7), RecordingSink()
    specs = [
        RequestSpec(str(i), float(at), int(prompt), int(output), request_class=["chat", "batch", "else"][i % 3])
        for i, (at, prompt, output) in enumerate(
            zip(
                np.sort(random.uniform(0, 20, 300)),
                random.integers(1, 600, 300),
                random.integers(1, 60, 300),
                strict=True,
            )
        )
    ]
    options = SchedulerOptions(max_running_requests=12, max_scheduled_tokens=256, kv_cache_blocks=200)
    disturbances = Disturbances(cancel_probability=0.1, timeout_probability=0.1, timeout_seconds=10.0)
    _, ended = recorded_in(sink, specs, options, disturbances)
    folder = tmp_path_factory.mktemp("spark")
    for name, table in zip(NAMES, arrow_tables(sink), strict=True):
        pq.write_table(table, folder / f"{name}.parquet")
    headers = [one.header for one in sink.runs]
    return [
        RunTables(*(con.read_parquet(str(folder / f"{name}.parquet")) for name in NAMES), headers, 0.0, ended)
        for con in (duckdb_connection(threads=1), spark)
    ]


def test_every_figure_of_a_run_is_the_same(both):
    """Counts, attainment, what is grouped by limiter, reason and class, percentiles: all of the snapshot."""
    duckdb, spark = (msgspec.to_builtins(snapshot_of(tables)) for tables in both)
    assert list(_different("", duckdb, spark)) == []
    assert duckdb["totals"]["preemptions"] > 0
    assert duckdb["slo_stats"]["chat"]["missed"] > 0


def _different(path, one, other):
    if isinstance(one, dict):
        for key in one.keys() | other.keys():
            yield from _different(f"{path}.{key}", one.get(key), other.get(key))
    elif isinstance(one, float) and isinstance(other, float):
        if not (math.isnan(one) and math.isnan(other)) and one != pytest.approx(other, rel=1e-12, abs=1e-12):
            yield f"{path}: {one}, {other} of Spark"
    elif one != other:
        yield f"{path}: {one!r}, {other!r} of Spark"


def test_percentiles_of_random_values_are_the_same_to_the_last_bit_whichever_pass_finds_them(spark, tmp_path):
    random = np.random.default_rng(3)
    values = np.concatenate([random.lognormal(-3, 2, 3000), 0.02 + random.integers(0, 9, 2000) * 2.0**-52])
    values[random.uniform(size=len(values)) < 0.05] = math.nan
    pq.write_table(pa.table({"x": pa.array(values, from_pandas=True)}), tmp_path / "x.parquet")
    known = np.sort(values[~np.isnan(values)])
    found = []
    for con in (duckdb_connection(threads=1), spark):
        table = con.read_parquet(str(tmp_path / "x.parquet"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("batchscope.ledger.analysis.selection.MOST_FETCHED", 100)
            found.append(percentiles(Column(table, "x"), len(known), (0, 1, 50, 90, 95, 99, 100)))
        assert summarize(Column(table, "x")).count == len(known)
    assert found[0] == found[1]
    assert found[0] == pytest.approx(np.percentile(known, (0, 1, 50, 90, 95, 99, 100)), rel=1e-15)


def test_a_run_over_time_is_the_same(both):
    duckdb, spark = (over_time(tables, 24) for tables in both)
    assert duckdb.busy.keys() == spark.busy.keys()
    for name, values in duckdb.counts.items():
        assert values.tolist() == spark.counts[name].tolist(), name
    for name, values in duckdb.busy.items():
        assert values == pytest.approx(spark.busy[name], rel=1e-9, abs=1e-12), name
    for name, buckets in duckdb.latencies.items():
        assert [part.tolist() for part in buckets] == [part.tolist() for part in spark.latencies[name]], name
