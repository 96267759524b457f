"""batchscope's own page, read back: what a ``Totals`` and a ``Gauges`` have beyond the numbers that all engines share.

The catalogue leads from a state to series. This is the way back, by the same table: who limited the batch, what an SLO
came to, who waits since when.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from batchscope.catalog import CATALOG, INFO, Kind, Metric
from batchscope.engines.scraped.buckets import LARGEST
from batchscope.engines.scraped.exposition import Sample

TOTALS, GAUGES = "totals", "gauges"
_FRACTIONAL = frozenset({"seconds", "joules", "ratio"})
_EXTREMES = {"oldest_waiting_seconds": max, "seconds_since_last_iteration": min}
"""Ages, over several series: the oldest that waits, the latest that ended. Everything else adds up."""
_MOST = 2**63 - 1

_READ: dict[str, Metric] = {
    metric.name: metric
    for metric in CATALOG
    if metric.kind in {Kind.COUNTER, Kind.GAUGE}
    and metric.unit != "ratio"  # ratios do not add up: the rules have the one there is
    and "".join((metric.source, *metric.parts.values())).startswith((TOTALS, GAUGES))
}
OWN_SAMPLES = frozenset({*_READ, INFO.name})
"""The names of the samples that are read here."""

Place = tuple[str, ...]
"""Where a value belongs: ``totals`` or ``gauges``, the field, and the keys below it."""


class Own(NamedTuple):
    """What only batchscope's page tells; ``values`` by place. ``measures`` is the engine's kind, empty if not known."""

    version: str
    measures: str
    values: Mapping[Place, float]

    def fields(self, part: str) -> dict[str, Any]:
        """The fields of ``totals`` or ``gauges``, as the records have them: counts are whole, tables are nested."""
        found: dict[str, Any] = {}
        for place, value in self.values.items():
            if place[0] == part:
                *above, last = place[1:]
                table = found
                for key in above:
                    table = table.setdefault(key, {})
                table[last] = value if _FRACTION[place[1]] else min(round(value), _MOST)
        return found


_FRACTION: dict[str, bool] = {
    path.split(".")[1]: metric.unit in _FRACTIONAL
    for metric in _READ.values()
    for path in (metric.source, *metric.parts.values())
    if path
}


def read_own(samples: Mapping[str, Sequence[Sample]]) -> Own | None:
    """What the page's ``samples``, by name, tell; ``None`` where batchscope does not say that it is its page."""
    info = samples.get(INFO.name)
    if not info:
        return None
    values: dict[Place, list[float]] = defaultdict(list)
    for name, metric in _READ.items():
        for sample in samples.get(name, ()):
            place = _place(metric, sample.labels)
            if place is not None and 0 <= sample.value <= LARGEST:
                values[place].append(sample.value)
    return Own(
        version=_agreed(sample.labels.get("version", "") for sample in info),
        measures=_agreed(sample.labels.get("engine_kind", "") for sample in info),
        values={place: _combined(place, found) for place, found in values.items()},
    )


def merged_own(parts: Sequence[Own | None]) -> Own | None:
    """A fleet's; ``None`` unless all of its targets tell: a part of them would look like the whole."""
    told = [part for part in parts if part is not None]
    if not told or len(told) < len(parts):
        return None
    values: dict[Place, list[float]] = defaultdict(list)
    for part in told:
        for place, value in part.values.items():
            values[place].append(value)
    return Own(
        version=_agreed(part.version for part in told),
        measures=_agreed(part.measures for part in told),
        values={place: _combined(place, found) for place, found in values.items()},
    )


def own_metrics(own: Own) -> Iterable[tuple[Metric, float]]:
    """The metrics that it has values of, each with the sum of them (ages: the extreme)."""
    for metric in _READ.values():
        paths = [tuple(path.split(".")) for path in (metric.source, *metric.parts.values()) if path]
        found = [value for place, value in own.values.items() if any(place[: len(path)] == path for path in paths)]
        if found:
            yield metric, math.fsum(found)


def _place(metric: Metric, labels: Mapping[str, str]) -> Place | None:
    if metric.parts:
        path = metric.parts.get(labels.get(metric.labels[0], ""))
        return None if path is None else tuple(path.split("."))
    return (*metric.source.split("."), *(labels.get(label, "") for label in metric.labels))


def _combined(place: Place, values: Sequence[float]) -> float:
    extreme = _EXTREMES.get(place[1])
    return math.fsum(values) if extreme is None else extreme(values)


def _agreed(texts: Iterable[str]) -> str:
    """The text that all have; ``mixed`` where they differ."""
    different = set(texts)
    return different.pop() if len(different) == 1 else "mixed"
