"""The runs of a drain as rows: which request took part in which iterations, with how many tokens."""

from __future__ import annotations

import numpy as np

from batchscope.recording.rings import Numbering
from batchscope.rows import Floats, RowKind, Rows, SpanColumn, distinct, empty_rows
from batchscope.tracking.history import History
from batchscope.tracking.iteration_batch import UNKNOWN_TOKENS
from batchscope.tracking.runs import Ints, Mask
from batchscope.tracking.slots import SlotTable

C = SpanColumn


def ordinals(ranks: Floats, numbering: Numbering, source: int) -> Ints:
    """The numbers of a ``source``'s iterations: a rank's follow each other, whatever other ranks did between."""
    numbers = np.empty(len(ranks), dtype=np.int64)
    for rank in distinct(ranks):
        mine = np.flatnonzero(ranks == rank)
        first = numbering.iterations((source, rank), len(mine))
        numbers[mine] = np.arange(first, first + len(mine))
    return numbers


def span_rows(history: History, own: Ints, decoding: Mask, finished: Floats, table: SlotTable) -> Rows:
    """A SPAN row for each run, and one for those that go on each other; ``own``: the iterations' numbers."""
    count = len(history.slot)
    tokens = np.ones(count, dtype=np.int64) if history.tokens is None else history.tokens
    evicted = np.zeros(count, dtype=np.bool_) if history.evicted is None else history.evicted
    scheduled = _scheduled(history, decoding)
    first, last = own[history.begin], own[history.end]
    opens = np.ones(count, dtype=np.bool_)
    plain = (tokens == 1) & ~evicted
    goes_on = plain[1:] & plain[:-1] & (scheduled[1:] == 1) & (first[1:] == last[:-1] + 1)
    opens[1:] = history.first[1:] | ~goes_on
    begins = np.flatnonzero(opens)
    ends = np.append(begins[1:], count)[: len(begins)] - 1
    rows = empty_rows(RowKind.SPAN, len(begins))
    rows[:, C.AT] = finished[history.end[ends]]
    rows[:, C.REQUEST] = table.number[history.slot[begins]]
    rows[:, C.FIRST_ITERATION] = first[begins]
    rows[:, C.ITERATIONS] = last[ends] - first[begins] + 1
    rows[:, C.TOKENS] = np.where(evicted, 0, tokens)[begins]
    rows[:, C.SCHEDULED_TOKENS] = np.where(evicted, 0, scheduled)[begins]
    rows[:, C.EVICTED] = evicted[begins]
    return Rows(RowKind.SPAN, rows)


def _scheduled(history: History, decoding: Mask) -> Floats:
    """Of each run's first iteration; who decodes has one where nobody says."""
    assumed: Floats = np.where(decoding, 1.0, np.nan)
    if history.scheduled is None:
        return assumed
    return np.where(history.scheduled == UNKNOWN_TOKENS, assumed, history.scheduled)
