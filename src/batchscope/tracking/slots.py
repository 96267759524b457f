"""The slot table: what a tracker knows of each request in flight, one numpy column a fact.

Engines hold a request's handle: a running number, which the table alone maps to the request's row. So whoever hands
out numbers needs nothing back, and a number is never someone else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.configuration import SloTargets
from batchscope.recording.producer import LiveRequests
from batchscope.recording.rings import Numbering
from batchscope.rows import Floats

Indices = npt.NDArray[np.intp]

FIRST_HANDLE = 1 << 24
"""The first number: an index of an engine's own, given by mistake, is none."""
FREE = -1
_NUMBERS_A_ROW = 4


class Touched(NamedTuple):
    """Copies of the columns at some rows of the table, each once, ascending: as they are, or as they become."""

    slot: Indices
    arrived_at: Floats
    prompt_tokens: Floats
    request_class: Floats
    first_scheduled_at: Floats
    first_token_at: Floats
    last_token_at: Floats
    preempted_at: Floats
    preempted_time: Floats
    max_gap: Floats
    tokens: npt.NDArray[np.int64]
    preemptions: npt.NDArray[np.int64]
    rank: Floats
    holding: npt.NDArray[np.bool_]
    decoding: npt.NDArray[np.bool_]


class _Places(NamedTuple):
    """Handle -> row. ``window[handle - base]`` for the latest numbers, ``FREE`` where nobody is in flight.

    Numbers ascend and are dense, so that nearly all are there; the few requests that outlived the window's span stand
    sorted in ``old``, their rows in ``old_rows``: a request that is never finished costs no memory for those after it.
    """

    base: int
    window: Indices
    old: npt.NDArray[np.int64]
    old_rows: Indices

    def span(self, handles: npt.NDArray[np.int64]) -> bool:
        """Whether the window has room for these."""
        return bool((handles - self.base).view(np.uint64).max() < len(self.window))

    def rows(self, handles: npt.NDArray[np.int64]) -> Indices:
        """The row of each handle, ``FREE`` where it means nobody in flight."""
        offset = handles - self.base
        if not len(handles) or offset.view(np.uint64).max() < len(self.window):
            return self.window.take(offset)  # a third faster than an index
        inside = offset.view(np.uint64) < len(self.window)
        found = np.full(len(handles), FREE, dtype=np.intp)
        found[inside] = self.window[offset[inside]]
        if len(self.old):
            place = np.minimum(self.old.searchsorted(handles), len(self.old) - 1)
            older = self.old[place] == handles
            found[older] = self.old_rows[place[older]]
        return found

    def put(self, handles: npt.NDArray[np.int64], rows: Indices | int) -> None:
        """Say whose row is whose; only of handles that are in the window, or in ``old`` and leave."""
        offset = handles - self.base
        inside = offset.view(np.uint64) < len(self.window)
        self.window[offset[inside]] = rows if isinstance(rows, int) else rows[inside]
        if not inside.all():
            self.old_rows[np.isin(self.old, handles[~inside])] = FREE


class SlotTable:
    """Columns by slot index; instants are ``nan`` until they happen. Grows by doubling, never shrinks."""

    def __init__(self, capacity: int = 256, numbering: Numbering | None = None) -> None:
        self._numbering = numbering or Numbering()
        self._latest = FREE  # the highest handle that ever had a row
        self._places = _places_of(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.intp), capacity)
        self.handle: npt.NDArray[np.int64] = np.full(capacity, FREE, dtype=np.int64)
        self.arrived_at = _unset(capacity)
        self.first_scheduled_at = _unset(capacity)
        self.first_token_at = _unset(capacity)
        self.last_token_at = _unset(capacity)
        self.preempted_at = _unset(capacity)
        self.preempted_time = np.zeros(capacity)
        self.max_gap = _unset(capacity)
        self.tokens = np.zeros(capacity, dtype=np.int64)
        self.prompt_tokens = np.zeros(capacity)
        self.request_class = np.zeros(capacity)
        self.rank = _unset(capacity)  # where it ran last, else what it arrived for; nan: any
        self.number = np.zeros(capacity, dtype=np.int64)  # its own in the run, in the order of arrivals
        self.preemptions = np.zeros(capacity, dtype=np.int64)
        self.holding = np.zeros(capacity, dtype=np.bool_)  # it has a place in the running set
        self.decoding = np.zeros(capacity, dtype=np.bool_)  # it has emitted since it was last (re)scheduled

    @property
    def capacity(self) -> int:
        """How many slots there are, used or free."""
        return len(self.handle)

    def _grow(self, capacity: int) -> None:
        grown = vars(SlotTable(1 << int(capacity - 1).bit_length(), self._numbering))
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray):
                grown[name][: len(column)] = column
            else:
                grown[name] = column
        vars(self).update(grown)  # all at once: no exception leaves columns of two lengths

    def occupy(
        self,
        handles: npt.NDArray[np.int64],
        arrived_at: Floats,
        prompt_tokens: Floats,
        classes: Floats,
        ranks: Floats,
    ) -> None:
        """Start the requests of these handles, none of which was there before."""
        free = np.flatnonzero(self.handle == FREE)
        if len(free) < len(handles):
            self._grow(self.capacity + len(handles) - len(free))
            free = np.flatnonzero(self.handle == FREE)
        index = free[: len(handles)]
        self.handle[index] = handles
        if self._places.span(handles):
            self._places.put(handles, index)
        else:
            live = self.live()
            self._places = _places_of(self.handle[live], live, self.capacity)
        self.arrived_at[index] = arrived_at
        self.prompt_tokens[index] = prompt_tokens
        self.request_class[index] = classes
        self.rank[index] = ranks
        first = self._numbering.requests(len(index))
        self.number[index] = np.arange(first, first + len(index))
        self._latest = max(self._latest, int(handles.max()))
        for column in (
            self.first_scheduled_at, self.first_token_at, self.last_token_at, self.preempted_at, self.max_gap,
        ):  # fmt: skip
            column[index] = np.nan
        self.preempted_time[index] = 0.0
        self.tokens[index] = 0
        self.preemptions[index] = 0
        self.holding[index] = False
        self.decoding[index] = False

    def read(self, slots: Indices) -> Touched:
        """The columns at ``slots``."""
        return Touched(slots, *[getattr(self, name)[slots] for name in Touched._fields[1:]])

    def write(self, touched: Touched) -> None:
        """Put changed columns back."""
        for name, column in zip(Touched._fields[1:], touched[1:], strict=True):
            getattr(self, name)[touched.slot] = column

    def release(self, index: Indices) -> None:
        """End the requests at these rows."""
        self._places.put(self.handle[index], FREE)
        self.handle[index] = FREE

    def forget(self, handle: int) -> None:
        """End the request of this handle, wherever an exception came between its beginning or end."""
        self._places.put(np.array([handle]), FREE)
        self.handle[self.handle == handle] = FREE

    def live(self) -> Indices:
        """The rows of all requests in flight."""
        found: Indices = (self.handle != FREE).nonzero()[0]
        return found

    def rows(self, handles: npt.NDArray[np.int64]) -> Indices:
        """The row of each handle, ``FREE`` where it means nobody in flight."""
        return self._places.rows(handles)

    def issued(self, handles: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which handles are numbers that a request in flight has or had."""
        known: npt.NDArray[np.bool_] = (handles >= FIRST_HANDLE) & (handles <= self._latest)
        return known


def _places_of(handles: npt.NDArray[np.int64], rows: Indices, capacity: int) -> _Places:
    """Places of these requests, with room for at least twice ``capacity`` numbers more."""
    window = np.full(_NUMBERS_A_ROW * capacity, FREE, dtype=np.intp)
    if not len(handles):
        nothing = np.empty(0, dtype=np.int64)
        return _Places(FIRST_HANDLE, window, nothing, nothing)
    base = max(int(handles.min()), int(handles.max()) - len(window) // 2)
    latest = handles >= base
    window[handles[latest] - base] = rows[latest]
    old, old_rows = handles[~latest], rows[~latest]
    order = old.argsort()
    return _Places(base, window, old[order], old_rows[order])


def _unset(capacity: int) -> Floats:
    return np.full(capacity, np.nan)


def live_requests(table: SlotTable, now: float, targets: Sequence[SloTargets]) -> LiveRequests:
    """The present state of a table; ``targets`` by class code."""
    live = table.live()
    holding, classes = table.holding[live], table.request_class[live]
    waiting = table.arrived_at[live[~holding]]
    return LiveRequests(
        len(live),
        int(np.count_nonzero(holding)),
        float(waiting.min()) if len(waiting) else np.inf,
        tuple([_overdue(table, live[classes == code], now, targets_of) for code, targets_of in enumerate(targets)]),
    )


def _overdue(table: SlotTable, live: Indices, now: float, targets: SloTargets) -> int:
    if not len(live):
        return 0
    past = np.zeros(len(live), dtype=np.bool_)
    arrived, first = table.arrived_at[live], table.first_token_at[live]
    if targets.time_to_first_token is not None:
        past |= np.where(np.isnan(first), now, first) - arrived > targets.time_to_first_token
    if targets.e2e_latency is not None:
        past |= now - arrived > targets.e2e_latency
    if targets.max_emission_gap is not None:
        stalled = now - table.last_token_at[live]
        past |= np.fmax(table.max_gap[live], stalled) > targets.max_emission_gap
    return int(np.count_nonzero(past))
