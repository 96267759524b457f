"""What happened between two scrapes of one target: the only honest source of rates and percentiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from batchscope.scraping.intervals import Buckets
from batchscope.scraping.series import Key, LabelSet, PageSeries
from batchscope.scraping.table import Quantity
from batchscope.statistics.snapshot import MetricsSnapshot

T = TypeVar("T")
_SAME_START_SECONDS = 1.0


class Scrape(NamedTuple):
    """A reading with its instants: ``at`` of a monotonic clock, ``wall`` of the wall clock (seconds).

    ``snapshot``: of batchscope's own endpoint, the exact figures beside its page; ``lacking``: why there are none.
    """

    reading: PageSeries
    at: float
    wall: float
    snapshot: MetricsSnapshot | None = None
    lacking: str = ""


class Window(NamedTuple):
    """Gains of each series over ``seconds``.

    ``since_start``: there is nothing to compare with, so these are the engine's numbers since it started, and
    ``seconds`` its age where it tells it (else ``nan``). ``restarted``: a counter went down, or the process is
    another one, so what was known before does not count.
    """

    seconds: float
    since_start: bool
    restarted: bool
    counters: dict[Key, dict[LabelSet, float]]
    histograms: dict[Quantity, dict[LabelSet, Buckets]]

    @property
    def moved(self) -> bool:
        """Whether any counter has grown."""
        return any(gain > 0 for series in self.counters.values() for gain in series.values()) or any(
            buckets.count > 0 for series in self.histograms.values() for buckets in series.values()
        )


def difference(now: Scrape, before: Scrape | None) -> Window:
    """The window from ``before`` to ``now``; since the start without a ``before`` or after a restart."""
    if before is None or before.reading.engine is not now.reading.engine:
        return _since_start(now, restarted=before is not None)
    counters = _gains(now, before)
    histograms = _new_observations(now, before)
    if counters is None or histograms is None or _other_process(now, before):
        return _since_start(now, restarted=True)
    return Window(now.at - before.at, since_start=False, restarted=False, counters=counters, histograms=histograms)


def _since_start(now: Scrape, *, restarted: bool) -> Window:
    reading = now.reading
    age = now.wall - reading.started
    seconds = age if age > 0 else math.nan
    return Window(seconds, True, restarted, reading.counters, reading.histograms)


def _other_process(now: Scrape, before: Scrape) -> bool:
    """Also where an address leads to several servers in turn: their counters have nothing to do with each other."""
    return abs(now.reading.started - before.reading.started) > _SAME_START_SECONDS


def _gains(now: Scrape, before: Scrape) -> dict[Key, dict[LabelSet, float]] | None:
    """How much each counter grew; ``None`` where one fell or is gone: it was reset."""
    if not _all_still_there(now.reading.counters, before.reading.counters):
        return None
    gains: dict[Key, dict[LabelSet, float]] = {}
    for key, series in now.reading.counters.items():
        old = before.reading.counters.get(key, {})
        gains[key] = {labels: value - old.get(labels, 0.0) for labels, value in series.items()}
        if any(gain < 0 for gain in gains[key].values()):
            if key not in now.reading.derived:
                return None
            del gains[key]  # a product of rounded numbers: this gain is below what they tell
    return gains


def _new_observations(now: Scrape, before: Scrape) -> dict[Quantity, dict[LabelSet, Buckets]] | None:
    if not _all_still_there(now.reading.histograms, before.reading.histograms):
        return None
    gains: dict[Quantity, dict[LabelSet, Buckets]] = {}
    for quantity, series in now.reading.histograms.items():
        old = before.reading.histograms.get(quantity, {})
        gains[quantity] = {}
        for labels, buckets in series.items():
            gain = buckets.since(old[labels]) if labels in old else buckets
            if gain is None:
                return None
            gains[quantity][labels] = gain
    return gains


def _all_still_there(now: Mapping[T, Mapping[LabelSet, object]], before: Mapping[T, Mapping[LabelSet, object]]) -> bool:
    return all(labels in now.get(key, {}) for key, series in before.items() for labels in series)
