"""How much memory a process has, and how much of it one object holds."""

from __future__ import annotations

import gc
import os
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

_STATM = Path("/proc/self/statm")
_STATUS = Path("/proc/self/status")
_NOT_OURS = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType, types.FrameType)


def resident_bytes() -> int:
    """Resident memory of this process, now (Linux; elsewhere its peak, which never shrinks)."""
    if _STATM.exists():
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_bytes()


def peak_bytes() -> int:
    """The most that this process ever had resident."""
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def held_bytes(root: Any) -> int:
    """Buffers and objects reachable from ``root``, each once: arrays, bytes, containers, not code or modules."""
    seen: set[int] = set()
    total, pending = 0, [root]
    while pending:
        item = pending.pop()
        if id(item) in seen or isinstance(item, _NOT_OURS):
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        pending.extend(_referents(item))
    return total


def _referents(item: Any) -> Iterable[Any]:
    if isinstance(item, np.ndarray):  # numpy arrays do not tell the garbage collector what they hold
        base = () if item.base is None else (item.base,)
        return (*base, *item.ravel().tolist()) if item.dtype.hasobject else base
    return gc.get_referents(item)
