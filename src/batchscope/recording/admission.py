"""Who is in flight, by id and by handle: what arrives is admitted or refused, what leaves is known or stale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf, isinf, isnan
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.recording.events import Arrival, Finish, Loss
from batchscope.recording.rows import Floats
from batchscope.recording.slots import GENERATION, INDEX_MASK, Indices, SlotTable

STALE_SLOT = "stale_slot"
DUPLICATE_REQUEST = "duplicate_request"
NEGATIVE = "negative"
WRONG_TYPE = "wrong_type"
INFINITE = "infinite"
NOT_A_NUMBER = "not_a_number"
_BAD_VALUE = (TypeError, ValueError, OverflowError)
"""What an id that cannot be hashed or an instant that is no number raises."""
_NOBODY = object()

Passing = Arrival | Finish | Loss
"""Events of requests that come and go."""


class Leaving(NamedTuple):
    """The requests that end in a drain: slot indices, positions in the log, instants, events, ids."""

    slot: Indices
    position: npt.NDArray[np.int64]
    at: Floats
    events: list[Finish | Loss]
    request_ids: list[Any]


class Admission:
    """The ids of the requests in flight, and their slots' beginnings in the table."""

    def __init__(
        self,
        table: SlotTable,
        class_codes: Mapping[str | None, float],
        other_class: float,
        reject: Callable[[str, int], None],
    ) -> None:
        self._table = table
        self._class_codes = class_codes
        self._other_class = other_class
        self._reject = reject
        self._handle_of: dict[Any, int] = {}
        self._id_of: dict[int, Any] = {}
        self.freed: list[int] = []

    @property
    def in_flight(self) -> int:
        """Requests that arrived and have not left."""
        return len(self._id_of)

    def advance(self, passing: Iterable[tuple[int, Passing]]) -> tuple[int, Leaving]:
        """Take in who arrives, into the table too; gives their number, and who leaves. ``passing``: with positions."""
        admitted: list[tuple[int, float, float, float]] = []
        left: list[tuple[int, Finish | Loss, Any]] = []
        for position, event in passing:
            if isinstance(event, Arrival):
                self._admit(event, admitted)
            else:
                request_id = self._id_of.pop(event.handle, _NOBODY)
                if request_id is _NOBODY:
                    self._reject(STALE_SLOT, 1)
                    continue
                if self._handle_of.get(request_id) == event.handle:
                    del self._handle_of[request_id]  # the id may arrive again, also within this drain
                left.append((position, event, request_id))
        if admitted:
            self._occupy(admitted)
        return len(admitted), _leaving(left)

    def _admit(self, event: Arrival, admitted: list[tuple[int, float, float, float]]) -> None:
        reason = WRONG_TYPE
        try:
            prompt_tokens, at = event.prompt_tokens, event.at
            if event.request_id in self._handle_of:
                reason = DUPLICATE_REQUEST
            elif 0 <= prompt_tokens < inf and -inf < at < inf:
                code = self._class_codes.get(event.request_class, self._other_class)
                admitted.append((event.handle, float(at), float(prompt_tokens), code))
                self._handle_of[event.request_id] = event.handle
                self._id_of[event.handle] = event.request_id
                return
            else:
                reason = _unfit(at, prompt_tokens)
        except _BAD_VALUE:
            reason = WRONG_TYPE
        self._reject(reason, 1)
        self.freed.append(event.handle + GENERATION)

    def _occupy(self, admitted: list[tuple[int, float, float, float]]) -> None:
        handles, at, prompt_tokens, codes = zip(*admitted, strict=True)
        slots = np.array(handles, dtype=np.int64)
        self._table.reserve(int((slots & INDEX_MASK).max()))
        self._table.occupy(slots, np.array(at), np.array(prompt_tokens), np.array(codes))


def _leaving(left: list[tuple[int, Finish | Loss, Any]]) -> Leaving:
    events = [event for _, event, _ in left]
    return Leaving(
        np.array([event.handle & INDEX_MASK for event in events], dtype=np.intp),
        np.array([position for position, _, _ in left], dtype=np.int64),
        np.array([event.at for event in events], dtype=np.float64),
        events,
        [request_id for _, _, request_id in left],
    )


def _unfit(at: float, prompt_tokens: float) -> str:
    """Why one of the two, both numbers, is not fit."""
    if isinf(at) or isinf(prompt_tokens):
        return INFINITE
    return NOT_A_NUMBER if isnan(at) or isnan(prompt_tokens) else NEGATIVE
