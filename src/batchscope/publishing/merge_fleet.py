"""One snapshot of the living and the dead of a fleet, whose counters never fall."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from batchscope.configuration import SchedulerLimits
from batchscope.errors import MergeError
from batchscope.records import EngineInfo
from batchscope.statistics.merge import merge_snapshots
from batchscope.statistics.merge_gauges import merge_gauges, merge_limits
from batchscope.statistics.merge_parts import common, same
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.summaries import BatchStatistics, ErrorStatistics, IterationStatistics, RequestStatistics
from batchscope.statistics.totals import Gauges, WindowTotals

Complain = Callable[[str, str], None]
"""Takes the instance that does not fit and why."""
_ROUNDING = 1e-9
"""Far above what adding in another order can change, far below what anybody measures."""


def combine(living: Sequence[MetricsSnapshot], gone: Sequence[MetricsSnapshot], complain: Complain) -> MetricsSnapshot:
    """Counts of all, under the labels of all; gauges, rates, limits, resources, last samples' averages of the living.

    Labels are those that the living and the gone agree on: a label that came back when a process ends would put
    the whole sum under another series, where it counts as new.

    Rates over different windows do not add up: where ``counter_window_seconds`` differ, only the counts of
    those that are in the minority count. What cannot be merged at all is left out. Both are complained of.
    """
    living = [_with_window(snapshot, _window_of_most(living), complain) for snapshot in living]
    parts = [*map(ended, gone), *living]
    try:
        whole = merge_snapshots(parts) if parts else nothing()
    except MergeError:
        living, parts = _mergeable(living, complain), _mergeable(parts, complain)
        whole = merge_snapshots(parts) if parts else nothing()
    instances = {snapshot.instance_id for snapshot in [*living, *gone] if snapshot.instance_id}
    return msgspec.structs.replace(whole, merged_from=sorted(instances), **_present(living))


def ended(snapshot: MetricsSnapshot) -> MetricsSnapshot:
    """The counts of a process that is gone: no gauges, windows, rates, resources, nor averages of last samples.

    It has no instance id: several parts of one instance can be merged.
    """
    return msgspec.structs.replace(
        snapshot,
        gauges=Gauges(),
        window=WindowTotals(),
        windowed={},
        windowed_histograms={},
        means={},
        resource_stats={},
        resource_facts={},
        batch_stats=BatchStatistics(total_batches=snapshot.batch_stats.total_batches),
        instance_id="",
        merged_from=[],
    )


def nothing() -> MetricsSnapshot:
    """The snapshot of nobody."""
    now = dt.datetime.now(dt.UTC)
    return MetricsSnapshot(
        request_stats=RequestStatistics(),
        iteration_stats=IterationStatistics(),
        batch_stats=BatchStatistics(),
        error_stats=ErrorStatistics(),
        snapshot_time=now,
        started_at=now,
    )


def _present(living: Sequence[MetricsSnapshot]) -> dict[str, Any]:
    """What is said of the living alone."""
    if not living:
        return {"gauges": Gauges(), "limits": SchedulerLimits()}
    limits = merge_limits(living)
    return {
        "gauges": merge_gauges(living, limits),
        "limits": limits,
        "definitions": common([snapshot.definitions for snapshot in living]),
        "role": same([snapshot.role for snapshot in living]),
        "engine": EngineInfo(
            same([snapshot.engine.kind for snapshot in living]), same([snapshot.engine.version for snapshot in living])
        ),
    }


def _window_of_most(living: Sequence[MetricsSnapshot]) -> float | None:
    lengths = Counter(snapshot.window.window_seconds for snapshot in living)
    return max(lengths, key=lambda length: (lengths[length], length)) if lengths else None


def _with_window(snapshot: MetricsSnapshot, window: float | None, complain: Complain) -> MetricsSnapshot:
    """``snapshot``, without its rates if they are over another window."""
    own = snapshot.window.window_seconds
    if own == window or own != own:  # noqa: PLR0124  (nan: it has no rates)
        return snapshot
    complain(snapshot.instance_id, f"rates over {own} s beside {window} s: set one counter_window_seconds everywhere")
    return msgspec.structs.replace(snapshot, window=WindowTotals())


def _mergeable(parts: Sequence[MetricsSnapshot], complain: Complain) -> list[MetricsSnapshot]:
    """Those that merge with all before them."""
    fitting: list[MetricsSnapshot] = []
    for part in parts:
        try:
            merge_snapshots([*fitting, part])
        except MergeError as error:
            complain(part.instance_id, str(error))
        else:
            fitting.append(part)
    return fitting


def steady(now: MetricsSnapshot, before: MetricsSnapshot) -> MetricsSnapshot:
    """``now``, with the sums of ``before`` where they are smaller by rounding alone.

    A process whose counts move to the archive is added at another place. A counter that falls by its last bit
    is a restart to Prometheus, which then counts all of it again. ``now``'s histograms are changed in place:
    they must be the merge's own.
    """
    for name, by_class in now.histograms.items():
        for class_name, histogram in by_class.items():
            old = before.histograms.get(name, {}).get(class_name)
            if old is not None:
                histogram.sum = _not_below(histogram.sum, old.sum)
    return msgspec.structs.replace(now, totals=_steadied(now.totals, before.totals))


def _steadied(now: Any, before: Any) -> Any:
    if isinstance(now, dict):
        return {key: _steadied(value, before[key]) if key in before else value for key, value in now.items()}
    if isinstance(now, msgspec.Struct):
        fields = now.__struct_fields__
        return type(now)(**{field: _steadied(getattr(now, field), getattr(before, field)) for field in fields})
    return _not_below(now, before) if isinstance(now, float) else now


def _not_below(now: float, before: float) -> float:
    return before if 0.0 < before - now <= _ROUNDING * before else now
