"""Limits, targets and settings: frozen, checked when made, safe to share between threads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, cast

import msgspec

from batchscope.checks import check_positive, check_whole, is_number
from batchscope.clock import Clock
from batchscope.errors import ConfigurationError

DEFAULT_CLASS = "default"
"""The request class where none is declared."""
OTHER_CLASS = "other"
"""The request class that undeclared ones fold into: the number of series stays bounded."""
MAX_CLASSES = 8
SCALES = {1: 2, 2: 6, 3: 9, 4: 12}
"""``percentile_precision`` (digits) -> histogram scale: relative error 8.6 %, 0.54 %, 0.068 %, 0.0085 %."""


class SchedulerLimits(msgspec.Struct, frozen=True):
    """What the batch is measured against; ``None`` = not limited or not known (utilization is then ``nan``).

    ``max_running_requests``: places of one rank, all pipeline stages together. ``kv_block_size``: tokens a block
    of the KV cache holds. ``pipeline_stages``: batches that one rank has in flight at a time; None is 1.
    """

    max_running_requests: int | None = None
    max_scheduled_tokens: int | None = None
    kv_cache_blocks: int | None = None
    kv_block_size: int | None = None
    pipeline_stages: int = 1

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if getattr(self, field) is not None:
                check_whole(field, getattr(self, field), 1, note=" or None")
        if not self.pipeline_stages:  # None; 0 was refused
            msgspec.structs.force_setattr(self, "pipeline_stages", 1)

    @property
    def batch_places(self) -> float | None:
        """The places of one batch: an even share for each pipeline stage."""
        places = self.max_running_requests
        return None if places is None else places / self.pipeline_stages


class SloTargets(msgspec.Struct, frozen=True):
    """The service level objective of a request class, seconds; the limit itself is met; ``None`` = no target."""

    time_to_first_token: float | None = None
    time_per_output_token: float | None = None
    e2e_latency: float | None = None
    max_emission_gap: float | None = None

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if getattr(self, field) is not None:
                check_positive(field, getattr(self, field), "seconds", ", or None for no target")

    @property
    def declared(self) -> dict[str, float]:
        """The targets that are set, by name."""
        fields = self.__struct_fields__
        return {field: float(value) for field in fields if (value := getattr(self, field)) is not None}


class MetricsConfiguration(msgspec.Struct, frozen=True):
    """Settings of a collector; a wrong value raises ``ConfigurationError`` with field, value and range.

    ``slo`` is one ``SloTargets`` for every request, or up to 8 by request class. ``strict`` checks records
    at once and raises ``InvalidRecordError``: for tests, not for an engine.
    """

    DEFAULT: ClassVar[MetricsConfiguration]

    max_request_samples: int = 10_000
    max_iteration_samples: int = 10_000
    max_batch_samples: int = 10_000
    counter_window_seconds: float = 60
    percentile_precision: int = 2
    enable_detailed_logging: bool = False
    detailed_log_interval_seconds: float = 30
    slo: SloTargets | Mapping[str, SloTargets] | None = None
    max_error_types: int = 100
    strict: bool = False

    def __post_init__(self) -> None:
        for field in ("max_request_samples", "max_iteration_samples", "max_batch_samples"):
            check_whole(field, getattr(self, field), 1, 10_000_000)
        _seconds("counter_window_seconds", self.counter_window_seconds)
        _seconds("detailed_log_interval_seconds", self.detailed_log_interval_seconds)
        check_whole("percentile_precision", self.percentile_precision, 1, 4)
        check_whole("max_error_types", self.max_error_types, 1, 10_000)
        for field in ("enable_detailed_logging", "strict"):
            if not isinstance(getattr(self, field), bool):
                raise ConfigurationError(field, getattr(self, field), "True or False")
        _check_slo(self.slo)

    @property
    def histogram_scale(self) -> int:
        """The scale of the mergeable histograms that ``percentile_precision`` digits need."""
        return SCALES[self.percentile_precision]

    @property
    def slo_by_class(self) -> dict[str, SloTargets]:
        """Targets by request class; one ``SloTargets`` for all is the class ``default``."""
        if isinstance(self.slo, Mapping):
            return dict(self.slo)
        return {DEFAULT_CLASS: self.slo or SloTargets()}

    @property
    def classes_declared(self) -> bool:
        """Whether requests are told apart by class at all."""
        return isinstance(self.slo, Mapping)


def parse_slo(text: str, field: str = "BATCHSCOPE_SLO") -> SloTargets | dict[str, SloTargets]:
    """``name=seconds`` pairs with commas between, names as in ``SloTargets``; else ConfigurationError of ``field``.

    By request class: ``interactive: name=seconds,...; batch: ...``; one without targets is counted apart all the same.
    """
    if ":" not in text:
        return _targets(text, field)
    classes: dict[str, SloTargets] = {}
    for part in text.split(";"):
        name, colon, targets = part.partition(":")
        if not colon or not name.strip() or name.strip() in classes:
            raise ConfigurationError(field, text, "class: name=seconds,...; with a ; between the classes")
        classes[name.strip()] = _targets(targets.strip(), field) if targets.strip() else SloTargets()
    return MetricsConfiguration(slo=classes).slo_by_class  # their number and names are checked here


def _targets(text: str, field: str) -> SloTargets:
    allowed = "name=seconds,... with names of " + ", ".join(SloTargets.__struct_fields__)
    targets: dict[str, float] = {}
    for pair in text.split(","):
        name, _, seconds = (part.strip() for part in pair.partition("="))
        if name not in SloTargets.__struct_fields__ or name in targets:
            raise ConfigurationError(field, text, allowed)
        try:
            targets[name] = float(seconds)
        except ValueError:
            raise ConfigurationError(field, text, allowed) from None
    return SloTargets(**targets)


def checked_limits(limits: object) -> SchedulerLimits:
    """``limits``; ConfigurationError unless they are ``SchedulerLimits``."""
    if not isinstance(limits, SchedulerLimits):
        raise ConfigurationError(
            "limits", limits, "a SchedulerLimits, such as SchedulerLimits(max_running_requests=64)"
        )
    return limits


def checked_clock(clock: object) -> Clock:
    """``clock``; ConfigurationError unless it is a function that gives seconds."""
    now = clock() if callable(clock) else None
    if not is_number(now) or not math.isfinite(now):
        raise ConfigurationError("clock", clock, "a function that gives seconds, such as time.monotonic")
    return cast("Clock", clock)


def _seconds(field: str, value: float) -> None:
    if not is_number(value) or not 0 < value <= 86_400:
        raise ConfigurationError(field, value, "seconds, more than 0 and at most 86400")


def _check_slo(slo: object) -> None:
    if slo is None or isinstance(slo, SloTargets):
        return
    if not isinstance(slo, Mapping):
        raise ConfigurationError("slo", slo, "SloTargets, a mapping of request class to SloTargets, or None")
    if not 1 <= len(slo) <= MAX_CLASSES:
        raise ConfigurationError("slo", sorted(map(str, slo)), f"1 to {MAX_CLASSES} request classes")
    for name, targets in slo.items():
        if not isinstance(name, str) or not name or len(name) > 64:
            raise ConfigurationError("slo", name, "class names of 1 to 64 characters")
        if not isinstance(targets, SloTargets):
            raise ConfigurationError(f"slo[{name!r}]", targets, "SloTargets")


MetricsConfiguration.DEFAULT = MetricsConfiguration()
