"""Who is in flight right now, from the slot table: silence is not health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import NamedTuple

import numpy as np

from batchscope.configuration import SloTargets
from batchscope.tracking.slots import Indices, SlotTable


class LiveRequests(NamedTuple):
    """Requests in flight; ``oldest_waiting`` is the arrival of the oldest that waits (``inf`` with none).

    ``overdue`` counts, by class code, those that can no longer meet a target of theirs. ``running`` None: the
    source does not know who is in flight, and says nothing else. ``deferred`` and ``kv_cache_usage``: where the
    source is told them apart from iterations. ``by_adapter``: of each adapter the ``running`` and the ``waiting`` ones.
    """

    in_flight: int
    running: int | None
    oldest_waiting: float
    overdue: tuple[int, ...]
    deferred: int | None = None
    kv_cache_usage: float = nan
    by_adapter: Mapping[str, dict[str, int]] = {}


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
