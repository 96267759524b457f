"""The three forms in which an iteration's latencies can be given, as one."""

from __future__ import annotations

from typing import Any

import numpy as np

from batchscope.records import Latencies


def pairs(latencies: Latencies | None) -> list[tuple[float, int]]:
    """(seconds, how often) of a list, an array, or of pairs."""
    if latencies is None:
        return []
    values: list[Any] = latencies.tolist() if isinstance(latencies, np.ndarray) else list(latencies)
    return [value if isinstance(value, tuple) else (float(value), 1) for value in values]
