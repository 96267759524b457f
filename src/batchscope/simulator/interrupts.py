"""Ctrl-C at a point of our choosing: never between a request's end and its report."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_interrupts() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C only makes the function that this yields say True; a second one interrupts as usual.

    Does nothing where interrupts do not arrive (another thread than the main one) or where the
    application has a handler of its own.
    """
    received = False

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal received
        received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: received
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
