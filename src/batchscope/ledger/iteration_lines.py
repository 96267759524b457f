"""Iterations as lines of time: what held those who waited, instant by instant, and when nothing ran.

A *line* is one rank's iterations in their order. An attempt to admit is made when an iteration starts, so what stopped
it holds everybody who waits until the next one starts, or until the line has nothing to run; from then on the time is
*between iterations*. Where an iteration's number is missing, that time is *unknown*: it was rejected, or lost.

Instants are whole *ticks* of a power of two of seconds (about 1e-12 s, coarser for runs of months), so that sums of
millions of parts are exact, and parts that follow from instants add up to the whole.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchscope.recording.rings import Numbering
from batchscope.records import BatchLimiter

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_BITS = 60
_FINEST = 40
"""2**-40 s: below what a float64 resolves of a clock that has run for a day."""


def numbers(table: pa.Table, name: str) -> Floats:
    """A column as float64, ``nan`` for null."""
    column = table.column(name)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    found: Floats = column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64, copy=False)
    return found


class Ticks(NamedTuple):
    """Seconds of the run's clock as whole ticks since ``origin``, 2**-``power`` s each."""

    origin: float
    power: int

    @classmethod
    def spanning(cls, *columns: Floats) -> Ticks:
        """The finest that hold all these instants."""
        known = [column[np.isfinite(column)] for column in columns]
        known = [column for column in known if len(column)]
        if not known:
            return cls(0.0, _FINEST)
        origin = min(float(column.min()) for column in known)
        length = max(float(column.max()) for column in known) - origin
        return cls(origin, min(_FINEST, _BITS - int(np.ceil(np.log2(max(length, 1.0)))) - 1))

    def of(self, seconds: Floats) -> Ints:
        """Instants in ticks; those that are not known as 0: ask beforehand."""
        return self.lasting(seconds - self.origin)

    def lasting(self, seconds: Floats) -> Ints:
        """Durations in ticks; those that are not known as 0."""
        return np.rint(np.ldexp(np.nan_to_num(seconds), self.power)).astype(np.int64)

    def seconds(self, ticks: Ints) -> Floats:
        """Durations in seconds."""
        return np.ldexp(ticks.astype(np.float64), -self.power)


class Holding(NamedTuple):
    """Of each iteration, from when to when what stopped its attempt to admit held; ``code`` in ``Lines.limiters``."""

    begin: Ints
    end: Ints
    code: Ints


class Lines:
    """All iterations of a run, line after line; an iteration is known by its place in that order.

    ``ends`` are those of the line so far (the greatest), ``own`` is what an iteration adds to them, ``idle`` what lies
    between it and the end before it: together they are the whole time of a line. ``begins_late``: there were iterations
    before the first one; else nothing ran until then.
    """

    def __init__(self, iterations: pa.Table, ticks: Ticks, *, begins_late: bool = False) -> None:
        ordinal = iterations.column("iteration").to_numpy()
        order = np.argsort(ordinal, kind="stable")
        started, finished = (numbers(iterations, name)[order] for name in ("started_at", "finished_at"))
        known = np.isfinite(started) & np.isfinite(finished)
        self.rows = order[known]
        """Which rows of the table they are."""
        self.ticks = ticks
        self.begins_late = begins_late
        self.ordinal = ordinal[order][known].astype(np.int64)
        self.line = (self.ordinal - 1) // Numbering.LINE
        self.first: Ints = np.flatnonzero(np.diff(self.line, prepend=-1)).astype(np.int64)
        """Where each line begins."""
        self._line_ends = np.append(self.first[1:], len(self.line))[: len(self.first)]
        self.starts = self._greatest_so_far(ticks.of(started[known]))
        self.ends = self._greatest_so_far(np.maximum(ticks.of(finished[known]), self.starts))
        before, opens = np.roll(self.ends, 1), np.zeros(len(self.ordinal), dtype=np.bool_)
        opens[self.first] = True
        before[opens] = self.starts[opens]
        self.own = self.ends - np.maximum(self.starts, before)
        self.idle = np.maximum(self.starts - before, 0)
        self.lost = (np.diff(self.ordinal, prepend=0) != 1) & ~opens
        """Before this one there was another, of which nothing is known."""
        codes = _limiters(iterations).take(pa.array(self.rows))
        self.limiters: list[str] = codes.dictionary.to_pylist()
        """The limiters that occur, and ``unknown``."""
        if BatchLimiter.UNKNOWN not in self.limiters:
            self.limiters.append(BatchLimiter.UNKNOWN)
        self._code = codes.indices.to_numpy()
        self._cumulate()

    def _greatest_so_far(self, instants: Ints) -> Ints:
        """Line by line."""
        found = instants.copy()
        for begin, end in zip(self.first, self._line_ends, strict=True):
            np.maximum.accumulate(instants[begin:end], out=found[begin:end])
        return found

    def _cumulate(self) -> None:
        """What every iteration's attempt held, and what lies between, summed up from the first one on."""
        last = np.zeros(len(self.ordinal), dtype=np.bool_)
        last[self._line_ends - 1] = True
        following = np.where(last, self.ends, np.roll(self.starts, -1))
        self._held = np.minimum(following, self.ends) - self.starts
        self._silent = np.roll(self.lost, -1) & ~last
        rest = np.maximum(following - self.ends, 0)
        columns = [np.where(self._code == code, self._held, 0) for code in range(len(self.limiters))]
        columns += [np.where(self._silent, 0, rest), np.where(self._silent, rest, 0)]
        self._sums = [np.concatenate(([0], np.cumsum(column))) for column in columns]

    def __len__(self) -> int:
        return len(self.ordinal)

    def attempt_before(self, instant: Ints, line: Ints, *, side: str = "right") -> Ints:
        """The last iteration of ``line`` that started until ``instant`` (``left``: before it); -1 where none did."""
        found = np.full(len(instant), -1, dtype=np.int64)
        for number in np.unique(line).tolist():
            place = int(np.searchsorted(self.line[self.first], number))
            if place == len(self.first) or self.line[self.first[place]] != number:
                continue
            begin, end = int(self.first[place]), int(self._line_ends[place])
            mine = line == number
            at = self.starts[begin:end].searchsorted(instant[mine], side=side) + begin - 1  # type: ignore[call-overload]
            found[mine] = np.where(at < begin, -1, at)
        return found

    def rest_of_iteration(self, instant: Ints, line: Ints) -> Ints:
        """The instant until which nobody could be admitted: the iteration in which ``instant`` lies ran on."""
        attempt = self.attempt_before(instant, line, side="left")
        ran_until = self.starts[attempt] + self._held[attempt] if len(self) else instant
        return np.where(attempt >= 0, np.maximum(instant, ran_until), instant)

    def holding(self) -> Holding:
        """Each iteration's attempt."""
        return Holding(self.starts, self.starts + self._held, self._code)

    def held(self, begin: Ints, end: Ints, line: Ints) -> list[Ints]:
        """What held from ``begin`` to ``end``: by limiter in the order of ``limiters``, then between, then unknown.

        They add up to ``end - begin``, for ``end >= begin``.
        """
        if not len(self):
            return [np.zeros(len(begin), dtype=np.int64)] * (len(self.limiters) + 1) + [end - begin]
        until, since = self._until(end, line), self._until(begin, line)
        found = [after - before for after, before in zip(until, since, strict=True)]
        rest = (end - begin) - np.sum(found, axis=0)  # before the line's first iteration
        idle = np.isin(line, self.line[self.first]) & (not self.begins_late)
        found[-2] += np.where(idle, rest, 0)
        found[-1] += np.where(idle, 0, rest)
        return found

    def _until(self, instant: Ints, line: Ints) -> list[Ints]:
        """The same from the first iteration of all on."""
        attempt = self.attempt_before(instant, line)
        known = attempt >= 0
        begins = self.first[np.minimum(self.line[self.first].searchsorted(line), len(self.first) - 1)]
        place = np.where(known, attempt, begins)
        into = np.where(known, instant - self.starts[place], 0)
        held = np.minimum(into, self._held[place])
        idle, silent = into - held, self._silent[place]
        *limited, between, unknown = self._sums
        return [
            *(sums[place] + np.where(self._code[place] == code, held, 0) for code, sums in enumerate(limited)),
            between[place] + np.where(silent, 0, idle),
            unknown[place] + np.where(silent, idle, 0),
        ]


def _limiters(iterations: pa.Table) -> pa.DictionaryArray:
    """Who held each iteration, ``unknown`` where nobody said."""
    column = iterations.column("limited_by").cast(pa.string()).fill_null(str(BatchLimiter.UNKNOWN))
    return column.combine_chunks().dictionary_encode()
