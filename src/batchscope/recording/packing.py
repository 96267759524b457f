"""How values become bytes: a row of each kind, and latencies that come many at once."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from batchscope.recording.rows import COLUMNS, IterationColumn, Kind, RequestColumn
from batchscope.records import Latencies

REQUEST_BYTES, ITERATION_BYTES = 8 * RequestColumn.OBSERVED, 8 * IterationColumn.LIMITER_REPORTED
BATCH_BYTES, GAP_BYTES, ERROR_BYTES = (8 * len(COLUMNS[kind]) for kind in (Kind.BATCH, Kind.GAP, Kind.ERROR))
pack_request = struct.Struct("dq8d4q7d").pack_into  # see ``rings``; an int is packed faster as one
pack_loose_request = struct.Struct("21d").pack_into
pack_iteration = struct.Struct("29d").pack_into
pack_batch = struct.Struct("5d").pack_into
pack_gap = struct.Struct("5d").pack_into
pack_error = struct.Struct("d").pack_into


BAD_VALUE = Exception
"""What packing a value of a wrong type raises: any object may come, and its methods raise what they like."""
_FLOAT64 = np.dtype(np.float64)


def readable(latencies: Latencies) -> bytes | list[tuple[float, float]]:
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


@lru_cache(maxsize=1024)
def _packer(count: int) -> Callable[..., bytes]:
    return struct.Struct(f"{count}d").pack
