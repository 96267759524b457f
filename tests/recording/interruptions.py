"""Run a call and do something at one of its bytecodes, each in turn: what a finalizer, a handler or Ctrl-C can do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import batchscope

PACKAGE = Path(batchscope.__file__).parent
RECORDING = PACKAGE / "recording"


class Interrupted(BaseException):
    """What Ctrl-C raises, wherever the thread is."""


def interrupt() -> None:
    raise Interrupted


def act_at(number: int, call: Callable[[], object], act: Callable[[], object], *, within: Path = RECORDING) -> bool:
    """Run ``call``, with ``act`` in the middle: before its ``number``-th bytecode of files ``within``.

    Whether it came that far. ``act`` is not traced itself; what it raises is raised there, and is expected here.
    """
    left, prefix = number, str(within)

    def trace(frame, event, _argument):
        nonlocal left
        if not frame.f_code.co_filename.startswith(prefix):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            if left == 0:
                left = -1
                sys.settrace(None)
                act()
                return None
            if left > 0:
                left -= 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Interrupted:
        pass
    finally:
        sys.settrace(before)
    return left < 0


def at_each_bytecode(
    call: Callable[[], object], act: Callable[[], object], *, within: Path = RECORDING, first: int = 0, step: int = 1
) -> Iterator[int]:
    """``act_at`` for one bytecode after the other, until ``call`` has no more; gives the number of each."""
    number = first
    while act_at(number, call, act, within=within):
        yield number
        number += step
