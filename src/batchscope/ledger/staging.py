"""Rows on their way to Parquet: an Arrow IPC stream a table and part, of which a killed process loses no whole batch.

A Parquet file is nothing without its end; a stream can be read as far as it was written. Each batch says which write it
is of, and how many rows of each table the run has with it: what is missing elsewhere is known from any one of them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa

from batchscope.ledger.schema import SCHEMAS, Table

ENDING = ".arrows"
_MARK = b"batchscope"


class Mark(msgspec.Struct, frozen=True):
    """Of a batch: the number of the write it is of, and the rows of each table with that write.

    ``until``: of what came until this instant of the clock, all is there. ``before``: of ``rows``, those of its own
    table before its file.
    """

    write: int
    until: float
    rows: dict[str, int]
    before: int = 0

    def of_file(self, table: Table) -> int:
        """How many rows its file has had written, up to this write: spans are fewer once they are joined."""
        return self.rows.get(table.value, 0) - self.before


class Stream:
    """A table's staged part; ``append`` writes a batch at once, ``cut`` takes back the last ones.

    ``before``: the rows of its table in the parts before it; ``size``: the bytes that are written.
    """

    def __init__(self, path: Path, table: Table, before: int) -> None:
        self._schema = SCHEMAS[table]
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self.before = before
        self.size = 0
        self._begin()

    def _begin(self) -> None:
        self._buffer = io.BytesIO()
        self._writer = pa.ipc.new_stream(self._buffer, self._schema)

    def append(self, batch: pa.RecordBatch, mark: Mark) -> None:
        """Write a batch; OSError where that cannot be done: then a part of it may be there, until it is ``cut``."""
        self._writer.write_batch(batch, custom_metadata={_MARK: msgspec.json.encode(mark)})
        written = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        self._write(written)
        self.size += len(written)

    def cut(self, size: int) -> None:
        """Take back what was written behind ``size``, which was its size once."""
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)
        self.size = size
        if not size:  # its schema is to be written again
            self._begin()

    def _write(self, written: bytes) -> None:
        left = memoryview(written)
        while left:
            left = left[os.write(self._file, left) :]

    def close(self) -> None:
        """Nothing more comes; the file stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Staged(NamedTuple):
    """What a stream's file has: whole batches, their marks, and how many bytes at its end are of no whole batch.

    ``schema``: None where not even that is whole.
    """

    batches: list[pa.RecordBatch]
    marks: list[Mark]
    torn_bytes: int
    schema: pa.Schema | None = None


def read_staged(path: Path) -> Staged:
    """As far as it was written: a file may end anywhere."""
    content = path.read_bytes()
    source = pa.BufferReader(content)
    found = Staged([], [], 0)
    good = 0
    try:
        with pa.ipc.open_stream(source) as reader:
            found = found._replace(schema=reader.schema)
            good = source.tell()
            while True:
                batch, metadata = reader.read_next_batch_with_custom_metadata()
                mark = _mark(metadata)
                found.batches.append(batch)
                found.marks.append(mark)
                good = source.tell()
    except StopIteration:
        good = len(content) if len(content) - good <= _END_OF_STREAM else good
    except (pa.ArrowException, OSError, msgspec.MsgspecError, UnicodeError):
        pass
    return found._replace(torn_bytes=len(content) - good)


_END_OF_STREAM = 8


def _mark(metadata: Mapping[bytes, bytes] | None) -> Mark:
    return msgspec.json.decode((metadata or {}).get(_MARK, b"{}"), type=Mark)
