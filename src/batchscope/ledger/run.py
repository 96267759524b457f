"""A recorded run, read: its tables, of which engine it is, and what is missing in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchscope.clock import WENT_BACK
from batchscope.errors import DecodeError
from batchscope.ledger.batches import filled
from batchscope.ledger.document import NAME, RunDocument, State, read_document
from batchscope.ledger.lock import being_written
from batchscope.ledger.parts import Part, marks_of, parts
from batchscope.ledger.schema import SCHEMA, SCHEMAS, TOKENS, Table
from batchscope.ledger.spans import joined, token_instants
from batchscope.ledger.staging import Mark, Staged, read_staged
from batchscope.sinks import RunHeader
from batchscope.text import quoted, shown

INTERRUPTED = "interrupted"
"""The state of a run whose process ended without closing it."""
_ATTEMPTS = 5
_DAMAGED = pa.ArrowException, OSError, ValueError  # whatever stands in a file: a name that is no text, too


class _Contents:
    """All parts of a run, as they were when it was opened, and what is wrong with them.

    Converted files are looked at, and read when their rows are asked for: a run may be larger than memory.
    ``live``: it is being written. Then a write that is not in all its files yet is left for later.
    """

    def __init__(self, folder: Path, told: Mapping[str, int], *, live: bool) -> None:
        self.problems: list[str] = []
        self.until = -math.inf
        self._in_order: dict[Table, list[Path | Staged]] = {table: [] for table in Table}
        self._staged: list[tuple[Table, Staged]] = []
        self._marks: list[Mark] = []
        self._written: dict[Table, int] = dict.fromkeys(Table, 0)
        for part in parts(folder):
            if part.staged:
                self._read_staged(part, live=live)
            else:
                self._read_converted(part)
        if live and self.missing({}):
            self._forget_what_came_after(self._last_whole_write())
        self.absent = self.missing({} if live else told)

    def table(self, table: Table) -> pa.Table:
        """All rows of a table, as they are stored."""
        found = [_rows_of(part, table) for part in self._in_order[table]]
        return pa.concat_tables([SCHEMAS[table].empty_table(), *found])

    def converted(self, table: Table) -> list[Path]:
        """Its Parquet files that can be read."""
        return [part for part in self._in_order[table] if isinstance(part, Path)]

    def staged(self, table: Table) -> pa.Table:
        """Its rows that are in none of them yet."""
        found = [_rows_of(staged, table) for of, staged in self._staged if of is table]
        return pa.concat_tables([SCHEMAS[table].empty_table(), *found])

    def missing(self, told: Mapping[str, int], up_to: float = math.inf) -> dict[Table, int]:
        """Rows that some write until ``up_to``, or ``told``, says were written, and that are not there."""
        found = dict(self._written)
        marks = list(self._marks)
        for table, staged in self._staged:
            earlier = [mark for mark in staged.marks if mark.write <= up_to]
            found[table] += max((mark.of_file(table) for mark in earlier), default=0)
            marks += earlier
        self.until = max((mark.until for mark in marks), default=-math.inf)
        said = [*(mark.rows for mark in marks), told]
        known = {table: max(rows.get(table.value, 0) for rows in said) for table in Table}
        return {table: known[table] - rows for table, rows in found.items() if rows < known[table]}

    def _last_whole_write(self) -> int:
        """The last one with which least is missing: later ones are not in all files yet, a damaged file stays so."""
        writes = {0, *(mark.write for _, staged in self._staged for mark in staged.marks)}
        missing = {write: sum(self.missing({}, write).values()) for write in writes}
        return max(write for write in writes if missing[write] == min(missing.values()))

    def _forget_what_came_after(self, write: int) -> None:
        for _, staged in self._staged:
            count = sum(mark.write <= write for mark in staged.marks)
            del staged.marks[count:], staged.batches[count:]

    def _read_staged(self, part: Part, *, live: bool) -> None:
        try:
            staged = read_staged(part.path)
        except FileNotFoundError:
            raise
        except OSError as error:
            self._leave_out(part, f"cannot be read: {error.strerror}")
            return
        if why := staged.schema and _foreign(part, staged.schema):
            self._leave_out(part, why)
            return
        self._staged.append((part.table, staged))
        self._in_order[part.table].append(staged)
        if staged.torn_bytes and not live:
            self.problems.append(f"{part.path.name}: {staged.torn_bytes} bytes at its end are of no whole write")

    def _read_converted(self, part: Part) -> None:
        try:
            with pq.ParquetFile(part.path) as file:
                stored, count = file.schema_arrow, file.metadata.num_rows
        except FileNotFoundError:
            raise
        except _DAMAGED as error:
            self._leave_out(part, f"cannot be read: {_first_line(error)}")
            return
        if why := _foreign(part, stored):
            self._leave_out(part, why)
            return
        try:
            marks = marks_of(stored.metadata)
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._leave_out(part, f"its mark cannot be read ({error})")
            return
        self._marks += marks
        self._written[part.table] += max((mark.of_file(part.table) for mark in marks), default=count)
        self._in_order[part.table].append(part.path)

    def _leave_out(self, part: Part, why: str) -> None:
        self.problems.append(f"{part.path.name}: left out: {shown(why)}")


def _foreign(part: Part, stored: pa.Schema) -> str:
    """Why a file with this schema is left out; empty where it is a part. DecodeError for one of another version."""
    schema = (stored.metadata or {}).get(b"schema", b"").decode(errors="replace")
    if not schema.startswith(f"{SCHEMA.partition('/')[0]}/"):
        return "was not written by batchscope"
    if schema != SCHEMA:
        raise DecodeError(
            f"{part.path}: schema = {quoted(schema)}: expected {SCHEMA!r}; read it with the version that wrote it"
        )
    try:
        stored.empty_table().select(SCHEMAS[part.table].names).cast(SCHEMAS[part.table])
    except (pa.ArrowException, KeyError, ValueError) as error:
        return f"its columns are not those of {part.table.value} ({error})"
    return ""


def _rows_of(part: Path | Staged, table: Table) -> pa.Table:
    """What a file holds."""
    names, schema = SCHEMAS[table].names, SCHEMAS[table]
    if isinstance(part, Staged):
        return pa.Table.from_batches(part.batches, part.schema or schema).select(names).cast(schema)
    try:
        return pq.read_table(part, columns=names).cast(schema)
    except FileNotFoundError:
        raise DecodeError(f"{part}: is gone since the run was opened; open it again") from None
    except _DAMAGED as error:
        raise DecodeError(
            f"{part}: cannot be read: {shown(_first_line(error))}; move it out of the run's folder to read the rest"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


class Run:
    """A recorded run. Tables are pyarrow's; their columns and units: ``batchscope.ledger.schema``, docs/ledger.md."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for attempt in range(_ATTEMPTS):
            self.document = read_document(path)
            self.state = state_of(path, self.document)
            try:
                self._contents = _Contents(path, self.document.rows, live=self.state == State.RECORDING)
                break
            except FileNotFoundError:  # it was converted, or removed, since the folder was listed
                if attempt == _ATTEMPTS - 1:
                    raise DecodeError(f"{path}: its files change faster than they can be read: try again") from None

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

    @property
    def problems(self) -> list[str]:
        """What is missing or wrong in it, a sentence each; empty: nothing is known to be missing."""
        contents, document = self._contents, self.document
        found = list(contents.problems)
        found += [
            f"{rows} rows of {table.value} were written and are missing" for table, rows in contents.absent.items()
        ]
        found += [
            f"{rows} rows of {name} were not written: no room, or no disk" for name, rows in document.missed.items()
        ]
        events = self.events()
        back = events.filter(pc.equal(events["name"], WENT_BACK)).column("at").to_pylist()
        if back:
            found.append(
                f"its clock went back ({len(back)} times seen, first to {back[0]:.3f} s): requests across that are left"
                " out, and what is told of times, and of who was there together, is not to be trusted"
            )
        last = f" (at {contents.until:.3f} s of its clock)" if math.isfinite(contents.until) else ""
        if self.state == INTERRUPTED:
            found.append(
                f"interrupted: it was not closed; what came after the last write{last} is missing: at most the last"
                f" {document.interval:g} s"
            )
        if self.state == State.STOPPED:
            found.append(
                f"stopped: nothing more could be written ({document.stopped_by}); all that came after the last whole"
                f" write{last} is missing, but for what found room"
            )
        return found

    def check_files(self) -> None:
        """DecodeError that names a file which is damaged inside, or gone: that is seen where all of it is read."""
        for table in Table:
            for path in self._contents.converted(table):
                _rows_of(path, table)

    def stored(self, table: Table) -> tuple[list[Path], pa.Table]:
        """As it lies on the disk: the Parquet files of a table that can be read, and its rows that are in none yet."""
        return self._contents.converted(table), self._contents.staged(table)

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

    def unfinished(self) -> list[int]:
        """The numbers of requests that took part in iterations and have no row: they never finished, or later."""
        spans = pc.unique(self._contents.table(Table.SPANS).column("request"))
        finished = self._contents.table(Table.REQUESTS).column("request")
        found: list[int] = sorted(spans.filter(pc.invert(pc.is_in(spans, finished))).to_pylist())
        return found

    def tokens(self) -> pa.Table:
        """Each token that was emitted: its request and its instant; by request, in order."""
        request, at = token_instants(self.spans(), self._contents.table(Table.ITERATIONS))
        return pa.Table.from_arrays([pa.array(request), pa.array(at, from_pandas=True)], schema=TOKENS)


def state_of(folder: Path, document: RunDocument) -> str:
    """``finished``, ``stopped`` (the disk was full, say), ``recording`` still, or ``interrupted``: killed."""
    if document.state is State.RECORDING and not being_written(folder):
        return INTERRUPTED
    return document.state.value


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
    """The folders of the runs in ``root``, by name: those recorded by time; DecodeError where it cannot be read."""
    try:
        return sorted(each for each in Path(root).iterdir() if _may_be_run(each))
    except OSError as error:
        raise DecodeError(f"{root}: cannot be read ({error.strerror})") from error


def _may_be_run(folder: Path) -> bool:
    """Whether it holds a run's document, or may not be looked into: whoever reads it says so."""
    try:
        return (folder / NAME).is_file()
    except PermissionError:
        return True
