"""What a tracker was told, slot by slot, and what in it contradicts: a batch's record only has sums."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from math import isnan, nan
from typing import Any

from batchscope.rows import IterationColumn
from batchscope.tracking.events import Arrival, Event, Iteration, Loss
from batchscope.tracking.iteration_batch import FIELDS, singles

C = IterationColumn


class _Life:
    """One request, as far as it was told. ``computed``: scheduled before its first token came; ``nan``: not said."""

    def __init__(self, event: Arrival) -> None:
        self.name = repr(event.request_id)
        self.at = _number(event.at)
        self.prompt = _number(event.prompt_tokens)
        self.rank = _number(event.rank)
        self.placed = self.emitted = False
        self.prefilling = True
        self.computed = 0.0

    def evicted(self) -> None:
        """It has to be prefilled again."""
        self.placed, self.prefilling = False, True

    def took_part(self, tokens: int, scheduled: float) -> None:
        """In a batch: it holds a place, and its prefill ends with the tokens it emits."""
        self.placed = True
        if not self.emitted:
            self.computed += scheduled
        if tokens:
            self.emitted, self.prefilling = True, False


class Heard:
    """One tracker's story. What breaks it is kept until it is asked for: only the whole tells what an engine does."""

    def __init__(self) -> None:
        self._lives: dict[int, _Life] = {}
        self._left: deque[int] = deque([0], maxlen=4)  # who left without a place, between the last iterations
        self._before: dict[float, tuple[float, float]] = {}  # rank: when its last iteration began and ended
        self._iterations = 0
        self._one_queue = False  # somebody waits for whichever rank
        self._speculative = False
        self._waiting: list[str] = []
        self._prefills: list[tuple[str, str]] = []
        self._drafts: list[tuple[str, str]] = []
        self._short: list[tuple[str, float, float, float]] = []
        self._cached = 0.0

    def hear(self, events: Iterable[Event]) -> None:
        """In the order in which it was said."""
        for event in events:
            if isinstance(event, Arrival):
                self._lives[event.handle] = _Life(event)
            elif isinstance(event, Iteration):
                for one in singles(event):
                    self._iteration(one)
            elif (life := self._lives.pop(event.handle, None)) is not None:
                self._left[-1] += not life.placed
                self._finish(life, nan if isinstance(event, Loss) else event.cached_tokens)

    def contradictions(self) -> Iterator[str]:
        """A sentence a kind: of the first one, and how many more there are; what causes others comes first."""
        early = dict(self._early())
        yield from _counted(list(early.values()))
        if len(self._before) == 1 or not self._one_queue:
            yield from _counted(self._waiting)
        for found in (self._drafts, [] if self._speculative else self._prefills):
            yield from _counted([text for name, text in found if name not in early])

    def _early(self) -> Iterator[tuple[str, str]]:
        """By name, the requests whose first token came before their prompt was computed."""
        untold = sum(prompt - computed for _, prompt, computed, cached in self._short if isnan(cached))
        for name, prompt, computed, cached in self._short:
            if isnan(cached) and untold <= self._cached:
                continue
            said = "nothing is said to be cached" if isnan(cached) else f"{cached:.0f} were cached"
            after = f"its first token came after {computed:.0f} of {prompt:.0f} prompt tokens, and {said}"
            advice = "say tokens=0 for a chunk of a prefill, cached_tokens= at the finish for what was not computed"
            yield name, f"request {name}: {after}: {advice}"

    def _finish(self, life: _Life, cached: float) -> None:
        if life.emitted and life.computed + (0 if isnan(cached) else cached) < life.prompt:
            self._short.append((life.name, life.prompt, life.computed, cached))

    def _iteration(self, event: Iteration) -> None:
        started, finished, *values = struct.unpack(f"{2 + len(FIELDS)}d", event.scalars)
        said = dict(zip(FIELDS, values, strict=True))
        name = "" if isnan(said[C.ITERATION_NUMBER]) else f" (number {said[C.ITERATION_NUMBER]:.0f})"
        name = f"iteration {self._iterations}{name}"
        for handle in _whole(event.preempted):
            if handle in self._lives:
                self._lives[handle].evicted()
        self._take_part(event, said[C.DRAFT_TOKENS], name)
        self._cached += 0 if isnan(said[C.CACHED_PROMPT_TOKENS]) else said[C.CACHED_PROMPT_TOKENS]
        rank = 0.0 if isnan(said[C.RANK]) else said[C.RANK]
        began, ended = self._before.get(rank, (nan, nan))
        self._count_waiting(said[C.WAITING_REQUESTS], said[C.DEFERRED_REQUESTS], rank, began, name)
        self._before[rank] = ended if isnan(started) else started, finished
        self._iterations += 1
        self._left.append(0)

    def _take_part(self, event: Iteration, drafts: float, name: str) -> None:
        handles = _whole(event.handles)
        tokens = [1] * len(handles) if event.tokens is None else _whole(event.tokens)
        given = [None] * len(handles) if event.scheduled is None else _whole(event.scheduled)
        spare, most, who = 0, 0, ""
        for handle, emitted, asked in zip(handles, tokens, given, strict=True):
            life = self._lives.get(handle)
            if life is None:
                continue
            scheduled = asked if asked is not None else nan if life.prefilling else 1
            if not life.prefilling and scheduled > 1:
                spare += int(scheduled) - 1
                most, who = max((most, who), (int(scheduled), life.name))
            self._speculative |= emitted > 1
            life.took_part(emitted, scheduled)
        self._speculative |= drafts > 0
        if spare > (0 if isnan(drafts) else drafts):
            found = (
                f"{name}: request {who} computes {most} tokens after its first one came, and nobody said that it was "
                "preempted: say preempted=, in the iteration that evicts; draft_tokens= if they are drafts"
            )
            (self._prefills if isnan(drafts) else self._drafts).append((who, found))

    def _count_waiting(self, waiting: float, deferred: float, rank: float, began: float, name: str) -> None:
        """What the engine says against the requests without a place: all, and those that are there for long."""
        if isnan(waiting):
            return
        without = [life for life in self._lives.values() if not life.placed and (life.rank == rank or isnan(life.rank))]
        self._one_queue |= any(isnan(life.rank) for life in without)
        known = sum(life.at < began for life in without)
        said = waiting + (0 if isnan(deferred) else deferred)
        if said < known:
            self._waiting.append(
                f"{name}: waiting = {waiting:.0f}{_and_deferred(deferred)}, but {known} requests that arrived before "
                "the iteration before it have no place: count the preempted ones, too; give those held back as "
                "deferred_requests"
            )
        if waiting > len(without) + sum(self._left):
            self._waiting.append(
                f"{name}: waiting = {waiting:.0f}, but only {len(without)} requests have no place: a request that has "
                "been in a batch does not wait; one that was preempted is listed in the iteration that evicts it"
            )


def _counted(found: list[str]) -> Iterator[str]:
    """The first, and how many more."""
    if found:
        yield found[0] + (f" (and {len(found) - 1} more like it)" if len(found) > 1 else "")


def _and_deferred(deferred: float) -> str:
    return "" if isnan(deferred) else f" and deferred_requests = {deferred:.0f}"


def _number(value: Any) -> float:
    """``nan`` for what is not given, or refused anyway."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return nan


def _whole(packed: bytes) -> list[Any]:
    return list(struct.unpack(f"{len(packed) // 8}q", packed))
