"""What producers and checks counted themselves: received, lost, rejected, dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from batchscope.aggregation.state import State
from batchscope.reasons import added_up
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
    rejected: list[Mapping[str, int]] = [state.rejections.counts]
    engine = EngineCounts()
    for writer_rings in list(rings):
        rejected.append(dict(writer_rings.rejected))  # in one step: the writer goes on
        dropped += writer_rings.dropped
    for source in sources:
        counts = source.counts()
        received += counts.received
        lost += counts.lost
        dropped += counts.dropped
        rejected.append({str(reason): number for reason, number in counts.rejected.items()})
        engine = engine.plus(counts.engine)
    return Counted(received, lost, added_up(rejected), dropped, engine)
