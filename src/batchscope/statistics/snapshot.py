"""MetricsSnapshot: one consistent cut of everything, and its JSON document."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from batchscope.configuration import SchedulerLimits
from batchscope.errors import DecodeError
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.records import EngineInfo
from batchscope.statistics.summaries import (
    BatchStatistics,
    EnergyStatistics,
    ErrorStatistics,
    IterationStatistics,
    RequestStatistics,
    ResourceStatistics,
    SloStatistics,
    WindowStatistics,
)
from batchscope.statistics.totals import LARGEST, Gauges, Mean, Totals, WindowTotals
from batchscope.text import readable_document

SCHEMA = "batchscope.snapshot/1"
_LONG_NUMBER = re.compile(rb"\d{19}")

Histograms = dict[str, dict[str, ExponentialHistogram]]
"""Name -> request class ("" where classes are not told apart) -> histogram."""


class MetricsSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a collector knows, all parts from one drained state: every record whose call had returned.

    ``snapshot_time`` and ``started_at`` are wall clock (UTC), for people; all arithmetic was monotonic.
    ``resource_facts`` says of resources what could not be sampled, and why: no GPU is a fact, not an error.
    ``windowed`` holds the distributions of the last 1 and 5 minutes under ``"1m"`` and ``"5m"``.
    ``engine`` names the engine, ``definitions`` says what its figures start and end at. ``instance_id`` is new
    for each collector, ``generation`` counts its resets, ``sequence`` its snapshots. ``means`` and ``window``
    are what merging needs; ``merged_from`` names the instances of a merged snapshot.
    """

    request_stats: RequestStatistics
    iteration_stats: IterationStatistics
    batch_stats: BatchStatistics
    error_stats: ErrorStatistics
    snapshot_time: dt.datetime
    slo_stats: dict[str, SloStatistics] = {}
    resource_stats: dict[str, ResourceStatistics] = {}
    resource_facts: dict[str, str] = {}
    energy_stats: EnergyStatistics = EnergyStatistics()
    totals: Totals = Totals()
    gauges: Gauges = Gauges()
    windowed: dict[str, WindowStatistics] = {}
    histograms: Histograms = {}
    engine: EngineInfo = EngineInfo()
    definitions: dict[str, str] = {}
    limits: SchedulerLimits = SchedulerLimits()
    labels: dict[str, str] = {}
    role: str = "unified"
    schema: str = SCHEMA
    started_at: dt.datetime
    elapsed_seconds: float = math.nan
    instance_id: str = ""
    generation: int = 0
    sequence: int = 0
    means: dict[str, Mean] = {}
    window: WindowTotals = WindowTotals()
    windowed_histograms: dict[str, Histograms] = {}
    merged_from: list[str] = []

    def to_json(self, *, histograms: bool = False, indent: int = 0) -> bytes:
        """The JSON document (UTF-8): keys are the field names, ``nan`` is ``null``; lone surrogates are spelled out.

        Histograms are left out unless asked for: they are what makes a document mergeable.
        """
        document = self if histograms else msgspec.structs.replace(self, histograms={}, windowed_histograms={})
        try:
            encoded = msgspec.json.encode(document, enc_hook=_encode_histogram)
        except UnicodeEncodeError:  # one error name that is no UTF-8 must not cost the document, nor all that follow
            plain = msgspec.to_builtins(document, enc_hook=_encode_histogram)
            encoded = msgspec.json.encode(readable_document(plain))
        return msgspec.json.format(encoded, indent=indent) if indent else encoded

    def report(self, *, width: int | None = None) -> str:
        """The text that ``batchscope report`` prints: requests, latencies, batch, what held it, SLO.

        ``width``: columns; from 80 on nothing is cut off. Left out: those of the terminal that stdout is (80 to 140),
        else 100.
        """
        from batchscope.views.rendering import page_width, plain  # noqa: PLC0415  (rich, for whom wants to read it)
        from batchscope.views.report import Report  # noqa: PLC0415

        return plain(Report(self), page_width() if width is None else width)

    def __repr__(self) -> str:
        """In a line what of, since all of it has some 15,000 characters."""
        at = self.snapshot_time.isoformat(sep=" ", timespec="seconds")
        counts = f"{self.request_stats.total_requests} requests finished, {self.totals.iterations} iterations"
        return f"<MetricsSnapshot of {at}: {counts}; print(snapshot.report()) shows it>"

    @staticmethod
    def merge(*snapshots: MetricsSnapshot) -> MetricsSnapshot:
        """What one collector would have given for the records of all of them. See ``statistics.merge``."""
        from batchscope.statistics.merge import merge_snapshots  # noqa: PLC0415  (it builds snapshots)

        return merge_snapshots(snapshots)


def _encode_histogram(value: object) -> object:
    if isinstance(value, ExponentialHistogram):
        return value.to_dict()
    raise NotImplementedError(f"cannot encode {type(value).__name__}")


def decode_snapshot(document: bytes | str) -> MetricsSnapshot:
    """The way back from ``to_json``; unknown keys are ignored, anything else is a ``DecodeError``."""
    try:
        raw = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise DecodeError(f"not a snapshot: {error}; expected the JSON document of MetricsSnapshot.to_json") from error
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        found = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
        raise DecodeError(f"schema {found!r}: expected {SCHEMA!r}")
    if _LONG_NUMBER.search(document if isinstance(document, bytes) else document.encode("utf-8", "replace")):
        _check_whole_numbers(raw)
    try:
        return msgspec.convert(_with_nan(raw, MetricsSnapshot), MetricsSnapshot, dec_hook=_decode_histogram)
    except (msgspec.ValidationError, OverflowError) as error:
        raise DecodeError(f"not a snapshot: {error}") from error


def _check_whole_numbers(value: Any) -> None:
    """DecodeError for one that is no int64: no float need hold it, and nothing that anybody counted is as large."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_whole_numbers(item)
    elif type(value) is int and abs(value) > LARGEST:
        raise DecodeError(f"not a snapshot: a whole number of {value.bit_length()} bits; expected at most {LARGEST}")


def _decode_histogram(kind: type, value: Any) -> Any:
    if kind is ExponentialHistogram:
        return ExponentialHistogram.from_dict(value)
    raise DecodeError(f"cannot decode a {kind.__name__}")


def _with_nan(value: Any, kind: Any) -> Any:
    """``value`` with ``nan`` for every null where ``kind`` says float: msgspec takes null for None only."""
    if value is None:
        return math.nan if kind is float else None
    if get_origin(kind) is dict and isinstance(value, dict):
        inner = get_args(kind)[1]
        return {key: _with_nan(item, inner) for key, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        hints = _hints(kind)
        return {key: _with_nan(item, hints.get(key)) for key, item in value.items()}
    return value


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(kind: type) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = get_type_hints(kind)
    return _HINTS[kind]
