"""A recorded run as tables of a DuckDB, read from its files when they are asked for: none has to fit into memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from batchscope.errors import DecodeError, MissingExtraError
from batchscope.ledger.analysis.derived import filled_iterations, filled_requests
from batchscope.ledger.analysis.tables import RunTables, duckdb_connection
from batchscope.ledger.analysis.tables import Table as Expression
from batchscope.ledger.instants import began_at
from batchscope.ledger.run import Run
from batchscope.ledger.schema import SCHEMAS, Table
from batchscope.text import shown


def open_tables(run: Run, *, memory_limit: str | None = None, threads: int | None = None) -> RunTables:
    """The run's tables. ``memory_limit``, as ``"256MB"``: what DuckDB may take before it uses the disk."""
    con = duckdb_connection(memory_limit, threads)
    stored = {table: _stored(con, run, table) for table in Table}
    headers = [run.header, *run.headers][1:]  # an empty run has none, and says so
    requests = con.create_view("requests", filled_requests(stored[Table.REQUESTS]))
    iterations = con.create_view("iterations", filled_iterations(stored[Table.ITERATIONS], headers))
    began = began_at(headers[0])
    return RunTables(
        requests=requests,
        iterations=iterations,
        spans=con.create_view("spans", stored[Table.SPANS]),
        events=stored[Table.EVENTS],
        headers=headers,
        began=began,
        ended=_ended(run, began, requests, iterations),
        in_flight=run.document.in_flight,
    )


@contextlib.contextmanager
def reading(run: Run) -> Iterator[None]:
    """What DuckDB cannot do in it is a DecodeError: a file that is damaged inside, or was removed meanwhile.

    Its own signs of Ctrl-C become Python's.
    """
    try:
        import duckdb  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("the analysis of recorded runs", "analysis") from error
    try:
        yield
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from error
    except duckdb.Error as error:
        run.check_files()  # it names the file, which DuckDB does not
        raise DecodeError(f"{run.path}: cannot be analysed: {shown(str(error).splitlines()[0])}") from error


def _ended(run: Run, began: float, *tables: Expression) -> float:
    """The last that is known of it: of a killed run nobody wrote when it ended."""
    lasts: list[float | None] = [table.agg(at=table.at.max()).to_pyarrow()["at"][0].as_py() for table in tables]
    lasts.append(run.document.written_until)
    return max([began, *(last for last in lasts if last is not None and math.isfinite(last))])


def _stored(con: Any, run: Run, table: Table) -> Expression:
    """All rows of a table as they are stored: those of converted parts stay in their files."""
    files, staged = run.stored(table)
    con.con.register(f"staged_{table.value}", staged)
    rows = con.table(f"staged_{table.value}")
    if not files:
        return rows
    names = list(map(str, files))
    converted = con.read_parquet(names, table_name=f"converted_{table.value}").select(*SCHEMAS[table].names)
    return converted.union(rows) if len(staged) else converted
