"""Whether the scheduler works: silence is not health."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec

from batchscope.statistics.totals import Gauges

STALL_SECONDS = 60.0
"""Longer than any iteration, a first one that compiles or captures graphs included."""


class Health(msgspec.Struct, frozen=True):
    """``ok``, ``stalled``, ``gone``, ``unreadable`` or ``closed``; why, and the figures that it rests on."""

    status: str
    reason: str = ""
    figures: dict[str, Any] = {}

    @property
    def healthy(self) -> bool:
        """Whether the answer is 200."""
        return self.status == "ok"


CLOSED = Health("closed", "the collector was closed: what it says no longer changes")


def judge(gauges: Gauges, stall_seconds: float = STALL_SECONDS) -> Health:
    """Stalled: requests wait or hold a place, and no iteration has ended for ``stall_seconds``.

    Where requests only wait, they must have waited that long as well: after an idle hour the first request finds
    an old last iteration. Requests that hold a place count where a tracker follows them; a last iteration's
    report of them says nothing about now. With deferred requests alone there is nothing the scheduler could do.
    """
    waiting, running = gauges.requests_waiting or 0, gauges.requests_running or 0
    tracked, silent = gauges.requests_in_flight > 0, gauges.seconds_since_last_iteration
    holding = running > 0 and tracked
    if not (waiting > 0 or holding):
        return Health("ok", figures=_figures(gauges))
    known = [seconds for seconds in (silent, _oldest(gauges, holding=holding)) if not math.isnan(seconds)]
    if not known or min(known) <= stall_seconds:
        return Health("ok", figures=_figures(gauges))
    reason = (
        f"{waiting} requests wait and {running} hold a place, but no iteration has ended for {min(known):.0f} s:"
        f" more than {stall_seconds:g} s"
    )
    return Health("stalled", reason, _figures(gauges))


class Processes(Protocol):
    """Instance -> gauges of the living; how many are gone; why their place could not be read, if so."""

    @property
    def living(self) -> Mapping[str, Gauges]: ...
    @property
    def gone(self) -> int: ...
    @property
    def trouble(self) -> str: ...


@runtime_checkable
class ProcessSource(Protocol):
    """A source that is the merge of several processes."""

    def processes(self) -> Processes:
        """Who is there."""


def judge_processes(gauges: Gauges, found: Processes, stall_seconds: float = STALL_SECONDS) -> Health:
    """As ``judge``, of all together and of each living process that has ended an iteration before.

    Those that never did (an API server) have no iterations of their own: they are judged with all together.
    Nobody yet is no trouble; nobody any more is, as is a place that cannot be read.
    """
    counts = {"processes": {"living": len(found.living), "gone": found.gone}}
    figures = {**_figures(gauges), **counts}
    if found.trouble:
        return Health("unreadable", found.trouble, figures)
    if not found.living:
        reason = f"no process lives any more: {found.gone} are gone, their counts stay" if found.gone else ""
        return Health("gone", reason, figures) if found.gone else Health("ok", "no process yet", figures)
    for instance, own in found.living.items():
        health = judge(own, stall_seconds)
        if not health.healthy and not math.isnan(own.seconds_since_last_iteration):
            return Health("stalled", f"process {instance}: {health.reason}", {**health.figures, **counts})
    health = judge(gauges, stall_seconds)
    return Health(health.status, health.reason, figures)


def _oldest(gauges: Gauges, *, holding: bool) -> float:
    """How long the oldest request waits; ``nan`` where that is not known or not the question."""
    return math.nan if holding else gauges.oldest_waiting_seconds


def _figures(gauges: Gauges) -> dict[str, Any]:
    names = ("requests_running", "requests_waiting", "seconds_since_last_iteration", "oldest_waiting_seconds")
    known = {name: getattr(gauges, name) for name in names}
    return {
        name: None if value is None or (isinstance(value, float) and math.isnan(value)) else value
        for name, value in known.items()
    }
