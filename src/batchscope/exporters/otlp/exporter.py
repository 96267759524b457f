"""OtlpExporter: reads a collector on a timer and sends what it reads, in its own thread."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from batchscope.background import Closing, Periodic, RateLimitedLog, forked
from batchscope.checks import check_positive, check_whole
from batchscope.errors import MissingExtraError
from batchscope.exporters.otlp.environment import (
    Transport,
    chosen_compression,
    chosen_interval,
    chosen_protocol,
    chosen_timeout,
    disabled,
    warn_of_temporality,
)
from batchscope.exporters.otlp.names import GenAiAttributes
from batchscope.histograms.store import MIN_BUCKETS
from batchscope.statistics.cumulative import CumulativeState, StateSource
from batchscope.text import shown

_NO_REASON = "the SDK gave no reason (no answer in time, perhaps): check endpoint and headers"
_SHUTDOWN = "Shutdown in progress"
_CUT_SHORT = "closed before the next try; the first one failed: check that the endpoint answers"
_GRACE = 1.0  # seconds for a send that was told to give up


class OtlpExporter(Closing):
    """Sends everything cumulative, gauges and histograms of ``source`` over OTLP, every ``interval`` seconds.

    What is not given comes from the OTEL_* variables, else: http/protobuf to http://localhost:4318, a minute, 10 s
    for a send with its retries. ``endpoint`` without a path gets ``/v1/metrics`` over HTTP. ``gen_ai=None`` leaves
    the ``gen_ai.server.*`` metrics out. ``max_buckets`` makes histograms coarser that have more (None: as recorded).
    ``metric_exporter``: a ready exporter of the SDK to send with instead.

    A state that could not be sent does not wait: the next one contains it. ``exported`` and ``failures`` count
    states; ``last_error`` says why; a failure is logged once a minute at most. The engine's threads never wait.
    OTEL_SDK_DISABLED=true: it does nothing. It ends with its source, after a last send. In a forked child it is off:
    make another one there.

    No receiver can hurt: an answer has at most 64 kB, ``timeout`` is for all of it, and success is a status of 2xx
    (gRPC: OK) alone; a redirect is a failure that says where to.
    """

    def __init__(
        self,
        source: StateSource,
        *,
        interval: float | None = None,
        endpoint: str | None = None,
        protocol: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        compression: str | None = None,
        service_name: str | None = None,
        resource_attributes: Mapping[str, str] | None = None,
        gen_ai: GenAiAttributes | None = GenAiAttributes(),  # noqa: B008  (immutable)
        max_buckets: int | None = None,
        metric_exporter: Any = None,
    ) -> None:
        _check(max_buckets, timeout)
        protocol = chosen_protocol(protocol)
        compression = chosen_compression(protocol, compression)
        transport = Transport(protocol, endpoint, headers, chosen_timeout(timeout), compression)
        self.exported = 0
        self.failures = 0
        self.last_error = ""
        self._source = source
        self._gen_ai = gen_ai
        self._max_buckets = max_buckets
        self._unsent = False
        self._lock = threading.Lock()  # one send at a time: the timer's, or a caller's of export()
        self._log = RateLimitedLog()
        self._closed = disabled()
        self._periodic = Periodic(self.export, chosen_interval(interval), "batchscope-otlp", log=self._log)
        if not self._closed:
            self._load(transport, metric_exporter)
            self._resources = self._sdk.Resources(service_name, resource_attributes)
            warn_of_temporality()
            self._periodic.start()
            forked(self)

    def _load(self, transport: Transport, metric_exporter: Any) -> None:
        try:
            from batchscope.exporters.otlp import points, sdk  # noqa: PLC0415  (behind an extra)

            self._exporter = metric_exporter or sdk.metric_exporter(transport)
        except ImportError as error:
            raise MissingExtraError("OpenTelemetry export", "otlp") from error
        target = str(getattr(self._exporter, "_endpoint", None) or type(self._exporter).__name__)
        self._target = re.sub(r"//[^/]*@", "//", target.partition("?")[0])  # no password, no key, in a log
        self._points, self._sdk = points, sdk
        self._quiet = sdk.Quiet()

    def export(self) -> bool:
        """Read and send now, in the calling thread; says whether it was taken."""
        if self._closed:
            return False
        with self._lock:
            self._unsent = True
            ended, at, state = self._source.closed, time.time_ns(), self._source.read_totals()
            self._unsent = not self._deliver(at, state)
            self._count()
            if ended and not self._unsent:
                self._periodic.stop()
            return not self._unsent

    def _count(self) -> None:
        if not self._unsent:
            self.exported += 1
            return
        self.failures += 1
        self._log.warning(
            "otlp", "batchscope: OTLP export to %s failed (%d failures so far): %s",
            self._target, self.failures, self.last_error,
        )  # fmt: skip

    def _deliver(self, at: int, state: CumulativeState) -> bool:
        translation = self._points.Translation(state, at, self._max_buckets)
        data = translation.metrics_data(self._resources.of(state), self._gen_ai)
        with self._quiet.sending():
            try:
                result = self._exporter.export(data)
            except Exception as error:  # noqa: BLE001  (some versions of the SDK let a refused connection through)
                self.last_error = shown(repr(error))
                return False
        if result.name == "SUCCESS":
            return True
        self.last_error = self._quiet.reason or self.last_error or _NO_REASON
        if self.last_error.startswith(_SHUTDOWN) and "at first" not in self.last_error:
            self.last_error = _CUT_SHORT  # the SDK does not say what it was going to try again for
        return False

    def close(self, timeout: float = 5.0) -> bool:
        """Send a last time and end; says whether the last state was sent. Waits ``timeout`` seconds and one more."""
        if self._closed:
            return not self._unsent
        ended = self._periodic.close(timeout)
        self._closed = True
        with self._quiet.sending():
            self._exporter.shutdown(timeout_millis=_GRACE * 1000)  # wakes a send that waits to retry
        if ended or self._periodic.close(_GRACE):
            self._quiet.close()  # else the hanging send is still to be kept out of the log
        return not self._unsent

    def _after_fork(self) -> None:
        """In the child: off. The connection is the parent's."""
        self._closed = True


def _check(max_buckets: int | None, timeout: float | None) -> None:
    if max_buckets is not None:
        check_whole("max_buckets", max_buckets, MIN_BUCKETS, note=" or None")
    if timeout is not None:
        check_positive("timeout", timeout, "seconds", ", or None (OTEL_EXPORTER_OTLP_TIMEOUT)")
