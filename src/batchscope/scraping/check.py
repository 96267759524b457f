"""What an engine's page can give and what it cannot: the answer of ``batchscope check``."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from batchscope.catalog import CATALOG, MetricKind, values
from batchscope.scraping.fetch import MetricsUrl
from batchscope.scraping.remote import snapshot_url
from batchscope.scraping.snapshot import not_given
from batchscope.scraping.sums import TargetSums, figures_of
from batchscope.scraping.table import KEY_NUMBERS, NUMBERS, Aggregation, Quantity
from batchscope.scraping.watcher import TargetAnswer
from batchscope.scraping.window import Scrape, difference
from batchscope.statistics.cumulative import cumulative_of
from batchscope.statistics.snapshot import MetricsSnapshot

SCHEMA = "batchscope.check/1"


class GivenNumber(msgspec.Struct, frozen=True):
    """A number that the page has: its name there, what it is now (since the engine's start), what it means.

    ``value`` is the count of observations where ``kind`` is ``histogram``.
    """

    kind: str
    source: str
    value: float
    definition: str = ""


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one page.

    ``engine`` is empty where no known engine's names are on it. ``lacking``: the key numbers without which the
    engine cannot be watched in earnest. ``unknown_names``: the engine's own families that the table does not know;
    ``unused_names``: what those measure that are known and not read (seldom used parts of an engine, say) -> the
    families; ``foreign_names`` counts those of others (the Python process, the web server). Of a page of no known
    engine, ``unknown_names`` has all families. ``measures``: the engine behind batchscope's own page; ``besides``: what
    such a page gives beyond the numbers that all engines share, by the name on the page; ``more_at``: where more is.
    """

    url: str
    engine: str = ""
    title: str = ""
    version: str = ""
    given: Mapping[str, GivenNumber] = {}
    not_given: Mapping[str, str] = {}
    lacking: list[str] = []
    unknown_names: list[str] = []
    unused_names: Mapping[str, list[str]] = {}
    foreign_names: int = 0
    rejected: list[str] = []
    names_from: str = ""
    error: str = ""
    measures: str = ""
    besides: Mapping[str, GivenNumber] = {}
    more_at: str = ""
    schema: str = SCHEMA

    @property
    def complete(self) -> bool:
        """Whether the engine is known and its key numbers are there."""
        return bool(self.engine) and not self.lacking

    def to_json(self) -> bytes:
        """One JSON document (UTF-8)."""
        return msgspec.json.encode(self)


def check_report(url: MetricsUrl, seen: TargetAnswer) -> CheckReport:
    """The report of one look."""
    reading, snapshot = seen.reading, seen.snapshot
    scrape = Scrape(reading, 0.0, math.nan)
    figures = figures_of(scrape, difference(scrape, None))
    there = figures.given | reading.announced | reading.engine.passing.keys()
    lacking = [quantity for quantity in KEY_NUMBERS if quantity not in there]
    return CheckReport(
        url=url.text,
        engine=reading.engine.kind,
        title=reading.engine.title,
        version=reading.version,
        given={quantity: _given(figures, quantity) for quantity in NUMBERS if quantity in figures.given},
        not_given=not_given(figures, reading.announced),
        lacking=[str(quantity) for quantity in lacking],
        unknown_names=reading.unknown,
        unused_names=reading.unused,
        foreign_names=reading.foreign,
        rejected=[*reading.rejected, *([seen.lacking] if seen.lacking else [])],
        names_from=reading.engine.source,
        measures=reading.about.get("engine_kind", ""),
        besides={} if snapshot is None else _besides(snapshot, reading.engine.families),
        more_at="" if snapshot is None else snapshot_url(url).text.partition("?")[0],
    )


def _besides(snapshot: MetricsSnapshot, read: frozenset[str]) -> dict[str, GivenNumber]:
    """Batchscope's own metrics that no rule has ``read``, each with the sum of its series."""
    state = cumulative_of(snapshot)
    counted = [one for one in CATALOG if one.kind in {MetricKind.COUNTER, MetricKind.GAUGE} and one.name not in read]
    found = [(metric, [value for _, value in values(metric, state)]) for metric in counted]
    return {
        metric.name: GivenNumber(metric.kind, metric.name, sum(numbers), metric.help.rstrip("."))
        for metric, numbers in found
        if numbers
    }


def _given(figures: TargetSums, quantity: Quantity) -> GivenNumber:
    if quantity.kind is Aggregation.HISTOGRAM:
        value = figures.histograms[quantity].count
    elif quantity.kind is Aggregation.COUNTER:
        value = figures.total(quantity)
    elif quantity.kind is Aggregation.RATIO:
        value = figures.usage
    else:
        value = figures.gauges[quantity]
    definition = figures.definitions.get(quantity, "")
    return GivenNumber(quantity.kind, figures.sources.get(quantity, ""), value, definition)
