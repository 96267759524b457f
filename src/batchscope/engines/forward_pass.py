"""Iterations of another process, from the forward-pass metrics that it publishes: a message an iteration, over ZMQ.

SGLang publishes msgpack with ``--enable-forward-pass-metrics``, on an IPC endpoint a data-parallel rank: the base name
with ``.rank`` behind it (sgl-project/sglang#22789). Dynamo 1.6 sends the same for vLLM, from a scheduler of its own;
vLLM 0.33 itself sends nothing yet (vllm-project/vllm#52061 is open). Version 1: ``wall_time``, which each sender
measures otherwise, and the sums of scheduled and queued requests. Fields that we do not know are ignored, missing ones
are 0.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from batchscope.background import Closing
from batchscope.clock import Clock
from batchscope.engines.hooks import Hooks
from batchscope.errors import ConfigurationError, MissingExtraError
from batchscope.records import IterationResult, SchedulerMetrics

VERSION = 1
MOST_BYTES = 1 << 20
"""A message is some 300 bytes; a larger one than this is not taken from the wire."""
SENDERS = {
    "": "each sender's own: on the GPU (SGLang), or from one output to the next (Dynamo)",
    "sglang": "the span on the GPU, from the first start to the last end, gaps inside; host time is not in it",
    "dynamo": "from one update_from_output to the next; after idleness, from schedule to update_from_output",
}
"""Who sends, and what its ``wall_time`` is: the messages do not say who sent them."""
_SCOPES = {
    "execute_model_cuda": "the span of execute_model on the GPU, by CUDA events; host time is not in it",
}
"""``timing_scope`` of a message -> what its ``wall_time`` is."""
_WALL_TIME = "wall_time of the message"
_MOST_SENDERS = 1024
_LONGEST_SCOPE = 80
_POLL_MILLISECONDS = 100


def definitions_of(sender: str = "") -> dict[str, str]:
    """Figure -> meaning, as ``sender`` (one of ``SENDERS``) measures it; ConfigurationError for another one."""
    if sender not in SENDERS:
        raise ConfigurationError("sender", sender, f"one of {', '.join(filter(None, SENDERS))}, or empty: not known")
    return {
        "iteration_duration": f"{_WALL_TIME}: {SENDERS[sender]}",
        "iteration_instants": "ended when the message arrived here, on this process' clock",
        "generation_tokens": "one a decoding request and iteration; first and speculated tokens are not in the message",
        "requests_waiting": "queued before prefill, and preempted while decoding",
    }


def is_forward_pass(definitions: Mapping[str, str]) -> bool:
    """Whether iterations so defined are forward passes: what an engine does between them is not in their times."""
    return definitions.get("iteration_duration", "").startswith(_WALL_TIME)


class Scheduled(msgspec.Struct, frozen=True):
    """Who took part in a forward pass.

    ``sum_prefill_tokens`` were computed; ``sum_prefill_kv_tokens`` only read: cached prefixes and chunks computed
    before. ``var_*`` are population variances, of whole prompts and of contexts, in tokens squared.
    """

    num_prefill_requests: int = 0
    sum_prefill_tokens: int = 0
    sum_prefill_kv_tokens: int = 0
    var_prefill_length: float = 0.0
    num_decode_requests: int = 0
    sum_decode_kv_tokens: int = 0
    var_decode_kv_tokens: float = 0.0


class Queued(msgspec.Struct, frozen=True):
    """Who waited meanwhile: prompts not started, whatever the cache saves of them; contexts of preempted requests."""

    num_prefill_requests: int = 0
    sum_prefill_tokens: int = 0
    var_prefill_length: float = 0.0
    num_decode_requests: int = 0
    sum_decode_kv_tokens: int = 0
    var_decode_kv_tokens: float = 0.0

    @property
    def tokens(self) -> int:
        """The queue in tokens: what waits to be computed, or to come back, unless a cache has it."""
        return self.sum_prefill_tokens + self.sum_decode_kv_tokens


class ForwardPass(msgspec.Struct, frozen=True):
    """One message. Of older SGLang it has no ``version``; of vllm-project/vllm#52061 it has a ``timing_scope``."""

    version: int | None = None
    worker_id: str = ""
    dp_rank: int = 0
    counter_id: int = 0
    wall_time: float = 0.0
    timing_scope: str = ""
    scheduled_requests: Scheduled | None = None
    queued_requests: Queued = Queued()

    @property
    def known(self) -> bool:
        """Whether it is of a version that is understood; without one, the requests show that it is such a message."""
        return self.version == VERSION if self.version is not None else self.scheduled_requests is not None


class ForwardPasses:
    """Turns messages into iteration records. What could not be is counted: ``missed``, ``undecodable``, ``foreign``.

    ``missed`` messages are gaps in a sender's sequence: ZMQ drops what a slow reader does not take. ``foreign`` ones
    have another version. ``latest`` holds each rank's last message, by (worker, rank): the sums and variances that no
    record has a place for. ``sender`` (see ``SENDERS``) is who publishes, for the definitions; a message's
    ``timing_scope`` says it better. Not thread-safe: one thread feeds it.
    """

    def __init__(self, metrics: SchedulerMetrics, *, sender: str = "") -> None:
        self.received = self.idle = self.missed = self.undecodable = self.foreign = 0
        self.latest: dict[tuple[str, int], ForwardPass] = {}
        self._metrics = metrics
        self._decoder = msgspec.msgpack.Decoder(ForwardPass)
        self._scope = ""
        definitions = getattr(metrics, "definitions", None)
        self._definitions: dict[str, str] = definitions if isinstance(definitions, dict) else {}
        self._definitions.update(definitions_of(sender))

    @property
    def queued_tokens(self) -> int:
        """The queues of all ranks in tokens, as last told: prompts not started, and contexts of preempted requests."""
        return sum(message.queued_requests.tokens for message in list(self.latest.values()))

    def feed(self, payload: bytes, now: float) -> None:
        """One message that arrived at ``now``, seconds of the collector's clock."""
        try:
            message = self._decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            self.undecodable += 1
            self._metrics.record_error("forward_pass_message_undecodable")
            return
        if not message.known:
            self.foreign += 1
            self._metrics.record_error("forward_pass_message_foreign")
            return
        self.received += 1
        self._follow(message)
        requests = message.scheduled_requests or Scheduled()
        if requests.num_prefill_requests + requests.num_decode_requests:
            self._define(message.timing_scope)
            self._metrics.record_iteration(iteration_of(message, requests, now))
        else:
            self.idle += 1  # a heartbeat of an engine without work

    def _follow(self, message: ForwardPass) -> None:
        """Count what is missing before this message; a sequence that starts again is a sender that did."""
        sender = (message.worker_id, message.dp_rank)
        before = self.latest.pop(sender, None)
        if len(self.latest) >= _MOST_SENDERS:  # workers that came and went: the one silent for longest is forgotten
            del self.latest[next(iter(self.latest))]
        self.latest[sender] = message
        if before is not None and message.counter_id > before.counter_id + 1:
            self.missed += message.counter_id - before.counter_id - 1
            self._metrics.record_error("forward_pass_messages_missed")

    def _define(self, scope: str) -> None:
        """What ``wall_time`` is, as soon as a message says it."""
        if scope and scope != self._scope:
            self._scope = scope
            known = _SCOPES.get(scope, f"timing_scope {scope[:_LONGEST_SCOPE]!r}, which is not known here")
            self._definitions["iteration_duration"] = f"{_WALL_TIME}: {known}"


def iteration_of(message: ForwardPass, scheduled: Scheduled, now: float) -> IterationResult:
    """The record of a forward pass whose end was seen at ``now``."""
    queued = message.queued_requests
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


class ForwardPassReader(Closing):
    """Subscribes to ``endpoints`` (``ipc:///tmp/x.0``, ``tcp://127.0.0.1:20380``) and feeds ``passes`` from a thread.

    MissingExtraError without pyzmq; ConfigurationError for an endpoint that ZMQ cannot connect to. A sender may come
    later or again. ``sender``: see ``ForwardPasses``. ``close()`` ends the thread; a forked child has none.
    """

    def __init__(
        self, metrics: SchedulerMetrics, endpoints: str | Sequence[str], *, clock: Clock, sender: str = ""
    ) -> None:
        self.passes = ForwardPasses(metrics, sender=sender)
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
