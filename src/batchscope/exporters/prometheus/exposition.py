"""A state as the bytes that Prometheus reads, in three formats."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from batchscope.checks import check_whole
from batchscope.exporters.prometheus import protobuf
from batchscope.exporters.prometheus.families import CATALOGUE, SERIES_BUDGET, Family, Table, families
from batchscope.exporters.prometheus.text import TextEncoder
from batchscope.exporters.prometheus.vllm_names import VLLM
from batchscope.statistics.cumulative import CumulativeState


class Format(Enum):
    """An exposition format; its value is the content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"


class Exposition:
    """Renders states, one after the other: keep one, because it keeps what does not change. Thread-safe.

    ``vllm_names`` adds the series under the names that vLLM uses, beside ours. ``series_budget`` bounds the series
    (lines of text) of one exposition; what is left out is counted in ``batchscope_series_left_out``.
    """

    def __init__(self, *, vllm_names: bool = False, series_budget: int = SERIES_BUDGET) -> None:
        check_whole("series_budget", series_budget, 1)
        self._tables: tuple[Table, ...] = (CATALOGUE, VLLM) if vllm_names else (CATALOGUE,)
        self._budget = series_budget
        self._text = TextEncoder(openmetrics=False)
        self._openmetrics = TextEncoder(openmetrics=True)

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables of metrics that are rendered."""
        return self._tables

    def families(self, state: CumulativeState, names: Collection[str] | None = None) -> list[Family]:
        """The families with a known series; with ``names``, a family's or its samples', only those."""
        return families(state, self._tables, self._budget, None if names is None else frozenset(names))

    def render(self, state: CumulativeState, form: Format, names: Collection[str] | None = None) -> bytes:
        """The exposition of ``state``."""
        found, created = self.families(state, names), state.started_at.timestamp()
        if form is Format.PROTOBUF:
            return protobuf.encode(found, created)
        return (self._openmetrics if form is Format.OPENMETRICS else self._text).encode(found, created)


_DEFAULT = Exposition()


def render_text(state: CumulativeState) -> bytes:
    """Prometheus' text format 0.0.4."""
    return _DEFAULT.render(state, Format.TEXT)


def render_openmetrics(state: CumulativeState) -> bytes:
    """OpenMetrics 1.0.0."""
    return _DEFAULT.render(state, Format.OPENMETRICS)


def render_protobuf(state: CumulativeState) -> bytes:
    """Delimited protobuf with native histograms: only for who asked for it."""
    return _DEFAULT.render(state, Format.PROTOBUF)
