"""The answer to "why was it slow?", as a document: of one request, or of the slowest beside the others."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Self

import msgspec

from batchscope.configuration import SchedulerLimits
from batchscope.ledger.request_parts import Part

SCHEMA = "batchscope.explain/1"


class Metric(StrEnum):
    """What the slowest are chosen by, as the command names it; ``quantity`` is its column."""

    quantity: str

    def __new__(cls, value: str, quantity: str = "") -> Self:
        """A string with its column."""
        metric = str.__new__(cls, value)
        metric._value_ = value
        metric.quantity = quantity
        return metric

    TTFT = "ttft", "time_to_first_token"
    TPOT = "tpot", "time_per_output_token"
    E2E = "e2e", "total_time"
    GAP = "gap", "max_emission_gap"


class TimePart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of one request's time; ``share`` is of its e2e latency, ``before_first_token`` seconds of ``seconds``."""

    part: Part
    limiter: str | None
    modelled: bool
    seconds: float
    share: float
    before_first_token: float


class ExplainedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request and where its time went, the largest part first; ``arrived`` is in seconds since the run began.

    ``arrived_time`` is None in a simulated run, whose instants are of no day.
    """

    request: int
    request_id: str
    request_class: str
    reason: str
    arrived: float
    arrived_time: dt.datetime | None
    total_time: float
    time_to_first_token: float | None
    time_per_output_token: float | None
    max_emission_gap: float | None
    tokens_generated: int | None
    prompt_tokens: int | None
    cached_tokens: int | None
    preemptions: int | None
    parts: tuple[TimePart, ...]


class ComparedPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the metric's time among the slowest and among the others: shares, and mean seconds a request.

    Of TPOT the means are seconds an output token.
    """

    part: Part
    limiter: str | None
    modelled: bool
    share: float
    share_of_others: float | None
    mean: float
    mean_of_others: float | None


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which the slow ones were slow together: seconds since the run began, its iterations where of one rank.

    ``requests`` of the slowest lie in it, ``most_at_once`` at the same moment, first reached at ``busiest``.
    """

    begin: float
    end: float
    begin_time: dt.datetime | None
    requests: int
    most_at_once: int
    busiest: float
    iterations: int
    first_iteration: int | None
    last_iteration: int | None


class Slow(msgspec.Struct, frozen=True, kw_only=True):
    """One of the slowest: its value, and the largest part of the metric's time."""

    request: int
    request_id: str
    value: float
    part: Part
    limiter: str | None
    part_share: float


class Slowest(msgspec.Struct, frozen=True, kw_only=True):
    """The slowest by one metric beside the others. ``parts``: what makes them slower comes first (mean less mean)."""

    metric: Metric
    share: float
    requests: int
    others: int
    threshold: float
    mean: float
    mean_of_others: float | None
    parts: tuple[ComparedPart, ...]
    stretches: tuple[Stretch, ...]
    stretches_in_all: int
    worst: tuple[Slow, ...]


class CostModel(msgspec.Struct, frozen=True):
    """What modelled parts stand on: how many iterations it was fitted to, and how far off it is in the median."""

    iterations: int
    median_error: float
    seconds_per_prefill_token: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: of one request, or of the slowest. ``notes`` say what the run does not hold; ``complete`` is False
    where more than 1 % of the time is unknown for that reason.
    """

    schema: str = SCHEMA
    complete: bool
    not_recorded: tuple[str, ...] = ()
    """``spans``, ``iterations``: what would split the time further, or say who held it."""
    request: ExplainedRequest | None = None
    slowest: Slowest | None = None
    limits: SchedulerLimits = SchedulerLimits()
    reported_ratio: float | None = None
    """Of the iterations, how many say themselves what limited them; of the others it was inferred."""
    cost_model: CostModel | None = None
    notes: tuple[str, ...] = ()
