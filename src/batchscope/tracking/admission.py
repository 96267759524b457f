"""Who is in flight, by id and by handle: what arrives is admitted or refused, what leaves is known or stale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf, isinf, isnan, nan
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.reasons import RejectReason
from batchscope.recording.mistakes import shown
from batchscope.recording.packing import MAX_ID, cut_id, type_name
from batchscope.rows import Floats
from batchscope.tracking.events import Arrival, Event, Finish, Iteration, Loss
from batchscope.tracking.slots import Indices, SlotTable

_BAD_VALUE = Exception
"""What an id that cannot be hashed or an instant that is no number raises: whatever its methods do."""
_NOBODY = object()
_SHOWN_OF_ID = 12


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
        reject: Callable[[str, int, str, str], None],
    ) -> None:
        self._table = table
        self._class_codes = class_codes
        self._other_class = other_class
        self._reject = reject
        self._handle_of: dict[Any, int] = {}
        self._id_of: dict[int, Any] = {}

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
                key = self._drop(event.handle)  # the id may arrive again, also within this drain
                if key is _NOBODY:
                    method = "finished" if isinstance(event, Finish) else "lost"
                    self._reject(RejectReason.STALE_SLOT, 1, method, f"slot {event.handle}")
                    continue
                ends.append(event)
                end_positions.append(position)
                ids.append(key.shown if type(key) is _Key else key)
        if admitted.handles:
            self._occupy(admitted)
        slots = self._table.rows(np.array([event.handle for event in ends], dtype=np.int64))
        at = np.array([event.at for event in ends], dtype=np.float64)
        leaving = Leaving(slots, np.array(end_positions, dtype=np.int64), at, ends, ids)
        return Sorted(len(admitted.handles), leaving, iterations, positions)

    def _drop(self, handle: int) -> Any:
        """Forget a request by its handle: nothing of its id's own runs. Gives its key."""
        key = self._id_of.get(handle, _NOBODY)
        if key is not _NOBODY:
            if self._handle_of.get(key) == handle:
                del self._handle_of[key]
            del self._id_of[handle]
        return key

    def forget(self, handle: int) -> None:
        """Forget a request, its slot too, if it is in flight or had just arrived."""
        self._drop(handle)
        self._table.forget(handle)

    def _admit(self, event: Arrival, admitted: _Admitted) -> None:
        handle, prompt_tokens, at = event.handle, event.prompt_tokens, event.at
        rank = event.rank
        try:
            key = _key(event.request_id)
            if key in self._handle_of:
                reason = RejectReason.DUPLICATE_REQUEST
            elif 0 <= prompt_tokens < inf and -inf < at < inf and (rank is None or 0 <= rank < inf):
                code = self._class_codes[event.request_class]
                size, instant, own = float(prompt_tokens), float(at), nan if rank is None else float(rank)
                self._id_of[handle] = key
                self._handle_of[key] = handle
                admitted.handles.append(handle)
                admitted.at.append(instant)
                admitted.prompt_tokens.append(size)
                admitted.classes.append(code)
                admitted.ranks.append(own)
                return
            else:
                reason = _unfit(at, prompt_tokens, rank or 0)
        except _BAD_VALUE:
            reason = RejectReason.WRONG_TYPE
        said = f"request_id={_beginning(event.request_id)}, prompt_tokens={shown(prompt_tokens)}, at={shown(at)}"
        self._reject(reason, 1, "arrived", said)

    def _occupy(self, admitted: _Admitted) -> None:
        columns = (admitted.at, admitted.prompt_tokens, admitted.classes, admitted.ranks)
        self._table.occupy(np.array(admitted.handles, dtype=np.int64), *map(np.array, columns))


class _Key:
    """Stands for an id that is long, or whose methods are anybody's: its hash is asked for once."""

    __slots__ = ("_hash", "_whole", "shown")

    def __init__(self, request_id: Any) -> None:
        self.shown = cut_id(request_id)
        self._hash = hash(request_id)
        self._whole = request_id if self.shown is request_id else (self.shown, len(request_id), self._hash)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        """Also with an id that stands for itself; one that cannot be compared is another one."""
        try:
            return bool(self._whole == (other._whole if type(other) is _Key else other))
        except _BAD_VALUE:
            return False


def _key(request_id: Any) -> Any:
    """An id as it is where nothing can happen to it, else its stand-in."""
    kind = type(request_id)
    if kind is int or (kind is str and len(request_id) <= MAX_ID):
        return request_id
    return _Key(request_id)


def _beginning(request_id: Any) -> str:
    """Of an id what a log may have: clients choose it, and it may name a person."""
    kind = type(request_id)
    if (kind is str or kind is bytes) and len(request_id) > _SHOWN_OF_ID:
        return f"{shown(request_id[:_SHOWN_OF_ID])}..."
    return f"a {type_name(request_id)}" if kind is list or kind is tuple else shown(request_id)


class _Admitted(NamedTuple):
    """Lists of numbers, not of tuples: the garbage collector has nothing to follow."""

    handles: list[int]
    at: list[float]
    prompt_tokens: list[float]
    classes: list[float]
    ranks: list[float]


def _unfit(*numbers: float) -> RejectReason:
    """Why one of the numbers is not fit."""
    if any(map(isinf, numbers)):
        return RejectReason.INFINITE
    return RejectReason.NOT_A_NUMBER if any(map(isnan, numbers)) else RejectReason.NEGATIVE
