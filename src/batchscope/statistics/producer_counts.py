"""What producers and checks counted themselves: received, lost, rejected, dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from batchscope.aggregation.state import State
from batchscope.recording.producer import EngineCounts, Source
from batchscope.recording.rings import Rings


class Counted(NamedTuple):
    """Counts from outside the aggregates."""

    received: int
    lost: int
    rejected: dict[str, int]
    dropped: int
    engine: EngineCounts = EngineCounts()

    def minus(self, before: Counted) -> Counted:
        """What came since ``before``: writers' counts never restart, so a reset remembers where they stood."""
        rejected = {
            reason: number - before.rejected.get(reason, 0)
            for reason, number in self.rejected.items()
            if number > before.rejected.get(reason, 0)
        }
        return Counted(self.received, self.lost, rejected, self.dropped - before.dropped, self.engine)


def count(state: State, rings: Iterable[Rings], sources: Iterable[Source]) -> Counted:
    """Everything counted so far, by reason; the drain's lock is held."""
    received, lost, dropped = state.requests.untracked, state.requests.lost, 0
    rejected: dict[str, int] = {}
    engine = EngineCounts()
    _add(rejected, state.rejections.counts)
    for writer_rings in list(rings):
        _add(rejected, dict(writer_rings.rejected))
        dropped += writer_rings.dropped
    for source in sources:
        counts = source.counts()
        received += counts.received
        lost += counts.lost
        dropped += counts.dropped
        _add(rejected, counts.rejected)
        engine = engine.plus(counts.engine)
    return Counted(received, lost, rejected, dropped, engine)


def _add(into: dict[str, int], counts: Mapping[str, int]) -> None:
    for reason, number in counts.items():
        into[reason] = into.get(reason, 0) + number
