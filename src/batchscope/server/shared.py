"""Work that concurrent askers share: done once in a thread, for all who ask while it runs or shortly after."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from batchscope.clock import Clock

T = TypeVar("T")
_MOST_KEPT = 16


class _Work:
    """A task, and when it ended."""

    __slots__ = ("finished_at", "task")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
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
        result: T = await asyncio.shield(found.task)
        return result

    def _start(self, work: Callable[[], Any]) -> _Work:
        started = _Work(asyncio.get_running_loop().create_task(asyncio.to_thread(work)))

        def finish(task: asyncio.Task[Any]) -> None:
            started.finished_at = self._clock()
            if not task.cancelled():
                task.exception()  # seen, even if all who waited have left

        started.task.add_done_callback(finish)
        return started

    def _outdated(self, work: _Work) -> bool:
        if not work.task.done():
            return work.task.get_loop() is not asyncio.get_running_loop()  # mounted anew, in another loop
        if work.task.cancelled() or work.task.exception() is not None:
            return True
        return self._clock() - work.finished_at >= self._max_age
