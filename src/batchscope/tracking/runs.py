"""What happened to each slot, over many iterations at once: sorted by slot, everything is a difference of rows.

An element is one slot in one iteration: scheduled, with its tokens, or evicted. A slot that decodes is in
every iteration, one token each: such elements in a row are *one* run, and most of what a drain brings are
few long runs. They are found without sorting: each element sets its flag in a table of slots by
iterations, and runs begin and end where neighbouring flags differ (2 ns an element). Runs lie by slot, each slot's in
the order of iterations, so that gaps, phases and waits are differences of neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.rows import Floats
from batchscope.tracking.iteration_batch import UNKNOWN_TOKENS, spread_places
from batchscope.tracking.slots import Indices

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
_RADIX_SLOTS = 1 << 16
_FLAGS_AN_ELEMENT = 32
"""Above it the table of flags would cost more than sorting."""


class Elements(NamedTuple):
    """Elements in the order of iterations; None: one token each, scheduled tokens not given, nobody evicted.

    With ``last``, one that decodes stands for several: those of the iterations ``iteration`` .. ``last``.
    """

    slot: Indices
    iteration: Ints
    tokens: Ints | None
    scheduled: Ints | None
    evicted: Mask | None
    last: Ints | None = None

    def take(self, chosen: Mask | Indices) -> Elements:
        """Some of them, or all in another order."""
        return Elements(*[None if column is None else column[chosen] for column in self])  # type: ignore[arg-type]

    def spread(self) -> Elements:
        """An element for each iteration."""
        if self.last is None:
            return self
        place, iteration = spread_places(self.iteration, self.last)
        return self._replace(last=None).take(place)._replace(iteration=iteration)


class Runs(NamedTuple):
    """Runs by slot: iterations ``begin`` .. ``end`` of one; None as in ``Elements``.

    A run of several elements emits one token in each, and none is evicted; ``scheduled`` is its first one's, the rest
    decodes one token each.
    """

    slot: Indices
    begin: Ints
    end: Ints
    tokens: Ints | None
    scheduled: Ints | None
    evicted: Mask | None


def sort_order(slot: Indices, slots: int) -> Indices:
    """What sorts by slot, stably; a radix sort for 16 bits: 3 ns an element."""
    key = slot.astype(np.uint16) if slots <= _RADIX_SLOTS else slot
    return key.argsort(kind="stable")


def single_runs(elements: Elements, slots: int) -> tuple[Runs, Indices]:
    """A run for each element, and which element each is; ``slots`` is more than any slot."""
    order = sort_order(elements.slot, slots)
    slot, iteration, tokens, scheduled, evicted, last = elements.take(order)
    return Runs(slot, iteration, iteration if last is None else last, tokens, scheduled, evicted), order


def long_runs(elements: Elements, slots: int, iterations: int) -> Runs | None:
    """Few runs of many elements; None where that does not pay, or a slot stands in an iteration twice."""
    count = len(elements.slot)
    if not count or slots * (iterations + 1) > _FLAGS_AN_ELEMENT * count + _RADIX_SLOTS:
        return None
    plain = _plain(elements)
    if plain is None:
        return _flagged_runs(elements, slots, iterations)
    if 2 * np.count_nonzero(plain) < count:
        return None
    steady = _flagged_runs(elements.take(plain), slots, iterations)
    return None if steady is None else _joined(steady, elements.take(~plain), slots)


def _plain(elements: Elements) -> Mask | None:
    """Elements that can be part of a run; None = all of them."""
    if elements.tokens is None and elements.scheduled is None:
        return None  # nobody was evicted either: tokens would be given
    plain = np.ones(len(elements.slot), dtype=np.bool_)
    if elements.tokens is not None:
        plain &= elements.tokens == 1
    if elements.evicted is not None:
        plain &= ~elements.evicted
    if elements.scheduled is not None:
        plain &= (elements.scheduled == 1) | (elements.scheduled == UNKNOWN_TOKENS)
    return None if plain.all() else plain


def _flagged_runs(elements: Elements, slots: int, iterations: int) -> Runs | None:
    """Runs of plain elements; the flag before each slot's first stays down, so that no run goes over to the next."""
    width = iterations + 1
    flags = np.zeros(slots * width + 1, dtype=np.bool_)
    inner = flags[1:]
    places = elements.slot * width
    places += elements.iteration
    inner[places] = True
    if np.count_nonzero(flags) != len(places):
        return None
    changes = np.flatnonzero(inner != flags[:-1])
    opens, ends = changes[0::2], changes[1::2]
    slot, begin = np.divmod(opens, width)
    tokens = None if elements.tokens is None else np.ones(len(slot), dtype=np.int64)
    scheduled = None
    if elements.scheduled is not None:
        inner[places] = elements.scheduled == 1
        scheduled = np.where(inner[opens], 1, UNKNOWN_TOKENS)
    evicted = None if elements.evicted is None else np.zeros(len(slot), dtype=np.bool_)
    return Runs(slot, begin, begin + (ends - opens) - 1, tokens, scheduled, evicted)


def _joined(steady: Runs, others: Elements, slots: int) -> Runs:
    """Runs and single elements, by slot and iteration."""
    single = Runs(others.slot, others.iteration, others.iteration, others.tokens, others.scheduled, others.evicted)
    columns = [
        None if first is None or second is None else np.concatenate((first, second))
        for first, second in zip(steady, single, strict=True)
    ]
    both = Runs(*columns)  # type: ignore[arg-type]
    order = both.begin.argsort(kind="stable")
    order = order[sort_order(both.slot[order], slots)]
    return Runs(*[None if column is None else column[order] for column in both])  # type: ignore[arg-type]


def group_starts(slot: Indices) -> tuple[Indices, Mask]:
    """Where each group of equal slots begins, as positions and as a mask."""
    first = np.empty(len(slot), dtype=np.bool_)
    first[:1] = True
    np.not_equal(slot[1:], slot[:-1], out=first[1:])
    return np.flatnonzero(first), first


def covering(begin: Ints, end: Ints, iterations: int) -> Ints:
    """How many of the spans begin .. end hold each iteration; one that ends before it begins holds none."""
    change: Ints = np.bincount(begin, minlength=iterations + 1)
    change -= np.bincount(end + 1, minlength=iterations + 1)
    return change.cumsum()[:iterations]


def longest_within(finished: Floats, begin: Ints, end: Ints) -> Floats:
    """The longest time between two neighbouring iterations of begin .. end; ``nan`` where there is only one.

    By the greatest of every 2^k steps in a row: a span's is the greater of two that overlap.
    """
    longest = np.full(len(begin), np.nan)
    several = np.flatnonzero(end > begin)
    if not len(several):
        return longest
    low, steps = begin[several], end[several] - begin[several]
    level = np.frexp(steps)[1].astype(np.int64) - 1  # the greatest power of two that is not more
    greatest = np.diff(finished)
    for power in range(int(level.max()) + 1):
        if power:
            half = 1 << (power - 1)
            greatest = np.maximum(greatest[:-half], greatest[half:])
        of_level = np.flatnonzero(level == power)
        left = low[of_level]
        right = left + steps[of_level] - (1 << power)
        longest[several[of_level]] = np.maximum(greatest[left], greatest[right])
    return longest
