"""How values become bytes: a row of each kind, and latencies that come many at once."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from math import nan
from typing import Any

import numpy as np

from batchscope.records import Latencies
from batchscope.rows import COLUMNS, PACKED_OF_ITERATION, PACKED_OF_REQUEST, IterationColumn, RowKind

_WIDTHS = {kind: len(columns) for kind, columns in COLUMNS.items()} | {
    RowKind.REQUEST: PACKED_OF_REQUEST,
    RowKind.ITERATION: PACKED_OF_ITERATION,
}


def _row(kind: RowKind) -> struct.Struct:
    return struct.Struct(f"{_WIDTHS[kind]}d")


pack_request = struct.Struct("dq8d4q7d").pack_into  # see ``rings``; an int is packed faster as one
pack_loose_request = _row(RowKind.REQUEST).pack_into
_REST = PACKED_OF_ITERATION - IterationColumn.HEAD_TOKENS
# Columns seldom given come packed: of more than 30 arguments of a call CPython makes a tuple first, in 200 ns.
pack_iteration = struct.Struct(f"{PACKED_OF_ITERATION - _REST}d{_REST * 8}s").pack_into
pack_rest_of_iteration = struct.Struct(f"{_REST}d").pack
NO_REST_OF_ITERATION = pack_rest_of_iteration(*[nan] * _REST)
pack_batch = _row(RowKind.BATCH).pack_into
pack_gap = _row(RowKind.GAP).pack_into
pack_error = _row(RowKind.ERROR).pack_into
REQUEST_BYTES, ITERATION_BYTES, BATCH_BYTES, GAP_BYTES, ERROR_BYTES = (
    _row(kind).size for kind in (RowKind.REQUEST, RowKind.ITERATION, RowKind.BATCH, RowKind.GAP, RowKind.ERROR)
)


BAD_VALUE = Exception
"""What packing a value of a wrong type raises: any object may come, and its methods raise what they like."""
MAX_ID = 256
"""Characters kept of a request id: clients choose them."""
_SHORT = 128
_FLOAT64 = np.dtype(np.float64)
_name_of = type.__dict__["__name__"].__get__  # past what a metaclass may put in its place


def type_name(value: object) -> str:
    """The name of a value's type, whatever its methods and its metaclass do."""
    name: str = _name_of(type(value))
    return name


def exact_text(value: object, most: int) -> str | None:
    """The first ``most`` characters of a text, as a ``str`` and no subclass; None for anything else.

    Nothing of the value's own runs: not its methods, nor a ``__class__`` that says something else.
    """
    return str.__getitem__(value, slice(most)) if issubclass(type(value), str) else None  # type: ignore[index]


def packed_copy(latencies: Latencies) -> bytes | list[tuple[float, float]]:
    """A copy: packed float64 bytes, or (latency, count) pairs as they came."""
    if type(latencies) is np.ndarray and latencies.dtype is _FLOAT64 and latencies.ndim == 1:
        return latencies.tobytes()
    if isinstance(latencies, np.ndarray):
        if latencies.ndim != 1 or latencies.dtype.kind not in "fiu":
            raise ValueError(
                f"latencies of {latencies.dtype}, shape {latencies.shape}: expected numbers, one dimension"
            )
        return latencies.astype(np.float64, copy=False).tobytes()
    if len(latencies) and isinstance(latencies[0], tuple):
        return [(float(latency), float(count)) for latency, count in latencies]  # type: ignore[misc]
    return _packer(len(latencies))(*latencies)


def cut_id(request_id: Any) -> Any:
    """What is kept of a request id: of a text the first ``MAX_ID`` characters."""
    if not issubclass(type(request_id), str):
        return request_id
    return request_id if type(request_id) is str and len(request_id) <= MAX_ID else exact_text(request_id, MAX_ID)


def cut_ids(request_ids: list[Any]) -> None:
    """Cut ids in place where they are long, ``_SHORT`` characters on average or more.

    A join takes 2 ns an id, a look at each 15.
    """
    try:
        short = len("".join(request_ids)) <= _SHORT * len(request_ids)
    except TypeError:  # not all are texts
        kinds = {id(kind): kind for kind in map(type, request_ids)}  # a metaclass may refuse to be hashed
        short = not any(issubclass(kind, str) for kind in kinds.values())
    if not short:
        request_ids[:] = map(cut_id, request_ids)


@lru_cache(maxsize=1024)
def _packer(count: int) -> Callable[..., bytes]:
    return struct.Struct(f"{count}d").pack
