"""Hypothesis: no deadlines (machines are shared); in CI the same examples each time, elsewhere new ones.

What was loaded and collected stays to the end: the garbage collector, which many tests call, need not look at it.
Ctrl-C is as in a terminal: what a shell starts in the background ignores it, and so would the processes of the tests.
"""

from __future__ import annotations

import gc
import os
import signal

from hypothesis import HealthCheck, settings

settings.register_profile(
    "house", deadline=None, derandomize=bool(os.environ.get("CI")), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    gc.freeze()
