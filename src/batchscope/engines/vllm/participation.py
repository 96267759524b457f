"""Who took part in which of vLLM's iterations, followed from batch changes: spans, and the instants of requests.

A rank's batch is known from a whole change on, and no more after a step that was not heard of. Where an id could be two
requests' (answers to one prompt, an id that came again), its finish is nobody's: no span is ever given to another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from batchscope.engines.vllm.batch_changes import BatchChange, decoded_change
from batchscope.engines.vllm.classes import names_of
from batchscope.engines.vllm.facts import Event
from batchscope.engines.vllm.fields import FINISHED, SCHEDULER
from batchscope.recording.rings import Numbering
from batchscope.rows import Floats, IterationColumn, RowKind, Rows, SpanColumn, empty_rows

_STAGES, _ID = SCHEDULER.index("num_kv_fetch_reqs_by_stage"), FINISHED.index("request_id")
_I = IterationColumn


class Followed(NamedTuple):
    """A request: its number in the run (0: none yet), its ids, what it takes (None: in no batch), and when it did what.

    ``since`` is the place of its run's first iteration among those of the drain; a run that began before has 0.
    """

    number: int
    ids: tuple[str, ...]
    take: tuple[int, int] | None = None
    since: int = 0
    scheduled_at: float = math.nan
    first_token_at: float = math.nan
    last_token_at: float = math.nan
    longest_gap: float = math.nan

    def emitted(self, ends: Floats) -> Followed:
        """With a token or more at each of these instants."""
        known = ends if math.isnan(self.last_token_at) else np.concatenate(([self.last_token_at], ends))
        longest = float(np.fmax(self.longest_gap, np.diff(known).max())) if len(known) > 1 else self.longest_gap
        first = float(ends[0]) if math.isnan(self.first_token_at) else self.first_token_at
        return self._replace(first_token_at=first, last_token_at=float(ends[-1]), longest_gap=longest)


class Finish(NamedTuple):
    """What is known of a finished request: ``nan`` where its id was followed nowhere, or is not one request's."""

    number: float = math.nan
    scheduled_at: float = math.nan
    first_token_at: float = math.nan
    last_token_at: float = math.nan
    longest_gap: float = math.nan


_NOBODY = Finish()


class _Rank(NamedTuple):
    """One rank's requests by the scheduler's numbers, the numbers that each id may mean, and the last step heard of.

    ``finished``: who has finished and may still be in a batch that was scheduled before.
    """

    requests: dict[int, Followed]
    by_id: dict[str, tuple[int, ...]]
    finished: frozenset[int] = frozenset()
    step: int | None = None

    def __deepcopy__(self, memo: object) -> _Rank:
        return self._replace(requests=dict(self.requests), by_id=dict(self.by_id))


class Participation:
    """Follows the ranks of one front end, drain by drain; a deep copy is a shallow one of what never changes."""

    def __init__(self) -> None:
        self._ranks: dict[Any, _Rank] = {}

    def follow(
        self, events: Sequence[Event], places: Sequence[int], rows: Floats, numbering: Numbering | None
    ) -> tuple[Rows | None, list[Finish]]:
        """SPAN rows, and a ``Finish`` for each finished request of ``events``, in their order.

        ``places``: of each event the place of its iteration in ``rows``, -1 where it has none. ``numbering`` None:
        nobody wants spans, and none are made.
        """
        walks: dict[Any, _Walk] = {}
        finishes = []
        for event, place in zip(events, places, strict=True):
            _, rank, _, scheduler, outputs = event
            if rank not in walks:
                known = self._ranks.get(rank) or _Rank({}, {})
                walks[rank] = _Walk(known, rows[rows[:, _I.RANK] == float(rank or 0)], numbering)
            walk = walks[rank]
            if scheduler is not None:
                walk.step(decoded_change(scheduler[_STAGES]), has_iteration=place >= 0)
            finishes += [walk.finish(said[_ID]) for said in (outputs.finished if outputs is not None else ())]
        for rank, walk in walks.items():
            self._ranks[rank] = walk.ended()
        spans = [span for walk in walks.values() for span in walk.spans]
        return (_span_rows(spans) if spans else None), finishes


class _Walk:
    """One rank's iterations of one drain, gone through in their order."""

    def __init__(self, rank: _Rank, rows: Floats, numbering: Numbering | None) -> None:
        self._requests, self._by_id = dict(rank.requests), dict(rank.by_id)
        self._finished = set(rank.finished)
        self._last_step = rank.step
        self._starts, self._ends = rows[:, _I.STARTED_AT], rows[:, _I.FINISHED_AT].copy()
        self._ordinals = rows[:, _I.ORDINAL]
        self._numbering = numbering
        self._place = -1
        self.spans: list[tuple[float, ...]] = []

    def step(self, change: BatchChange | None, *, has_iteration: bool) -> None:
        """A step of the engine: an iteration, or one in which nothing ran."""
        follows = change is not None and (change.whole or change.step - 1 == self._last_step)
        if change is None or not follows:
            self._lose()
        self._place += has_iteration
        if change is None or not follows:
            return
        self._last_step = change.step
        self._change(change, has_iteration=has_iteration)

    def _change(self, change: BatchChange, *, has_iteration: bool) -> None:
        before = self._place - has_iteration
        for number, name in change.names.items():
            self._name(number, name)
        takes = {number: (computed, emitted) for number, computed, emitted in change.takes}
        if change.whole:
            self._stop([number for number, one in self._requests.items() if one.take is not None], before)
        self._stop([*change.left, *change.evicted, *takes], before)
        if has_iteration:
            for number, take in takes.items():
                self._take(number, take)
            for number in change.evicted:
                self._evict(number)
        for number in change.gone:
            self._drop(number)
            self._finished.discard(number)

    def finish(self, request_id: Any) -> Finish:
        """The request that finished with the last step."""
        numbers = self._by_id.get(request_id, ()) if isinstance(request_id, str) else ()
        if len(numbers) != 1:
            return _NOBODY
        self._stop(numbers, self._place)
        one = self._numbered(numbers[0])
        self._drop(numbers[0])
        self._finished.add(numbers[0])
        number = float(one.number) if one.number else math.nan
        return Finish(number, one.scheduled_at, one.first_token_at, one.last_token_at, one.longest_gap)

    def ended(self) -> _Rank:
        """What is known behind the last one: runs go on with the next drain's first."""
        going = [number for number, one in self._requests.items() if one.take is not None]
        takes = {number: self._requests[number].take for number in going}
        self._stop(going, self._place)
        self._requests |= {number: self._requests[number]._replace(take=takes[number], since=0) for number in going}
        return _Rank(self._requests, self._by_id, frozenset(self._finished), self._last_step)

    def _lose(self) -> None:
        """A step was not heard of, or says nothing: who is in the batch is not known until a whole one comes."""
        self._stop([number for number, one in self._requests.items() if one.take is not None], self._place)
        self._last_step = None

    def _name(self, number: int, name: str) -> None:
        if number in self._requests or number in self._finished:
            return
        ids = names_of(name)
        self._requests[number] = Followed(0, ids)
        for one in ids:
            self._by_id[one] = (*self._by_id.get(one, ()), number)

    def _drop(self, number: int) -> None:
        one = self._requests.pop(number, None)
        for name in () if one is None else one.ids:
            left = tuple(other for other in self._by_id.get(name, ()) if other != number)
            if left:
                self._by_id[name] = left
            else:
                self._by_id.pop(name, None)

    def _take(self, number: int, take: tuple[int, int]) -> None:
        one = self._requests.get(number)
        if one is not None:
            began = one.scheduled_at if one.scheduled_at >= 0 else float(self._starts[self._place])
            self._requests[number] = one._replace(take=take, since=self._place, scheduled_at=began)

    def _stop(self, numbers: Iterable[int], last: int) -> None:
        """Those of them that took part did so up to ``last``."""
        for number in numbers:
            one = self._requests.get(number)
            if one is None or one.take is None:
                continue
            computed, emitted = one.take
            if last >= one.since:
                self._span(number, one.since, last, emitted, computed)
                one = self._requests[number]
                if emitted:
                    one = one.emitted(self._ends[one.since : last + 1])
            self._requests[number] = one._replace(take=None)

    def _evict(self, number: int) -> None:
        if number in self._requests:
            self._span(number, self._place, self._place, 0, 0, evicted=1)

    def _span(self, number: int, first: int, last: int, emitted: int, computed: int, *, evicted: int = 0) -> None:
        if self._numbering is None:
            return
        own = self._numbered(number).number
        ends, begins = self._ends, self._ordinals
        if emitted == 1 or first == last:
            self.spans.append((ends[last], own, begins[first], last - first + 1, emitted, computed, evicted))
            return
        self.spans += [(ends[at], own, begins[at], 1, emitted, computed, 0) for at in range(first, last + 1)]

    def _numbered(self, number: int) -> Followed:
        """With a number of its own in the run, where somebody wants them."""
        one = self._requests[number]
        if not one.number and self._numbering is not None:
            one = self._requests[number] = one._replace(number=self._numbering.requests(1))
        return one


def _span_rows(spans: Sequence[tuple[float, ...]]) -> Rows:
    rows = empty_rows(RowKind.SPAN, len(spans))
    rows[:, SpanColumn.AT : SpanColumn.EVICTED + 1] = spans
    return Rows(RowKind.SPAN, rows)
