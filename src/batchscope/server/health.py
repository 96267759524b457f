"""Whether the scheduler works: silence is not health."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec

from batchscope.statistics.totals import Gauges, standing_still

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
    """Stalled: requests wait or hold a place, and no iteration has ended for ``stall_seconds``."""
    silent = standing_still(gauges)
    if not silent > stall_seconds:
        return Health("ok", figures=_figures(gauges))
    reason = (
        f"{gauges.requests_waiting or 0} requests wait and {gauges.requests_running or 0} hold a place,"
        f" but no iteration has ended for {silent:.0f} s: more than {stall_seconds:g} s"
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


def _figures(gauges: Gauges) -> dict[str, Any]:
    names = ("requests_running", "requests_waiting", "seconds_since_last_iteration", "oldest_waiting_seconds")
    known = {name: getattr(gauges, name) for name in names}
    return {
        name: None if value is None or (isinstance(value, float) and math.isnan(value)) else value
        for name, value in known.items()
    }
