"""Samples as a table: a list of records that also writes CSV and makes Arrow, pandas and polars tables."""

from __future__ import annotations

import csv
import datetime as dt
import importlib
import io
import math
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar, overload

import msgspec

from batchscope.errors import MissingPackageError
from batchscope.recording.packing import type_name
from batchscope.text import readable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
R = TypeVar("R", bound=msgspec.Struct)


class Samples(list[R]):
    """Records of one kind, oldest first unless said otherwise: a list, and a table of the records' fields.

    In tables names are texts, times are aware UTC datetimes, durations and instants float seconds with ``nan`` where
    they were not measured, counts whole numbers or None. A table needs its package: ``MissingPackageError`` names it.
    """

    def __init__(self, kind: type[R], records: Iterable[R] = ()) -> None:
        super().__init__(records)
        self._kind = kind

    @overload
    def __getitem__(self, place: SupportsIndex, /) -> R: ...

    @overload
    def __getitem__(self, places: slice, /) -> Samples[R]: ...

    def __getitem__(self, place: SupportsIndex | slice, /) -> R | Samples[R]:
        """A record; of a slice a table again."""
        found = super().__getitem__(place)
        return Samples(self._kind, found) if isinstance(place, slice) else found  # type: ignore[arg-type,return-value]

    def columns(self) -> dict[str, list[Any]]:
        """The fields by name, each a list of plain values; a request id that is no text is shown as one."""
        return {
            field: [_plain(getattr(record, field), text=field == "request_id") for record in self]
            for field in self._kind.__struct_fields__
        }

    def to_csv(self, path: str | Path | None = None, *, safe: bool = True) -> str:
        """The table as CSV (RFC 4180), what is not known empty; written to ``path``, too, where it is given.

        Clients choose ids, and spreadsheets run what begins like a formula: such a text gets a ``'`` in front, unless
        ``safe`` is False. Lone surrogates, which UTF-8 has none of, are spelled out.
        """
        columns = self.columns()
        out = io.StringIO(newline="")
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows([_cell(value, safe=safe) for value in row] for row in zip(*columns.values(), strict=True))
        text = readable(out.getvalue())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8", newline="")
        return text

    def to_arrow(self) -> Any:
        """A ``pyarrow.Table``."""
        return _package("pyarrow", "to_arrow()").table(self.columns())

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``."""
        return _package("pandas", "to_pandas()").DataFrame(self.columns())

    def to_polars(self) -> Any:
        """A ``polars.DataFrame``."""
        return _package("polars", "to_polars()").DataFrame(self.columns(), strict=False)


def _package(name: str, feature: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(feature, name) from error


def _plain(value: Any, *, text: bool) -> Any:
    if isinstance(value, Enum):
        return str(value)
    if not text or type(value) is str:
        return value
    try:
        return str(value)
    except Exception:  # noqa: BLE001  (an id may be anybody's object)
        return f"a {type_name(value)}"


def _cell(value: Any, *, safe: bool) -> Any:
    if safe and isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
