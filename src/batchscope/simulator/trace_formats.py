"""What the rows of the public traces look like, and how a format is recognised by its columns.

========  ================================================  ===============================================
azure     TIMESTAMP, ContextTokens, GeneratedTokens         wall clock, 2023 and 2024 (that with an offset)
burstgpt  Timestamp, Model, Request tokens, Response        seconds; 0 response tokens are a request that
          tokens, Total tokens, Log Type                    failed; the log type is the request's class
mooncake  timestamp, input_length, output_length, hash_ids  one JSON object a line; milliseconds; an id for
                                                            each 512 tokens of the prompt
========  ================================================  ===============================================
"""

from __future__ import annotations

import csv
import datetime as dt
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

from batchscope.simulator.trace_lines import BadRowError
from batchscope.simulator.workload import MAX_TOKENS
from batchscope.text import quoted

HASH_BLOCK_TOKENS = 512
"""Tokens of a prompt that one of Mooncake's ``hash_ids`` stands for."""


class Row(NamedTuple):
    """A row as its trace gives it; ``time`` in the trace's own unit, from its own origin."""

    time: int | float
    prompt_tokens: int
    output_tokens: int
    prefix_hashes: tuple[int, ...] = ()
    request_class: str | None = None


class TraceFormat(NamedTuple):
    """``parse`` reads a line, or raises ``BadRowError``; the header of a CSV is not a row."""

    name: str
    ticks_per_second: int
    has_header: bool
    parse: Callable[[str], Row]


def detect(first_line: str) -> TraceFormat:
    """The format of a trace, by the columns of its header or the keys of its first object."""
    if first_line.startswith("{"):
        return _detect_json(first_line)
    columns = [cell.strip() for cell in _cells(first_line)]
    for name, (required, ticks_per_second, read) in _CSV_FORMATS.items():
        if set(required) <= set(columns):
            return TraceFormat(name, ticks_per_second, has_header=True, parse=_csv_parser(columns, read))
    raise _unknown_format("columns", columns)


def _detect_json(line: str) -> TraceFormat:
    keys = _from_json(line, dict[str, msgspec.Raw])
    if not set(_MOONCAKE_KEYS) <= set(keys):
        raise _unknown_format("keys", list(keys))
    return TraceFormat("mooncake", 1000, has_header=False, parse=_mooncake)


def _unknown_format(what: str, seen: Sequence[str]) -> BadRowError:
    known = {**{name: columns for name, (columns, _, _) in _CSV_FORMATS.items()}, "mooncake": _MOONCAKE_KEYS}
    formats = "; ".join(f"{name} ({', '.join(columns)})" for name, columns in known.items())
    return BadRowError(f"unknown trace format with the {what} {_listed(seen)}; expected one of: {formats}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names[:12])) + (", ..." if len(names) > 12 else "")


# CSV: a reader takes the row's cells by column name.

_Cells: TypeAlias = Mapping[str, str]


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise BadRowError(f"not CSV ({error}), expected values separated by commas") from None


def _csv_parser(columns: Sequence[str], read: Callable[[_Cells], Row]) -> Callable[[str], Row]:
    def parse(line: str) -> Row:
        cells = _cells(line)
        if len(cells) != len(columns):
            raise BadRowError(f"{len(cells)} values, expected {len(columns)}: {_listed(columns)}")
        return read(dict(zip(columns, cells, strict=True)))

    return parse


def _azure(cells: _Cells) -> Row:
    return Row(
        _nanoseconds(cells["TIMESTAMP"].strip()),
        _count(cells, "ContextTokens", least=1),
        _count(cells, "GeneratedTokens"),
    )


def _burstgpt(cells: _Cells) -> Row:
    output_tokens = _count(cells, "Response tokens")
    return Row(
        _seconds(cells["Timestamp"].strip()),
        _count(cells, "Request tokens", least=1 if output_tokens else 0),
        output_tokens,
        request_class=cells["Log Type"].strip() or None,
    )


_CSV_FORMATS: dict[str, tuple[tuple[str, ...], int, Callable[[_Cells], Row]]] = {
    "azure": (("TIMESTAMP", "ContextTokens", "GeneratedTokens"), 10**9, _azure),
    "burstgpt": (
        ("Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"),
        1,
        _burstgpt,
    ),
}

_WALL_CLOCK = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _nanoseconds(text: str) -> int:
    """A wall-clock time, exactly; one without an offset is read as UTC (only differences matter)."""
    match = _WALL_CLOCK.fullmatch(text)
    try:
        date, time, fraction, offset = match.groups()  # type: ignore[union-attr]  # no match: AttributeError
        since = dt.datetime.fromisoformat(f"{date}T{time}{offset or 'Z'}") - _EPOCH
    except (AttributeError, ValueError, OverflowError):
        raise BadRowError(
            f"TIMESTAMP = {quoted(text)}: expected a time like 2023-11-16 18:15:46.6805900 (+00:00 may follow)"
        ) from None
    return (since.days * 86_400 + since.seconds) * 10**9 + int((fraction or "").ljust(9, "0"))


_NUMBER = re.compile(r"\d{1,15}(\.\d{1,15})?", re.ASCII)


def _seconds(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise BadRowError(f"Timestamp = {quoted(text)}: expected seconds >= 0")
    return float(text)


_WHOLE = re.compile(r"\s*\d{1,10}\s*", re.ASCII)


def _count(cells: _Cells, column: str, least: int = 0) -> int:
    text = cells[column]
    return _in_range(int(text) if _WHOLE.fullmatch(text) else text, column, least)


def _in_range(value: object, name: str, least: int) -> int:
    if not isinstance(value, int) or not least <= value <= MAX_TOKENS:
        raise BadRowError(f"{name} = {quoted(value)}: expected a whole number {least}..{MAX_TOKENS}")
    return value


# Mooncake: one JSON object a line.


class _MooncakeRow(msgspec.Struct, gc=False):
    timestamp: int | float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]


_MOONCAKE_KEYS = _MooncakeRow.__struct_fields__


def _mooncake(line: str) -> Row:
    row = _from_json(line, _MooncakeRow)
    prompt_tokens = _in_range(row.input_length, "input_length", 1)
    blocks = -(-prompt_tokens // HASH_BLOCK_TOKENS)
    if len(row.hash_ids) != blocks:
        raise BadRowError(
            f"{len(row.hash_ids)} hash_ids for input_length = {prompt_tokens}: expected {blocks}, "
            f"one for each {HASH_BLOCK_TOKENS} tokens"
        )
    if not 0 <= row.timestamp < math.inf:
        raise BadRowError(f"timestamp = {quoted(row.timestamp)}: expected milliseconds >= 0")
    return Row(row.timestamp, prompt_tokens, _in_range(row.output_length, "output_length", 0), row.hash_ids)


_T = TypeVar("_T")


def _from_json(line: str, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.ValidationError as error:
        raise BadRowError(f"wrong JSON object: {error}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRowError(f"not JSON ({error}), expected one object a line") from None
