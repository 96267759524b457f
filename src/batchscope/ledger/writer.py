"""Writes a collector's rows to a run's folder: a sink that is told in a thread of its own."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from batchscope.clock import Clock
from batchscope.ledger.batches import iteration_batch, request_batch, span_batch
from batchscope.ledger.document import SPARE, RunDocument, State
from batchscope.ledger.instants import began_at
from batchscope.ledger.lock import RunLock
from batchscope.ledger.parts import convert, part_path, parts
from batchscope.ledger.schema import SCHEMAS, Table
from batchscope.ledger.staging import ENDING, Mark, Stream
from batchscope.ledger.summary import Summing
from batchscope.rows import ErrorColumn, Gaps, RowKind, Rows
from batchscope.sinks import Drained, Missed, RunHeader
from batchscope.text import readable

logger = logging.getLogger("batchscope")

_TABLE_OF = {RowKind.REQUEST: Table.REQUESTS, RowKind.ITERATION: Table.ITERATIONS, RowKind.SPAN: Table.SPANS}
_TABLE_OF_LOST = _TABLE_OF | {RowKind.ERROR: Table.EVENTS}
_KIND_OF = {table: kind.name for kind, table in _TABLE_OF_LOST.items()}
_SETTINGS = ("limits", "engine", "definitions")
_DOCUMENT_SECONDS = 1.0  # what a killed process's summary may be behind its rows, or more where that would cost much
_DOCUMENT_SHARE = 0.001  # of the time
_STOPPED_SECONDS = 10.0  # how far behind the count of a stopped run is
_SPARE_BYTES = 64 << 10
PART_SECONDS = 600.0
PART_BYTES = 64 << 20


class RunWriter:
    """A ``PatientSink``: ``take`` keeps rows, ``flush`` writes them, ``close`` ends the run.

    Staged parts are converted after ``part_seconds`` or ``part_bytes``; ``converted`` is called after that. ``clock``
    is the collector's, whose time may be simulated; ``pace`` gives the seconds in which parts grow old. What ``flush``
    raises, OSError where the disk takes no more, stops the run.
    """

    def __init__(
        self,
        folder: Path,
        document: RunDocument,
        clock: Clock,
        *,
        part_seconds: float = PART_SECONDS,
        part_bytes: int = PART_BYTES,
        converted: Callable[[], object] = lambda: None,
        pace: Clock = time.monotonic,
    ) -> None:
        self.folder = folder
        self.document = document
        self._clock, self._pace = clock, pace
        self._part_seconds, self._part_bytes = part_seconds, part_bytes
        self._converted = converted
        self._waiting: dict[Table, list[pa.RecordBatch]] = {table: [] for table in document.level.tables}
        self._streams: dict[Table, Stream] = {}
        self._part, self._part_began = 1, pace()
        self._writes, self._written_until = 0, clock()
        self._summing = Summing()
        self.unwritten: dict[str, int] = {}
        """Rows that were taken and could not be written, by kind."""
        self._lost: Counter[str] = Counter()
        self._header: RunHeader | None = None
        self._saved_at, self._saving = pace(), 0.0
        document.started_at = dt.datetime.now(dt.UTC)
        self._lock = RunLock(folder)  # first: what is listed and not locked is taken for abandoned
        try:
            document.write(folder)
            (folder / SPARE).write_bytes(bytes(_SPARE_BYTES))
        except OSError:
            self._lock.leave()
            raise

    # As a sink.

    def begin(self, header: RunHeader) -> None:
        """Another segment; the events say what changed."""
        before, self._header = self._header, header
        self.document.headers.append(header)
        if before is not None:
            for kind, detail in _changes(before, header):
                self._event(began_at(header) if kind == "reset" else self._clock(), kind, detail=detail)
        self._save()

    def take(self, block: Drained) -> None:
        """Keep rows until they are written."""
        if isinstance(block, Gaps):
            self._leave_out(block.column.name, len(block.values))
        elif block.kind is RowKind.ERROR:
            self._errors(block)
        elif _TABLE_OF.get(block.kind) not in self._waiting:
            self._leave_out(block.kind.name, len(block.values))
        elif len(block.values):
            self._waiting[_TABLE_OF[block.kind]].append(self._batch(block))

    def missed(self, missed: Missed) -> None:
        """Rows that there was no room for: the events say so."""
        span = {"first_at": missed.first_at, "last_at": missed.last_at}
        for kind, count in missed.rows.items():
            self._event(missed.last_at, "gap", _name(kind), count, span)

    def end(self) -> None:
        """The segment is over."""

    # In the same thread: the time for it.

    def flush(self) -> None:
        """Write all that was taken."""
        try:
            self._write()
        except Exception as error:
            self._stop(error)
            raise
        if self._part_is_full():
            self._convert()
        if self._pace() - self._saved_at >= max(_DOCUMENT_SECONDS, self._saving / _DOCUMENT_SHARE):
            self._save()

    def close(self, lost: Mapping[str, int], failure: str = "") -> None:
        """Write the rest and end the run.

        ``lost``: all rows that are not in it, by kind; ``failure``: why they were not handed over.
        """
        self._end_with(failure)
        self._add_lost(lost)
        if self.document.missed:
            told = ", ".join(f"{count:,} of {name}" for name, count in self.document.missed.items())
            logger.warning("batchscope: %s: rows that are not in it: %s", self.folder, told)
        self.document.ended_at = dt.datetime.now(dt.UTC)
        self._free_spare()
        with contextlib.suppress(OSError):
            self.document.write(self.folder)
        with contextlib.suppress(OSError):
            self._lock.release()

    def count_lost(self, lost: Mapping[str, int], failure: str) -> None:
        """Nothing more is handed over: end the run, and say in it now and then, where that works, what was ``lost``."""
        first = self.document.state is State.RECORDING
        self._end_with(failure)
        if (first or self._pace() - self._saved_at >= _STOPPED_SECONDS) and (self._add_lost(lost) or first):
            self._saved_at = self._pace()
            with contextlib.suppress(OSError):
                self.document.write(self.folder)

    def _end_with(self, failure: str) -> None:
        """Write what was taken, if nothing went wrong with that yet."""
        with contextlib.suppress(Exception):  # the run is stopped then, and says so
            if self.document.state is State.RECORDING:
                self.flush()
                self._convert()
                self.document.state = State.STOPPED if failure else State.FINISHED
                self.document.stopped_by = readable(failure)

    def _add_lost(self, lost: Mapping[str, int]) -> bool:
        """Count what of ``lost`` was not counted before; whether that was any."""
        new = Counter(lost) - self._lost
        for kind, count in new.items():
            name = _name(kind)
            if name in self._waiting:
                self.document.missed[name] = self.document.missed.get(name, 0) + count
            else:
                self._leave_out(name, count)
        self._lost += new
        return bool(new)

    def leave(self) -> None:
        """Let go of its files: of a run that failed, or in a forked child, where it is the parent's."""
        self._lock.leave()
        for stream in self._streams.values():
            stream.close()

    # Rows that wait.

    @property
    def _segment(self) -> int:
        return len(self.document.headers) - 1

    def _batch(self, block: Rows) -> pa.RecordBatch:
        assert self._header is not None  # noqa: S101  (a sink is told a header first)
        if block.kind is RowKind.REQUEST:
            self._summing.add_requests(block.values, self._header)
            return request_batch(block.values, block.objects, self._segment, self._header)
        if block.kind is RowKind.ITERATION:
            self._summing.add_iterations(block.values)
            return iteration_batch(block.values, self._segment, self._header)
        return span_batch(block.values)

    def _leave_out(self, name: str, count: int) -> None:
        self.document.left_out[name.lower()] = self.document.left_out.get(name.lower(), 0) + count

    def _errors(self, block: Rows) -> None:
        names = [readable(str(name)) for name in block.objects or [""] * len(block.values)]
        at = block.values[:, ErrorColumn.AT]
        for name, count in Counter(names).items():
            self._event(float(at[names.index(name)]), "error", name, count)

    def _event(
        self, at: float, kind: str, name: str = "", count: int = 1, detail: dict[str, Any] | None = None
    ) -> None:
        row = [at, self._segment, kind, name, count, json.dumps(detail or {})]
        columns = [pa.array([value], field.type) for value, field in zip(row, SCHEMAS[Table.EVENTS], strict=True)]
        self._waiting[Table.EVENTS].append(pa.RecordBatch.from_arrays(columns, schema=SCHEMAS[Table.EVENTS]))

    # On the disk.

    def _write(self) -> None:
        """Write what waits: where there is no room for all of it the first half, and so on, as much as finds room."""
        batches = {table: _one(waiting) for table, waiting in self._waiting.items() if waiting}
        left = [batches] if batches else []  # the last one is the next
        try:
            while left:
                try:
                    self._write_together(left[-1], all_of_it=len(left) == 1)
                except OSError:
                    if max(map(len, left[-1].values())) == 1:
                        raise
                    left += reversed(_halves(left.pop()))
                else:
                    left.pop()
        finally:
            self._waiting = {table: [each[table] for each in left[::-1] if table in each] for table in self._waiting}
        self.document.written_until = self._written_until = self._clock()

    def _write_together(self, batches: Mapping[Table, pa.RecordBatch], *, all_of_it: bool) -> None:
        """One write: either all of it is there or, with whatever it raises, nothing.

        ``all_of_it``: nothing waits behind it, so with it the run has all until now.
        """
        before = {table: stream.size for table, stream in self._streams.items()}
        rows = Counter(self.document.rows) + Counter({table.value: len(batch) for table, batch in batches.items()})
        mark = Mark(self._writes + 1, self._clock() if all_of_it else self._written_until, dict(rows))
        try:
            for table, batch in batches.items():
                stream = self._stream(table)
                stream.append(batch, msgspec.structs.replace(mark, before=stream.before))
        except BaseException:
            for table, stream in self._streams.items():
                stream.cut(before.get(table, 0))
            raise
        self._writes += 1
        self.document.rows = dict(rows)

    def _stream(self, table: Table) -> Stream:
        if table not in self._streams:
            path = part_path(self.folder, table, self._part, ENDING)
            self._streams[table] = Stream(path, table, self.document.rows.get(table.value, 0))
        return self._streams[table]

    def _part_is_full(self) -> bool:
        long = self._pace() - self._part_began >= self._part_seconds
        return long or sum(stream.size for stream in self._streams.values()) >= self._part_bytes

    def _convert(self) -> None:
        """Make Parquet of what is staged. Where that fails the streams stay, and are tried again with the next."""
        self._part_began = self._pace()
        if self._streams:
            self._part += 1
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        try:
            for number in sorted({part.number for part in parts(self.folder) if part.staged}):
                convert(self.folder, number)
        except (OSError, MemoryError, pa.ArrowException) as error:
            logger.warning("batchscope: %s: a part stays as it was staged: %s", self.folder, error)
        self._save()
        self._converted()

    def _save(self) -> None:
        self._saved_at = self._pace()
        began = self._saved_at
        self.document.summary = self._summing.now()
        try:
            self.document.write(self.folder)
        except OSError as error:
            self._stop(error)
            raise
        self._saving = self._pace() - began

    def _stop(self, error: Exception) -> None:
        """Nothing more can be written: say so, as far as the disk takes that."""
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        self.document.state, self.document.stopped_by = State.STOPPED, readable(why)
        self.document.summary = self._summing.now()
        unwritten = {_KIND_OF[table]: _rows_in(waiting) for table, waiting in self._waiting.items() if waiting}
        self.unwritten = dict(Counter(self.unwritten) + Counter(unwritten))
        self._add_lost(Counter(self._lost) + Counter(unwritten))
        self._waiting = {table: [] for table in self._waiting}
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        self._free_spare()
        with contextlib.suppress(OSError):
            self.document.write(self.folder)

    def _free_spare(self) -> None:
        with contextlib.suppress(OSError):
            (self.folder / SPARE).unlink(missing_ok=True)


def _name(kind: str) -> str:
    """The table of a kind of rows, else its own name."""
    table = _TABLE_OF_LOST.get(RowKind[kind])
    return kind.lower() if table is None else table.value


def _rows_in(waiting: list[pa.RecordBatch]) -> int:
    """How many of the collector's rows they are: an event counts its errors, one of another kind nothing."""
    rows = 0
    for batch in waiting:
        if "kind" in batch.schema.names:
            events = zip(batch.column("kind").to_pylist(), batch.column("count").to_pylist(), strict=True)
            rows += sum(count for kind, count in events if kind == "error")
        else:
            rows += len(batch)
    return rows


def _halves(batches: Mapping[Table, pa.RecordBatch]) -> list[dict[Table, pa.RecordBatch]]:
    """The first and the second half of each."""
    middles = {table: (len(batch) + 1) // 2 for table, batch in batches.items()}
    first = {table: batch.slice(0, middles[table]) for table, batch in batches.items()}
    return [first, {table: batch.slice(middles[table]) for table, batch in batches.items() if len(batch) > 1}]


def _one(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _changes(before: RunHeader, after: RunHeader) -> list[tuple[str, dict[str, Any]]]:
    """What made another segment of it."""
    found: list[tuple[str, dict[str, Any]]] = []
    if before.generation != after.generation:
        found.append(("reset", {"generation": after.generation}))
    pairs = [(kind, getattr(before, kind), getattr(after, kind)) for kind in _SETTINGS]
    return found + [(kind, msgspec.to_builtins(new)) for kind, old, new in pairs if old != new]
