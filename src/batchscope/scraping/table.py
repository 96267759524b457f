"""The canonical numbers of a scraped engine, and the form of the table that leads an engine's names to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")
_OF_A_FAMILY = (*HISTOGRAM_PARTS, "_created")


class Aggregation(StrEnum):
    """How values of several series become one: counts add, ratios never do, histograms merge by bucket."""

    COUNTER = "counter"
    GAUGE = "gauge"
    RATIO = "ratio"
    HISTOGRAM = "histogram"


class Quantity(StrEnum):
    """The numbers that are looked for; most are fields of ``Totals``, ``Gauges`` or ``RequestStatistics``.

    ``PROMPT_TOKENS`` (cached ones included) serves engines that do not count the computed ones by themselves.
    ``KV_CACHE_CAPACITY``, in blocks or tokens, is what the usages of several ranks are weighed by.
    ``SCHEDULED_REQUESTS`` is the sum of the batch sizes of all iterations.
    """

    REQUESTS_RUNNING = "requests_running"
    REQUESTS_WAITING = "requests_waiting"
    REQUESTS_DEFERRED = "requests_deferred"
    KV_CACHE_USAGE = "kv_cache_usage"
    KV_CACHE_CAPACITY = "kv_cache_capacity"
    MEMORY_BYTES_USED = "memory_bytes_used"
    LIMIT_RUNNING_REQUESTS = "limit_running_requests"
    LIMIT_SCHEDULED_TOKENS = "limit_scheduled_tokens"
    LIMIT_KV_CACHE_BLOCKS = "limit_kv_cache_blocks"
    REQUESTS_RECEIVED = "requests_received"
    REQUESTS_FINISHED = "requests_finished"
    PROMPT_TOKENS = "prompt_tokens"
    PROMPT_TOKENS_COMPUTED = "prompt_tokens_computed"
    PROMPT_TOKENS_CACHED = "prompt_tokens_cached"
    GENERATION_TOKENS = "generation_tokens"
    DRAFT_TOKENS = "draft_tokens"
    ACCEPTED_TOKENS = "accepted_tokens"
    ITERATIONS = "iterations"
    SCHEDULED_REQUESTS = "scheduled_requests"
    PREEMPTIONS = "preemptions"
    QUEUE_TIME = "queue_time"
    PREFILL_TIME = "prefill_time"
    TIME_TO_FIRST_TOKEN = "time_to_first_token"  # noqa: S105  (a duration, not a password)
    TIME_PER_OUTPUT_TOKEN = "time_per_output_token"  # noqa: S105
    DECODE_TIME = "decode_time"
    PREEMPTED_TIME = "preempted_time"
    PROCESSING_TIME = "processing_time"
    TOTAL_TIME = "total_time"
    INTER_TOKEN_LATENCY = "inter_token_latency"  # noqa: S105
    INTER_EMISSION_LATENCY = "inter_emission_latency"
    ITERATION_DURATION = "iteration_duration"
    ITERATION_SCHEDULED_TOKENS = "iteration_scheduled_tokens"
    REQUEST_GENERATION_TOKENS = "request_generation_tokens"

    @property
    def kind(self) -> Aggregation:
        """How its series are aggregated."""
        return _KINDS[self]


_ORDER = list(Quantity)
_KINDS = {
    quantity: Aggregation.GAUGE
    if index < _ORDER.index(Quantity.REQUESTS_RECEIVED)
    else Aggregation.COUNTER
    if index < _ORDER.index(Quantity.QUEUE_TIME)
    else Aggregation.HISTOGRAM
    for index, quantity in enumerate(_ORDER)
} | {Quantity.KV_CACHE_USAGE: Aggregation.RATIO}

NUMBERS = tuple(
    quantity for quantity in Quantity if quantity not in {Quantity.PROMPT_TOKENS, Quantity.KV_CACHE_CAPACITY}
)
"""What a user can be told or denied; the rest are steps on the way."""
KEY_NUMBERS = (Quantity.REQUESTS_RUNNING, Quantity.REQUESTS_WAITING, Quantity.GENERATION_TOKENS)
"""Without one of these an engine cannot be watched in earnest."""
DURATIONS = tuple(
    quantity for quantity in Quantity if quantity.kind is Aggregation.HISTOGRAM and not quantity.endswith("_tokens")
)


class Rule(NamedTuple):
    """One way to a quantity: the first of ``names`` (newest first) that the engine gives, matched whole.

    ``where``: labels that a series must have. ``reason_of``: the label whose value, through ``reasons``, says why a
    request ended; without it the reason is ``reason``. ``part`` takes a histogram's ``_sum`` or ``_count`` as a
    counter. ``value_of``: the label that holds the number (information metrics, whose value is 1). ``times``: a
    counter to multiply by, which turns an average since the start into a sum. ``adds``: a gauge is the sum of all
    ``names`` that the page has; ``less``: without those that this gauge counts. ``unit``: a histogram's, in seconds.
    A label that a series lacks is empty, as Prometheus has it.
    """

    quantity: Quantity
    names: tuple[str, ...]
    where: Mapping[str, str] = {}
    reason_of: str = ""
    reasons: Mapping[str, str] = {}
    reason: str = ""
    part: str = ""
    value_of: str = ""
    times: str = ""
    adds: bool = False
    less: str = ""
    unit: float = 1.0

    def samples_of(self, name: str) -> tuple[str, ...]:
        """The sample names that belong to ``name``, one of ``names``."""
        if self.part:
            return (name + self.part,)
        if self.quantity.kind is Aggregation.HISTOGRAM:
            return tuple(name + part for part in HISTOGRAM_PARTS)
        return (name,)


class Version(NamedTuple):
    """What can be said of the engine's version from the names it ``has`` and ``lacks``."""

    text: str
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


class EngineNames(NamedTuple):
    """An engine's row of the table.

    ``not_used``: names that are known and deliberately not read. ``unused``: beginnings of such names, and what they
    measure; those that are read or in ``not_used`` may begin so too. ``lacks``: why a number cannot be had.
    ``copies``: labels of ranks that repeat one scheduler's numbers; series that differ in them only count once.
    ``rank``: the label of ranks whose numbers add up. ``tokens_at_finish``: output tokens are counted when
    their request ends. ``source``: where the names were read. ``sign``: a name that only this engine's page has,
    whoever else's names are on it. ``passing``: why a number that the engine has may be gone at present.
    """

    kind: str
    title: str
    prefixes: tuple[str, ...]
    rules: tuple[Rule, ...]
    definitions: Mapping[str, str]
    not_used: frozenset[str] = frozenset()
    lacks: Mapping[Quantity, str] = {}
    versions: tuple[Version, ...] = ()
    copies: frozenset[str] = frozenset()
    rank: str = ""
    tokens_at_finish: bool = False
    source: str = ""
    sign: str = ""
    passing: Mapping[Quantity, str] = {}
    unused: Mapping[str, str] = {}

    def owns(self, name: str) -> bool:
        """Whether ``name`` is one of this engine's own metrics, known or not."""
        return name.startswith(self.prefixes)

    def unknown(self, names: Iterable[str]) -> list[str]:
        """The engine's own among the families ``names`` that the table does not have, used or not."""
        return sorted(name for name in self._own_but(self.families | self.not_used, names) if not self._about(name))

    def known_unused(self, names: Iterable[str]) -> dict[str, list[str]]:
        """What those of the families ``names`` measure that are known by their beginning and not read -> the names."""
        found: dict[str, list[str]] = {}
        for name in sorted(self._own_but(self.families | self.not_used, names)):
            if about := self._about(name):
                found.setdefault(about, []).append(name)
        return found

    def _own_but(self, known: frozenset[str], names: Iterable[str]) -> set[str]:
        own = {name for name in names if self.owns(name)}
        return {name for name in own if known.isdisjoint({name, family_of(name), f"{family_of(name)}_total"})}

    def _about(self, name: str) -> str:
        beginnings = [beginning for beginning in self.unused if name.startswith(beginning)]
        return self.unused[max(beginnings, key=len)] if beginnings else ""

    @property
    def families(self) -> frozenset[str]:
        """The names that are read."""
        return frozenset(name for rule in self.rules for name in (*rule.names, rule.times, rule.less) if name)

    def version(self, names: Iterable[str]) -> str:
        """The first version whose signs fit the sample and family ``names``; empty where none does."""
        given = set(names)
        fitting = (v.text for v in self.versions if given.issuperset(v.has) and given.isdisjoint(v.lacks))
        return next(fitting, "")


def prefixed(prefix: str, names: str) -> frozenset[str]:
    """The words of ``names``, each with the engine's prefix before it."""
    return frozenset(prefix + name for name in names.split())


def family_of(sample: str) -> str:
    """The family that a sample name belongs to, if it is one of a histogram's or a creation time."""
    for ending in _OF_A_FAMILY:
        if sample.endswith(ending):
            return sample.removesuffix(ending)
    return sample
