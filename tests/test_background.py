"""A thread that works on a grid of time until it is closed, and log lines that cannot flood."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import warnings

import pytest

from batchscope.background import Closing, Periodic, RateLimitedLog, forked
from batchscope.errors import ConfigurationError
from spec.fakes import FakeClock


class Waits:
    """Stands in for ``Event.wait``: lets time pass at once, ``times`` times, then waits for the real event."""

    def __init__(self, clock, times):
        self.clock = clock
        self.left = times
        self.asked = []
        self.exhausted = threading.Event()

    def __call__(self, event, seconds):
        self.asked.append(seconds)
        if self.left == 0:
            self.exhausted.set()
            return event.wait(20)
        self.left -= 1
        self.clock.advance(seconds)
        return event.is_set()


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.fixture
def lines():
    handler, logger = Lines(), logging.getLogger("batchscope")
    logger.addHandler(handler)
    yield handler.messages
    logger.removeHandler(handler)


def made(work, times, interval=10.0):
    clock = FakeClock()
    waits = Waits(clock, times)
    return Periodic(work, interval, "batchscope-test", wait=waits, clock=clock), waits, clock


def test_work_is_called_each_interval_from_its_own_daemon_thread_and_once_more_at_close():
    threads = []
    periodic, waits, _ = made(lambda: threads.append(threading.current_thread()), times=3)
    periodic.start()
    assert waits.exhausted.wait(20)
    assert len(threads) == 3
    assert periodic.close()
    assert len(threads) == periodic.runs == 4
    assert {(thread.name, thread.daemon) for thread in threads} == {("batchscope-test", True)}
    assert not periodic.running


def test_calls_keep_to_the_grid_and_one_that_takes_longer_skips_those_it_missed():
    took = iter([3.0, 0.0, 25.0, 0.0, 0.0])
    periodic, waits, clock = made(lambda: clock.advance(next(took)), times=4)
    periodic.start()
    assert waits.exhausted.wait(20)
    periodic.close()
    assert waits.asked == [10.0, 7.0, 10.0, 5.0, 10.0]


def test_an_exception_is_counted_and_logged_once_and_the_next_call_comes(lines):
    def fail():
        raise OSError("disk full")

    periodic, waits, _ = made(fail, times=3)
    periodic.start()
    assert waits.exhausted.wait(20)
    periodic.close()
    assert (periodic.runs, periodic.failures) == (4, 4)
    assert lines == ["batchscope-test failed (1 so far): OSError('disk full')"]


def test_close_does_not_wait_for_a_call_that_hangs_longer_than_it_was_told():
    hangs, let_go = threading.Event(), threading.Event()

    def hang():
        hangs.set()
        let_go.wait(20)

    periodic, _, _ = made(hang, times=1)
    periodic.start()
    assert hangs.wait(20)
    assert not periodic.close(timeout=0.01)
    let_go.set()
    assert periodic.close(timeout=20)


def test_close_can_be_called_again_and_before_start():
    calls = []
    periodic = Periodic(lambda: calls.append(1), 3600, "batchscope-test")
    assert periodic.close()
    periodic.start()
    assert periodic.close(20)
    assert periodic.close()
    assert calls == [1]


def test_work_can_end_it_without_a_last_call():
    calls = []

    def once():
        calls.append(1)
        periodic.stop()

    periodic, waits, _ = made(once, times=2)
    periodic.start()
    assert periodic.close(20) or periodic.close(20)
    assert calls == [1]


def test_work_can_close_it_without_waiting_for_itself():
    closed, calls = threading.Event(), []

    def once():
        calls.append(1)
        assert not periodic.close() or len(calls) > 1
        closed.set()

    periodic, _, _ = made(once, times=1)
    periodic.start()
    assert closed.wait(20)
    assert periodic.close(20)
    assert periodic.failures == 0


def test_starting_twice_makes_one_thread_and_it_can_start_again_after_close():
    calls = []
    with Periodic(lambda: calls.append(1), 3600, "batchscope-test") as periodic:
        assert periodic.start() is periodic
        assert [thread.name for thread in threading.enumerate()].count("batchscope-test") == 1
    with periodic:
        assert periodic.running
    assert calls == [1, 1]


def test_in_a_forked_child_it_is_off_until_it_is_started_there():
    calls = []
    with Periodic(lambda: calls.append(1), 3600, "batchscope-test") as periodic:
        with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns of forks beside threads
            child = os.fork()
        if child == 0:
            off = not periodic.running and periodic.close() and not calls
            periodic.start()
            again = periodic.running and periodic.close(20) and calls == [1]
            os._exit(0 if off and again else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert periodic.running


class Told:
    """Notes what it was told after a fork."""

    def __init__(self, told, error=None):
        self.told, self.error = told, error
        forked(self)
        forked(self)

    def _after_fork(self):
        self.told.append(self)
        if self.error is not None:
            raise self.error


def test_in_a_forked_child_all_that_live_are_told_once_whatever_one_of_them_raises(caplog):
    told = []
    alive = [Told(told), Told(told, RuntimeError("no")), Told(told), Told(told, ValueError("neither"))]
    Told(told)
    with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns of forks beside threads
        child = os.fork()
    if child == 0:
        logged = sum("after a fork: RuntimeError('no')" in record.getMessage() for record in caplog.records)
        right = len(told) == 4 and set(told) == set(alive) and logged == 1
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not told


def test_what_is_closing_is_closed_at_the_end_of_its_with_even_by_an_error():
    class Door(Closing):
        open = True

        def close(self):
            self.open = False

    door = Door()
    with door as entered:
        assert entered is door
        assert door.open
    assert not door.open
    with contextlib.suppress(KeyError), Door() as door:
        raise KeyError
    assert not door.open


def test_a_process_that_ends_without_closing_it_makes_the_last_call():
    code = "from batchscope.background import Periodic; Periodic(lambda: print('last'), 3600, 'x').start()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "last\n", "")


@pytest.mark.parametrize("interval", [0, -1.0, float("nan"), float("inf"), "10", None])
def test_an_interval_that_is_no_time_is_refused(interval):
    with pytest.raises(ConfigurationError, match="interval"):
        Periodic(lambda: None, interval, "batchscope-test")


def test_a_key_is_logged_once_in_its_time_and_then_with_the_number_left_out(lines):
    clock = FakeClock()
    limited = RateLimitedLog(every=60.0, clock=clock)
    assert limited.warning("disk", "cannot write %s", "a")
    assert not limited.warning("disk", "cannot write %s", "b")
    assert limited.warning("network", "cannot send")
    clock.advance(59.0)
    assert not limited.warning("disk", "cannot write %s", "c")
    clock.advance(1.0)
    assert limited.warning("disk", "cannot write %s", "d")
    clock.advance(60.0)
    assert limited.warning("disk", "cannot write %s", "e")
    assert lines == [
        "cannot write a",
        "cannot send",
        "cannot write d (and 2 times more since the last such line)",
        "cannot write e",
    ]


def test_a_handler_that_raises_does_not_reach_the_caller():
    class Failing(logging.Handler):
        def emit(self, record):
            raise OSError("disk full")

    logger = logging.getLogger("batchscope.test_periodic")
    failing = Failing()
    logger.addHandler(failing)
    try:
        assert RateLimitedLog(logger).warning("disk", "cannot write")
    finally:
        logger.removeHandler(failing)
