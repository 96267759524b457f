"""The figures of a run that are compared: of each latency its mean and percentiles, over the same requests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PERCENTILES = (50, 90, 95, 99)
LATENCIES = ("time_to_first_token", "time_per_output_token", "total_time", "queue_time", "decode_time")


class Figure(msgspec.Struct, frozen=True):
    """Of one latency, in seconds; ``low`` and ``high`` bound its mean (95 %), ``nan`` where no interval is known.

    A percentile is ``nan`` of so few requests that none would lie above it: p90 of 9, p95 of 19, p99 of 99.
    """

    mean: float = math.nan
    p50: float = math.nan
    p90: float = math.nan
    p95: float = math.nan
    p99: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def values(self) -> tuple[float, ...]:
        """Mean and percentiles."""
        return self.mean, self.p50, self.p90, self.p95, self.p99


class RequestInstants(msgspec.Struct, frozen=True):
    """Of each request, aligned: seconds on one clock, ``nan`` where it did not happen or is not known.

    ``max_emission_gap``: the longest time between two of its tokens; ``None`` where nobody followed it.
    """

    arrived: Floats
    first_scheduled: Floats
    first_token: Floats
    last_token: Floats
    output_tokens: Floats
    max_emission_gap: Floats | None = None

    def first(self, count: int) -> RequestInstants:
        """Of the first ``count`` requests."""
        columns = {field: getattr(self, field) for field in self.__struct_fields__}
        return RequestInstants(**{field: column[:count] for field, column in columns.items() if column is not None})

    def latencies(self) -> dict[str, Floats]:
        """Each of ``LATENCIES``, request by request. One output token has no time per output token."""
        decode = self.last_token - self.first_token
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1, math.nan)
        return {
            "time_to_first_token": self.first_token - self.arrived,
            "time_per_output_token": decode / gaps,
            "total_time": self.last_token - self.arrived,
            "queue_time": self.first_scheduled - self.arrived,
            "decode_time": decode,
        }


def figures_of(instants: RequestInstants, chosen: npt.NDArray[np.bool_]) -> dict[str, Figure]:
    """By latency, over the requests that are ``chosen`` and have it."""
    return {name: figure_of(values[chosen]) for name, values in instants.latencies().items()}


def figure_of(values: Floats) -> Figure:
    """Mean and percentiles (linear interpolation) of what is not ``nan``."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Figure()
    told = [percentile for percentile in PERCENTILES if len(known) * (100 - percentile) >= 100]
    return Figure(
        float(known.mean()),
        **{f"p{each}": float(value) for each, value in zip(told, np.percentile(known, told), strict=True)},
    )


STATISTICS = ("mean", *(f"p{percentile}" for percentile in PERCENTILES))


class Off(msgspec.Struct, frozen=True):
    """How far a replayed figure is off: replayed over recorded, less 1."""

    latency: str
    statistic: str
    value: float


def worst_off(recorded: Mapping[str, Figure], replayed: Mapping[str, Figure], names: Iterable[str]) -> Off | None:
    """The figure of the latencies ``names`` that is farthest off; ``None`` where none can be compared."""
    offs = [
        Off(name, statistic, again / was - 1)
        for name in names
        for statistic, was, again in zip(STATISTICS, recorded[name].values, replayed[name].values, strict=True)
        if was > 0 and not math.isnan(again)
    ]
    return max(offs, key=lambda each: abs(each.value), default=None)
