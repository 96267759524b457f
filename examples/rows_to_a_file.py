"""Writes every row of a collector to a file of JSON lines, and reads it back: run by run, each token's instant.

A line is a run's header, a row, or what was missed. The file needs no collector to be read: the header says which
generation its rows are of, what their classes are called and when it was by the wall clock.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from batchscope import CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.rows import COLUMNS, Gaps
from batchscope.sinks import HandOver, Missed, RunHeader, decode_header


class RowLines:
    """A sink: it writes, so it stands behind a ``HandOver``. Gaps between tokens are left out: spans say them."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def begin(self, header: RunHeader) -> None:
        self._file.write(f'{{"run": {header.to_json().decode()}}}\n')

    def take(self, block: Any) -> None:
        if isinstance(block, Gaps):
            return
        names = [column.name.lower() for column in COLUMNS[block.kind]]
        objects = block.objects or [None] * len(block.values)
        for values, about in zip(block.values.tolist(), objects, strict=True):
            known = {name: value for name, value in zip(names, values, strict=True) if value == value}  # noqa: PLR0124
            self._file.write(json.dumps({"kind": block.kind.name, "of": about, **known}, default=str) + "\n")

    def missed(self, missed: Missed) -> None:
        self._file.write(json.dumps({"missed": missed.rows, "first_at": missed.first_at}) + "\n")

    def end(self) -> None:
        self._file.flush()


def runs(path: Path) -> Iterator[tuple[RunHeader, list[dict[str, Any]]]]:
    """Each run of a file, in order, with its lines."""
    header, lines = None, []
    with path.open() as file:
        for line in map(json.loads, file):
            if "run" not in line:
                lines.append(line)
                continue
            if header is not None:
                yield header, lines
            header, lines = decode_header(json.dumps(line["run"])), []
    if header is not None:
        yield header, lines


def token_instants(lines: list[dict[str, Any]]) -> dict[int, list[float]]:
    """When each request emitted its tokens, by its number in the run; an iteration that was rejected has no row."""
    ended = {line["ordinal"]: line["finished_at"] for line in lines if line.get("kind") == "ITERATION"}
    instants: dict[int, list[float]] = defaultdict(list)
    for span in [line for line in lines if line.get("kind") == "SPAN"]:
        ordinals = range(int(span["first_iteration"]), int(span["first_iteration"] + span["iterations"]))
        for at in [ended[ordinal] for ordinal in ordinals if ordinal in ended]:
            instants[int(span["request"])] += [at] * int(span["tokens"])
    return {request: sorted(found) for request, found in sorted(instants.items())}


def record(path: Path) -> None:
    """Two requests; a reset while the second is still running."""
    now = 0.0
    limits = SchedulerLimits(max_running_requests=2)
    with (
        path.open("w") as file,
        HandOver(RowLines(file)) as sink,
        SchedulerMetricsCollector(limits=limits, clock=lambda: now) as collector,  # is closed first
    ):
        collector.subscribe(sink)
        tracker = RequestTracker(collector)
        short, long = tracker.arrived("short", prompt_tokens=20), tracker.arrived("long", prompt_tokens=400)
        for now, batch, tokens in ((1.0, [short, long], [1, 0]), (2.0, [short, long], [1, 1]), (3.0, [long], [2])):
            tracker.iteration(batch, tokens)
            if now == 2.0:
                tracker.finished(short, CompletionReason.EOS_TOKEN_REACHED)
                collector.reset()
        tracker.finished(long, CompletionReason.MAX_TOKENS_REACHED)


def main(path: Path) -> None:
    record(path)
    for header, lines in runs(path):
        finished = [line["of"] for line in lines if line.get("kind") == "REQUEST"]
        print(f"generation {header.generation}: finished {finished}, tokens at {token_instants(lines)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("rows.jsonl"))
