"""The specification draft's own design: a lock, an object a record, circular buffers, queues as windows."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from batchscope import CompletionReason
from harness.contender import Prepared, values


@dataclass(slots=True)
class RequestMetrics:
    request_id: str
    tokens_generated: int
    reason: CompletionReason
    queue_time: float
    processing_time: float
    total_time: float
    completed_time: float


class WindowCounter:
    """Every event of the last minute in a queue, the old ones thrown out at each addition."""

    def __init__(self, window: float = 60.0) -> None:
        self._events: deque[tuple[float, int]] = deque()
        self._window = window

    def add(self, count: int) -> None:
        now = time.time()
        self._events.append((now, count))
        while self._events[0][0] < now - self._window:
            self._events.popleft()


class DraftCollector:
    """What ``RecordRequestCompletion`` of the draft does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: deque[RequestMetrics] = deque(maxlen=10_000)
        self._completed = WindowCounter()
        self._tokens = WindowCounter()

    def record_request_completion(
        self, request_id: str, tokens_generated: int, reason: CompletionReason, total_time: float
    ) -> None:
        with self._lock:
            queue_time = max(0.0, total_time - total_time / 2)
            self._requests.append(
                RequestMetrics(
                    request_id, tokens_generated, reason, queue_time, total_time - queue_time, total_time, time.time()
                )
            )
            self._completed.add(1)
            self._tokens.add(tokens_generated)


def draft_request() -> Prepared:
    record = DraftCollector().record_request_completion

    def body(count: int) -> None:
        for value in values(count):
            record("id", 100, CompletionReason.EOS_TOKEN_REACHED, value)

    return Prepared(body)
