"""The brute-force oracle of ``../shared``, imported by path; tests that need it are skipped where it is absent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"
TRACES = SHARED / "traces"
_PRESENT = (SHARED / "oracle" / "reference_stats.py").is_file()

needs_oracle = pytest.mark.skipif(not _PRESENT, reason=f"the oracle is not here: no {SHARED}/oracle")

if _PRESENT:
    sys.path.append(str(SHARED / "oracle"))
    _writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    import loaders
    import reference_stats as oracle

    sys.dont_write_bytecode = _writes
else:  # pragma: no cover  (a checkout alone)
    loaders = oracle = None

__all__ = ["SHARED", "TRACES", "loaders", "needs_oracle", "oracle"]
