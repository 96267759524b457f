"""How does the analysis of recorded runs grow? 1e5, 1e6 and 1e7 requests, in a DuckDB that may take 256 MB.

    python benchmarks/analysis.py [--quick] [--json FILE]

Needs the extra `analysis`. Requests as a ledger stores them, in Parquet; what their instants tell is computed when they
are read. Counted are requests by reason, tokens, attainment of two targets, and the exact percentiles of seven
latencies; beside them DuckDB's own exact quantiles of the same columns with the same memory, which may not go to the
disk in either case. A child process each, whose peak of resident memory is the kernel's own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchscope import SloTargets
from batchscope.ledger.analysis import requests as of_requests
from batchscope.ledger.analysis.derived import filled_requests
from batchscope.ledger.analysis.selection import summarize_columns
from batchscope.ledger.analysis.tables import duckdb_connection
from batchscope.ledger.schema import SCHEMAS, Table
from harness.document import Document, Figure, Target, judged
from harness.machine import describe
from harness.runner import child_environment
from harness.show import finish, options

SIZES, QUICK_SIZES = (100_000, 1_000_000, 10_000_000), (10_000, 100_000)
CHUNK = 500_000
MEMORY = "256MB"
SLO = {"default": SloTargets(time_to_first_token=1.0, time_per_output_token=0.05)}
PATIENCE = 600.0
MIB = 2**20


def write_requests(path: Path, count: int) -> None:
    """As many finished requests as a ledger would have stored them."""
    random = np.random.default_rng(1)
    with pq.ParquetWriter(path, SCHEMAS[Table.REQUESTS], compression="zstd") as writer:
        for first in range(0, count, CHUNK):
            writer.write_table(requests(random, first, min(CHUNK, count - first)))


def requests(random: np.random.Generator, first: int, count: int) -> pa.Table:
    arrived = (first + np.arange(count)) / 100.0
    scheduled = arrived + random.exponential(0.3, count)
    first_token = scheduled + random.lognormal(-2, 0.7, count)
    tokens = random.integers(1, 400, count)
    last_token = first_token + (tokens - 1) * random.lognormal(-3.5, 0.3, count)
    reasons = np.array(["eos_token_reached", "max_tokens_reached", "timeout", "cancelled"])
    known = {
        "request": np.arange(first, first + count), "request_id": np.char.add("request-", np.arange(count).astype(str)),
        "segment": np.zeros(count, np.int32), "request_class": np.full(count, "default"),
        "reason": reasons[random.choice(4, count, p=[0.6, 0.3, 0.05, 0.05])], "arrived_at": arrived,
        "first_scheduled_at": scheduled, "first_token_at": first_token, "last_token_at": last_token,
        "finished_at": last_token, "preempted_time": np.zeros(count), "tokens_generated": tokens,
        "prompt_tokens": random.integers(1, 4000, count), "preemptions": np.zeros(count, np.int64),
    }  # fmt: skip
    return pa.table(
        {field.name: known.get(field.name, pa.nulls(count, field.type)) for field in SCHEMAS[Table.REQUESTS]}
    ).cast(SCHEMAS[Table.REQUESTS])


def child(path: str) -> None:
    """Times of one size, and what the process took, on one line."""
    con = duckdb_connection(MEMORY)
    con.raw_sql("SET temp_directory = ''")
    table = con.create_view("requests", filled_requests(con.read_parquet(path)))
    begun = time.perf_counter()
    for expression in (of_requests.by_reason(table), of_requests.sums(table), of_requests.attainment(table, SLO)):
        expression.to_pyarrow()
    counted = time.perf_counter()
    summarize_columns(of_requests.completed(table), of_requests.LATENCIES, 0.0)
    done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([counted - begun, done - counted, peak, own_quantiles(con)]))


def own_quantiles(con: object) -> float | None:
    """Seconds that DuckDB's own quantiles take; None where its memory does not suffice."""
    columns = ", ".join(f"quantile_cont({name}, [0.5, 0.9, 0.95, 0.99])" for name in of_requests.LATENCIES)
    begun = time.perf_counter()
    try:
        con.con.execute(f"SELECT {columns} FROM requests").fetchall()  # type: ignore[attr-defined]  # noqa: S608
    except Exception:  # noqa: BLE001  (out of memory is what is looked for)
        return None
    return time.perf_counter() - begun


def measure(sizes: tuple[int, ...], *, quick: bool) -> Document:
    started, figures, targets = time.monotonic(), [], []
    with tempfile.TemporaryDirectory() as folder:
        for count in sizes:
            path = Path(folder) / "requests.parquet"
            write_requests(path, count)
            done = subprocess.run(
                [sys.executable, __file__, "--child", str(path)],
                check=True, stdout=subprocess.PIPE, encoding="utf-8", env=child_environment(), timeout=PATIENCE,
            )  # fmt: skip
            found = json.loads(done.stdout)
            figures += figures_of(count, path.stat().st_size, *found)
            targets.append(target_of(count, sum(found[:2])))
    return Document(
        benchmark="analysis", quick=quick, seconds=time.monotonic() - started, machine=describe(),
        settings={"memory of DuckDB": MEMORY}, figures=figures, targets=targets,
    )  # fmt: skip


def figures_of(count: int, size: int, counted: float, selected: float, peak: int, own: float | None) -> list[Figure]:
    group = f"{count:,} requests"
    named = [
        ("their file", "MiB", size / MIB), ("counts, tokens, attainment", "s", counted),
        ("exact percentiles of seven latencies", "s", selected), ("peak of the process", "MiB", peak / MIB),
    ]  # fmt: skip
    figures = [Figure(group=group, name=name, unit=unit, best=value, rounds=1) for name, unit, value in named]
    absent = None if own is not None else "out of memory"
    return [*figures, Figure(group=group, name="DuckDB's own quantiles", unit="s", best=own, rounds=1, absent=absent)]


def target_of(count: int, seconds: float) -> Target:
    return judged(f"{count:,} requests in {MEMORY}: seconds a million", "<=", 5.0, "s", seconds / max(count / 1e6, 1.0))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = options(parser)
    finish(measure(QUICK_SIZES if chosen.quick else SIZES, quick=chosen.quick), chosen.json)


if __name__ == "__main__":
    main()
