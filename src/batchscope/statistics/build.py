"""A snapshot from one drained state."""

from __future__ import annotations

from typing import NamedTuple

from batchscope.aggregation.requests import ClassNames
from batchscope.aggregation.state import State
from batchscope.clock import WallClock
from batchscope.configuration import MetricsConfiguration, SchedulerLimits
from batchscope.histograms.instrument import Instrument
from batchscope.recording.producer import LiveRequests
from batchscope.records import EngineInfo
from batchscope.statistics.cumulative import CumulativeState, gauges, totals, window_totals
from batchscope.statistics.distributions import merged, summarize_histogram
from batchscope.statistics.iterations import (
    batch_means,
    batch_sizes,
    batch_statistics,
    iteration_means,
    iteration_statistics,
    processing_times,
)
from batchscope.statistics.producer_counts import Counted
from batchscope.statistics.requests import outcomes, request_statistics, samples_of_completed, slo_statistics
from batchscope.statistics.resources import energy_statistics, resource_statistics
from batchscope.statistics.snapshot import Histograms, MetricsSnapshot
from batchscope.statistics.summaries import ErrorStatistics, WindowStatistics
from batchscope.statistics.totals import Gauges, Totals, engine_name

WINDOWS = {"1m": 60.0, "5m": 300.0}
_STALE_WINDOWS = 3


class Cut(NamedTuple):
    """One drained state, and what it is read with."""

    configuration: MetricsConfiguration
    limits: SchedulerLimits
    classes: ClassNames
    state: State
    counted: Counted
    live: list[LiveRequests]
    now: float

    @property
    def elapsed(self) -> float:
        """Seconds since the start or the last reset; none, where the clock went back behind it."""
        return max(0.0, self.now - self.state.started)

    def totals(self, engine: str) -> Totals:
        """Everything cumulative, of ``engine``."""
        return totals(self.state, self.limits, self.classes.names, self.counted, self.elapsed, engine)

    def gauges(self) -> Gauges:
        """Present values."""
        stale_after = _STALE_WINDOWS * self.configuration.counter_window_seconds
        return gauges(self.state, self.limits, self.classes.targets, self.live, self.now, stale_after)

    def instruments(self) -> dict[str, dict[str, Instrument]]:
        """Every histogram, by name and request class."""
        state = self.state
        of_all_classes = {
            "inter_token_latency": state.inter_token_latency,
            "inter_emission_latency": state.inter_emission_latency,
            **state.iterations.instruments,
        }
        return state.requests.instruments | {name: {"": instrument} for name, instrument in of_all_classes.items()}

    def histograms(self) -> Histograms:
        """Copies of all histograms since the start."""
        return {
            name: {class_name: instrument.lifetime.copy() for class_name, instrument in by_class.items()}
            for name, by_class in self.instruments().items()
        }

    def windowed(self) -> dict[str, Histograms]:
        """All histograms of the last seconds, by the name of the window."""
        found: dict[str, Histograms] = {name: {} for name in WINDOWS}
        for name, by_class in self.instruments().items():
            for histograms in found.values():
                histograms[name] = {}
            for class_name, instrument in by_class.items():
                windows = instrument.windowed(self.now)
                for window, seconds in WINDOWS.items():
                    found[window][name][class_name] = windows[seconds]
        return found


class CollectorIdentity(NamedTuple):
    """Which collector a snapshot is of."""

    instance_id: str
    generation: int
    sequence: int
    wall: WallClock
    labels: dict[str, str]
    role: str
    engine: EngineInfo

    @property
    def name(self) -> str:
        """What the processes of one engine have in common."""
        return engine_name(self.role, self.labels)


def read_cumulative(cut: Cut, identity: CollectorIdentity) -> CumulativeState:
    """What exporters read: no percentile is computed."""
    return CumulativeState(
        totals=cut.totals(identity.name),
        gauges=cut.gauges(),
        histograms=cut.histograms(),
        resources=resource_statistics(cut.state.resources, cut.now, summarized=False),
        labels=identity.labels,
        role=identity.role,
        engine=identity.engine,
        started_at=identity.wall.at(cut.state.started),
        instance_id=identity.instance_id,
        generation=identity.generation,
        limits=cut.limits,
    )


def build_snapshot(cut: Cut, identity: CollectorIdentity, definitions: dict[str, str]) -> MetricsSnapshot:
    """All statistics of one cut."""
    state = cut.state
    cumulative = cut.totals(identity.name)
    window = window_totals(state, cut.configuration, cut.classes.names, cut.now, identity.name)
    summaries, means = samples_of_completed(state, cut.elapsed)
    means |= iteration_means(state.iterations) | batch_means(state.batches)
    counts = outcomes(cumulative.requests_by_reason)
    windowed_histograms = cut.windowed()
    return MetricsSnapshot(
        request_stats=request_statistics(counts, means, window, summaries, cut.counted.rejected),
        iteration_stats=iteration_statistics(cumulative, means, window, processing_times(state.iterations)),
        batch_stats=batch_statistics(state.batches.count, means, *batch_sizes(state.batches)),
        error_stats=_errors(cut, identity, counts["total_requests"]),
        slo_stats=slo_statistics(state.requests, cut.classes.targets, window),
        resource_stats=resource_statistics(state.resources, cut.now, summarized=True),
        resource_facts=dict(state.resources.facts),
        energy_stats=energy_statistics(state, identity.instance_id, identity.name),
        snapshot_time=identity.wall.at(cut.now),
        totals=cumulative,
        gauges=cut.gauges(),
        windowed={
            name: window_statistics(WINDOWS[name], cut.elapsed, found) for name, found in windowed_histograms.items()
        },
        histograms=cut.histograms(),
        windowed_histograms=windowed_histograms,
        engine=identity.engine,
        definitions={str(name): str(text) for name, text in definitions.items()},
        limits=cut.limits,
        labels=identity.labels,
        role=identity.role,
        started_at=identity.wall.at(state.started),
        elapsed_seconds=cut.elapsed,
        instance_id=identity.instance_id,
        generation=identity.generation,
        sequence=identity.sequence,
        means=means,
        window=window,
    )


def window_statistics(seconds: float, elapsed: float, histograms: Histograms) -> WindowStatistics:
    """Summaries of a window's histograms, request classes together."""
    span = min(seconds, elapsed)
    summaries = {name: summarize_histogram(merged(by_class.values()), span) for name, by_class in histograms.items()}
    return WindowStatistics(window_seconds=seconds, span_seconds=span, summaries=summaries)


def _errors(cut: Cut, identity: CollectorIdentity, finished: int) -> ErrorStatistics:
    errors = cut.state.errors
    return ErrorStatistics(
        total_errors=errors.total,
        errors_by_type=dict(errors.by_type),
        error_rate=errors.total / finished if finished else float("nan"),
        last_error_time=None if errors.last_at is None else identity.wall.at(errors.last_at),
    )
