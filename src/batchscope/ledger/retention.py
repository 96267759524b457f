"""Old runs are removed by age and by size; never one that is being written, nor a file that is not a run's own."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import re
from pathlib import Path
from typing import NamedTuple

from batchscope.errors import DecodeError
from batchscope.ledger.document import NAME, read_document
from batchscope.ledger.lock import LOCK, being_written
from batchscope.ledger.parts import PART_NAME
from batchscope.ledger.run import find_runs

logger = logging.getLogger("batchscope")

_OWN = re.compile(rf"{re.escape(NAME)}|\.{re.escape(NAME)}\.tmp|{re.escape(LOCK)}|{PART_NAME}|\.\w+-\d+\.tmp")


class Retention(NamedTuple):
    """What is kept of the runs in a root: ``seconds`` after their end, ``size`` bytes together; None: all."""

    seconds: float | None = None
    size: int | None = None

    def apply(self, root: Path, now: dt.datetime) -> list[Path]:
        """Remove what is too old, then the oldest until the rest is small enough; returns what is gone."""
        if self.seconds is None and self.size is None:
            return []
        runs = find_runs(root)
        removable = [run for run in runs if not being_written(run)]
        old = [
            run for run in removable if self.seconds is not None and (now - _ended(run)).total_seconds() > self.seconds
        ]
        gone = [run for run in old if _remove(run)]
        left = {run: _size(run) for run in runs if run not in gone}
        for run in removable:
            if self.size is None or sum(left.values()) <= self.size:
                break
            if run in left and _remove(run):
                gone.append(run)
                del left[run]
        return gone


def _ended(run: Path) -> dt.datetime:
    """When it was written last; of what is no run of ours, never."""
    try:
        document = read_document(run)
    except DecodeError:
        return dt.datetime.max.replace(tzinfo=dt.UTC)
    return document.ended_at or dt.datetime.fromtimestamp((run / NAME).stat().st_mtime, dt.UTC)


def _size(run: Path) -> int:
    total = 0
    for path in run.iterdir():
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


def _remove(run: Path) -> bool:
    """Its own files, the document last: what is left of it until then is still a run. Whether it is gone."""
    try:
        read_document(run)
        own = [path for path in run.iterdir() if _OWN.fullmatch(path.name) and path.name != NAME]
        for path in [*own, run / NAME]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's files lie there, too
            run.rmdir()
    except (OSError, DecodeError) as error:
        logger.warning("batchscope: %s is not removed: %s", run, error)
        return False
    return True
