"""Old runs are removed by age and by size, and what a kill left of any; never of one that is being written.

A file that is not a run's own stays.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import re
from pathlib import Path
from typing import NamedTuple

from batchscope.errors import DecodeError
from batchscope.ledger.document import NAME, SPARE, read_document
from batchscope.ledger.lock import LOCK, being_written
from batchscope.ledger.parts import PART_NAME
from batchscope.ledger.prefixes import NAME as PREFIXES
from batchscope.ledger.run import find_runs

logger = logging.getLogger("batchscope")

_SCAFFOLD = re.compile(rf"\.(?:{re.escape(NAME)}|{re.escape(PREFIXES)}|\w+-\d+)\.tmp|{re.escape(SPARE)}")
"""What a run has only while it is written."""
_OWN = re.compile("|".join([_SCAFFOLD.pattern, PART_NAME, *map(re.escape, (NAME, PREFIXES, LOCK))]))


class Retention(NamedTuple):
    """What is kept of the runs in a root: ``seconds`` after their end, ``size`` bytes together; None: all."""

    seconds: float | None = None
    size: int | None = None

    def apply(self, root: Path, now: dt.datetime) -> list[Path]:
        """Remove what is too old, then the oldest until the rest is small enough; returns what is gone."""
        if self.seconds is None and self.size is None:
            return []
        runs = find_runs(root)
        ended = {run: _ended(run) for run in runs if not being_written(run)}
        removable = sorted(ended, key=lambda run: ended[run])  # a run that was imported has any name
        old = [
            run for run in removable if self.seconds is not None and (now - ended[run]).total_seconds() > self.seconds
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


def clear_what_kills_left(root: Path) -> None:
    """Remove what processes that were killed still needed for writing their runs in ``root``; no row is in it."""
    for run in find_runs(root):
        if (run / SPARE).exists() and not being_written(run):
            with contextlib.suppress(OSError):  # another user's, say: it is room, and nothing else
                for path in filter(lambda each: _SCAFFOLD.fullmatch(each.name), run.iterdir()):
                    path.unlink(missing_ok=True)


def _ended(run: Path) -> dt.datetime:
    """When it was written last; of what is no run of ours, never."""
    try:
        return read_document(run).ended_at or dt.datetime.fromtimestamp((run / NAME).stat().st_mtime, dt.UTC)
    except (DecodeError, FileNotFoundError):  # somebody else removed it meanwhile
        return dt.datetime.max.replace(tzinfo=dt.UTC)


def _size(run: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):  # somebody else removed it meanwhile
        for path in run.iterdir():
            with contextlib.suppress(OSError):  # it was converted
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
