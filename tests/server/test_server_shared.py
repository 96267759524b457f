"""Shared work: one rendering for all who ask at the same time."""

import asyncio
import threading

import pytest
from server_doubles import WAIT

from batchscope.server.shared import SharedWork


class Work:
    def __init__(self):
        self.runs = 0
        self.threads = set()

    def __call__(self):
        self.runs += 1
        self.threads.add(threading.current_thread())
        return self.runs


def test_who_asks_within_the_age_shares_and_who_comes_later_does_not():
    now, work = [0.0], Work()

    async def scenario():
        shared = SharedWork(1.0, lambda: now[0])
        assert await shared.get("a", work) == 1
        now[0] = 0.9
        assert await shared.get("a", work) == 1
        now[0] = 1.0
        assert await shared.get("a", work) == 2
        assert await shared.get("b", work) == 3

    asyncio.run(scenario())
    assert threading.main_thread() not in work.threads


def test_all_who_ask_while_it_runs_get_the_same_even_without_any_age():
    gate, runs = threading.Event(), []

    def work():
        runs.append(1)
        assert gate.wait(WAIT)
        return object()

    async def scenario():
        shared = SharedWork(0.0, lambda: 0.0)
        asked = [asyncio.ensure_future(shared.get("a", work)) for _ in range(50)]
        await asyncio.to_thread(lambda: None)
        gate.set()
        return await asyncio.gather(*asked)

    assert len(set(map(id, asyncio.run(scenario())))) == 1
    assert len(runs) == 1


def test_a_failure_is_told_to_all_who_wait_and_not_kept():
    runs = []

    def work():
        runs.append(1)
        if len(runs) == 1:
            raise OSError("not now")
        return "fine"

    async def scenario():
        shared = SharedWork(100.0, lambda: 0.0)
        failures = await asyncio.gather(shared.get("a", work), shared.get("a", work), return_exceptions=True)
        assert [type(failure) for failure in failures] == [OSError, OSError]
        assert await shared.get("a", work) == "fine"

    asyncio.run(scenario())
    assert len(runs) == 2


def test_who_leaves_early_disturbs_nobody():
    gate = threading.Event()

    def work():
        assert gate.wait(WAIT)
        return "done"

    async def scenario():
        shared = SharedWork(1.0, lambda: 0.0)
        first, second = (asyncio.ensure_future(shared.get("a", work)) for _ in range(2))
        await asyncio.to_thread(lambda: None)
        first.cancel()
        gate.set()
        assert await second == "done"
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(scenario())


def test_results_that_nobody_asks_for_any_more_are_dropped():
    now = [0.0]

    async def scenario():
        shared = SharedWork(1.0, lambda: now[0])
        for number in range(100):
            now[0] += 1.0
            await shared.get(number, lambda: None)
        return len(shared._works)

    assert asyncio.run(scenario()) <= 16


def test_another_event_loop_starts_anew():
    shared, gate = SharedWork(100.0, lambda: 0.0), threading.Event()

    async def leave():
        task = asyncio.ensure_future(shared.get("a", lambda: gate.wait(WAIT)))
        await asyncio.to_thread(lambda: None)
        gate.set()
        await task

    asyncio.run(leave())
    assert asyncio.run(shared.get("b", lambda: 7)) == 7
    assert asyncio.run(shared.get("a", lambda: 8)) is True  # young enough, whoever made it
