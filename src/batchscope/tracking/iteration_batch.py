"""The iterations of one drain as arrays: instants, scalar fields, and the elements of all of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from batchscope.reasons import RejectReason
from batchscope.recording.mistakes import instants
from batchscope.rows import Floats, IterationColumn, Trait
from batchscope.tracking.events import Iteration

C = IterationColumn
FIELDS = C.having(Trait.TOLD)
"""What ``Iteration.scalars`` holds after start and finish, in order."""

EACH = (C.MEMORY_BYTES_USED, C.UNSCHEDULED_PREFILL_TOKENS, C.DECODE_CONTEXT_TOKENS, C.KV_CACHE_USAGE)
"""What may differ, beside the end, between iterations in a row with one batch; ``Iteration.each`` holds it."""
_EACH_PLACES = [1, *(2 + FIELDS.index(column) for column in EACH)]
SCALARS = struct.Struct(f"{2 + len(FIELDS)}d")
"""``Iteration.scalars``: start, finish, then ``FIELDS``."""

_MOST_TOKENS = 2**31  # of one slot in one iteration: their sums stay exact
UNKNOWN_TOKENS = int(np.iinfo(np.int64).min)
_ONE = (1).to_bytes(8, "little")
_UNKNOWN = UNKNOWN_TOKENS.to_bytes(8, "little", signed=True)
Ints = npt.NDArray[np.int64]
Reject = Callable[[str, int, str, str], None]


class IterationBatch(NamedTuple):
    """``size`` iterations and their elements, flat, in the order reported.

    An element is a slot in an iteration, or with ``last`` in all of ``iteration`` .. ``last``, a token in each.
    ``position`` is where an iteration stands in the log; ``tokens`` None = one each, ``scheduled`` None = not
    given (``UNKNOWN_TOKENS`` where only some are); ``evicted`` None = nobody was. ``formed`` and ``heads`` are
    those of ``Iteration``.
    """

    position: npt.NDArray[np.int64]
    started: Floats
    finished: Floats
    fields: Floats
    handles: Ints
    iteration: Ints
    tokens: Ints | None
    scheduled: Ints | None
    evicted: npt.NDArray[np.bool_] | None
    formed: npt.NDArray[np.bool_]
    heads: Ints
    last: Ints | None = None

    @property
    def size(self) -> int:
        """How many iterations."""
        return len(self.started)

    @property
    def ranks(self) -> Floats:
        """The rank of each iteration; not given is 0."""
        return np.fmax(self.fields[:, FIELDS.index(C.RANK)], 0.0)

    def spread(self, chosen: npt.NDArray[np.bool_] | None = None) -> IterationBatch:
        """The same with an element for each iteration of the ``chosen`` ones (None: of all)."""
        if self.last is None:
            return self
        until = self.last if chosen is None else np.where(chosen, self.last, self.iteration)
        place, iteration = spread_places(self.iteration, until)
        last = None if chosen is None else np.where(chosen[place], iteration, self.last[place])
        return self._replace(
            handles=self.handles[place],
            iteration=iteration,
            tokens=None if self.tokens is None else self.tokens[place],
            scheduled=None if self.scheduled is None else self.scheduled[place],
            evicted=None if self.evicted is None else self.evicted[place],
            last=last,
        )


def spread_places(iteration: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Elements of iterations ``iteration`` .. ``last`` as elements of one each: which each was, and its iteration.

    In the order of iterations, and within one as they were.
    """
    counts = last - iteration + 1
    place = np.repeat(np.arange(len(iteration)), counts)
    within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
    spread: Ints = iteration[place] + within
    order = spread.argsort(kind="stable")
    return place[order], spread[order]


def singles(event: Iteration) -> list[Iteration]:
    """The iterations that ``event`` is, one by one, as if each had been told by itself."""
    if not event.each:
        return [event]
    scalars = list(SCALARS.unpack(event.scalars))
    found: list[Iteration] = []
    for values in zip(*[memoryview(column).cast("d") for column in event.each], strict=True):
        if found:
            scalars[0] = scalars[1]  # it began when the one before ended
        for place, value in zip(_EACH_PLACES, values, strict=True):
            scalars[place] = value
        found.append(msgspec.structs.replace(event, scalars=SCALARS.pack(*scalars), repeats=1, each=()))
    return found


def gather(positions: Sequence[int], events: Sequence[Iteration], reject: Reject) -> IterationBatch:
    """Arrays of those iterations whose values are fit; the others are given to ``reject`` by reason."""
    scalars = np.frombuffer(b"".join([event.scalars for event in events])).reshape(len(events), 2 + len(FIELDS))
    repeats = np.array([event.repeats for event in events], dtype=np.int64)
    several = repeats.max(initial=1) > 1
    if several:
        scalars = _each(scalars, repeats, events)
    started, finished, fields = scalars[:, 0].copy(), scalars[:, 1].copy(), scalars[:, 2:]
    reasons = _unfit(started, finished, fields)
    if not reasons:
        batch = _flatten(positions, events, started, finished, fields)
        reasons = _unfit_tokens(batch)
        if not reasons:
            return _repeated(batch, repeats) if several else batch
    if several:  # which of them are unfit is found one by one
        positions = np.repeat(positions, repeats).tolist()
        return gather(positions, [one for event in events for one in singles(event)], reject)
    for row, reason in reasons.items():
        reject(reason, 1, "iteration", _given(float(started[row]), float(finished[row]), fields[row]))
    kept = [row for row in range(len(events)) if row not in reasons]
    return gather([positions[row] for row in kept], [events[row] for row in kept], reject)


def _each(scalars: Floats, repeats: Ints, events: Sequence[Iteration]) -> Floats:
    """The scalars of every iteration, of events that are several, too."""
    rows = np.repeat(scalars, repeats, axis=0)
    first = np.cumsum(repeats) - repeats
    further = np.repeat(repeats > 1, repeats)
    columns = zip(*[event.each for event in events if event.repeats > 1], strict=True)
    for place, parts in zip(_EACH_PLACES, columns, strict=True):
        rows[further, place] = np.frombuffer(b"".join(parts))
    further[first] = False
    later = np.flatnonzero(further)
    rows[later, 0] = rows[later - 1, 1]
    return rows


def _repeated(batch: IterationBatch, repeats: Ints) -> IterationBatch:
    """A batch of events as one of iterations: who decodes is one element in all that an event is, the rest several."""
    until = np.cumsum(repeats)
    first, last = (until - repeats)[batch.iteration], (until - 1)[batch.iteration]
    batch = batch._replace(
        position=np.repeat(batch.position, repeats), iteration=first, last=last,
        formed=np.repeat(batch.formed, repeats), heads=np.repeat(batch.heads, repeats),
    )  # fmt: skip
    chunks = _chunks(batch) & (last > first)
    return batch.spread(chunks | _with_doubles(batch, chunks)) if chunks.any() else batch


def _with_doubles(batch: IterationBatch, chunks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Elements of what has chunks and names a slot twice: which of the two counts is settled in each iteration."""
    mixed = np.isin(batch.iteration, batch.iteration[chunks])
    iteration, handles = batch.iteration[mixed], batch.handles[mixed]
    order = np.lexsort((handles, iteration))
    iteration, handles = iteration[order], handles[order]
    double = (iteration[1:] == iteration[:-1]) & (handles[1:] == handles[:-1])
    return np.isin(batch.iteration, iteration[1:][double])


def _chunks(batch: IterationBatch) -> npt.NDArray[np.bool_]:
    """Elements that do not decode one token."""
    found = np.zeros(len(batch.handles), dtype=np.bool_)
    if batch.tokens is not None:
        found |= batch.tokens != 1
    if batch.scheduled is not None:
        found |= (batch.scheduled != 1) & (batch.scheduled != UNKNOWN_TOKENS)
    return found


def _given(started: float, finished: float, fields: Floats) -> str:
    """What an iteration said, for a message: its instants, and the values that are not finite numbers >= 0."""
    odd = [f"{field.name.lower()} = {value:g}" for field, value in zip(FIELDS, fields, strict=True) if value < 0]
    odd += [f"{field.name.lower()} = {value:g}" for field, value in zip(FIELDS, fields, strict=True) if np.isinf(value)]
    return ", ".join(odd) or instants(f"started_at = {started:.3f}, finished_at = {finished:.3f}", started, finished)


def _unfit(started: Floats, finished: Floats, fields: Floats) -> dict[int, str]:
    """Row -> reason for iterations with impossible instants or values."""
    reasons: dict[int, str] = {}
    checks = (
        (_rows_with(np.isinf(fields)) | ~np.isfinite(finished) | np.isinf(started), RejectReason.INFINITE),
        (_rows_with(fields < 0), RejectReason.NEGATIVE),
        (finished < started, RejectReason.OUT_OF_ORDER),
    )
    for bad, reason in checks:
        if bad.any():
            for row in np.flatnonzero(bad).tolist():
                reasons.setdefault(row, reason)
    return reasons


def _rows_with(found: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Rows in which anything is found. (``any`` of an axis takes ten times as long where nothing is.)"""
    rows = np.zeros(len(found), dtype=np.bool_)
    rows[np.flatnonzero(found) // found.shape[1]] = True
    return rows


def _flatten(
    positions: Sequence[int], events: Sequence[Iteration], started: Floats, finished: Floats, fields: Floats
) -> IterationBatch:
    handles, preempted = [event.handles for event in events], [event.preempted for event in events]
    told, planned = [event.tokens for event in events], [event.scheduled for event in events]
    evicts = any(preempted)
    parts = [part for pair in zip(preempted, handles, strict=True) for part in pair] if evicts else handles
    lengths = np.array(list(map(len, parts)), dtype=np.int64) >> 3
    counts = lengths.reshape(len(events), 1 + evicts).sum(axis=1)
    return IterationBatch(
        np.array(positions, dtype=np.int64), started, finished, fields,
        np.frombuffer(b"".join(parts), dtype=np.int64),
        np.repeat(np.arange(len(events)), counts),
        _column(preempted, handles, told, _ONE) if evicts or any(told) else None,
        _column(preempted, handles, planned, _UNKNOWN) if any(planned) else None,
        np.repeat(np.arange(len(parts)) % 2 == 0, lengths) if evicts else None,
        np.array([event.formed for event in events], dtype=np.bool_),
        np.array([event.head for event in events], dtype=np.int64),
    )  # fmt: skip


def _column(
    preempted: Sequence[bytes], handles: Sequence[bytes], given: Sequence[bytes | None], default: bytes
) -> Ints:
    """One value an element: 0 for the evicted, then what was given, or ``default`` for each handle."""
    parts: list[bytes] = []
    for evicted, slots, values in zip(preempted, handles, given, strict=True):
        parts += (bytes(len(evicted)), default * (len(slots) >> 3) if values is None else values)
    return np.frombuffer(b"".join(parts), dtype=np.int64)


def _unfit_tokens(batch: IterationBatch) -> dict[int, str]:
    """Row -> reason for iterations in which a slot has a number of tokens that cannot be."""
    reasons: dict[int, str] = {}
    for column in (batch.tokens, batch.scheduled):
        if column is None:
            continue
        bad = column.view(np.uint64) > _MOST_TOKENS  # the negative ones, too
        if column is batch.scheduled:
            bad &= column != UNKNOWN_TOKENS
        for place in np.flatnonzero(bad).tolist():
            reasons.setdefault(
                int(batch.iteration[place]), RejectReason.NEGATIVE if column[place] < 0 else RejectReason.TOO_LARGE
            )
    return reasons
