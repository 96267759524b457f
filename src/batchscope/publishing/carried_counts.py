"""What a process has to publish so that the fleet's counts neither fall nor count anything twice.

And the arithmetic of it: the counts since an earlier snapshot, and those of several lives joined.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import reduce
from typing import Any

import msgspec
import numpy as np

from batchscope.histograms.bucketed import BucketedValues
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.histograms.layout import bucket_layout
from batchscope.publishing.merge_fleet import ended
from batchscope.publishing.publication import Publication
from batchscope.statistics.merge import merge_snapshots
from batchscope.statistics.snapshot import MetricsSnapshot

_MOST_GENERATIONS = 8
_SEVERAL = -1
_COUNTED = ("totals", "histograms", "slo_stats")
_OUTCOMES = ("total_requests", "completed_requests", "failed_requests", "cancelled_requests")
_ERRORS = ("total_errors", "errors_by_type")
_OWN = (
    "gauges", "limits", "labels", "definitions", "role", "engine", "resource_stats", "resource_facts", "instance_id",
    "generation", "sequence", "means", "window", "windowed", "windowed_histograms",
)  # fmt: skip


class Continuation:
    """Turns a collector's snapshots into publications.

    Two things happen to a process's counts. ``reset()`` forgets them here, yet the fleet's counters must not
    fall (whoever computes a rate takes a fall for a restart and counts everything again): what an earlier
    generation had counted, when it was last looked at, is carried on. And a reader that took this process for
    dead holds its counts for good: they are left out from then on.
    """

    def __init__(self) -> None:
        self.base = 0
        self._held: MetricsSnapshot | None = None
        self._last: MetricsSnapshot | None = None
        self._ended: dict[int, MetricsSnapshot] = {}
        self._sent: dict[int, MetricsSnapshot] = {}

    def publication(self, snapshot: MetricsSnapshot, *, final: bool) -> Publication:
        """What to publish now; its snapshot is remembered until ``keep`` leaves it out."""
        if self._last is not None and self._last.generation != snapshot.generation:
            self._ended[self._last.generation] = self._last
            if len(self._ended) > _MOST_GENERATIONS:
                self._join(snapshot.generation)
        self._last = self._sent[snapshot.sequence] = snapshot
        content = reduce(lambda whole, part: joined(self._new(part), whole), self._ended.values(), self._new(snapshot))
        return Publication(snapshot.instance_id, self.base, snapshot.sequence, final, content)

    def _new(self, snapshot: MetricsSnapshot) -> MetricsSnapshot:
        """What of ``snapshot`` no reader holds for good."""
        return snapshot if self._held is None else since(snapshot, self._held)

    def keep(self, sequences: Iterable[int]) -> None:
        """No other publications than these can be held by a reader from now on."""
        self._sent = {sequence: self._sent[sequence] for sequence in sequences}
        self._join(min((snapshot.generation for snapshot in self._sent.values()), default=0))

    def _join(self, generation: int) -> None:
        """Make one of all generations before ``generation``: a reader that holds a later one holds them all."""
        old = [self._new(self._ended.pop(one)) for one in sorted(self._ended) if one < generation]
        if old:
            one = reduce(lambda whole, part: joined(part, whole), old)
            self._ended[_SEVERAL] = msgspec.structs.replace(one, generation=_SEVERAL)

    def folded(self, sequence: int) -> None:
        """A reader holds everything up to publication ``sequence`` for good."""
        self._held, self.base = self._sent[sequence], sequence
        self._ended = {one: last for one, last in self._ended.items() if one >= self._held.generation}


def since(now: MetricsSnapshot, before: MetricsSnapshot) -> MetricsSnapshot:
    """``now`` without the counts of ``before``, an earlier snapshot of the same collector.

    After a reset (another generation) nothing of ``before`` is in ``now``: it is returned as it is. Merging
    ``before``'s counts with the result gives ``now``'s, extremes included; its own extremes are those of the
    buckets. What is of the present stays ``now``'s.
    """
    if now.generation != before.generation:
        return now
    changed: dict[str, Any] = {field: _minus(getattr(now, field), getattr(before, field)) for field in _COUNTED}
    changed["request_stats"] = _fewer(now.request_stats, before.request_stats, _OUTCOMES)
    changed["error_stats"] = _fewer(now.error_stats, before.error_stats, _ERRORS)
    changed["batch_stats"] = _fewer(now.batch_stats, before.batch_stats, ("total_batches",))
    return msgspec.structs.replace(now, **changed)


def joined(carried: MetricsSnapshot, now: MetricsSnapshot) -> MetricsSnapshot:
    """``now`` with the counts of ``carried`` added, still under its own name."""
    whole = merge_snapshots([ended(carried), now])
    return msgspec.structs.replace(whole, merged_from=[], **{field: getattr(now, field) for field in _OWN})


def _fewer(now: msgspec.Struct, before: msgspec.Struct, fields: tuple[str, ...]) -> msgspec.Struct:
    return msgspec.structs.replace(
        now, **{field: _minus(getattr(now, field), getattr(before, field)) for field in fields}
    )


def _minus(now: Any, before: Any) -> Any:
    """Numbers and histograms subtracted, in structs and tables too; of anything else ``now``."""
    if isinstance(now, ExponentialHistogram):
        return _histogram_since(now, before)
    if isinstance(now, dict):
        return {key: _minus(value, before[key]) if key in before else value for key, value in now.items()}
    if isinstance(now, msgspec.Struct):
        return _fewer(now, before, now.__struct_fields__)
    if isinstance(now, int) and isinstance(before, int):
        return now - before
    if isinstance(now, float) and isinstance(before, float):
        return now if math.isnan(before) else max(now - before, 0.0)
    return now


def _histogram_since(now: ExponentialHistogram, before: ExponentialHistogram) -> ExponentialHistogram:
    """The observations of ``now`` that are not in ``before``."""
    scale = min(now.scale, before.scale)
    new, old = now.downscaled(scale).bucketed(), before.downscaled(scale).bucketed()
    counts = new.counts.copy()
    start = old.offset - new.offset
    counts[start : start + len(old.counts)] -= old.counts
    held = np.flatnonzero(counts)
    first, end = (int(held[0]), int(held[-1]) + 1) if len(held) else (0, 0)
    batch = BucketedValues(
        scale, new.offset + first if len(held) else 0, counts[first:end], new.zero_count - old.zero_count,
        new.overflow_count - old.overflow_count, new.total - old.total, max(new.sum - old.sum, 0.0), math.nan, math.nan,
    )  # fmt: skip
    below = [now.cumulative_count_at(at) - before.cumulative_count_at(at) for at in now.thresholds]
    found = ExponentialHistogram(scale, thresholds=now.thresholds)
    if batch.total:
        found.add_counts(_with_extremes(batch, now, before), np.array(below, dtype=np.int64))
    return found


def _with_extremes(batch: BucketedValues, now: ExponentialHistogram, before: ExponentialHistogram) -> BucketedValues:
    """A smallest and a largest value that lie in the outermost buckets in use and within ``now``'s own."""
    low, high = now.min, now.max
    edges = bucket_layout(batch.scale).edges(batch.offset, len(batch.counts) + 1).tolist()
    if now.min == before.min and not batch.zero_count:
        low = min(max(_middle(edges[:2]), now.min), now.max) if len(batch.counts) else now.max
    if now.max == before.max and not batch.overflow_count:
        high = min(max(_middle(edges[-2:]), now.min), now.max) if len(batch.counts) else now.min
    return batch._replace(min=min(low, high), max=max(low, high))


def _middle(edges: list[float]) -> float:
    return 2.0 * edges[0] * edges[1] / (edges[0] + edges[1])
