"""A run's files: ``requests-000001.parquet``, and its beginnings as a stream; a part is converted once, rename last."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from batchscope.ledger.schema import COLUMNS, SCHEMAS, Column, Table
from batchscope.ledger.spans import joined
from batchscope.ledger.staging import ENDING as STAGED
from batchscope.ledger.staging import Mark, read_staged

CONVERTED = ".parquet"
PART_NAME = rf"(?P<table>{'|'.join(Table)})-(?P<number>[0-9]{{6,}})(?:{re.escape(STAGED)}|{re.escape(CONVERTED)})"
_FILE = re.compile(PART_NAME)
_LEVEL = 3  # of zstd
_GROWING = {"request", "iteration", "iteration_number", "first_iteration", "decode_context_tokens", "memory_bytes_used"}
_VARIED = {"request_id", "detail"}


def _encoding(column: Column) -> str | None:
    """None: a dictionary of its values, which are few."""
    if column.type == pa.float64() and column.unit != "1":
        return "BYTE_STREAM_SPLIT"  # the first bytes of instants hardly change
    if column.name in _GROWING:
        return "DELTA_BINARY_PACKED"
    return "DELTA_BYTE_ARRAY" if column.name in _VARIED else None


_ENCODINGS = {
    table: {column.name: encoding for column in columns if (encoding := _encoding(column))}
    for table, columns in COLUMNS.items()
}
_FEW_VALUES = {
    table: [column.name for column in columns if _encoding(column) is None] for table, columns in COLUMNS.items()
}
_MARK = b"batchscope.mark"


class Part(NamedTuple):
    """A file of a run."""

    table: Table
    number: int
    path: Path

    @property
    def staged(self) -> bool:
        """Whether it is still a stream."""
        return self.path.suffix == STAGED


def part_path(folder: Path, table: Table, number: int, ending: str) -> Path:
    """Where a part is."""
    return folder / f"{table.value}-{number:06d}{ending}"


def parts(folder: Path) -> Iterator[Part]:
    """The parts of a run, in order; a part that was converted is not given as the stream that it was, too."""
    found: dict[tuple[Table, int], Part] = {}
    for path in sorted(folder.iterdir()):  # .arrows comes before .parquet
        if match := _FILE.fullmatch(path.name):
            key = Table(match["table"]), int(match["number"])
            found[key] = Part(*key, path)
    yield from (found[key] for key in sorted(found))


def convert(folder: Path, number: int) -> None:
    """Make Parquet of a part's streams; OSError where that fails: then the stream stays, which is as good to read."""
    for table in Table:
        staged = part_path(folder, table, number, STAGED)
        if not staged.exists():
            continue
        content = read_staged(staged)
        if content.batches:
            rows = pa.Table.from_batches(content.batches, schema=SCHEMAS[table])
            write_part(folder, table, number, rows, content.marks[-1])
        staged.unlink()


def write_part(folder: Path, table: Table, number: int, rows: pa.Table, mark: Mark) -> None:
    """Write ``rows`` as a part in Parquet, so that it is there whole or not at all."""
    if table is Table.SPANS:
        rows = joined(rows)
    written = folder / f".{table.value}-{number:06d}.tmp"
    metadata = {**(SCHEMAS[table].metadata or {}), _MARK: msgspec.json.encode(mark)}
    try:
        pq.write_table(
            rows.replace_schema_metadata(metadata), written, compression="zstd", compression_level=_LEVEL,
            use_dictionary=_FEW_VALUES[table], column_encoding=_ENCODINGS[table],
        )  # fmt: skip
        written.replace(part_path(folder, table, number, CONVERTED))
    except BaseException:
        with contextlib.suppress(OSError):
            written.unlink()
        raise


def marks_of(metadata: dict[bytes, bytes]) -> list[Mark]:
    """The mark of a converted part, that of its last write; none where it is not ours."""
    return [msgspec.json.decode(metadata[_MARK], type=Mark)] if _MARK in metadata else []
