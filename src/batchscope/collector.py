"""SchedulerMetricsCollector: record from any thread, and read one consistent snapshot of everything."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from batchscope.background import Closing, Periodic
from batchscope.checks import checked_labels, checked_text
from batchscope.clock import Clock
from batchscope.configuration import MetricsConfiguration, SchedulerLimits, checked_clock, checked_limits
from batchscope.draining import Draining
from batchscope.errors import ConfigurationError
from batchscope.recording.producer import Source
from batchscope.recording.rings import ProducerContext
from batchscope.recording.writer import Writer
from batchscope.records import (
    BatchMetrics,
    EngineInfo,
    IterationMetrics,
    IterationResult,
    RequestMetrics,
    RequestResult,
    ResourceSample,
)
from batchscope.sinks import Listener, Recording, RunHeader, Sink
from batchscope.statistics.build import CollectorIdentity, build_snapshot, read_cumulative
from batchscope.statistics.cumulative import CumulativeState
from batchscope.statistics.key_figures import log_key_figures
from batchscope.statistics.sample_list import Samples
from batchscope.statistics.samples import batch_metrics, iteration_metrics, request_metrics, slowest
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.summaries import (
    BatchStatistics,
    ErrorStatistics,
    IterationStatistics,
    RequestStatistics,
)

logger = logging.getLogger("batchscope")


class SchedulerMetricsCollector(Closing):
    """Collects what a scheduler reports; safe to use from any number of threads.

    ``record_*`` writes raw values into a ring of the calling thread: it never logs or raises (unless
    ``strict``). While somebody else drains, a writer whose ring is nearly full pauses for 0.5 ms a block, and one
    whose ring is full waits 50 ms at most; then the record is dropped and counted. Reading drains the rings:
    statistics contain every record whose call returned before. ``limits`` are what utilization is measured
    against, ``labels`` name this collector's series, ``role`` is ``unified``, ``prefill`` or ``decode``, ``clock``
    gives monotonic seconds; set ``engine`` and ``definitions`` to say which engine it is and what its figures start
    and end at. After ``os.fork()`` the child's is empty.
    ``close()`` (or leaving the context) ends its threads; what was recorded stays readable.
    """

    def __init__(
        self,
        configuration: MetricsConfiguration | None = None,
        *,
        limits: SchedulerLimits | None = None,
        labels: Mapping[str, str] | None = None,
        role: str = "unified",
        clock: Clock = time.monotonic,
    ) -> None:
        self.configuration = MetricsConfiguration.DEFAULT if configuration is None else configuration
        if not isinstance(self.configuration, MetricsConfiguration):
            raise ConfigurationError("configuration", configuration, "a MetricsConfiguration; limits go in as limits=")
        limits = SchedulerLimits() if limits is None else checked_limits(limits)
        self.labels = checked_labels({} if labels is None else labels)
        self.role = checked_text("role", role)
        self._engine = EngineInfo()
        self.definitions: dict[str, str] = {}
        self._closed = False
        self._draining = Draining(self.configuration, limits, checked_clock(clock))
        self._local = self._draining.writers.local
        self._own_writer = self._draining.writers.own
        self._eager = self.configuration.strict
        self._log: Periodic | None = None
        self._recordings: list[Recording] = []
        if self.configuration.enable_detailed_logging:
            write = partial(log_key_figures, self, logger, logging.INFO)
            interval = self.configuration.detailed_log_interval_seconds
            self._log = Periodic(write, interval, "batchscope-log").start()

    # Recording.

    def writer(self) -> Writer:
        """The calling thread's writer: positional, for the tightest loops. Do not hand it to another thread."""
        return self._own_writer()

    def record_iteration(self, result: IterationResult) -> None:
        """Report one iteration of the scheduler."""
        try:
            writer: Writer = self._local.writer
        except AttributeError:
            writer = self._own_writer()
        writer.iteration_result(result)
        if self._eager:
            self._draining.check()

    def record_request_completion(self, result: RequestResult) -> None:
        """Report a request that left the scheduler, whatever the reason."""
        try:
            record: Callable[[RequestResult], None] = self._local.request_result
        except AttributeError:
            record = self._own_writer().request_result
        record(result)
        if self._eager:
            self._draining.check()

    def record_batch_utilization(
        self,
        utilization: float,
        *,
        batch_id: int | None = None,
        request_count: int | None = None,
        memory_bytes_used: int | None = None,
    ) -> None:
        """Report how full one batch was, 0..1; what is not given is not averaged in."""
        self._own_writer().batch(utilization, batch_id, request_count, memory_bytes_used)
        if self._eager:
            self._draining.check()

    def record_error(self, error_type: str, exception: BaseException | None = None) -> None:
        """Report an error by name; with an empty name the exception's type. The exception is not kept."""
        self._own_writer().error(error_type, exception)
        if self._eager:
            self._draining.check()

    def record_resources(
        self, samples: Iterable[ResourceSample], *, facts: Mapping[str, str] | None = None, interval: float = 10.0
    ) -> None:
        """Report readings of GPUs and the process, taken now and every ``interval`` seconds: not for the hot loop.

        A quantity that is not reported for three intervals is no longer shown as present. ``facts`` are what
        could not be sampled and why, by name, and stay until they are reported again; an empty text ends one.
        """
        self._draining.record_resources(samples, facts or {}, interval)

    def set_limits(self, limits: SchedulerLimits) -> None:
        """The engine's limits became known, or changed: utilization is measured against them from now on."""
        self._draining.set_limits(checked_limits(limits))

    @property
    def limits(self) -> SchedulerLimits:
        """What utilization is measured against."""
        return self._draining.limits

    @property
    def engine(self) -> EngineInfo:
        """Which engine the numbers are of; set it to say so. ConfigurationError for anything but an EngineInfo."""
        return self._engine

    @engine.setter
    def engine(self, engine: EngineInfo) -> None:
        if not isinstance(engine, EngineInfo):
            raise ConfigurationError("engine", engine, 'an EngineInfo, such as EngineInfo("vllm", "0.32.0")')
        checked_text("engine.kind", engine.kind)
        checked_text("engine.version", engine.version)
        self._engine = engine

    def attach(self, source: Source) -> ProducerContext:
        """Drain ``source`` (a tracker) with everything else from now on."""
        return self._draining.attach(source)

    def subscribe(self, sink: Listener | Sink) -> Callable[[], None]:
        """Give ``sink`` all rows from now on, in blocks, at each drain; returns what ends the subscription.

        A function is called with each block. A ``Sink`` is told of which run they are, too, and hears SPAN rows: which
        request took part in which iteration. What can be called is a function.
        It runs under the drain's lock, which may be held by the engine's own thread: it must be quick (``HandOver``
        is) and cannot read the collector (``BusyError``). If it raises, it is unsubscribed and the error counted under
        its name (``sink_failed``): a listener never hurts recording.
        """
        if not (callable(sink) or isinstance(sink, Sink)):
            raise ConfigurationError("sink", sink, "a function of a block of rows, or a Sink: begin, take and end")
        return self._draining.subscribe(sink, self._header)

    def record_to(
        self,
        root: str | Path,
        *,
        level: str = "default",
        interval: float = 1.0,
        keep_seconds: float | None = None,
        keep_bytes: int | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> Recording:
        """Keep everything from now on in a folder of its own in ``root``, written by a thread, until ``close()``.

        A killed process loses what was recorded in the last ``interval`` seconds. ``level``: ``default`` has every
        request, iteration and token; ``lean`` leaves out which request took part in which iteration. Runs in ``root``
        that ended ``keep_seconds`` ago are removed, then the oldest until all have ``keep_bytes``; never one that is
        being written. ``configuration`` is what else is known of the engine's settings: JSON values, no secrets.

        A disk that is full ends the recording, never the engine: ``failure`` says so. Read the run with
        ``batchscope.ledger.open_run``. MissingExtraError without the extra ``ledger``; ConfigurationError where the
        folder cannot be made.
        """
        from batchscope.ledger.recording import record  # noqa: PLC0415  (an extra)

        recording = record(
            self, root, instance_id=self._draining.instance_id, clock=self._draining.clock,
            level=level, interval=interval, configuration=configuration,
            keep_seconds=keep_seconds, keep_bytes=keep_bytes,
            in_flight=lambda: self.get_snapshot().gauges.requests_in_flight,
        )  # fmt: skip
        self._recordings.append(recording)
        return recording

    @property
    def recordings(self) -> tuple[Recording, ...]:
        """What ``record_to`` began, in order."""
        return tuple(self._recordings)

    def _header(self) -> RunHeader:
        core = self._draining
        return RunHeader(
            instance_id=core.instance_id, generation=core.generation, started_at=core.wall.at(core.state.started),
            started_instant=core.state.started, anchor_instant=core.wall.instant, anchor_time=core.wall.utc,
            request_classes=core.classes.names, slo=dict(core.classes.targets), limits=core.limits,
            labels=dict(self.labels), role=self.role, engine=self.engine,
            definitions={str(name): str(text) for name, text in self.definitions.items()},
            simulated=core.simulated,
        )  # fmt: skip

    # Reading.

    def get_snapshot(self) -> MetricsSnapshot:
        """Everything, from one drained state."""
        core = self._draining
        with core.reading():
            cut = core.cut()
            core.sequence += 1
            return build_snapshot(cut, self._identity(), self.definitions)

    def drain(self) -> int:
        """Count what was recorded so far, which costs next to nothing when that is nothing; for a thread of one's own.

        What is returned grows whenever something was recorded since the call before: also an arrival, a loss or a
        record that was refused, a reading of resources, other limits, and ``reset()``.
        """
        with self._draining.lock:
            return self._draining.news()

    def read_totals(self) -> CumulativeState:
        """Cumulative counts, gauges and live histograms, without percentiles: what exporters read at a scrape."""
        with self._draining.reading():
            return read_cumulative(self._draining.cut(), self._identity())

    def _identity(self) -> CollectorIdentity:
        core = self._draining
        return CollectorIdentity(
            core.instance_id, core.generation, core.sequence, core.wall, dict(self.labels), self.role, self.engine
        )

    def get_request_statistics(self) -> RequestStatistics:
        """Requests: counts, latencies, rates."""
        return self.get_snapshot().request_stats

    def get_iteration_statistics(self) -> IterationStatistics:
        """Iterations: averages, shares, lost slot-seconds."""
        return self.get_snapshot().iteration_stats

    def get_batch_statistics(self) -> BatchStatistics:
        """Batch utilization records."""
        return self.get_snapshot().batch_stats

    def get_error_statistics(self) -> ErrorStatistics:
        """Errors by type."""
        return self.get_snapshot().error_stats

    def slowest(self, n: int = 10, *, by: str = "time_to_first_token") -> Samples[RequestMetrics]:
        """The ``n`` requests among the last samples whose ``by``, a duration of ``RequestMetrics``, is the longest.

        The longest first, whatever became of them; those of whom it was not measured are left out.
        """
        core = self._draining
        with core.reading():
            core.drain()
            samples = core.state.requests.samples
            return request_metrics(samples, core.classes.names, core.wall, slowest(samples, by, n))

    def request_samples(self) -> Samples[RequestMetrics]:
        """The last finished requests, oldest first."""
        core = self._draining
        with core.reading():
            core.drain()
            return request_metrics(core.state.requests.samples, core.classes.names, core.wall)

    def iteration_samples(self) -> Samples[IterationMetrics]:
        """The last iterations, oldest first."""
        core = self._draining
        with core.reading():
            core.drain()
            return iteration_metrics(core.state.iterations.samples, core.wall)

    def batch_samples(self) -> Samples[BatchMetrics]:
        """The last batch utilization records, oldest first."""
        core = self._draining
        with core.reading():
            core.drain()
            return batch_metrics(core.state.batches.samples, core.wall)

    # Life.

    def reset(self) -> None:
        """Forget everything recorded so far; requests in flight stay, and count when they finish."""
        self._draining.reset()

    def close(self) -> None:
        """End the collector's threads, after a last log line, and its sinks, after the last rows.

        It can be called again. What is recorded later is counted as ever.
        """
        if not self._closed:
            self._closed = True
            if self._log is not None:
                self._log.close()
            self._draining.end_sinks()
            for recording in self._recordings:
                recording.close()
            self._draining.tell()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed
