"""What a benchmark writes: the machine, every figure, every target; JSON there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

SCHEMA = "batchscope.benchmark/1"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """``packages``: the version of each contender, None where it is not installed. ``date`` is UTC, ISO 8601.

    ``load_average`` is of the minute before the run: beyond the number of cores, figures are inflated.
    """

    cpu: str
    cores: int
    memory_bytes: int | None
    system: str
    python: str
    numpy: str
    batchscope: str
    packages: dict[str, str | None]
    date: str
    load_average: float | None


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured thing. ``best`` and ``median`` over ``rounds``; None: ``absent`` says what is missing.

    ``cheaper`` is the reference's best over this one's best, ``cheaper_median`` the median of that ratio taken
    round by round; None where nothing is compared.
    """

    group: str
    name: str
    unit: str
    best: float | None = None
    median: float | None = None
    rounds: int = 0
    cheaper: float | None = None
    cheaper_median: float | None = None
    absent: str | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the target table: ``measured`` (of the best rounds) against ``limit``; ``met`` None: not measured."""

    what: str
    relation: Literal[">=", "<="]
    limit: float
    unit: str
    measured: float | None = None
    median: float | None = None
    met: bool | None = None
    note: str = ""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark's results. ``settings`` are what it ran with, ``notes`` what the reader must know."""

    schema: str = SCHEMA
    benchmark: Literal["recording", "memory", "replay", "simulation", "accuracy", "analysis", "ledger"]
    quick: bool
    seconds: float
    machine: Machine
    settings: dict[str, int | float | str]
    figures: list[Figure]
    targets: list[Target]
    notes: list[str] = []


def write(document: Document, path: Path) -> None:
    """Save ``document``; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


def read(path: Path) -> Document:
    """A saved document, checked; SystemExit with a message where it is none."""
    try:
        document = msgspec.json.decode(path.read_bytes(), type=Document)
    except (OSError, msgspec.DecodeError) as error:
        raise SystemExit(f"error: {path}: {error}; write it with benchmarks/run.py --json DIR") from error
    if document.schema != SCHEMA:
        raise SystemExit(f"error: {path}: schema {document.schema!r}, expected {SCHEMA!r}; measure again")
    return document


def judged(
    what: str,
    relation: Literal[">=", "<="],
    limit: float,
    unit: str,
    measured: float | None,
    median: float | None = None,
    note: str = "",
) -> Target:
    """A target with its pass mark."""
    met = None if measured is None else (measured >= limit if relation == ">=" else measured <= limit)
    return Target(
        what=what, relation=relation, limit=limit, unit=unit, measured=measured, median=median, met=met, note=note
    )
