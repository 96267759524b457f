"""The JSON-able form of a histogram, and the checks that a foreign document has to pass.

A document from another process is input: its sizes are bounded by the scale's range before anything is
allocated, and what no histogram can have written is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite, nan
from typing import Any

import numpy as np

from batchscope.errors import DecodeError
from batchscope.histograms.bucketed import BucketedValues, bucket_of
from batchscope.histograms.layout import MAX_SCALE, MIN_SCALE, Ints, bucket_layout

_LARGEST_COUNT = 2**63 - 1
_MOST_THRESHOLDS = 1000


def encode(batch: BucketedValues, below: list[tuple[float, int]]) -> dict[str, Any]:
    """``batch`` and the (threshold, count) pairs as a dict of plain numbers and lists."""
    document: dict[str, Any] = {**batch._asdict(), "counts": batch.counts.tolist(), "count": batch.total}
    del document["total"]
    for key in ("sum", "min", "max"):
        document[key] = document[key] if isfinite(document[key]) else None
    document["thresholds"] = [list(pair) for pair in below]
    return document


def decode(document: Mapping[str, Any]) -> tuple[BucketedValues, dict[float, int]]:
    """The parts that ``encode`` got; DecodeError says what is wrong with the document."""
    if not isinstance(document, Mapping):
        raise DecodeError(f"a histogram is a {type(document).__name__}: expected an object")
    scale = _integer(document, "scale", MIN_SCALE, MAX_SCALE)
    counts = _counts(document, scale)
    zero, overflow, count = (
        _integer(document, key, 0, _LARGEST_COUNT) for key in ("zero_count", "overflow_count", "count")
    )
    held = zero + overflow + sum(counts.tolist())
    if held != count:
        raise DecodeError(f"count = {count}: expected {held}, the sum of the buckets")
    offset = _integer(document, "offset", -(2**31), 2**31)
    batch = BucketedValues(scale, offset, counts, zero, overflow, count, *_extent(document, count, overflow))
    _check_places(batch)
    return batch, _below(document, count)


def _get(document: Mapping[str, Any], key: str) -> Any:
    try:
        return document[key]
    except KeyError:
        raise DecodeError(f"{key} is missing from a histogram") from None


def _integer(document: Mapping[str, Any], key: str, low: int, high: int) -> int:
    return _checked_integer(key, _get(document, key), low, high)


def _checked_integer(key: str, value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise DecodeError(f"{key} = {_shown(value)}: expected an integer from {low} to {high}")
    return value


def _shown(value: object) -> str:
    """A value as an error message quotes it: never longer than a line."""
    text = repr(value) if not isinstance(value, list | dict) else type(value).__name__
    return text if len(text) <= 60 else text[:60] + "..."


def _list(document: Mapping[str, Any], key: str, longest: int) -> list[Any]:
    value = _get(document, key)
    if not isinstance(value, list) or len(value) > longest:
        raise DecodeError(f"{key} = {_shown(value)}: expected a list of at most {longest}")
    return value


def _counts(document: Mapping[str, Any], scale: int) -> Ints:
    layout = bucket_layout(scale)
    counts = _list(document, "counts", layout.last - layout.first + 1)
    for count in counts:
        _checked_integer("a count", count, 0, _LARGEST_COUNT)
    if counts and not (counts[0] and counts[-1]):
        raise DecodeError("counts begin or end with 0: expected no empty buckets at the ends")
    return np.array(counts, dtype=np.int64)


def _number(document: Mapping[str, Any], key: str) -> float | None:
    value = _get(document, key)
    if value is None:
        return None
    if type(value) not in {int, float} or not 0 <= value < inf:
        raise DecodeError(f"{key} = {_shown(value)}: expected a finite number >= 0, or null")
    return _as_float(key, value)


def _as_float(key: str, value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise DecodeError(f"{key} = {_shown(value)}: expected a number that fits a double") from None


def _extent(document: Mapping[str, Any], count: int, overflow: int) -> tuple[float, float, float]:
    """(sum, min, max); a sum that overflowed was written as null."""
    total, low, high = (_number(document, key) for key in ("sum", "min", "max"))
    if not count:
        if total or low is not None or high is not None:
            raise DecodeError(f"sum, min, max = {total}, {low}, {high}: expected 0, null, null with count 0")
        return 0.0, nan, nan
    if low is None or high is None or low > high:
        raise DecodeError(f"min, max = {low}, {high}: expected two numbers in order")
    if total is None and not overflow:
        raise DecodeError("sum = null: expected a number")
    return (inf if total is None else total), low, high


def _check_places(batch: BucketedValues) -> None:
    """The extremes have to lie in the buckets that say so."""
    layout = bucket_layout(batch.scale)
    used = len(batch.counts)
    if not used and batch.offset:
        raise DecodeError(f"offset = {batch.offset}: expected 0 without counts")
    if used and not layout.first <= batch.offset <= batch.offset + used - 1 <= layout.last:
        raise DecodeError(f"offset = {batch.offset}: expected {used} buckets within {layout.first}..{layout.last}")
    if not batch.total:
        return
    below, beyond = layout.first - 1, layout.last + 1
    first = below if batch.zero_count else batch.offset if used else beyond
    last = beyond if batch.overflow_count else batch.offset + used - 1 if used else below
    if (bucket_of(layout, batch.min), bucket_of(layout, batch.max)) != (first, last):
        raise DecodeError(f"min, max = {batch.min}, {batch.max}: expected values of the outermost buckets in use")


def _below(document: Mapping[str, Any], count: int) -> dict[float, int]:
    """The exact count at each threshold, both ascending."""
    below: dict[float, int] = {}
    threshold, reached = -1.0, 0
    for pair in _list(document, "thresholds", _MOST_THRESHOLDS):
        if not isinstance(pair, list) or len(pair) != 2:
            raise DecodeError(f"a threshold is {_shown(pair)}: expected [threshold, count]")
        value = _number({"threshold": pair[0]}, "threshold")
        if value is None or value <= threshold:
            raise DecodeError(f"threshold = {value}: expected a number above {threshold}, the one before")
        threshold = value
        reached = below[value] = _checked_integer("a threshold's count", pair[1], reached, count)
    return below
