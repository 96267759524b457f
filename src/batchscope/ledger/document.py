"""``run.json``: of which engine and limits a run is, where it stands, and its figures at a glance.

It is replaced as a whole (rename last), so a reader sees an old one or a new one.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from batchscope.errors import DecodeError
from batchscope.ledger.schema import SCHEMA, Level
from batchscope.ledger.summary import Summary
from batchscope.sinks import RunHeader
from batchscope.text import quoted, readable_document
from batchscope.version import __version__

NAME = "run.json"
SPARE = ".spare"
"""Beside it while a run is written: room that a full disk has for the document that says so."""


class State(StrEnum):
    """Where a run stands. ``recording`` is also what a killed process leaves: then nobody holds its lock any more."""

    RECORDING = "recording"
    FINISHED = "finished"
    STOPPED = "stopped"
    """The ledger could write no more (a full disk, say); the engine went on."""


class RunDocument(msgspec.Struct, kw_only=True):
    """What ``run.json`` holds.

    ``started_at`` and ``ended_at`` are of the recording, by the wall clock. ``rows``: written so far, by table.
    ``missed``: rows that there was no room for, or that could not be written. ``left_out``: rows of other kinds, which
    follow from these where a ``RequestTracker`` recorded them. ``configuration``: the engine's resolved one, where a
    plug-in knows it. ``in_flight``: requests that had not finished when it was closed, those that never ran too.
    ``written_until``: the collector's clock when all that was counted before it was written.
    """

    schema: str = SCHEMA
    version: str = __version__
    state: State = State.RECORDING
    level: Level = Level.DEFAULT
    interval: float = 1.0
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    headers: list[RunHeader] = []
    rows: dict[str, int] = {}
    missed: dict[str, int] = {}
    left_out: dict[str, int] = {}
    stopped_by: str = ""
    written_until: float | None = None
    in_flight: int | None = None
    configuration: dict[str, Any] = {}
    summary: Summary = msgspec.field(default_factory=Summary)

    def write(self, folder: Path) -> None:
        """Replace the run's document."""
        written = folder / f".{NAME}.tmp"
        written.write_bytes(msgspec.json.format(msgspec.json.encode(readable_document(msgspec.to_builtins(self)))))
        written.replace(folder / NAME)


def read_document(folder: Path) -> RunDocument:
    """The document of the run in ``folder``; DecodeError for a foreign one, or one of a newer schema."""
    try:
        text = (folder / NAME).read_bytes()
    except OSError as error:
        raise DecodeError(f"{folder}: not a run: {NAME} cannot be read ({error.strerror})") from error
    try:
        document = msgspec.json.decode(text, type=RunDocument)
    except (msgspec.MsgspecError, UnicodeError) as error:
        _check_schema(folder, text)
        raise DecodeError(f"{folder / NAME}: not the document of a run: {error}") from error
    if document.schema != SCHEMA:
        _check_schema(folder, text)
    return document


def _check_schema(folder: Path, text: bytes) -> None:
    """DecodeError where it is a document of another schema: what it has may mean something else."""
    try:
        schema = msgspec.json.decode(text, type=_Schema).schema
    except (msgspec.MsgspecError, UnicodeError):
        return
    if schema != SCHEMA:
        raise DecodeError(
            f"{folder / NAME}: schema = {quoted(schema)}: expected {SCHEMA!r}; read it with the version that wrote it"
        )


class _Schema(msgspec.Struct):
    schema: str
