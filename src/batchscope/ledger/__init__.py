"""A run that can be kept: written while it happens, read afterwards. Needs the extra ``ledger``.

A run is a folder with a file a table and part, and ``run.json``; docs/ledger.md says what is in them.
"""

from __future__ import annotations

from batchscope.errors import MissingExtraError

try:
    import pyarrow as pa  # noqa: F401
except ImportError as error:
    raise MissingExtraError("A recorded run", "ledger") from error

from batchscope.ledger.run import Run, find_runs, open_run

__all__ = ["Run", "find_runs", "open_run"]
