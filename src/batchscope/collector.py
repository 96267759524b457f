"""SchedulerMetricsCollector: record from any thread, drain, and one consistent snapshot of everything."""

from __future__ import annotations

import os
import re
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Self

from batchscope.aggregation.requests import ClassNames
from batchscope.aggregation.state import Drained, Sink, State
from batchscope.clock import Clock, WallClock
from batchscope.configuration import MetricsConfiguration, SchedulerLimits
from batchscope.detailed_log import DetailedLog
from batchscope.errors import ConfigurationError, InvalidRecordError
from batchscope.recording.ring import Pressure
from batchscope.recording.rings import Recording, Rings
from batchscope.recording.source import Source
from batchscope.recording.unread import Unread
from batchscope.recording.writer import Writer
from batchscope.records import BatchMetrics, IterationMetrics, IterationResult, RequestMetrics, RequestResult
from batchscope.statistics.build import Cut, Identity, build_snapshot, read_cumulative
from batchscope.statistics.counted import Counted, count
from batchscope.statistics.cumulative import CumulativeState
from batchscope.statistics.samples import batch_metrics, iteration_metrics, request_metrics
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.summaries import (
    BatchStatistics,
    ErrorStatistics,
    IterationStatistics,
    RequestStatistics,
)

_collectors: weakref.WeakSet[SchedulerMetricsCollector] = weakref.WeakSet()


class SchedulerMetricsCollector:
    """Collects what a scheduler reports; safe to use from any number of threads.

    ``record_*`` writes raw values into a ring of the calling thread: it never logs or raises (unless
    ``strict``), and waits only when all that memory is full (50 ms at most, then the record is dropped and
    counted). Reading drains the rings: statistics contain every record whose call returned before. ``limits``
    are what utilization is measured against, ``labels`` name this collector's series, ``role`` is ``unified``,
    ``prefill`` or ``decode``, ``clock`` gives monotonic seconds. After ``os.fork()`` the child's is empty.
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
        self.configuration = configuration or MetricsConfiguration.DEFAULT
        self.limits = limits or SchedulerLimits()
        self.labels = _checked_labels(labels or {})
        self.role = role
        self.definitions: dict[str, str] = {}
        self._clock = clock
        self._classes = ClassNames(self.configuration)
        self._sources: list[Source] = []
        self._sinks: list[Sink] = []
        self._closed = False
        self._local = threading.local()
        self._rings: list[Rings] = []
        self._orphans: deque[Rings] = deque()
        strict = self.configuration.strict
        self._shared = Recording(
            clock, self._classes.codes, self._classes.other, strict, self._check if strict else self._relieve,
            self.limits, eager=strict, pressure=Pressure(),
        )  # fmt: skip
        self._start()
        self._begin()
        self._log = DetailedLog(self) if self.configuration.enable_detailed_logging else None
        _collectors.add(self)

    def _start(self) -> None:
        """What a fork's child needs anew. The lock is not reentrant: nothing that runs under it may read."""
        self._lock = threading.Lock()
        self._sequence = 0
        self._generation = 0
        self._instance_id = uuid.uuid4().hex
        self._wall = WallClock(self._clock)

    def _begin(self) -> None:
        self._state = State(self.configuration, self.limits, self._classes, self._clock())
        self._before = count(self._state, self._rings, self._sources)

    # Recording.

    def writer(self) -> Writer:
        """The calling thread's writer: positional, for the tightest loops. Do not hand it to another thread."""
        try:
            writer: Writer = self._local.writer
        except AttributeError:
            try:
                rings = self._orphans.popleft()
            except IndexError:
                rings = Rings(self._shared)
                self._rings.append(rings)
            writer = self._local.writer = Writer(self._shared, rings, self._orphans)
        return writer

    def record_iteration(self, result: IterationResult) -> None:
        """Report one iteration of the scheduler."""
        try:
            writer: Writer = self._local.writer
        except AttributeError:
            writer = self.writer()
        writer.iteration_result(result)
        if self._shared.eager:
            self._check()

    def record_request_completion(self, result: RequestResult) -> None:
        """Report a request that left the scheduler, whatever the reason."""
        try:
            writer: Writer = self._local.writer
        except AttributeError:
            writer = self.writer()
        writer.request_result(result)
        if self._shared.eager:
            self._check()

    def record_batch_utilization(
        self,
        utilization: float,
        *,
        batch_id: int | None = None,
        request_count: int | None = None,
        memory_bytes_used: int | None = None,
    ) -> None:
        """Report how full one batch was, 0..1; what is not given is not averaged in."""
        self.writer().batch(utilization, batch_id, request_count, memory_bytes_used)
        if self._shared.eager:
            self._check()

    def record_error(self, error_type: str, exception: BaseException | None = None) -> None:
        """Report an error by name; with an empty name the exception's type. The exception is not kept."""
        self.writer().error(error_type, exception)
        if self._shared.eager:
            self._check()

    def attach(self, source: Source) -> Recording:
        """Drain ``source`` (a tracker) with everything else from now on."""
        with self._lock:
            self._sources.append(source)
        return self._shared

    def subscribe(self, sink: Sink) -> Callable[[], None]:
        """Give ``sink`` all rows from now on, in blocks, at each drain; returns what ends the subscription.

        It runs under the drain's lock: it must be quick and must not use the collector. If it raises, it is
        unsubscribed and the error counted under its name (``sink_failed``): a listener never hurts recording.
        """
        with self._lock:
            self._drain()
            self._sinks.append(sink)

        def unsubscribe() -> None:
            with self._lock:
                self._drain()
                if sink in self._sinks:
                    self._sinks.remove(sink)

        return unsubscribe

    # Draining.

    def _drained(self) -> Iterator[Unread | Drained]:
        for rings in list(self._rings):
            yield from rings.unread()
        for source in self._sources:
            yield from source.drain()

    def _drain(self) -> float:
        """Count everything recorded so far; the lock is held. Gives the instant of the cut."""
        now = self._clock()
        self._state.consume(self._drained(), now, (self._publish,) if self._sinks else ())
        return now

    def _publish(self, block: Drained) -> None:
        for sink in list(self._sinks):
            try:
                sink(block)
            except Exception as error:  # noqa: BLE001  (whatever a listener raises, recording goes on)
                self._sinks.remove(sink)
                self.writer().error("sink_failed", error)

    def _relieve(self) -> bool:
        """A producer's memory runs full and nobody reads: drain, unless somebody does already (False)."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._drain()
        finally:
            self._lock.release()
        return True

    def _check(self) -> None:
        """Strict mode: drain at once, and raise if a record was rejected."""
        with self._lock:
            before = sum(self._counted().rejected.values())
            self._drain()
            counted = self._counted()
        if sum(counted.rejected.values()) > before:
            reason = self._state.rejections.last or ", ".join(counted.rejected)
            raise InvalidRecordError(f"record rejected: {reason}; durations are seconds >= 0, counts whole numbers")

    def _counted(self) -> Counted:
        """What producers and checks counted since the last reset; the lock is held."""
        return count(self._state, self._rings, self._sources).minus(self._before)

    # Reading.

    def get_snapshot(self) -> MetricsSnapshot:
        """Everything, from one drained state."""
        with self._lock:
            now = self._drain()
            self._sequence += 1
            identity = Identity(
                self._instance_id, self._generation, self._sequence, self._wall, dict(self.labels), self.role
            )
            live = [source.live(now, tuple(self._classes.targets.values())) for source in self._sources]
            cut = Cut(self.configuration, self.limits, self._classes, self._state, self._counted(), live, now)
            return build_snapshot(cut, identity, self.definitions)

    def read_totals(self) -> CumulativeState:
        """Cumulative counts, gauges and live histograms, without percentiles: what exporters read at a scrape."""
        with self._lock:
            now = self._drain()
            live = [source.live(now, tuple(self._classes.targets.values())) for source in self._sources]
            cut = Cut(self.configuration, self.limits, self._classes, self._state, self._counted(), live, now)
            return read_cumulative(cut)

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

    def request_samples(self) -> list[RequestMetrics]:
        """The last finished requests, oldest first."""
        with self._lock:
            self._drain()
            return request_metrics(self._state.requests.samples, self._classes.names, self._wall)

    def iteration_samples(self) -> list[IterationMetrics]:
        """The last iterations, oldest first."""
        with self._lock:
            self._drain()
            return iteration_metrics(self._state.iterations.samples, self._wall)

    def batch_samples(self) -> list[BatchMetrics]:
        """The last batch utilization records, oldest first."""
        with self._lock:
            self._drain()
            return batch_metrics(self._state.batches.samples, self._wall)

    # Life.

    def reset(self) -> None:
        """Forget everything recorded so far; requests in flight stay, and count when they finish."""
        with self._lock:
            self._drain()
            clock = self._state.iterations.clock
            for source in self._sources:
                source.reset()
            self._generation += 1
            self._begin()
            clock.restart()  # no instant counts as busy twice, not even across a reset
            self._state.iterations.clock = clock

    def close(self) -> None:
        """End the collector's threads, after a last log line; it can be called again."""
        if not self._closed:
            self._closed = True
            if self._log is not None:
                self._log.close()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _after_fork(self) -> None:
        """In the child: empty, a new lock, no threads; rows of other threads, even half-written, are gone."""
        self._start()
        for source in self._sources:
            source.after_fork()
        for rings in self._rings:
            rings.discard()
        self._begin()
        if self._log is not None:
            self._log.forget()


def _after_fork_in_child() -> None:
    for collector in list(_collectors):
        collector._after_fork()  # noqa: SLF001  (one mechanism, two halves)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    for name, value in labels.items():
        if not isinstance(name, str) or not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) or name.startswith("__"):
            raise ConfigurationError("labels", name, "label names of letters, digits and _, not starting with __")
        if not isinstance(value, str):
            raise ConfigurationError(f"labels[{name!r}]", value, "a text")
    return dict(labels)
