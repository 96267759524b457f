"""The parts of a request's life by brute force: every elementary interval is classified by what holds in its middle."""

from __future__ import annotations

from collections import defaultdict
from math import nan

import pyarrow as pa

from batchscope.recording.rings import Numbering


class Part:
    """One iteration that a request took part in, or that evicted it."""

    def __init__(self, iteration: dict, tokens: int, evicted: bool, begin: float, end: float) -> None:
        self.iteration, self.tokens, self.evicted, self.begin, self.end = iteration, tokens, evicted, begin, end


def split(requests: pa.Table, iterations: pa.Table, spans: pa.Table) -> dict[int, dict]:
    """By request: {(part, limiter, "before" | "after"): seconds}; nothing is modelled, so nothing is stretched."""
    rows = {row["iteration"]: row for row in iterations.to_pylist()}
    lines: dict[int, list[dict]] = defaultdict(list)
    for ordinal in sorted(rows):
        lines[(ordinal - 1) // Numbering.LINE].append(rows[ordinal])
    by_request = defaultdict(list)
    for span in spans.to_pylist():
        for ordinal in range(span["first_iteration"], span["first_iteration"] + span["iterations"]):
            if ordinal in rows:
                by_request[span["request"]].append((rows[ordinal], span["tokens"], bool(span["evicted"])))
    return {row["request"]: _life(row, by_request[row["request"]], lines) for row in requests.to_pylist()}


def _life(row: dict, taken: list, lines: dict[int, list[dict]]) -> dict:
    arrived, finished = row["arrived_at"], row["finished_at"]
    parts, end = [], arrived
    for iteration, tokens, evicted in sorted(taken, key=lambda one: (one[0]["started_at"], one[0]["finished_at"])):
        begin = max(iteration["started_at"], end)
        if not evicted:
            end = max(end, min(iteration["finished_at"], finished))
        parts.append(Part(iteration, tokens, evicted, begin, begin if evicted else end))
        end = max(end, begin)
    cuts = {arrived, finished}
    for line in lines.values():
        for iteration in line:
            cuts |= {iteration["started_at"], iteration["finished_at"]}
    edges = sorted(cut for cut in cuts if arrived <= cut <= finished)
    found: dict = defaultdict(float)
    for low, high in zip(edges, edges[1:], strict=False):
        found[_meaning((low + high) / 2, row, parts, lines)] += high - low
    return dict(found)


def _meaning(at: float, row: dict, parts: list[Part], lines: dict[int, list[dict]]) -> tuple:
    first_token = nan if row["first_token_at"] is None else row["first_token_at"]
    window = "after" if at > first_token else "before"
    now = next((part for part in parts if part.begin <= at < part.end and not part.evicted), None)
    past = [part for part in parts if part.begin <= at and part is not now and part.end <= at]
    to_come = [part for part in parts if part.begin > at]
    if now is not None:
        lost = False
        for part in past:
            lost = part.evicted or (lost and not part.tokens)
        return "recomputed" if lost else "decode" if window == "after" else "prefill", None, window
    was_evicted = bool(past) and past[-1].evicted
    if parts and not to_come and not was_evicted:
        return "after_last_token", None, window
    if not parts and len(lines) > 1:
        return "queued", "unknown", window
    following = (to_come or past or parts or [None])[0] if not was_evicted or to_come else past[-1]
    line = next(iter(lines.values())) if following is None else lines[_line(following)]
    held = _held(at, line)
    if held is None:
        return "between_iterations", None, window
    if not past and held["started_at"] < row["arrived_at"]:
        return "arriving", None, window
    state = "preempted" if was_evicted else "stood_still" if past else "queued"
    return state, held["limited_by"], window


def _line(part: Part) -> int:
    return (part.iteration["iteration"] - 1) // Numbering.LINE


def _held(at: float, line: list[dict]) -> dict | None:
    """The last iteration that started, while any of those that started is not at its end."""
    begun = [iteration for iteration in line if iteration["started_at"] <= at]
    if not begun or max(iteration["finished_at"] for iteration in begun) <= at:
        return None
    return begun[-1]
