"""Instants of a run's clock: when it began, what the clock on the wall said, and those of a request's life."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa

from batchscope.clock import later
from batchscope.ledger.iteration_lines import Floats, Mask, numbers
from batchscope.sinks import RunHeader

INSTANTS = ("arrived_at", "first_scheduled_at", "first_token_at", "last_token_at", "finished_at")
_NO_DATE = 1970  # the year that imports without a date are given
_DURATIONS = ("queue_time", "prefill_time", "time_to_first_token", "decode_time", "processing_time", "total_time")


def began_at(header: RunHeader) -> float:
    """When counting began, on the run's clock; ``header``: the run's first."""
    if header.started_instant is not None:
        return header.started_instant
    return header.anchor_instant + (header.started_at - header.anchor_time).total_seconds()


def instant_to_time(header: RunHeader, instant: float) -> dt.datetime:
    """The wall clock at an instant of the run's clock; in the year 9999 where that is later still."""
    return later(header.anchor_time, instant - header.anchor_instant)


def time_to_instant(header: RunHeader, time: dt.datetime) -> float:
    """The way back."""
    return header.anchor_instant + (time - header.anchor_time).total_seconds()


def undated(header: RunHeader) -> bool:
    """Whether its instants are of no day that is known: a simulation's, or imported from what has no date."""
    return header.simulated or header.anchor_time.year == _NO_DATE


def request_instants(requests: pa.Table) -> tuple[dict[str, Floats], Mask]:
    """The instants of requests by ``INSTANTS`` (``nan``: not known), and whose follow from their durations alone.

    An engine that hands out durations says when a request ended (``finished_at``, else ``at``): its whole time back is
    its arrival, and from there its phases follow each other, none beyond the end. Of one that ran without a word on
    when it was scheduled or had its first token nothing follows.
    """
    known = {name: numbers(requests, name) for name in INSTANTS}
    queued, prefill, to_first, decode, processing, total = (numbers(requests, name) for name in _DURATIONS)
    splits = np.isfinite(queued) | np.isfinite(to_first) | np.isnan(processing)
    derived: Mask = np.isnan(known["arrived_at"]) & np.isfinite(total) & splits
    finished = _given(known["finished_at"], numbers(requests, "at"))
    arrived = finished - total
    scheduled = arrived + queued
    first = _given(_given(scheduled + prefill, arrived + to_first), known["first_token_at"])
    last = _given(first + decode, np.where(np.isnan(first), np.nan, finished))
    follows = dict(zip(INSTANTS, (arrived, scheduled, first, last, finished), strict=True))
    return {
        name: np.where(derived, np.minimum(follows[name], finished), column) for name, column in known.items()
    }, derived & np.isfinite(finished)


def _given(values: Floats, otherwise: Floats) -> Floats:
    return np.where(np.isnan(values), otherwise, values)
