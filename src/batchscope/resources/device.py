"""One GPU, whatever its vendor: a table of readings, each of which may fail without the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from batchscope.records import ResourceSample

ENERGY, POWER = "energy_joules", "power_watts"
NOT_SUPPORTED = "not supported"
INTEGRATED = "integrated from power_watts: the driver counts no energy"
UNITS = {
    "utilization_ratio": "ratio",
    "memory_used_bytes": "bytes",
    "memory_total_bytes": "bytes",
    POWER: "watts",
    ENERGY: "joules",
    "temperature_celsius": "celsius",
    "sm_clock_hertz": "hertz",
}
"""The quantities of a GPU; besides them ``throttled`` and ``throttle_<reason>``, 1 or 0."""
LONGEST_GAP = 10.0
"""Seconds; over a longer time without a reading of power nobody knows what was drawn: it is not counted."""
_FIRST_WAIT = 5.0
_LIMIT = 7
_GOOD_AFTER = 60.0


class Extent(Enum):
    """How far an error reaches."""

    ONCE = "this reading, now"
    QUANTITY = "this quantity, for good"
    DEVICE = "this GPU"
    LIBRARY = "all GPUs"
    NEVER = "all GPUs, for good"


class Fault(NamedTuple):
    """An error, understood."""

    extent: Extent
    text: str


class BrokenError(Exception):
    """A device, or the whole library, does not answer any more."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.text)
        self.fault = fault


class Reading(NamedTuple):
    """One call, and the quantities it gives by name; ``nan`` = the driver has no value."""

    names: tuple[str, ...]
    read: Callable[[Any, Any], Mapping[str, float]]
    """Takes the vendor's module and the device's handle."""


class Result(NamedTuple):
    """What was sampled, and what could not be: facts by name."""

    samples: list[ResourceSample]
    facts: dict[str, str]


class Attempts:
    """When to try again what failed: after 5, 10, 20 ... s, seven times at most; a minute of success starts anew.

    Time is an argument: seconds of one monotonic clock.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._next = -math.inf
        self._good_since = math.nan

    @property
    def given_up(self) -> bool:
        """Whether no further attempt will be made."""
        return self._next == math.inf

    @property
    def made(self) -> int:
        """Attempts that failed, since it last worked well."""
        return self._failures

    def due(self, now: float) -> bool:
        """Whether to try."""
        return now >= self._next

    def failed(self, now: float, *, forever: bool = False) -> None:
        """An attempt failed, or what worked no longer does; ``forever``: it is no use to try again."""
        self._failures += 1
        self._good_since = math.nan
        wait = _FIRST_WAIT * 2 ** (self._failures - 1)
        self._next = math.inf if forever or self._failures >= _LIMIT else now + wait

    def succeeded(self, now: float) -> None:
        """It works; failures are forgotten when it has worked for a minute."""
        if math.isnan(self._good_since):
            self._good_since = now
        elif now - self._good_since >= _GOOD_AFTER:
            self._failures = 0


class EnergyIntegral:
    """Joules of a GPU whose driver counts none: power by the trapezoidal rule; time is an argument, seconds."""

    def __init__(self) -> None:
        self.joules = 0.0
        self._at = math.nan
        self._watts = math.nan

    def add(self, now: float, watts: float) -> float:
        """Joules since the first reading, including the time up to this one."""
        gap = now - self._at
        if 0 < gap <= LONGEST_GAP:
            self.joules += gap * (watts + self._watts) / 2
        self._at, self._watts = now, watts
        return self.joules


class Device:
    """A GPU: ``label`` is its index, ``identity`` its UUID. ``facts`` are about quantities, ``fault`` about it all."""

    def __init__(self, label: str, identity: str, handle: Any) -> None:
        self.label = label
        self.identity = identity
        self.handle = handle
        self.slices: tuple[str, ...] = ()
        self.about: dict[str, str] = {}
        self.fault = ""
        self.attempts = Attempts()
        self._unread: dict[str, str] = {}
        self._closed: set[tuple[str, ...]] = set()
        self._integral = EnergyIntegral()

    @property
    def names(self) -> tuple[str, ...]:
        """What it can be asked for by: its UUID and those of its slices (MIG)."""
        return (self.identity, *self.slices) if self.identity else ()

    def facts(self) -> dict[str, str]:
        """All that is known about reading it, by name."""
        found = {f"gpu.{self.label}.{name}": text for name, text in (self.about | self._unread).items()}
        return found | ({f"gpu.{self.label}": self.fault} if self.fault else {})

    def sample(
        self, module: Any, readings: Sequence[Reading], understood: Callable[[Exception], Fault], now: float
    ) -> list[ResourceSample]:
        """All quantities that can be read; BrokenError where the device or the library fails as a whole."""
        values: dict[str, float] = {}
        for reading in readings:
            if reading.names in self._closed:
                continue
            try:
                found = reading.read(module, self.handle)
            except Exception as error:  # noqa: BLE001  (bindings raise anything: it is said, the rest goes on)
                self._failed(reading, understood(error))
            else:
                self._take(reading, found, values)
        self._integrate(values, now)
        return [
            ResourceSample("gpu", self.label, name, value, UNITS.get(name, ""), self.identity)
            for name, value in values.items()
        ]

    def _failed(self, reading: Reading, fault: Fault) -> None:
        if fault.extent in (Extent.DEVICE, Extent.LIBRARY, Extent.NEVER):
            raise BrokenError(fault)
        if fault.extent is Extent.QUANTITY:
            self._closed.add(reading.names)
        self._unread |= dict.fromkeys(reading.names, fault.text)

    def _take(self, reading: Reading, found: Mapping[str, float], values: dict[str, float]) -> None:
        for name in reading.names:
            if math.isnan(found[name]):
                self._unread[name] = "no value"
            else:
                self._unread.pop(name, None)
                values[name] = found[name]

    def _integrate(self, values: dict[str, float], now: float) -> None:
        """Energy from power, only where the driver will never say it: two counters do not mix."""
        if POWER in values and (ENERGY,) in self._closed:
            values[ENERGY] = self._integral.add(now, values[POWER])
            self._unread[ENERGY] = INTEGRATED
