"""Who is in a fleet, who of them is alive, and what all have counted together: the core of a reader.

Time is an argument: seconds of the reader's own monotonic clock. No process id, no file time and no other
host's clock says whether a process lives; only whether its ``sequence`` still grows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple

from batchscope.publishing.archive import Archive, ArchiveHeader
from batchscope.publishing.publication import Publication
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.totals import Gauges

_QUIETS = 2
"""How many promised silences a process is waited for: the next publication may be late."""


class Member(NamedTuple):
    """A publication that counts, and when a reader first saw it.

    ``claimed``: a reader has taken it for good; its process, if it lives, publishes only what came after.
    """

    publication: Publication
    changed_at: float
    claimed: bool = False


class Processes(NamedTuple):
    """Instance -> gauges of the living; how many are gone; ``trouble``: why the place could not be read."""

    living: dict[str, Gauges]
    gone: int
    trouble: str = ""


class Members:
    """What counts: the archive, and of each instance the publications that neither overlap it nor each other."""

    def __init__(self, dead_after: float) -> None:
        self.dead_after = dead_after
        self.archive = Archive()
        self._members: dict[tuple[str, int], Member] = {}

    def update(self, seen: Iterable[tuple[Publication, bool]], archive: Archive, now: float) -> list[Publication]:
        """Replace everything by what was ``seen`` (each with whether it is claimed) beside ``archive``.

        Returns what is partly in the archive already and cannot count until it is published again.
        """
        overlapping: list[Publication] = []
        found: dict[tuple[str, int], Member] = {}
        for publication, claimed in _chains(seen, archive.header):
            if publication.base < archive.header.sequence(publication.instance):
                overlapping.append(publication)
                continue
            key = (publication.instance, publication.base)
            old = self._members.get(key)
            still = old is not None and old.publication.sequence >= publication.sequence
            found[key] = Member(publication, old.changed_at if still and old is not None else now, claimed)
        self.archive, self._members = archive, found
        return overlapping

    def __len__(self) -> int:
        return len(self._members)

    def lives(self, member: Member, now: float) -> bool:
        """Whether its gauges and rates are of the present."""
        publication = member.publication
        patience = max(self.dead_after, _QUIETS * publication.quiet_seconds)
        return not publication.final and not member.claimed and now - member.changed_at < patience

    def living(self, now: float) -> list[MetricsSnapshot]:
        """Snapshots of the living, in a fixed order."""
        return [member.publication.snapshot for member in self._ordered() if self.lives(member, now)]

    def gone(self, now: float) -> list[Member]:
        """The others, in a fixed order: their counts are kept."""
        return [member for member in self._ordered() if not self.lives(member, now)]

    def processes(self, now: float) -> Processes:
        """Who lives; a process of which the archive holds a part and that lives is not gone."""
        header = self.archive.header
        living = {snapshot.instance_id: snapshot.gauges for snapshot in self.living(now)}
        gone = {member.publication.instance for member in self.gone(now)} - living.keys()
        new = sum(not header.sequence(instance) for instance in gone)
        back = sum(header.sequence(instance) > 0 for instance in living)
        return Processes(living, max(header.processes - back, 0) + new)

    def _ordered(self) -> list[Member]:
        return [self._members[key] for key in sorted(self._members)]


def _chains(seen: Iterable[tuple[Publication, bool]], held: ArchiveHeader) -> Iterator[tuple[Publication, bool]]:
    """Of each instance the latest publication, then the latest that ends where that begins, and so on.

    What lies between was published by a process before it learnt that a reader had taken its counts. What the
    archive covers is left out. Of a file that was just claimed both names may have been seen: it is claimed.
    """
    by_instance: dict[str, dict[tuple[int, int], tuple[Publication, bool]]] = {}
    for publication, claimed in sorted(seen, key=itemgetter(1)):
        span = (publication.sequence, publication.base)
        by_instance.setdefault(publication.instance, {})[span] = (publication, claimed)
    for instance, spans in by_instance.items():
        limit = math.inf
        for sequence, base in sorted(spans, reverse=True):
            if held.sequence(instance) < sequence <= limit:
                limit = base
                yield spans[sequence, base]
