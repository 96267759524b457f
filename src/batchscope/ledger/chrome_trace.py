"""A trace as JSON, in Chrome's Trace Event format: for chrome://tracing and whatever else reads that.

Complete events (``X``) with a start and a duration in microseconds, counters (``C``) and names of rows (``M``); a group
of tracks is a process, a track a thread. Limiters and phases have colours of the format's own palette.
Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from batchscope.ledger.request_parts import Phase
from batchscope.ledger.trace import Trace
from batchscope.records import BatchLimiter
from batchscope.text import readable

COLORS: dict[str, str] = {
    BatchLimiter.DEMAND: "good",
    BatchLimiter.REQUEST_SLOTS: "yellow",
    BatchLimiter.TOKEN_BUDGET: "bad",
    BatchLimiter.KV_CACHE: "terrible",
    BatchLimiter.DEFERRED: "rail_load",
    BatchLimiter.POLICY: "rail_animation",
    BatchLimiter.PAUSED: "rail_idle",
    BatchLimiter.UNKNOWN: "grey",
    Phase.QUEUED: "thread_state_runnable",
    Phase.PREFILL: "thread_state_iowait",
    Phase.DECODE: "thread_state_running",
    Phase.PREEMPTED: "thread_state_uninterruptible",
    Phase.RECOMPUTED: "thread_state_unknown",
}
"""By a slice's name; others have the viewer's."""
_BLOCK = 10_000
_MICROSECONDS = 1e-3


def encode(trace: Trace) -> Iterator[bytes]:
    """The file, piece by piece; one after the other they are one JSON document."""
    yield b'{"displayTimeUnit":"ms","traceEvents":[\n'
    block, between = [], b""
    for event in _events(trace):
        block.append(msgspec.json.encode(event))
        if len(block) == _BLOCK:
            yield between + b",\n".join(block)
            block, between = [], b",\n"
    yield (between if block else b"") + b",\n".join(block) + b"\n]}\n"


def _events(trace: Trace) -> Iterator[dict[str, Any]]:
    processes = {place: place + 1 for place, track in enumerate(trace.tracks) if track.parent is None}
    process = [processes[place if track.parent is None else track.parent] for place, track in enumerate(trace.tracks)]
    for place, track in enumerate(trace.tracks):
        what, name = ("process", "process_name") if track.parent is None else ("thread", "thread_name")
        thread = {"tid": place + 1} if what == "thread" else {}
        yield {"ph": "M", "pid": process[place], **thread, "name": name, "args": {"name": readable(track.name)}}
        yield {"ph": "M", "pid": process[place], **thread, "name": f"{what}_sort_index", "args": {"sort_index": place}}
    names = [readable(name) for name in trace.names]
    for place, begin, end, name, depth in zip(*(column.tolist() for column in trace.slices), strict=True):
        color = COLORS.get(names[name]) if depth or not _is_lane(trace, place) else None
        colored = {"cname": color} if color else {}
        at, lasts = begin * _MICROSECONDS, (end - begin) * _MICROSECONDS
        yield {
            "ph": "X", "pid": process[place], "tid": place + 1, "name": names[name], "ts": at, "dur": lasts, **colored,
        }  # fmt: skip
    for place, at, value in zip(*(column.tolist() for column in trace.counts), strict=True):
        name = trace.tracks[place].name
        yield {"ph": "C", "pid": process[place], "name": name, "ts": at * _MICROSECONDS, "args": {name: value}}


def _is_lane(trace: Trace, place: int) -> bool:
    """Whether its outer slices are named by whoever made the requests."""
    parent = trace.tracks[place].parent
    return parent is not None and trace.tracks[parent].name == "requests"
