"""What a process has to publish so that the fleet's counts neither fall nor count anything twice."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import msgspec

from batchscope.publishing.publication import Publication
from batchscope.publishing.subtract import joined, since
from batchscope.statistics.snapshot import MetricsSnapshot

_MOST_GENERATIONS = 8
_SEVERAL = -1


class Continuation:
    """Turns a collector's snapshots into publications.

    Two things happen to a process's counts. ``reset()`` forgets them here, yet the fleet's counters must not
    fall (whoever computes a rate takes a fall for a restart and counts everything again): what an earlier
    generation had counted, when it was last looked at, is carried on. And a reader that took this process for
    dead holds its counts for good: they are left out from then on.
    """

    def __init__(self) -> None:
        self.base = 0
        self._held: MetricsSnapshot | None = None
        self._last: MetricsSnapshot | None = None
        self._ended: dict[int, MetricsSnapshot] = {}
        self._sent: dict[int, MetricsSnapshot] = {}

    def publication(self, snapshot: MetricsSnapshot, *, final: bool) -> Publication:
        """What to publish now; its snapshot is remembered until ``keep`` leaves it out."""
        if self._last is not None and self._last.generation != snapshot.generation:
            self._ended[self._last.generation] = self._last
            if len(self._ended) > _MOST_GENERATIONS:
                self._join(snapshot.generation)
        self._last = self._sent[snapshot.sequence] = snapshot
        content = reduce(lambda whole, part: joined(self._new(part), whole), self._ended.values(), self._new(snapshot))
        return Publication(snapshot.instance_id, self.base, snapshot.sequence, final, content)

    def _new(self, snapshot: MetricsSnapshot) -> MetricsSnapshot:
        """What of ``snapshot`` no reader holds for good."""
        return snapshot if self._held is None else since(snapshot, self._held)

    def keep(self, sequences: Iterable[int]) -> None:
        """No other publications than these can be held by a reader from now on."""
        self._sent = {sequence: self._sent[sequence] for sequence in sequences}
        self._join(min((snapshot.generation for snapshot in self._sent.values()), default=0))

    def _join(self, generation: int) -> None:
        """Make one of all generations before ``generation``: a reader that holds a later one holds them all."""
        old = [self._new(self._ended.pop(one)) for one in sorted(self._ended) if one < generation]
        if old:
            one = reduce(lambda whole, part: joined(part, whole), old)
            self._ended[_SEVERAL] = msgspec.structs.replace(one, generation=_SEVERAL)

    def folded(self, sequence: int) -> None:
        """A reader holds everything up to publication ``sequence`` for good."""
        self._held, self.base = self._sent[sequence], sequence
        self._ended = {one: last for one, last in self._ended.items() if one >= self._held.generation}
