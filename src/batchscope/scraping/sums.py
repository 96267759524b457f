"""One target's numbers, or a fleet's, over all their series: counts added, histograms merged, ratios side by side."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from batchscope.scraping.intervals import Buckets, merged
from batchscope.scraping.series import Key, LabelSet, PageSeries
from batchscope.scraping.table import EngineNames, Quantity
from batchscope.scraping.window import Scrape, Window

K = TypeVar("K")
MIXED = "mixed"
"""The engine of a fleet of several, as in a merged snapshot."""

_PROMPT = Key(Quantity.PROMPT_TOKENS)
_COMPUTED = Key(Quantity.PROMPT_TOKENS_COMPUTED)
_CACHED = Key(Quantity.PROMPT_TOKENS_CACHED)
CACHED_INCLUDED = "cached tokens included: the engine does not tell them apart"


class Usage(NamedTuple):
    """One rank's ratio, and what it is a ratio of (``nan`` = not known)."""

    ratio: float
    capacity: float


class TargetSums(NamedTuple):
    """What a view shows; ``gains``, ``rates`` (a second) and ``histograms`` are of the window.

    ``not_merged``: what engines of a fleet mean different things by, and is therefore left out. ``partial``: what
    only some of a fleet's targets give, with how many.
    """

    engine: EngineNames
    version: str
    totals: dict[Key, float]
    gains: dict[Key, float]
    rates: dict[Key, float]
    gauges: dict[Quantity, float]
    usages: tuple[Usage, ...]
    histograms: dict[Quantity, Buckets]
    seconds: float
    since_start: bool
    restarted: bool
    started: float
    labels: dict[str, str]
    sources: dict[Quantity, str]
    definitions: dict[str, str]
    not_merged: tuple[str, ...] = ()
    partial: Mapping[Quantity, int] = {}
    targets: int = 1

    def total(self, quantity: Quantity) -> float:
        """All of it, for whatever reason; ``nan`` where it is not given."""
        return over_reasons(self.totals, quantity)

    @property
    def usage(self) -> float:
        """The KV-cache usage of all ranks: weighed by capacity; ``nan`` where several have none known."""
        if len({usage.ratio for usage in self.usages}) == 1:
            return self.usages[0].ratio
        capacity = sum(usage.capacity for usage in self.usages)
        return sum(usage.ratio * usage.capacity for usage in self.usages) / capacity if capacity > 0 else math.nan

    @property
    def given(self) -> frozenset[Quantity]:
        """The numbers that have a value."""
        numbers = {key.quantity for key in self.totals} | set(self.gauges) | set(self.histograms)
        return frozenset(numbers | ({Quantity.KV_CACHE_USAGE} if self.usages else set()))


def over_reasons(table: Mapping[Key, float], quantity: Quantity) -> float:
    """The sum over reasons; ``nan`` where the number is not in ``table``."""
    found = [value for key, value in table.items() if key.quantity is quantity]
    return sum(found) if found else math.nan


def figures_of(scrape: Scrape, window: Window) -> TargetSums:
    """One target's."""
    reading = scrape.reading
    totals, gains = _added(reading.counters), _added(window.counters)
    sources, definitions = dict(reading.sources), dict(reading.engine.definitions)
    if _COMPUTED not in totals and _PROMPT in totals:
        sources[Quantity.PROMPT_TOKENS_COMPUTED] = sources[Quantity.PROMPT_TOKENS]
        if _CACHED in totals:
            sources[Quantity.PROMPT_TOKENS_COMPUTED] += f" - {sources[Quantity.PROMPT_TOKENS_CACHED]}"
        else:
            definitions.setdefault(Quantity.PROMPT_TOKENS_COMPUTED, CACHED_INCLUDED)
        for table in (totals, gains):
            table[_COMPUTED] = max(0.0, table.get(_PROMPT, 0.0) - table.get(_CACHED, 0.0))
    return TargetSums(
        engine=reading.engine,
        version=reading.version,
        totals=totals,
        gains=gains,
        rates={key: gain / window.seconds for key, gain in gains.items()} if window.seconds > 0 else {},
        gauges={q: sum(series.values()) for q, series in reading.gauges.items() if q is not Quantity.KV_CACHE_USAGE},
        usages=_usages(reading),
        histograms={
            quantity: merged(list(series.values())) for quantity, series in window.histograms.items() if series
        },
        seconds=window.seconds,
        since_start=window.since_start,
        restarted=window.restarted,
        started=reading.started,
        labels=_common_labels(reading),
        sources=sources,
        definitions=definitions,
    )


def combined(fleet: Sequence[TargetSums]) -> TargetSums:
    """A fleet's: only what all its engines mean the same by is merged; only windows of one sort are.

    A target without a window yet (its numbers are since it started) stays out of rates and distributions as long
    as another one has a window.
    """
    current = [figures for figures in fleet if not figures.since_start] or list(fleet)
    different = _meant_differently(fleet)
    quantities = {quantity for figures in current for quantity in figures.histograms}
    return TargetSums(
        engine=_engine_of(fleet),
        version=fleet[0].version if len({figures.version for figures in fleet}) == 1 else "",
        totals=_sums([figures.totals for figures in fleet]),
        gains=_sums([figures.gains for figures in current]),
        rates=_rates(current),
        gauges=_sums([figures.gauges for figures in fleet]),
        usages=tuple(usage for figures in fleet for usage in figures.usages),
        histograms={
            quantity: merged([f.histograms[quantity] for f in current if quantity in f.histograms])
            for quantity in Quantity
            if quantity in quantities and quantity not in different
        },
        seconds=max((figures.seconds for figures in current), key=lambda seconds: (not math.isnan(seconds), seconds)),
        since_start=current[0].since_start,
        restarted=any(figures.restarted for figures in fleet),
        started=min((f.started for f in fleet if not math.isnan(f.started)), default=math.nan),
        labels=_common([figures.labels for figures in fleet]),
        sources=_common([figures.sources for figures in fleet]),
        definitions={name: text for f in fleet for name, text in f.definitions.items() if name not in different},
        not_merged=tuple(sorted(quantity for quantity in quantities if quantity in different)),
        partial={quantity: number for quantity, number in _givers(fleet).items() if number < len(fleet)},
        targets=len(fleet),
    )


def _rates(fleet: Sequence[TargetSums]) -> dict[Key, float]:
    """Those that every target has that counts the thing: a part of them would look like the whole."""
    known = {key for figures in fleet for key in figures.rates}
    untimed = {key for figures in fleet for key in figures.totals if key not in figures.rates}
    return {key: sum(figures.rates.get(key, 0.0) for figures in fleet) for key in known - untimed}


def _givers(fleet: Sequence[TargetSums]) -> Counter[Quantity]:
    return Counter(quantity for figures in fleet for quantity in figures.given)


def _engine_of(fleet: Sequence[TargetSums]) -> EngineNames:
    first = fleet[0].engine
    if all(figures.engine is first for figures in fleet):
        return first
    at_finish = any(figures.engine.tokens_at_finish for figures in fleet)
    return EngineNames(MIXED, "several engines", (), (), {}, tokens_at_finish=at_finish)


def _meant_differently(fleet: Sequence[TargetSums]) -> set[Quantity]:
    """The numbers by which those that give them do not mean the same."""
    meanings: dict[Quantity, set[str]] = {}
    for figures in fleet:
        for quantity in figures.given:
            meanings.setdefault(quantity, set()).add(figures.definitions.get(quantity, ""))
    return {quantity for quantity, texts in meanings.items() if len(texts) > 1}


def _added(counters: Mapping[Key, Mapping[LabelSet, float]]) -> dict[Key, float]:
    return {key: sum(series.values()) for key, series in counters.items()}


def _sums(tables: Sequence[Mapping[K, float]]) -> dict[K, float]:
    keys = dict.fromkeys(key for table in tables for key in table)
    return {key: sum(table[key] for table in tables if key in table) for key in keys}


def _common(tables: Sequence[Mapping[K, str]]) -> dict[K, str]:
    first, *others = tables
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _usages(reading: PageSeries) -> tuple[Usage, ...]:
    ratios = reading.gauges.get(Quantity.KV_CACHE_USAGE, {})
    capacities = reading.gauges.get(Quantity.KV_CACHE_CAPACITY, {})
    rank = reading.engine.rank
    return tuple(Usage(ratio, _capacity(capacities, rank, labels)) for labels, ratio in ratios.items())


def _capacity(capacities: Mapping[LabelSet, float], rank: str, of: LabelSet) -> float:
    fitting = [value for labels, value in capacities.items() if dict(labels).get(rank) == dict(of).get(rank)]
    return fitting[0] if len(fitting) == 1 else math.nan


def _common_labels(reading: PageSeries) -> dict[str, str]:
    """The labels that every series has; kept, as a merged snapshot keeps those that all agree on."""
    settings = {Quantity.KV_CACHE_CAPACITY, Quantity.LIMIT_KV_CACHE_BLOCKS}  # an information metric's labels are values
    gauges = [series for quantity, series in reading.gauges.items() if quantity not in settings]
    tables: Iterable[Mapping[LabelSet, object]] = (*reading.counters.values(), *gauges, *reading.histograms.values())
    series = [labels for table in tables for labels in table]
    return dict(sorted(frozenset.intersection(*series))) if series else {}
