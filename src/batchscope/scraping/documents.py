"""What a watch yields: a ``MetricsSnapshot`` as far as a page can fill one honestly, and beside it the intervals."""

from __future__ import annotations

import datetime as dt
from math import nan

import msgspec

from batchscope.statistics.snapshot import MetricsSnapshot

SCHEMA = "batchscope.watch/1"
BUCKETS = "buckets"
"""The ``source`` of a summary whose percentiles are known as intervals only: they are ``nan`` in the summary."""
BUCKETS_SINCE_START = "buckets since start"

Interval = tuple[float, float]
"""The lower and the upper edge, seconds; ``nan`` (JSON null) twice = nothing was observed; an upper edge without
limit is infinite, null in JSON."""


class IntervalSummary(msgspec.Struct, frozen=True):
    """A distribution as classic buckets tell it.

    ``count`` and ``mean`` are exact; each percentile (nearest rank) and the maximum lie within their interval.
    ``span_seconds`` is the window that was observed; with ``since_start`` it is the engine's life (``nan`` where its
    length is not known). ``source`` is the name on the engine's page.
    """

    count: int = 0
    mean: float = nan
    p50: Interval = (nan, nan)
    p90: Interval = (nan, nan)
    p95: Interval = (nan, nan)
    p99: Interval = (nan, nan)
    max: Interval = (nan, nan)
    span_seconds: float = nan
    since_start: bool = False
    source: str = ""


class RatioSpan(msgspec.Struct, frozen=True):
    """A ratio over several ranks: the lowest and the highest; ratios do not add up."""

    low: float
    high: float
    series: int


class ScrapeWindow(msgspec.Struct, frozen=True):
    """What rates and distributions cover.

    ``since_start``: everything since the engine started, because there was no earlier scrape to compare with, or it
    ``restarted`` in between.
    """

    seconds: float = nan
    since_start: bool = False
    restarted: bool = False


class ScrapedSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's numbers, or a fleet's.

    In ``snapshot``: totals since the engine started, gauges as they are, rates of the window; the distributions'
    count and mean of the window, their percentiles ``nan``. ``intervals`` has those. ``not_given`` says, by
    canonical name, why a number has no value, so that a 0 in ``snapshot.totals`` is not taken for one.
    ``sources``: canonical name -> name on the page. ``not_merged``: left out of a fleet because its engines mean
    different things by it; ``partial``: how many of a fleet's targets give a number, where not all do.
    ``exact``: of batchscope's own endpoints, which tell all that a ``MetricsSnapshot`` has: then rates are those of the
    collector's window, and a percentile's interval is as wide as the histogram's error. ``measures``: the kind of
    engine behind them. ``limited_by``: share of busy time by what held the batch, over ``limited_over``: between the
    last two looks, at the first one since the start. ``notes``: what could not be done for a fleet, and why.
    """

    snapshot: MetricsSnapshot
    intervals: dict[str, IntervalSummary]
    ratios: dict[str, RatioSpan]
    window: ScrapeWindow
    sources: dict[str, str]
    not_given: dict[str, str]
    not_merged: list[str] = []
    partial: dict[str, int] = {}
    measures: str = ""
    exact: bool = False
    limited_by: dict[str, float] = {}
    limited_over: ScrapeWindow = ScrapeWindow()
    notes: list[str] = []


class TargetReport(msgspec.Struct, frozen=True, kw_only=True):
    """One target now.

    ``state``, by the verdict's words: ``live``; ``stalled`` (it answers, requests are unfinished, and no counter moves
    since ``since``); ``gone`` (it could be read before, and not since ``since``); ``down`` (it never could be);
    ``unknown`` (it answers with a metrics page, and no known engine's names are on it). ``scraped`` is there when it
    could; old numbers are never shown as present. ``notes``: what was left out of its page.
    """

    url: str
    state: str
    since: dt.datetime | None = None
    error: str = ""
    notes: list[str] = []
    unknown_names: list[str] = []
    scraped: ScrapedSnapshot | None = None


class WatchDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One round over all targets; ``fleet`` is there as soon as one answered."""

    time: dt.datetime
    targets: list[TargetReport]
    fleet: ScrapedSnapshot | None = None
    schema: str = SCHEMA

    def to_json(self) -> bytes:
        """One JSON document (UTF-8), ``nan`` and infinity as null."""
        return msgspec.json.encode(self)
