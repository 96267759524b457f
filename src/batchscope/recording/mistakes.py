"""The first mistake of each kind in words: noted where it is made, told by whoever reads.

Recording neither raises nor logs, so a wrong argument would show as a number in ``rejected_records`` alone. What was
called, with what, is known only at the call: it is written down there, once a kind, when the record was refused.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from math import isfinite
from types import FrameType
from typing import Any, NamedTuple

import msgspec
import numpy as np

from batchscope.reasons import RejectReason
from batchscope.recording.packing import type_name
from batchscope.records import BatchLimiter, CompletionReason
from batchscope.rows import LIMITER_CODES, REASON_CODES
from batchscope.text import shown as on_one_line

_MOST = 64
_SHOWN = 60
_LINE = 1000
_ITEMS = 3
_WALL_CLOCK = 1e9
"""time.time() since 2001; a monotonic clock gets there after 31 years."""
_LISTS = frozenset({"slots", "tokens", "scheduled_tokens", "preempted"})
_TEXTS = frozenset({"self", "request_id", "request_class", "error_type", "exception"})
_EXPECTED = {
    "slots": "a list or array of the whole numbers that arrived() returned, or what forming() returned",
    "preempted": "a list or array of the whole numbers that arrived() returned",
    "tokens": "a list or array of whole numbers, one a slot",
    "slot": "the whole number that arrived() returned",
    "reason": "a CompletionReason, such as CompletionReason.EOS_TOKEN_REACHED",
    "limiter": "a BatchLimiter, such as BatchLimiter.KV_CACHE",
    "limited_by": "a BatchLimiter, such as BatchLimiter.KV_CACHE, or None",
    "latencies": "seconds, in a list or an array of one dimension, or (seconds, count) pairs",
}
_EXPECTED |= dict.fromkeys(("inter_token_latencies", "inter_emission_latencies"), _EXPECTED["latencies"])
_NUMBER = "a number"
_FURTHER = "Further ones are counted only, in rejected_records; MetricsConfiguration(strict=True) raises at the call."
_CODES = {"reason": REASON_CODES, "limiter": LIMITER_CODES, "limited_by": LIMITER_CODES}
_DUE = frozenset({"slots", "slot", "reason", "limiter"})
"""Required, where they are positional: None is no value of them."""
_ARRIVAL = ("wrong_type", "RequestTracker.arrived()")
_AN_ARRIVAL = "an id that can be a dictionary's key, prompt_tokens and rank whole numbers, at seconds"


class Mistake(NamedTuple):
    """What was refused, for which reason of ``rejected_records``, and what would have been right."""

    reason: str
    what: str
    detail: str
    expected: str

    def __str__(self) -> str:
        return f"{self.what} was not counted ({self.reason}): {self.detail}; expected {self.expected}"


class WrongArgumentError(ValueError):
    """An argument that is wrong beside another one: which, its own value does not show."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class Mistakes:
    """Of each kind of mistake the first, until it is told. Bounded; any thread may note.

    ``last``: what ``note_refused`` was told last, for whoever holds the drain's lock.
    """

    def __init__(self) -> None:
        self.last: tuple[str, str, str] | None = None
        self._seen: set[tuple[str, str]] = set()
        self._untold: deque[str] = deque()

    def note(self, mistake: Mistake) -> None:
        """Keep ``mistake`` unless one of its reason and kind is known."""
        self.remark(mistake.reason, _kind(mistake.what), f"{mistake}. {_FURTHER}")

    def remark(self, reason: str, kind: str, text: str) -> None:
        """Keep ``text`` unless there was one of this reason and kind."""
        if (reason, kind) not in self._seen and len(self._seen) < _MOST:
            self._seen.add((reason, kind))
            self._untold.append(on_one_line(text, _LINE))  # exceptions and names in it may be anybody's

    def note_refused(self, reason: str, what: str, detail: str) -> None:
        """A record that a check refused."""
        self.last = reason, what, detail
        if (reason, _kind(what)) not in self._seen:
            self.note(refused(reason, what, detail))

    def note_call(self, reason: str, owner: str, error: Exception) -> None:
        """A call whose arguments raised ``error``, which its own ``except`` gives here: its frame has them."""
        with contextlib.suppress(Exception):  # whatever the frames are
            trace = error.__traceback__
            method = owner if trace is None else _called(owner, _public(trace.tb_frame))
            if (reason, method) not in self._seen:
                self.remark(reason, method, f"{in_words(reason, owner, error)}. {_FURTHER}")

    def untold(self) -> Iterator[str]:
        """What was not told before, each once."""
        while self._untold:
            try:
                yield self._untold.popleft()
            except IndexError:
                return  # another reader was quicker


def _kind(what: str) -> str:
    return what.partition("(")[0]


def refused(reason: str, what: str, detail: str) -> Mistake:
    """A record that a check refused."""
    expected = _AN_ARRIVAL if (reason, what) == _ARRIVAL else RejectReason(reason).expected
    return Mistake(reason, what, detail or "see the glossary", expected)


def in_words(reason: str, owner: str, error: Exception) -> str:
    """Such a call: what was called, with what, and what would have been right. Never raises."""
    trace = error.__traceback__
    if trace is None:  # nothing was tried: what came is no record at all
        return f"A record was not counted ({reason}): {_text(error)}"
    try:
        frame = _public(trace.tb_frame)
        return str(_described(reason, _called(owner, frame), frame, error))
    except Exception:  # noqa: BLE001  (the arguments may be anybody's)
        return f"A record of {owner} was not counted ({reason}): its arguments cannot be looked at"


def _public(frame: FrameType) -> FrameType:
    """The frame of the method that was called: helpers begin with an underscore."""
    while frame.f_code.co_name.startswith("_") and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _called(owner: str, frame: FrameType) -> str:
    """The name that the user knows: the collector's ``record_*``, or the method of a writer or tracker itself."""
    name, outer = frame.f_code.co_name, frame.f_back
    while outer is not None and outer.f_code.co_name == "iteration_result":
        outer = outer.f_back
    by_collector = outer is not None and outer.f_code.co_name.startswith("record_")
    return outer.f_code.co_name if by_collector and outer is not None else f"{owner}.{name}"


def _described(reason: str, method: str, frame: FrameType, error: Exception) -> Mistake:
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    held = frame.f_locals
    arguments = {name: held[name] for name in names if name in held}
    if (
        type(held) is dict
    ):  # before Python 3.13 the frame keeps it: with the error, whose traceback has the frame, a cycle
        held.pop("error", None)
    result = arguments.get("result")
    if isinstance(result, msgspec.Struct):
        arguments = {name: getattr(result, name) for name in result.__struct_fields__}
    due = _DUE.intersection(code.co_varnames[: code.co_argcount])
    name = error.name if type(error) is WrongArgumentError else _wrong(arguments, due)
    if name is None:
        return Mistake(reason, f"{method}()", _text(error), "what its docstring says")
    expected = _EXPECTED.get(name, _NUMBER)
    if name == "scheduled_tokens" and "slots" in arguments:
        expected = _EXPECTED["tokens"]
    return Mistake(reason, f"{method}({name}={shown(arguments[name])})", _text(error), expected)


def _wrong(arguments: Mapping[str, Any], due: Collection[str]) -> str | None:
    """The first argument that cannot be what it should be; None is, where it is not ``due``."""
    for name, value in arguments.items():
        if (value is None and name not in due) or name in _TEXTS:
            continue
        if name == "slots" and isinstance(value, msgspec.Struct):
            wrong = False  # a batch that was formed before
        elif name in _LISTS and "slots" in arguments:
            wrong = not _whole_numbers(value)
        elif name in _CODES:
            wrong = not isinstance(value, str) or value not in _CODES[name]
        elif name == "slot":
            wrong = not _is_whole(value)
        elif name.endswith("latencies"):
            wrong = not isinstance(value, list | tuple | np.ndarray) or not all(map(_fits, value))
        else:
            wrong = not isinstance(value, int | float | np.number) and not hasattr(type(value), "__float__")
        if wrong:
            return name
    return None


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer)


def _whole_numbers(values: object) -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "iu" and values.ndim == 1
    return isinstance(values, list | tuple | range) and all(map(_is_whole, values))


def _fits(value: object) -> bool:
    return isinstance(value, int | float | np.number | tuple)


def _text(error: Exception) -> str:
    if isinstance(error, KeyError):
        return "it is none of them"
    try:
        return str(error)[: 2 * _SHOWN] or type_name(error)
    except Exception:  # noqa: BLE001  (the error's class may be anybody's)
        return "an error without a text"


def shown(value: object) -> str:
    """A value in a line of a log: short, and without running anything of its own, nor of its type's."""
    kind = type(value)
    if kind is str or kind is bytes:
        return repr(value[:_SHOWN]) + ("..." if len(value) > _SHOWN else "")  # type: ignore[index,arg-type]
    if value is None or kind is float or kind is bool or (kind is int and value.bit_length() < 64):  # type: ignore[attr-defined]
        return repr(value)
    if kind is CompletionReason or kind is BatchLimiter:
        return f"{kind.__name__}.{value.name}"  # type: ignore[attr-defined]
    if kind is list or kind is tuple:
        more = ", ..." if len(value) > _ITEMS else ""  # type: ignore[arg-type]
        return f"[{', '.join(_item(item) for item in value[:_ITEMS])}{more}]"  # type: ignore[index]
    if kind is np.ndarray:
        return f"an array of {value.dtype}, shape {value.shape}"  # type: ignore[attr-defined]
    return f"a {type_name(value)}"[:_SHOWN]


def _item(value: object) -> str:
    return "[...]" if type(value) is list or type(value) is tuple else shown(value)


def instants(detail: str, *values: float) -> str:
    """``detail``, with a hint where one of its instants is the wall clock's."""
    wall = [value for value in values if isfinite(value) and value > _WALL_CLOCK]
    if wall and len(wall) < len(values):
        return f"{detail} ({wall[0]:.0f} looks like time.time(), and the tracker's clock is another)"
    return detail
