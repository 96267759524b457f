"""Who is in flight, by id and by handle: what arrives is admitted or refused, what leaves is known or stale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf, isinf, isnan, nan
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.recording.events import Arrival, Event, Finish, Iteration, Loss
from batchscope.recording.rows import Floats
from batchscope.recording.slots import GENERATION, INDEX_MASK, Indices, SlotTable

STALE_SLOT = "stale_slot"
DUPLICATE_REQUEST = "duplicate_request"
NEGATIVE = "negative"
WRONG_TYPE = "wrong_type"
INFINITE = "infinite"
NOT_A_NUMBER = "not_a_number"
_BAD_VALUE = Exception
"""What an id that cannot be hashed or an instant that is no number raises: whatever its methods do."""
_NOBODY = object()


class Leaving(NamedTuple):
    """The requests that end in a drain: slot indices, positions in the log, instants, events, ids."""

    slot: Indices
    position: npt.NDArray[np.int64]
    at: Floats
    events: list[Finish | Loss]
    request_ids: list[Any]


class Sorted(NamedTuple):
    """A log by kind: how many requests were admitted, who leaves, and the iterations with their positions."""

    admitted: int
    leaving: Leaving
    iterations: list[Iteration]
    positions: list[int]


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

    def advance(self, events: Iterable[Event]) -> Sorted:
        """Sort a log; who arrives is taken in, into the table too, before anything else is looked at."""
        admitted = _Admitted([], [], [], [], [])
        iterations: list[Iteration] = []
        positions: list[int] = []
        ends: list[Finish | Loss] = []
        end_positions: list[int] = []
        ids: list[Any] = []
        for position, event in enumerate(events):
            if isinstance(event, Iteration):
                iterations.append(event)
                positions.append(position)
            elif isinstance(event, Arrival):
                self._admit(event, admitted)
            else:
                request_id = self._id_of.pop(event.handle, _NOBODY)
                if request_id is _NOBODY:
                    self._reject(STALE_SLOT, 1)
                    continue
                if self._handle_of.get(request_id) == event.handle:
                    del self._handle_of[request_id]  # the id may arrive again, also within this drain
                ends.append(event)
                end_positions.append(position)
                ids.append(request_id)
        if admitted.handles:
            self._occupy(admitted)
        slots = np.array([event.handle & INDEX_MASK for event in ends], dtype=np.intp)
        at = np.array([event.at for event in ends], dtype=np.float64)
        leaving = Leaving(slots, np.array(end_positions, dtype=np.int64), at, ends, ids)
        return Sorted(len(admitted.handles), leaving, iterations, positions)

    def _admit(self, event: Arrival, admitted: _Admitted) -> None:
        handle, request_id, prompt_tokens, at = event.handle, event.request_id, event.prompt_tokens, event.at
        rank = event.rank
        try:
            if request_id in self._handle_of:
                reason = DUPLICATE_REQUEST
            elif 0 <= prompt_tokens < inf and -inf < at < inf and (rank is None or 0 <= rank < inf):
                code = self._class_codes.get(event.request_class, self._other_class)
                size, instant, own = float(prompt_tokens), float(at), nan if rank is None else float(rank)
                self._handle_of[request_id] = handle
                self._id_of[handle] = request_id
                admitted.handles.append(handle)
                admitted.at.append(instant)
                admitted.prompt_tokens.append(size)
                admitted.classes.append(code)
                admitted.ranks.append(own)
                return
            else:
                reason = _unfit(at, prompt_tokens, rank or 0)
        except _BAD_VALUE:
            reason = WRONG_TYPE
        self._reject(reason, 1)
        self.freed.append(handle + GENERATION)

    def _occupy(self, admitted: _Admitted) -> None:
        slots = np.array(admitted.handles, dtype=np.int64)
        self._table.reserve(int((slots & INDEX_MASK).max()))
        columns = (admitted.at, admitted.prompt_tokens, admitted.classes, admitted.ranks)
        self._table.occupy(slots, *map(np.array, columns))


class _Admitted(NamedTuple):
    """Lists of numbers, not of tuples: the garbage collector has nothing to follow."""

    handles: list[int]
    at: list[float]
    prompt_tokens: list[float]
    classes: list[float]
    ranks: list[float]


def _unfit(*numbers: float) -> str:
    """Why one of the numbers is not fit."""
    if any(map(isinf, numbers)):
        return INFINITE
    return NOT_A_NUMBER if any(map(isnan, numbers)) else NEGATIVE
