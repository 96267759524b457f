"""The runs of a folder at a glance: from their documents, no row is read."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec

from batchscope.errors import DecodeError
from batchscope.ledger.document import NAME, read_document
from batchscope.ledger.run import INTERRUPTED, find_runs, state_of
from batchscope.ledger.schema import Level
from batchscope.ledger.summary import Summary
from batchscope.records import EngineInfo
from batchscope.text import readable_document

SCHEMA = "batchscope.runs/1"


class ListedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run's line. ``state``: as ``Run.state``, or ``unreadable``: then ``problem`` says why and the rest is empty.

    ``seconds`` are those of a simulation where it was ``simulated``. ``at_least``: its process was killed, and what is
    told of it is of the last time that it wrote its document: a report counts its rows.
    """

    name: str
    state: str
    problem: str = ""
    engine: EngineInfo = EngineInfo()
    labels: dict[str, str] = {}
    level: Level = Level.DEFAULT
    simulated: bool = False
    at_least: bool = False
    started_at: dt.datetime | None = None
    seconds: float | None = None
    summary: Summary = msgspec.field(default_factory=Summary)


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The runs in ``root``, by name: those that were recorded by time."""

    root: str
    runs: list[ListedRun]
    schema: str = SCHEMA

    def to_json(self) -> bytes:
        """One JSON document."""
        return msgspec.json.encode(readable_document(msgspec.to_builtins(self)))


def list_runs(root: Path) -> Listing:
    """All runs in ``root``, or the one that it is; DecodeError where it cannot be read."""
    folders = [root] if (root / NAME).is_file() else find_runs(root)
    return Listing(root=str(root), runs=[_listed(folder) for folder in folders])


def _listed(folder: Path) -> ListedRun:
    try:
        document = read_document(folder)
    except DecodeError as error:
        return ListedRun(name=folder.name, state="unreadable", problem=str(error))
    last = document.headers[-1] if document.headers else None
    missed = sum(document.missed.values())
    state = state_of(folder, document)
    return ListedRun(
        name=folder.name,
        state=state,
        at_least=state == INTERRUPTED,
        problem="; ".join(filter(None, [document.stopped_by, f"{missed:,} rows were not written" if missed else ""])),
        engine=last.engine if last else EngineInfo(),
        labels=last.labels if last else {},
        level=document.level,
        simulated=last.simulated if last else False,
        started_at=document.started_at,
        seconds=document.summary.seconds,
        summary=document.summary,
    )
