"""Instants of a run's clock: when the run began, and what the clock on the wall said."""

from __future__ import annotations

import datetime as dt

from batchscope.sinks import RunHeader


def began_at(header: RunHeader) -> float:
    """When counting began, on the run's clock; ``header``: the run's first."""
    if header.started_instant is not None:
        return header.started_instant
    return header.anchor_instant + (header.started_at - header.anchor_time).total_seconds()


def instant_to_time(header: RunHeader, instant: float) -> dt.datetime:
    """The wall clock at an instant of the run's clock."""
    return header.anchor_time + dt.timedelta(seconds=instant - header.anchor_instant)


def time_to_instant(header: RunHeader, time: dt.datetime) -> float:
    """The way back."""
    return header.anchor_instant + (time - header.anchor_time).total_seconds()
