"""``--from`` and ``--to`` of a recorded run: seconds from its start, or a time of the clock on the wall."""

from __future__ import annotations

import datetime as dt
import math

from batchscope.cli.options import CommandError
from batchscope.ledger.instants import time_to_instant
from batchscope.sinks import RunHeader


def instant_of(option: str, text: str, header: RunHeader, began: float) -> float:
    """What ``text`` means, on the run's clock; CommandError where it means nothing."""
    try:
        seconds = float(text)
    except ValueError:
        return _of_wall_clock(option, text, header)
    if not 0 <= seconds < math.inf:
        raise CommandError(f"{option} {text}: expected seconds >= 0 from the start of the run")
    return began + seconds


def _of_wall_clock(option: str, text: str, header: RunHeader) -> float:
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{option} {text}: expected seconds from the start of the run, or a time as 2026-11-28T18:00:30"
        ) from None
    if header.simulated:
        raise CommandError(f"{option} {text}: expected seconds from its start: the run is of simulated time, of no day")
    return time_to_instant(header, time if time.tzinfo else time.replace(tzinfo=dt.UTC))
