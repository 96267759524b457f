"""SchedulerMetricsCollector: record from any thread, drain, and one consistent snapshot of everything."""

from __future__ import annotations

import os
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType

from batchscope.aggregation.requests import ClassNames
from batchscope.aggregation.state import Drained, Sink, State
from batchscope.clock import Clock, WallClock
from batchscope.configuration import MetricsConfiguration, SchedulerLimits
from batchscope.detailed_log import DetailedLog
from batchscope.errors import ConfigurationError, InvalidRecordError
from batchscope.records import IterationResult, RequestResult
from batchscope.recording.rings import Recording, Rings
from batchscope.recording.source import Source
from batchscope.recording.writer import Writer
from batchscope.statistics.build import Cut, Identity, Snapshots
from batchscope.statistics.samples import Samples
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.summaries import (
    BatchStatistics,
    ErrorStatistics,
    IterationStatistics,
    RequestStatistics,
)
from batchscope.statistics.totals import CumulativeState

_collectors: weakref.WeakSet[SchedulerMetricsCollector] = weakref.WeakSet()


class SchedulerMetricsCollector:
    """Collects what a scheduler reports; safe to use from any number of threads.

    ``record_*`` writes raw values into a ring of the calling thread: it never blocks, logs or raises (unless
    ``strict``). Reading drains the rings: statistics contain every record whose call returned before. ``limits``
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
        self.configuration = _checked(configuration, MetricsConfiguration, "configuration")
        self.limits = _checked(limits, SchedulerLimits, "limits")
        self.labels = _checked_labels(labels or {})
        self.role = role
        self.definitions: dict[str, str] = {}
        self._clock = clock
        self._classes = ClassNames(self.configuration)
        self._sources: list[Source] = []
        self._sinks: list[Sink] = []
        self._closed = False
        self._snapshots = Snapshots(self.configuration, self.limits, self._classes)
        self._start()
        self._log = DetailedLog(self.get_snapshot, self.configuration) if self._logs else None
        _collectors.add(self)

    @property
    def _logs(self) -> bool:
        return self.configuration.enable_detailed_logging

    def _start(self) -> None:
        """Everything that a fork's child needs anew."""
        self._lock = threading.RLock()
        self._local = threading.local()
        self._rings: list[Rings] = []
        self._orphans: deque[Rings] = deque()
        self._sequence = 0
        self._generation = 0
        self._instance_id = uuid.uuid4().hex
        self._wall = WallClock(self._clock)
        strict = self.configuration.strict
        self._shared = Recording(
            self._clock, self._classes.codes, self._classes.other, strict,
            self._check if strict else self._relieve, self.limits, eager=strict,
        )  # fmt: skip
        self._begin()

    def _begin(self) -> None:
        self._state = State(self.configuration, self.limits, self._classes, self._clock())
        self._rejected_before: dict[str, int] = {}
        self._dropped_before = 0

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
        self.writer().iteration_result(result)
        if self._shared.eager:
            self._check()

    def record_request_completion(self, result: RequestResult) -> None:
        """Report a request that left the scheduler, whatever the reason."""
        self.writer().request_result(result)
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

    def _drained(self) -> Iterator[Drained]:
        for rings in list(self._rings):
            yield from rings.drain()
        for source in self._sources:
            yield from source.drain()

    def _drain(self) -> float:
        """Count everything recorded so far; the lock is held. Gives the instant of the cut."""
        now = self._clock()
        self._state.consume(self._drained(), now, self._publish if self._sinks else None)
        return now

    def _publish(self, block: Drained) -> None:
        for sink in list(self._sinks):
            try:
                sink(block)
            except Exception as error:  # noqa: BLE001  (whatever a listener raises, recording goes on)
                self._sinks.remove(sink)
                self.record_error("sink_failed", error)

    def _relieve(self) -> None:
        """A producer's memory runs full and nobody reads: drain, unless somebody does already."""
        if self._lock.acquire(blocking=False):
            try:
                self._drain()
            finally:
                self._lock.release()

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
        return Counted.collect(
            self._state, self._rings, self._sources, self._rejected_before, self._dropped_before
        )
