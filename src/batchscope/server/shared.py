"""Work that concurrent askers share: done once in a thread, for all who ask while it runs or shortly after.

The threads are daemons of ours. Those of asyncio's executor are waited for, without a limit, when the loop ends and
when the interpreter does: a source that hangs (a directory on a dead disk) would hold up both.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, TypeVar

from batchscope.clock import Clock

T = TypeVar("T")
_MOST_KEPT = 16


class _Work:
    """The result to come, and when it came."""

    __slots__ = ("finished_at", "future")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.finished_at = math.inf


class SharedWork:
    """One result for all who ask for ``key`` until it is ``max_age`` seconds old. Belongs to one event loop.

    The work runs in a thread: the loop goes on serving others. It ends even if those who asked leave. A failure
    is told to all who waited, and not kept.
    """

    def __init__(self, max_age: float, clock: Clock) -> None:
        self._max_age = max_age
        self._clock = clock
        self._works: dict[Hashable, _Work] = {}

    async def get(self, key: Hashable, work: Callable[[], T]) -> T:
        """The result of ``work``, or of one like it that is young enough."""
        found = self._works.get(key)
        if found is None or self._outdated(found):
            if len(self._works) >= _MOST_KEPT:
                self._works = {other: kept for other, kept in self._works.items() if not self._outdated(kept)}
            found = self._works[key] = self._start(work)
        result: T = await asyncio.shield(found.future)
        return result

    def _start(self, work: Callable[[], Any]) -> _Work:
        started = _Work(asyncio.get_running_loop().create_future())

        def finish(future: asyncio.Future[Any]) -> None:
            started.finished_at = self._clock()
            if not future.cancelled():
                future.exception()  # seen, even if all who waited have left

        started.future.add_done_callback(finish)
        threading.Thread(target=_run, args=(work, started.future), name="batchscope-answer", daemon=True).start()
        return started

    def _outdated(self, work: _Work) -> bool:
        if not work.future.done():
            return work.future.get_loop() is not asyncio.get_running_loop()  # mounted anew, in another loop
        if work.future.cancelled() or work.future.exception() is not None:
            return True
        return self._clock() - work.finished_at >= self._max_age


def _run(work: Callable[[], Any], future: asyncio.Future[Any]) -> None:
    """In a thread: do ``work``, and tell the loop of ``future`` how it ended."""
    settle: Callable[[], None]
    try:
        settle = partial(future.set_result, work())
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told to those who wait)
        settle = partial(future.set_exception, _raisable(error))

    def tell() -> None:
        if not future.done():
            settle()

    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile: nobody waits
        future.get_loop().call_soon_threadsafe(tell)


def _raisable(error: Exception) -> Exception:
    """A future takes any exception but this one."""
    return RuntimeError(repr(error)) if isinstance(error, StopIteration) else error
