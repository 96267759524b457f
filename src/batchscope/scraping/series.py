"""From a page's samples to canonical series, by the table: which engine it is, and what it gives."""

from __future__ import annotations

import datetime as dt
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from batchscope.scraping.engines import ENGINES
from batchscope.scraping.intervals import LARGEST, BucketError, Buckets
from batchscope.scraping.page import Page, Sample
from batchscope.scraping.table import Aggregation, EngineNames, Quantity, Rule, family_of

START_TIME = "process_start_time_seconds"
"""prometheus_client's, of the process that serves the page: when its counters began."""

_LATEST = dt.datetime(9999, 1, 1, tzinfo=dt.UTC).timestamp()

LabelSet = frozenset[tuple[str, str]]


class Key(NamedTuple):
    """A canonical number; ``reason`` says why requests ended and is empty elsewhere."""

    quantity: Quantity
    reason: str = ""


class PageSeries(NamedTuple):
    """One page, read: series by canonical number and labels, as they stand.

    ``derived``: counters that are products of others and too coarse to tell a reset. ``sources``: the family that
    gave a number. ``announced``: numbers whose family was announced, without a value yet. ``unused``: what families
    measure that are known and not read -> their names. ``rejected``: samples that cannot be right. ``started``: wall
    clock, ``nan`` where not known. ``mixed``: other engines' titles. ``about``: the labels that all series of the
    engine's ``sign`` agree on.
    """

    engine: EngineNames
    counters: dict[Key, dict[LabelSet, float]]
    gauges: dict[Quantity, dict[LabelSet, float]]
    histograms: dict[Quantity, dict[LabelSet, Buckets]]
    derived: frozenset[Key]
    sources: dict[Quantity, str]
    announced: frozenset[Quantity]
    version: str
    unknown: list[str]
    unused: dict[str, list[str]]
    foreign: int
    rejected: list[str]
    started: float
    mixed: tuple[str, ...] = ()
    about: Mapping[str, str] = {}


@cache
def known_samples() -> frozenset[str]:
    """Every sample name that the table, or the reader, wants to see."""
    names = {
        name for engine in ENGINES for rule in engine.rules for family in rule.names for name in rule.samples_of(family)
    }
    return frozenset(
        names
        | {name for engine in ENGINES for rule in engine.rules for name in (rule.times, rule.less) if name}
        | {engine.sign for engine in ENGINES if engine.sign}
        | {START_TIME}
    )


def read(page: Page) -> PageSeries | None:
    """The page in canonical numbers; ``None`` where no engine's names are on it."""
    names = {sample.name for sample in page.samples}
    every = names | page.families | page.unknown
    present = [engine for engine in ENGINES if any(engine.owns(name) for name in every)]
    if not present:
        return None
    engine = max(present, key=lambda candidate: (candidate.sign in every, sum(map(candidate.owns, every))))
    mixed = tuple(other.title for other in present if other is not engine)
    return _Reader(engine, page, mixed).reading(every)


class _Reader:
    """Applies one engine's rules to one page."""

    def __init__(self, engine: EngineNames, page: Page, mixed: tuple[str, ...]) -> None:
        self._engine = engine
        self._page = page
        self._mixed = mixed
        self._samples: dict[str, list[Sample]] = defaultdict(list)
        for sample in page.samples:
            self._samples[sample.name].append(sample)
        self._counters: dict[Key, dict[LabelSet, float]] = {}
        self._gauges: dict[Quantity, dict[LabelSet, float]] = {}
        self._histograms: dict[Quantity, dict[LabelSet, Buckets]] = {}
        self._derived: set[Key] = set()
        self._sources: dict[Quantity, str] = {}
        self._rejected: list[str] = []

    def reading(self, names: Iterable[str]) -> PageSeries:
        for rule in self._engine.rules:
            self._apply(rule)
        signs = [frozenset(sample.labels.items()) for sample in self._samples[self._engine.sign]]
        about = dict(frozenset.intersection(*signs)) if signs else {}
        given = set(names) | {family_of(name) for name in names}
        announced = {rule.quantity for rule in self._engine.rules if self._only_announced(rule)}
        families = {_family(name, self._page.families) for name in self._page.unknown} | self._page.families
        return PageSeries(
            engine=self._engine,
            counters=self._counters,
            gauges=self._gauges,
            histograms=self._histograms,
            derived=frozenset(self._derived),
            sources=self._sources,
            announced=frozenset(announced - set(self._sources)),
            version=about.get("version") or self._engine.version(given),
            unknown=self._engine.unknown(families),
            unused=self._engine.known_unused(families),
            foreign=sum(1 for name in families if not self._engine.owns(name)),
            rejected=self._rejected,
            started=_started(self._samples[START_TIME]),
            mixed=self._mixed,
            about=about,
        )

    def _apply(self, rule: Rule) -> None:
        """Take the newest name that the page has, unless another rule has already given the number."""
        for name in rule.names:
            if rule.quantity.kind is Aggregation.HISTOGRAM:
                taken = rule.quantity in self._histograms or self._histogram(rule, name)
            elif rule.quantity.kind is Aggregation.COUNTER:
                taken = self._counter(rule, name)
            else:
                taken = rule.quantity in self._gauges or self._gauge(rule, name)
            if taken:
                self._sources.setdefault(
                    rule.quantity, " + ".join(self._given(rule)) if rule.adds else _told(rule, name)
                )
                return

    def _only_announced(self, rule: Rule) -> bool:
        samples = (sample for name in rule.names for sample in rule.samples_of(name))
        return not self._page.families.isdisjoint(rule.names) and not any(map(self._samples.__contains__, samples))

    def _gauge(self, rule: Rule, name: str) -> bool:
        parts = [self._gauge_series(rule, part) for part in (self._given(rule) if rule.adds else (name,))]
        series = {labels: sum(part.get(labels, 0.0) for part in parts) for part in parts for labels in part}
        if rule.less:
            less = self._gauge_series(rule, rule.less)
            series = {labels: max(0.0, value - less.get(labels, 0.0)) for labels, value in series.items()}
        if series:
            self._gauges[rule.quantity] = series
        return bool(series)

    def _gauge_series(self, rule: Rule, name: str) -> dict[LabelSet, float]:
        series: dict[LabelSet, float] = {}
        for sample in self._matching(rule, name):
            value = self._value(rule, sample)
            if abs(value) <= LARGEST:  # an engine's NaN is "not known"
                _keep_largest(series, self._labels(sample.labels), value)
        return series

    def _given(self, rule: Rule) -> list[str]:
        return [name for name in rule.names if name in self._samples]

    def _counter(self, rule: Rule, name: str) -> bool:
        found: dict[Key, dict[LabelSet, float]] = {}
        for sample in self._matching(rule, name + rule.part):
            key = Key(rule.quantity, rule.reasons.get(sample.labels.get(rule.reason_of, ""), rule.reason))
            value = sample.value * self._times(rule, sample)
            if not 0 <= value <= LARGEST:
                self._rejected.append(f"{sample.name} = {sample.value:g}: expected a count")
            elif key not in self._counters:
                _keep_largest(found.setdefault(key, {}), self._labels(sample.labels), value)
                self._derived.update({key} if rule.times else ())
        self._counters.update(found)
        return bool(found)

    def _histogram(self, rule: Rule, name: str) -> bool:
        sums, counts = (
            {_without(sample.labels): sample.value * unit for sample in self._matching(rule, name + part)}
            for part, unit in (("_sum", rule.unit), ("_count", 1.0))
        )
        edges: dict[LabelSet, dict[float, float]] = {labels: {} for labels in counts}
        for sample in self._matching(rule, f"{name}_bucket"):
            edges.setdefault(_without(sample.labels), {})[rule.unit * _edge(sample.labels.get("le", ""))] = sample.value
        series: dict[LabelSet, Buckets] = {}
        for labels, by_edge in edges.items():
            try:
                buckets = Buckets.of(by_edge, counts.get(labels, math.nan), sums.get(labels, math.nan))
            except BucketError as error:
                self._rejected.append(f"{name}: {error}")
                continue
            kept = self._labels(dict(labels))
            if kept not in series or series[kept].count < buckets.count:
                series[kept] = buckets
        if series:
            self._histograms[rule.quantity] = series
        return bool(series)

    def _matching(self, rule: Rule, sample_name: str) -> Iterable[Sample]:
        return (
            sample
            for sample in self._samples.get(sample_name, ())
            if all(sample.labels.get(label, "") == value for label, value in rule.where.items())
        )

    def _value(self, rule: Rule, sample: Sample) -> float:
        return _number(sample.labels.get(rule.value_of, "")) if rule.value_of else sample.value

    def _times(self, rule: Rule, sample: Sample) -> float:
        if not rule.times:
            return 1.0
        return next((other.value for other in self._samples[rule.times] if other.labels == sample.labels), math.nan)

    def _labels(self, labels: Mapping[str, str]) -> LabelSet:
        """What tells series apart whose numbers add up."""
        return frozenset((name, value) for name, value in labels.items() if value and name not in self._engine.copies)


def _family(sample: str, families: frozenset[str]) -> str:
    """The announced family of an unknown sample, else what its name looks like."""
    return sample if sample in families else family_of(sample)


def _keep_largest(series: dict[LabelSet, float], labels: LabelSet, value: float) -> None:
    series[labels] = max(value, series.get(labels, value))


def _without(labels: Mapping[str, str]) -> LabelSet:
    return frozenset(pair for pair in labels.items() if pair[0] != "le")


def _edge(text: str) -> float:
    return math.inf if text == "+Inf" else _number(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _told(rule: Rule, name: str) -> str:
    """The name as the page has it, with the labels that tell its series from others of the name."""
    labels = ",".join(f'{label}="{value}"' for label, value in rule.where.items() if value)
    return f"{name}{{{labels}}}" if labels else name


def _started(samples: Iterable[Sample]) -> float:
    """The earliest of the processes: what they count since then is counted."""
    return min((sample.value for sample in samples if 0 < sample.value < _LATEST), default=math.nan)
