"""What the page is told: everything at first, then what is new since its cursor.

A document of columns: a list a quantity, and one number where it is the same in all cells. Names come only where
they differ from what the asker's cursor says it knows.
"""

from __future__ import annotations

import math
import re
import string
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from batchscope.dashboard.counts import (
    BUCKETS,
    COLUMNS,
    GPU_COLUMNS,
    LATENCIES,
    LIMITERS,
    MOST_CLASSES,
    RELATIVE_ERROR,
    SCALE,
)
from batchscope.dashboard.figures import WINDOW, figures
from batchscope.dashboard.history import COARSE_CELLS, FINE_CELLS, SECONDS, TENS, Extract, History
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.text import readable_document, shown_document
from batchscope.version import __version__
from batchscope.views.numbers import duration
from batchscope.views.palette import LIMITERS as MARKS
from batchscope.views.palette import STATES, TONES
from batchscope.views.samples import FEWEST
from batchscope.views.verdict import STALE_INTERVALS, State, verdict
from batchscope.views.words import holder, limiter_name, short_name

SCHEMA = "batchscope.history/1"
_CURSOR = re.compile(r"([0-9a-f]{1,16})-(\d{1,15})-([0-9a-f]{1,8})-(\d{1,3})")
_DIGITS = 4
_DIGIT = string.digits + string.ascii_lowercase
_AGE = 7.0
LONGEST_NAME = 120


class Cursor(NamedTuple):
    """What an asker has: of which history, cells before ``number``, which names, cells of how many seconds."""

    history: str = ""
    number: int = 0
    names: str = ""
    seconds: int = SECONDS

    def __str__(self) -> str:
        return f"{self.history}-{self.number}-{self.names}-{self.seconds}"


class Wanted(NamedTuple):
    """Cells of so many ``seconds``, of the ``last`` seconds."""

    seconds: int = SECONDS
    last: int = FINE_CELLS * SECONDS


def wanted_of(seconds: str, last: str) -> Wanted:
    """What an asker says that it wants; whatever is no number is the default."""
    width = TENS if seconds == str(TENS) else SECONDS
    most = (FINE_CELLS if width == SECONDS else COARSE_CELLS) * width
    return Wanted(width, min(int(last), most) if re.fullmatch(r"[1-9]\d{0,5}", last) else most)


def cursor_of(text: str) -> Cursor:
    """The cursor that an asker sends back; what is none means that it has nothing."""
    found = _CURSOR.fullmatch(text)
    return Cursor(found[1], int(found[2]), found[3], int(found[4])) if found else Cursor()


class Told(NamedTuple):
    """The present of a source, for everybody who asks in the same second; ``silent`` for so long, 0 = it lives."""

    texts: dict[str, str]
    verdict: dict[str, str]
    names: dict[str, Any]
    fingerprint: str
    silent: float


def present(
    snapshot: MetricsSnapshot,
    interval: float,
    before: MetricsSnapshot | None = None,
    recent: MetricsSnapshot | None = None,
    *,
    silent: float | None = None,
) -> Told:
    """The verdict (``before`` and ``recent`` as it has them), the figures and what they are called.

    ``silent``: for how many seconds nobody has lived whose figures these are; None: somebody does.
    """
    age = 0.0 if silent is None else max(0.0, silent)
    judged = verdict(snapshot, before=before, recent=recent, interval=interval, age=age, gone=silent is not None)
    texts = figures(snapshot)
    names = shown_document(readable_document(_names(snapshot, interval)), LONGEST_NAME + 20)
    fields = readable_document(list(texts))
    fingerprint = f"{zlib.crc32(msgspec.json.encode([names, fields])):x}"
    said = {"state": str(judged.state), "sentence": judged.sentence}
    return Told(texts, said, {**names, "figures": fields}, fingerprint, age)


def document(history: History, told: Told, cursor: Cursor, wanted: Wanted, cost: float) -> bytes:
    """The answer to who has ``cursor``, and only ``wanted`` if that is none. ``cost``: of a core, so far."""
    seconds = wanted.seconds
    following = history.newest // seconds + 1
    same = cursor.history == history.identity and cursor.seconds == seconds and cursor.number <= following
    oldest = (history.newest - wanted.last) // seconds + 1
    extract = history.since(cursor.number if same else oldest, seconds=seconds)
    coming = cursor.number if same else 0  # with nothing new: a cell that is not there yet is not to be left out
    if len(extract.cells):
        coming = int(extract.cells.numbers[-1]) + (seconds == SECONDS)  # of a coarse cell there may be more to come
    columns = _names_of_columns(extract)
    fingerprint = f"{zlib.crc32(msgspec.json.encode(columns)) ^ int(told.fingerprint, 16):x}"
    answer: dict[str, Any] = {
        "schema": SCHEMA,
        "history": history.identity,
        "cursor": str(Cursor(history.identity, coming, fingerprint, seconds)),
        "whole": not same,
        "seconds": seconds,
        "newest": extract.newest,
        "marks": [list(mark) for mark in extract.marks],
        "verdict": told.verdict,
        "silent": round(told.silent, 1),
        "texts": list(told.texts.values()),
        "cells": _cells(extract),
        "cost": round(cost, 5),
        "cut_off": history.cut_off,
    }
    if not same or cursor.names != fingerprint:
        answer["names"] = {**told.names, **columns}
    return msgspec.json.encode(answer)


def _names(snapshot: MetricsSnapshot, interval: float) -> dict[str, Any]:
    limits = snapshot.limits
    return {
        "version": __version__,
        "interval": interval,
        "stale_intervals": STALE_INTERVALS,
        "instance": snapshot.instance_id,
        "started_at": snapshot.started_at.timestamp(),
        "processes": max(1, len(snapshot.merged_from)),
        "merged": bool(snapshot.merged_from),
        "engine": " ".join(filter(None, (snapshot.engine.kind, snapshot.engine.version))),
        "labels": snapshot.labels,
        "targets": {name: one.targets for name, one in snapshot.slo_stats.items() if one.targets},
        "latencies": {name: short_name(name) for name in LATENCIES},
        "limits": {"max_running_requests": limits.max_running_requests, "kv_cache_blocks": limits.kv_cache_blocks,
                   "max_scheduled_tokens": limits.max_scheduled_tokens},
        "limiters": [
            {"id": name, "name": limiter_name(name), "letter": MARKS[name].letter, "what": holder(name, limits)}
            for name in LIMITERS
        ],
        "window": WINDOW,
        "table_error": _error_of_tables(snapshot),
        "fewest": FEWEST,
        "states": {
            str(state): {"sign": mark.sign, "tone": next(name for name, tone in TONES.items() if tone is mark.tone)}
            for state, mark in ((state, STATES[state]) for state in State)
        },
        "silence": {
            "stale": _with_age(lambda age: verdict(snapshot, age=age, interval=interval).sentence),
            "gone": _with_age(lambda age: verdict(snapshot, age=age, interval=interval, gone=True).sentence),
        },
    }  # fmt: skip


def _error_of_tables(snapshot: MetricsSnapshot) -> float:
    """Within what the percentiles of the last minute are, all of them; 0 where none was estimated."""
    window = snapshot.windowed.get(WINDOW)
    found = [one.relative_error for one in window.summaries.values()] if window else []
    return max((error for error in found if math.isfinite(error)), default=0.0)


def _with_age(sentence: Callable[[float], str]) -> str:
    """The first sentence that a verdict of such an age begins with, the age left open: the page fills it in."""
    first, mark, _ = sentence(_AGE).partition(" old.")
    return (first + mark).replace(duration(_AGE), "{age}")


def _names_of_columns(extract: Extract) -> dict[str, Any]:
    return {
        "columns": COLUMNS,
        "classes": [shown_name[:LONGEST_NAME] for shown_name in readable_document(extract.classes)],
        "gpu_columns": list(GPU_COLUMNS),
        "histograms": {"scale": SCALE, "buckets": BUCKETS, "first_octave": LATENCIES, "relative_error": RELATIVE_ERROR},
    }


def _cells(extract: Extract) -> dict[str, Any]:
    cells = extract.cells
    return {
        "numbers": cells.numbers.tolist(),
        "counts": [_column(column) for column in _rounded(cells.counts)],
        "slo": [
            [_column(cells.slo[:, row, result].tolist()) for result in range(2)]
            for row in range(min(len(extract.classes), MOST_CLASSES))
        ],
        "gpus": [_column(_short(cells.gpus[:, place], digits)) for place, digits in enumerate(GPU_COLUMNS.values())],
        "latencies": [_packed(table) for table in cells.latencies],
    }


def _rounded(counts: np.ndarray[Any, np.dtype[np.float64]]) -> list[list[float]]:
    """By column, four digits behind the point, so that any sum over neighbours is right to four digits, too."""
    sums = np.round(np.cumsum(counts, axis=0), _DIGITS)
    steps = np.round(np.diff(sums, axis=0, prepend=0.0), _DIGITS)
    whole = (steps == np.trunc(steps)).all(axis=0).tolist()
    columns = zip(steps.T.tolist(), whole, strict=True)
    return [list(map(int, column)) if is_whole else column for column, is_whole in columns]


def _short(values: np.ndarray[Any, np.dtype[np.float32]], digits: int) -> list[float | None]:
    return [round(value, digits or None) if math.isfinite(value) else None for value in values.tolist()]


def _column(values: list[Any]) -> Any:
    """One number where all are the same."""
    return values[0] if len(values) > 1 and all(value == values[0] for value in values) else values


def _packed(table: np.ndarray[Any, Any]) -> str:
    """The rows of a table of buckets, in a third of JSON's room: each the first bucket in use, ``:`` and the counts.

    A count is a digit to base 36, or decimal in braces from 36 on; rows end in a comma. ``12:0a{40}1,,``
    """
    return "".join(_packed_row(row) for row in table)


def _packed_row(row: np.ndarray[Any, Any]) -> str:
    used = np.flatnonzero(row)
    if not len(used):
        return ","
    counts = row[used[0] : used[-1] + 1].tolist()
    digits = "".join(_DIGIT[count] if count < len(_DIGIT) else f"{{{count}}}" for count in counts)
    return f"{used[0]}:{digits},"
