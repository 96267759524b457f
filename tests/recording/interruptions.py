"""Run a call and do something at one of its bytecodes, each in turn: what a finalizer, a handler or Ctrl-C can do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import batchscope

PACKAGE = Path(batchscope.__file__).parent
RECORDING = (PACKAGE / "recording", PACKAGE / "tracking", PACKAGE / "reasons.py")
"""What a call that records runs through."""


class Interrupted(BaseException):
    """What Ctrl-C raises, wherever the thread is."""


def interrupt() -> None:
    raise Interrupted


def act_at(
    number: int, call: Callable[[], object], act: Callable[[], object], *, within: Sequence[Path] = RECORDING
) -> bool:
    """Run ``call``, with ``act`` in the middle: before its ``number``-th bytecode of files ``within``.

    Whether it came that far. ``act`` is not watched itself; what it raises is raised there, and is expected here.
    """
    left, prefixes = number, tuple(map(str, within))

    def at_bytecode() -> None:
        nonlocal left
        left -= 1
        if left == -1:
            stop()
            act()

    stop = (_watch_by_tracing if sys.version_info < (3, 12) else _watch_by_monitoring)(at_bytecode, prefixes)
    try:
        call()
    except Interrupted:
        pass
    finally:
        stop()
    return left < 0


def _watch_by_tracing(at_bytecode: Callable[[], None], prefixes: tuple[str, ...]) -> Callable[[], None]:
    def trace(frame, event, _argument):
        if not frame.f_code.co_filename.startswith(prefixes):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            at_bytecode()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    return lambda: sys.settrace(before)


def _watch_by_monitoring(at_bytecode: Callable[[], None], prefixes: tuple[str, ...]) -> Callable[[], None]:
    watching = sys.monitoring
    tool = 3 if watching.get_tool(3) is None else 4  # one may be at work when a value's method starts the next
    watched = True

    def instruction(code, _offset):
        if not code.co_filename.startswith(prefixes):
            return watching.DISABLE
        if watched:
            at_bytecode()
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
    call: Callable[[], object],
    act: Callable[[], object],
    *,
    within: Sequence[Path] = RECORDING,
    first: int = 0,
    step: int = 1,
) -> Iterator[int]:
    """``act_at`` for one bytecode after the other, until ``call`` has no more; gives the number of each."""
    number = first
    while act_at(number, call, act, within=within):
        yield number
        number += step
