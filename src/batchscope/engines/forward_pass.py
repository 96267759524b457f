"""Iterations of another process, from the forward-pass metrics that it publishes: a message an iteration, over ZMQ.

SGLang publishes msgpack with ``--enable-forward-pass-metrics``, on an IPC endpoint a data-parallel rank: the base name
with ``.rank`` behind it; what vLLM, TensorRT-LLM and Dynamo send is nearly the same (sgl-project/sglang#22789,
vllm-project/vllm#52061). Version 1: ``wall_time`` and the sums of scheduled and queued requests. Fields that we do not
know are ignored, missing ones are 0.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from batchscope.clock import Clock
from batchscope.engines.hooks import Hooks
from batchscope.errors import ConfigurationError, MissingExtraError
from batchscope.records import IterationResult, SchedulerMetrics

VERSION = 1
MOST_BYTES = 1 << 20
"""A message is some 300 bytes; a larger one than this is not taken from the wire."""
_POLL_MILLISECONDS = 100

DEFINITIONS = {
    "iteration_duration": "wall_time of the message: of SGLang the span on the GPU, of others from schedule to update",
    "iteration_instants": "ended when the message arrived here, on this process' clock",
    "generation_tokens": "one a decoding request and iteration; first and speculated tokens are not in the message",
    "requests_waiting": "queued before prefill, and preempted while decoding",
}


class _Scheduled(msgspec.Struct, frozen=True):
    num_prefill_requests: int = 0
    sum_prefill_tokens: int = 0
    num_decode_requests: int = 0
    sum_decode_kv_tokens: int = 0


class _Queued(msgspec.Struct, frozen=True):
    num_prefill_requests: int = 0
    num_decode_requests: int = 0


class _Message(msgspec.Struct, frozen=True):
    version: int = 0
    worker_id: str = ""
    dp_rank: int = 0
    counter_id: int = 0
    wall_time: float = 0.0
    scheduled_requests: _Scheduled = _Scheduled()
    queued_requests: _Queued = _Queued()


class ForwardPasses:
    """Turns messages into iteration records. What could not be is counted: ``missed``, ``undecodable``, ``foreign``.

    ``missed`` messages are gaps in a sender's sequence: ZMQ drops what a slow reader does not take. ``foreign`` ones
    have another version. Not thread-safe: one thread feeds it.
    """

    def __init__(self, metrics: SchedulerMetrics) -> None:
        self.received = self.idle = self.missed = self.undecodable = self.foreign = 0
        self._metrics = metrics
        self._decoder = msgspec.msgpack.Decoder(_Message)
        self._last: dict[tuple[str, int], int] = {}
        definitions = getattr(metrics, "definitions", None)
        if isinstance(definitions, dict):
            definitions.update(DEFINITIONS)

    def feed(self, payload: bytes, now: float) -> None:
        """One message that arrived at ``now``, seconds of the collector's clock."""
        try:
            message = self._decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            self.undecodable += 1
            self._metrics.record_error("forward_pass_message_undecodable")
            return
        if message.version != VERSION:
            self.foreign += 1
            self._metrics.record_error("forward_pass_message_foreign")
            return
        self.received += 1
        self._follow(message)
        requests = message.scheduled_requests
        if requests.num_prefill_requests + requests.num_decode_requests:
            self._metrics.record_iteration(_iteration(message, now))
        else:
            self.idle += 1  # a heartbeat of an engine without work

    def _follow(self, message: _Message) -> None:
        """Count what is missing before this message; a sequence that starts again is a sender that did."""
        sender = (message.worker_id, message.dp_rank)
        before = self._last.get(sender)
        self._last[sender] = message.counter_id
        if before is not None and message.counter_id > before + 1:
            self.missed += message.counter_id - before - 1
            self._metrics.record_error("forward_pass_messages_missed")


def _iteration(message: _Message, now: float) -> IterationResult:
    scheduled, queued = message.scheduled_requests, message.queued_requests
    return IterationResult(
        iteration_number=message.counter_id,
        request_count=scheduled.num_prefill_requests + scheduled.num_decode_requests,
        tokens_generated=scheduled.num_decode_requests,
        requests_completed=0,
        processing_time=message.wall_time,
        started_at=now - message.wall_time,
        finished_at=now,
        waiting_requests=queued.num_prefill_requests + queued.num_decode_requests,
        prefill_requests=scheduled.num_prefill_requests,
        scheduled_tokens=scheduled.sum_prefill_tokens + scheduled.num_decode_requests,
        prefill_tokens=scheduled.sum_prefill_tokens,
        decode_context_tokens=scheduled.sum_decode_kv_tokens,
        rank=message.dp_rank,
    )


class ForwardPassReader:
    """Subscribes to ``endpoints`` (``ipc:///tmp/x.0``, ``tcp://127.0.0.1:20380``) and feeds ``passes`` from a thread.

    MissingExtraError without pyzmq; ConfigurationError for an endpoint that ZMQ cannot connect to. A sender may come
    later or again. ``close()`` ends the thread; a forked child has none.
    """

    def __init__(self, metrics: SchedulerMetrics, endpoints: str | Sequence[str], *, clock: Clock) -> None:
        self.passes = ForwardPasses(metrics)
        self._clock = clock
        self._hooks = Hooks("forward passes")
        self._stop = threading.Event()
        self._context, self._socket = _subscribed([endpoints] if isinstance(endpoints, str) else endpoints)
        self._thread = threading.Thread(target=self._run, name="batchscope-forward-pass", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self._socket.poll(_POLL_MILLISECONDS):
                    payload = self._socket.recv_multipart()[-1]  # SGLang sends (topic, sequence, payload)
                    self._hooks.guard(self.passes.feed, payload, self._clock())
        finally:
            self._socket.close(linger=0)
            self._context.term()

    def close(self) -> None:
        """End the thread; it can be called again."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _subscribed(endpoints: Sequence[str]) -> tuple[Any, Any]:
    try:
        import zmq  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise MissingExtraError("reading forward-pass metrics", "zmq") from error
    if not endpoints:
        raise ConfigurationError("endpoints", endpoints, "one ZMQ endpoint a rank, such as tcp://127.0.0.1:20380")
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.MAXMSGSIZE, MOST_BYTES)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    for endpoint in endpoints:
        try:
            socket.connect(endpoint)
        except (zmq.ZMQError, TypeError) as error:
            socket.close(linger=0)
            context.term()
            raise ConfigurationError(
                "endpoints", endpoint, f"a ZMQ endpoint such as tcp://127.0.0.1:20380 or ipc:///tmp/fpm.0 ({error})"
            ) from error
    return context, socket
