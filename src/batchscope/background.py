"""Work done every few seconds in a thread of its own, log lines that cannot flood, forks, and ``with``.

For everything that lives beside an engine: collectors, exporters, publishers, samplers. Nothing here knows batchscope.
"""

from __future__ import annotations

import abc
import atexit
import contextlib
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol, Self

from batchscope.clock import Clock
from batchscope.errors import ConfigurationError

logger = logging.getLogger("batchscope")

Wait = Callable[[threading.Event, float], bool]
"""Waits until the event is set or some seconds have passed; says whether it is set."""


class Closing(abc.ABC):
    """What is closed at the end of its ``with``."""

    @abc.abstractmethod
    def close(self) -> object:
        """End; it can be called again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class Forks(Protocol):
    """What has locks, threads, files or sockets that a forked child cannot use."""

    def _after_fork(self) -> None:
        """In the child: make locks anew, let go of what is the parent's. It is quick and starts nothing."""


def forked(one: Forks) -> None:
    """Call ``one._after_fork()`` in every forked child as long as ``one`` lives.

    What raises there is logged; the others are called all the same.
    """
    _living.add(one)


_living: weakref.WeakSet[Forks] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for one in list(_living):
        try:
            one._after_fork()  # noqa: SLF001  (one mechanism, two halves)
        except Exception as error:  # noqa: BLE001  (of a source of somebody else's; the next one's lock may be held)
            RateLimitedLog().warning("fork", "batchscope: %r failed after a fork: %r", one, error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class RateLimitedLog:
    """One log line a key in ``every`` seconds; the next one says how many were left out between.

    Never raises, whatever a log handler does. Keys are a few constants, not data. It holds no lock, so that a
    fork cannot leave it held: threads that race for one key may both write, or count a line too few.
    """

    def __init__(self, logger: logging.Logger = logger, *, every: float = 60.0, clock: Clock = time.monotonic) -> None:
        self._logger = logger
        self._every = every
        self._clock = clock
        self._written: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def warning(self, key: str, message: str, *arguments: object) -> bool:
        """Log ``message % arguments`` unless ``key`` was logged within the time; says whether it was."""
        return self.log(logging.WARNING, key, message, *arguments)

    def log(self, level: int, key: str, message: str, *arguments: object) -> bool:
        """``warning`` at another level."""
        now = self._clock()
        last = self._written.get(key)
        if last is not None and now - last < self._every:
            self._left_out[key] = self._left_out.get(key, 0) + 1
            return False
        self._written[key] = now
        left_out = self._left_out.pop(key, 0)
        if left_out:
            message, arguments = f"{message} (and %d times more since the last such line)", (*arguments, left_out)
        with contextlib.suppress(Exception):  # a handler of the engine may raise anything
            self._logger.log(level, message, *arguments)
        return True


class Periodic(Closing):
    """Calls ``work`` every ``interval`` seconds in a daemon thread, and once more at ``close()``.

    Calls keep to the grid of ``interval``: a call that takes longer skips the ones it missed. An exception of
    ``work`` is counted in ``failures`` and logged once a minute; the next call comes as ever. At the
    interpreter's end it is closed. In a forked child it is off, without a last call, until ``start()`` is called
    there. ``interval`` must be positive (ConfigurationError).
    """

    def __init__(
        self,
        work: Callable[[], object],
        interval: float,
        name: str,
        *,
        log: RateLimitedLog | None = None,
        wait: Wait = threading.Event.wait,
        clock: Clock = time.monotonic,
    ) -> None:
        if not (isinstance(interval, int | float) and 0 < interval <= threading.TIMEOUT_MAX):
            raise ConfigurationError("interval", interval, "seconds > 0")
        self.interval = float(interval)
        self.name = name
        self.runs = 0
        self.failures = 0
        self._work = work
        self._log = log or RateLimitedLog()
        self._wait = wait
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._final = False

    @property
    def running(self) -> bool:
        """Whether its thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> Self:
        """Begin; the first call comes after one interval. Does nothing when it runs already."""
        if not self.running:
            self._stop, self._final = threading.Event(), False
            self._thread = threading.Thread(target=self._run, args=(self._stop,), name=self.name, daemon=True)
            self._thread.start()
            forked(self)
            atexit.register(self.close)
        return self

    def stop(self) -> None:
        """End without a last call and without waiting: what ``work`` itself may do."""
        self._stop.set()

    def close(self, timeout: float = 5.0) -> bool:
        """End after a last call; waits up to ``timeout`` seconds and says whether the thread has ended.

        A call that hangs is left to its daemon thread. It can be called again.
        """
        thread = self._thread
        if thread is None:
            return True
        atexit.unregister(self.close)
        self._final = not self._stop.is_set() or self._final
        self._stop.set()
        if thread is not threading.current_thread():
            thread.join(timeout)
        return not thread.is_alive()

    def _after_fork(self) -> None:
        """In the child the thread does not exist, and its event may be locked."""
        self._thread, self._stop = None, threading.Event()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self.start()

    def _run(self, stop: threading.Event) -> None:
        due = self._clock() + self.interval
        while not self._wait(stop, max(due - self._clock(), 0.0)):
            self._once()
            due += self.interval * max(1, math.ceil((self._clock() - due) / self.interval))
        if self._final:
            self._once()

    def _once(self) -> None:
        self.runs += 1
        try:
            self._work()
        except Exception as error:  # noqa: BLE001  (whatever it is, the next call may succeed)
            self.failures += 1
            self._log.warning("failed", "%s failed (%d so far): %r", self.name, self.failures, error)
