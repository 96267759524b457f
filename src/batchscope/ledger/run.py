"""A recorded run, read: its tables, of which engine it is, and what is missing in it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchscope.errors import DecodeError
from batchscope.ledger.batches import filled
from batchscope.ledger.document import NAME, RunDocument, State, read_document
from batchscope.ledger.lock import being_written
from batchscope.ledger.parts import Part, mark_of, parts
from batchscope.ledger.schema import SCHEMA, SCHEMAS, TOKENS, Table
from batchscope.ledger.spans import joined, token_instants
from batchscope.ledger.staging import Mark, read_staged
from batchscope.sinks import RunHeader

INTERRUPTED = "interrupted"


class _Contents:
    """All parts of a run, as they were when it was opened, and what is wrong with them."""

    def __init__(self, folder: Path) -> None:
        self.tables: dict[Table, list[pa.Table]] = {table: [] for table in Table}
        self._written = dict.fromkeys(Table, 0)
        self.marks: list[Mark] = []
        self.problems: list[str] = []
        for part in parts(folder):
            self._read(part)

    def _read(self, part: Part) -> None:
        if part.staged:
            staged = read_staged(part.path)
            self.tables[part.table].append(pa.Table.from_batches(staged.batches, schema=SCHEMAS[part.table]))
            self._note(part.table, staged.marks)
            if staged.torn_bytes:
                self.problems.append(f"{part.path.name}: ends in the middle of a write ({staged.torn_bytes} bytes)")
            return
        try:
            table = pq.read_table(part.path)
        except (pa.ArrowInvalid, OSError) as error:
            self.problems.append(f"{part.path.name}: cannot be read, left out ({error})")
            return
        metadata = table.schema.metadata or {}
        schema = metadata.get(b"schema", b"").decode()
        if schema != SCHEMA:
            raise DecodeError(
                f"{part.path}: schema = {schema!r}: expected {SCHEMA!r}; read it with the version that wrote it"
            )
        self._note(part.table, mark_of(metadata))
        self.tables[part.table].append(table.cast(SCHEMAS[part.table]))

    def table(self, table: Table) -> pa.Table:
        """All rows of a table, as they are stored."""
        found = self.tables[table]
        return pa.concat_tables(found) if found else SCHEMAS[table].empty_table()

    def _note(self, table: Table, marks: list[Mark]) -> None:
        self.marks += marks
        self._written[table] += max((mark.of_file(table) for mark in marks), default=0)

    def missing(self) -> dict[Table, int]:
        """Rows that some write says were written, and that are not there."""
        told = {table: max((mark.rows.get(table, 0) for mark in self.marks), default=0) for table in Table}
        return {table: told[table] - rows for table, rows in self._written.items() if rows < told[table]}


class Run:
    """A recorded run. Tables are pyarrow's; their columns and units: ``batchscope.ledger.schema``, docs/ledger.md."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.document: RunDocument = read_document(path)
        self._contents = _Contents(path)

    @property
    def headers(self) -> list[RunHeader]:
        """Of which engine, limits and generation its rows are, by their ``segment``."""
        return self.document.headers

    @property
    def header(self) -> RunHeader:
        """The last one; DecodeError in a run that ended before it began."""
        if not self.headers:
            raise DecodeError(f"{self.path}: an empty run: nothing was recorded")
        return self.headers[-1]

    @cached_property
    def state(self) -> str:
        """``finished``, ``stopped`` (the disk was full, say), ``recording`` still, or ``interrupted``: killed."""
        if self.document.state is State.RECORDING and not being_written(self.path):
            return INTERRUPTED
        return self.document.state.value

    @cached_property
    def problems(self) -> list[str]:
        """What is missing or wrong in it, a sentence each; empty: nothing is known to be missing."""
        missing = [f"{rows} rows of {table.value} are missing" for table, rows in self._contents.missing().items()]
        return [*self._contents.problems, *missing]

    def requests(self) -> pa.Table:
        """Finished requests, in the order of their ends."""
        return filled(self._contents.table(Table.REQUESTS), Table.REQUESTS, [])

    def iterations(self) -> pa.Table:
        """Iterations, in the order of their ends."""
        limits = [header.limits for header in self.headers]
        return filled(self._contents.table(Table.ITERATIONS), Table.ITERATIONS, limits)

    def spans(self) -> pa.Table:
        """Which request took part in which iterations, by request and iteration; empty in a lean run."""
        return joined(self._contents.table(Table.SPANS))

    def events(self) -> pa.Table:
        """Resets, other limits, errors, gaps in the record."""
        return self._contents.table(Table.EVENTS)

    def tokens(self) -> pa.Table:
        """Each token that was emitted: its request and its instant; by request, in order."""
        request, at = token_instants(self.spans(), self._contents.table(Table.ITERATIONS))
        return pa.Table.from_arrays([pa.array(request), pa.array(at, from_pandas=True)], schema=TOKENS)


def open_run(path: str | Path) -> Run:
    """The run in ``path``, its folder or a root that has just one; DecodeError where there is none, or several."""
    path = Path(path)
    if (path / NAME).exists():
        return Run(path)
    found = find_runs(path)
    if len(found) != 1:
        names = ", ".join(each.name for each in found[-5:])
        what = f"{len(found)} runs ({names}{', ...' if len(found) > 5 else ''}): name one" if found else "no run"
        raise DecodeError(f"{path}: {what}" + ("" if found else ": expected a folder with run.json, or one of runs"))
    return Run(found[0])


def find_runs(root: str | Path) -> list[Path]:
    """The folders of the runs in ``root``, oldest first; DecodeError where it cannot be read."""
    try:
        return sorted(each for each in Path(root).iterdir() if (each / NAME).is_file())
    except OSError as error:
        raise DecodeError(f"{root}: cannot be read ({error.strerror})") from error
