"""The slot table: what a tracker knows of each request in flight, one numpy column a fact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from batchscope.configuration import SloTargets
from batchscope.recording.producer import LiveRequests
from batchscope.recording.rings import Numbering
from batchscope.rows import Floats

Indices = npt.NDArray[np.intp]

INDEX_BITS = 24
INDEX_MASK = (1 << INDEX_BITS) - 1
GENERATION = 1 << INDEX_BITS
"""A handle is an index and, above it, a generation: a freed index comes back with another handle."""
FREE = -1


class SlotTable:
    """Columns by slot index; instants are ``nan`` until they happen. Grows by doubling, never shrinks."""

    def __init__(self, capacity: int = 256, numbering: Numbering | None = None) -> None:
        self._numbering = numbering or Numbering()
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

    def reserve(self, index: int) -> None:
        """Make sure that ``index`` exists."""
        if index < self.capacity:
            return
        capacity = 1 << int(index).bit_length()
        grown = vars(SlotTable(capacity, self._numbering))
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray):
                grown[name][: len(column)] = column
        vars(self).update(grown)  # all at once: no exception leaves columns of two lengths

    def occupy(
        self,
        handles: npt.NDArray[np.int64],
        arrived_at: Floats,
        prompt_tokens: Floats,
        classes: Floats,
        ranks: Floats,
    ) -> None:
        """Start the requests of these handles; their indices must be free."""
        index = handles & INDEX_MASK
        self.handle[index] = handles
        self.arrived_at[index] = arrived_at
        self.prompt_tokens[index] = prompt_tokens
        self.request_class[index] = classes
        self.rank[index] = ranks
        first = self._numbering.requests(len(index))
        self.number[index] = np.arange(first, first + len(index))
        for column in (
            self.first_scheduled_at, self.first_token_at, self.last_token_at, self.preempted_at, self.max_gap,
        ):  # fmt: skip
            column[index] = np.nan
        self.preempted_time[index] = 0.0
        self.tokens[index] = 0
        self.preemptions[index] = 0
        self.holding[index] = False
        self.decoding[index] = False

    def release(self, index: Indices) -> None:
        """End the requests at these indices."""
        self.handle[index] = FREE

    def live(self) -> Indices:
        """The indices of all requests in flight."""
        return np.flatnonzero(self.handle != FREE)

    def valid(self, handles: npt.NDArray[np.int64], index: Indices) -> npt.NDArray[np.bool_]:
        """Which handles, whose ``index`` is given, mean a request in flight."""
        if not len(index) or index.max() < self.capacity:
            same: npt.NDArray[np.bool_] = self.handle[index] == handles
            return same
        known = index < self.capacity  # not so: -1, which is FREE
        same = self.handle[np.where(known, index, 0)] == handles
        return same & known


def _unset(capacity: int) -> Floats:
    return np.full(capacity, np.nan)


def live_requests(table: SlotTable, now: float, targets: Sequence[SloTargets]) -> LiveRequests:
    """The present state of a table; ``targets`` by class code."""
    live = table.live()
    holding = table.holding[live]
    waiting = table.arrived_at[live[~holding]]
    return LiveRequests(
        len(live),
        int(np.count_nonzero(holding)),
        float(waiting.min()) if len(waiting) else np.inf,
        tuple(
            _overdue(table, live[table.request_class[live] == code], now, targets_of)
            for code, targets_of in enumerate(targets)
        ),
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
