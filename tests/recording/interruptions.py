"""Run a call and do something at one of its bytecodes, each in turn: what a finalizer, a handler or Ctrl-C can do."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType

import batchscope

PACKAGE = Path(batchscope.__file__).parent
RECORDING = (PACKAGE / "recording", PACKAGE / "reasons.py")
TRACKING = (*RECORDING, PACKAGE / "tracking")
Folders = Path | tuple[Path, ...]


class Interrupted(BaseException):
    """What Ctrl-C raises, wherever the thread is."""


def interrupt() -> None:
    raise Interrupted


def act_at(number: int, call: Callable[[], object], act: Callable[[], object], *, within: Folders = RECORDING) -> bool:
    """Run ``call``, with ``act`` in the middle: before its ``number``-th bytecode of files ``within``.

    Whether it came that far. ``act`` is not watched itself; what it raises is raised there, and is expected here.
    """
    left, prefix = number, tuple(map(str, within)) if isinstance(within, tuple) else (str(within),)

    def at_bytecode(code: CodeType, offset: int) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            # In a finalizer that happens to run an exception is only printed, and pytest takes that for a failure.
            if act is interrupt and (code.co_name == "__del__" or offset in _leaving_a_with(code)):
                left += 1  # the next one, then
                return
            stop()
            act()

    stop = (_watch_by_tracing if sys.version_info < (3, 12) else _watch_by_monitoring)(at_bytecode, prefix)
    try:
        call()
    except Interrupted:
        pass
    finally:
        stop()
    return left < 0


@cache
def _leaving_a_with(code: CodeType) -> frozenset[int]:
    """Where a ``with`` calls ``__exit__(None, None, None)`` and has not yet: CPython looks for signals after a call only.

    An exception put there by a test would leave the lock held, and no real one can come.
    """
    steps = [step for step in dis.get_instructions(code) if step.opname not in {"CACHE", "PRECALL"}]
    found = set()
    for place in range(len(steps) - 3):
        nones = all(step.opname == "LOAD_CONST" and step.argval is None for step in steps[place : place + 3])
        if nones and steps[place + 3].opname.startswith("CALL") and steps[place + 3].arg == 2:
            found.update(range(steps[place].offset, steps[place + 3].offset + 1))
    return frozenset(found)


def _watch_by_tracing(at_bytecode: Callable[[CodeType, int], None], prefix: tuple[str, ...]) -> Callable[[], None]:
    def trace(frame, event, _argument):
        if not frame.f_code.co_filename.startswith(prefix):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            at_bytecode(frame.f_code, frame.f_lasti)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    return lambda: sys.settrace(before)


def _watch_by_monitoring(at_bytecode: Callable[[CodeType, int], None], prefix: tuple[str, ...]) -> Callable[[], None]:
    watching, here = sys.monitoring, threading.get_ident()  # monitoring sees every thread, tracing this one only
    tool = 3 if watching.get_tool(3) is None else 4  # one may be at work when a value's method starts the next
    watched = True

    def instruction(code, offset):
        if not code.co_filename.startswith(prefix):
            return watching.DISABLE
        if watched and threading.get_ident() == here:
            at_bytecode(code, offset)
        return None

    def stop() -> None:
        nonlocal watched
        if watched:
            watched = False
            watching.set_events(tool, 0)
            watching.register_callback(tool, watching.events.INSTRUCTION, None)
            watching.free_tool_id(tool)

    watching.use_tool_id(tool, "interruptions")
    watching.register_callback(tool, watching.events.INSTRUCTION, instruction)
    watching.restart_events()
    watching.set_events(tool, watching.events.INSTRUCTION)
    return stop


def at_each_bytecode(
    call: Callable[[], object], act: Callable[[], object], *, within: Folders = RECORDING, first: int = 0, step: int = 1
) -> Iterator[int]:
    """``act_at`` for one bytecode after the other, until ``call`` has no more; gives the number of each."""
    number = first
    while act_at(number, call, act, within=within):
        yield number
        number += step
