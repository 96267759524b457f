"""Readings of GPUs and of the process: the last value, when it was, and the last samples of each quantity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from batchscope.aggregation.checks import INFINITE, NEGATIVE, Rejections
from batchscope.histograms.row_buffer import RowBuffer
from batchscope.records import ResourceSample
from batchscope.rows import Floats

ENERGY = "energy_joules"
GROWING = frozenset({ENERGY, "cpu_seconds"})
"""Quantities that are counters: what counts is by how much they grew."""
MAX_SERIES = 512
"""Quantities x devices that are kept: 16 GPUs of 20 quantities and the process, with room."""
MAX_SAMPLES = 300
"""Samples kept of each: five minutes at one a second."""
MAX_FACTS = 256
MAX_TEXT = 200
NOT_A_SAMPLE = "not_a_resource_sample"
TOO_MANY = "too_many_resources"
_STALE_INTERVALS = 3
_SIGNED = "_celsius"


class Tokens(NamedTuple):
    """Output tokens, as iterations and as finished requests count them."""

    of_iterations: int = 0
    of_requests: int = 0


class Series:
    """One quantity of one device.

    A gauge's ``last`` is its last reading. Of a counter it is the growth since the first reading here; a reading
    lower than the one before means that the device's own counter began anew.
    """

    __slots__ = ("_at", "_interval", "_reading", "_samples", "about", "last")

    def __init__(self, about: ResourceSample) -> None:
        self.about = about
        self.last = 0.0
        self._at = math.nan
        self._interval = math.nan
        self._reading = math.nan
        self._samples = RowBuffer(MAX_SAMPLES, 2)

    @property
    def growing(self) -> bool:
        """Whether it is a counter."""
        return self.about.quantity in GROWING

    def add(self, sample: ResourceSample, now: float, interval: float) -> None:
        """Take a reading of ``now``, the next one being due ``interval`` seconds later."""
        self.about, self._at, self._interval = sample, now, interval
        if not self.growing:
            self.last = float(sample.value)
            self._samples.append(np.array([[now, sample.value]]))
        elif not math.isnan(self._reading):
            self.last += sample.value - self._reading if sample.value >= self._reading else sample.value
        self._reading = float(sample.value)

    def age(self, now: float) -> float:
        """Seconds since the last reading."""
        return max(now - self._at, 0.0)

    def present(self, now: float) -> bool:
        """Whether the last reading still says something: three intervals long."""
        return self.age(now) <= _STALE_INTERVALS * self._interval

    def samples(self) -> Floats:
        """Instant and value of the last readings, oldest first, shape (n, 2); none of a counter."""
        return self._samples.rows()


class ResourceAggregate:
    """All quantities of all devices since the last reset. Bounded; what does not fit is counted as rejected.

    Not thread-safe: the drain's lock is held.
    """

    def __init__(self, rejections: Rejections) -> None:
        self.series: dict[str, Series] = {}
        self.facts: dict[str, str] = {}
        self.tokens_before: Tokens | None = None
        self.tokens_after = Tokens()
        self._rejections = rejections

    def record(
        self, samples: Iterable[ResourceSample], facts: Mapping[str, str], now: float, interval: float, tokens: Tokens
    ) -> None:
        """Keep readings of ``now``; ``tokens`` are those generated until now."""
        energy = False
        for sample in samples:
            if self._fits(sample):
                name = name_of(sample)
                self.series.setdefault(name, Series(sample)).add(sample, now, interval)
                energy = energy or (sample.quantity == ENERGY and sample.resource == "gpu")
        if energy:
            self.tokens_before = tokens if self.tokens_before is None else self.tokens_before
            self.tokens_after = tokens
        self._note(facts)

    def _fits(self, sample: ResourceSample) -> bool:
        """Whether ``sample`` is one that can be kept; ``nan`` is not measured, which is no fault."""
        reason = _fault(sample)
        if not reason and name_of(sample) not in self.series and len(self.series) >= MAX_SERIES:
            reason = TOO_MANY
        if reason:
            self._rejections.add(reason, 1, repr(sample)[:MAX_TEXT], "A resource sample")
        return not reason and not math.isnan(sample.value)

    def _note(self, facts: Mapping[str, str]) -> None:
        for name, text in facts.items():
            if not text:
                self.facts.pop(name, None)
            elif name in self.facts or len(self.facts) < MAX_FACTS:
                self.facts[str(name)[:MAX_TEXT]] = str(text)[:MAX_TEXT]
            else:
                self._rejections.add(TOO_MANY, 1, f"fact {name!r}"[:MAX_TEXT])

    def energy(self) -> dict[str, float]:
        """Joules used by each GPU since its first reading, by name of the series."""
        return {
            name: found.last
            for name, found in self.series.items()
            if found.about.quantity == ENERGY and found.about.resource == "gpu"
        }

    def tokens(self) -> Tokens:
        """Output tokens between the first and the last reading of energy."""
        if self.tokens_before is None:
            return Tokens()
        before, after = self.tokens_before, self.tokens_after
        return Tokens(after.of_iterations - before.of_iterations, after.of_requests - before.of_requests)


def name_of(sample: ResourceSample) -> str:
    """``gpu.0.power_watts``; without a device ``process.cpu_seconds``."""
    return ".".join(part for part in (sample.resource, sample.device, sample.quantity) if part)


def _fault(sample: object) -> str:
    """Why it cannot be counted, or nothing."""
    if not isinstance(sample, ResourceSample):
        return NOT_A_SAMPLE
    texts = (sample.resource, sample.device, sample.quantity, sample.unit, sample.identity)
    if not all(isinstance(text, str) and len(text) <= MAX_TEXT for text in texts) or not sample.quantity:
        return NOT_A_SAMPLE
    value: object = sample.value
    if not isinstance(value, int | float):
        return NOT_A_SAMPLE
    if math.isinf(value):
        return INFINITE
    return NEGATIVE if value < 0 and not sample.quantity.endswith(_SIGNED) else ""
