"""The lock of a drain: a thread that would wait for itself is told so."""

from __future__ import annotations

import threading
from types import TracebackType

from batchscope.errors import BusyError


class DrainLock:
    """Held by one reader at a time; what runs under it must not ask for it again.

    A sink, a signal handler or a finalizer that reads the collector, in the thread that reads it already, would
    wait for ever with a plain lock and see half a state with a reentrant one: it gets ``BusyError``.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # its owner is known without a moment in which a handler can come between
        self._held = False

    def acquire(self, *, blocking: bool = True) -> bool:
        """Whether it is held now; without ``blocking`` nobody waits, nor is told that it waits for itself."""
        if not self._lock.acquire(blocking):
            return False
        if not self._held:
            self._held = True
            return True
        self._lock.release()
        if blocking:
            raise BusyError(
                "the collector is being read by this thread: read it after the sink, signal handler or finalizer"
            )
        return False

    def release(self) -> None:
        """Let the next one in."""
        self._held = False
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
