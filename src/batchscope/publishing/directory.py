"""SnapshotDirectory: what many processes published into one directory, read as one."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from batchscope.background import Closing, Periodic, RateLimitedLog, forked
from batchscope.checks import checked_labels
from batchscope.clock import Clock
from batchscope.errors import BusyError, ConfigurationError
from batchscope.publishing.archive import Archive
from batchscope.publishing.compaction import Compactor
from batchscope.publishing.files import Listing, Published, listing, make_directory, usable_path, writable_by_everybody
from batchscope.publishing.frame import FOREIGN
from batchscope.publishing.liveness import Members, Processes
from batchscope.publishing.merge_fleet import combine, steady
from batchscope.publishing.publication import Publication
from batchscope.publishing.reader import PublishedFiles
from batchscope.publishing.skipped import SkippedFiles, Untold
from batchscope.statistics.cumulative import CumulativeState, cumulative_of
from batchscope.statistics.merge_parts import common
from batchscope.statistics.snapshot import MetricsSnapshot

OVERLAPPING = "overlapping"
_LOOKS = 20


class SnapshotDirectory(Closing):
    """Reads, merges and tidies a directory that ``SnapshotPublisher`` writes into: a source as a collector is one.

    Its counters never fall while it lives. A scrape within ``max_age`` seconds of the one before gets the same
    merge. ``skipped`` counts, by reason, what could not be used; snapshots show it among ``rejected_records``.
    Its labels are those that all processes agree on, dead or alive: they only ever become fewer. ``labels`` are
    what they are instead, from the start: then no series of the sum ever changes its name.

    A process whose sequence has not grown for ``dead_after`` seconds of this reader's clock is dead, or for twice
    as long as it said it may be silent where that is more (8 s with the publisher's own interval): its counts stay,
    its gauges and rates go; if it wakes up it is back, and nothing was counted twice. The dead are folded into an
    archive, so nothing grows with restarts. Any number of readers may do that to one directory; ``compact=False``
    only reads. ``interval`` (seconds) looks regularly in a thread, so that a scrape finds most files decoded and
    the directory is tidied without scrapes; None: only when it is read. The directory must exist or be made here
    (ConfigurationError); what cannot be read later is skipped, counted and logged.

    Nothing in it is followed, waited for or deleted that is not what publishers and readers write there: links,
    FIFOs and other files are left alone. A directory that every user of the machine can write to is warned of:
    whoever can write there can forge counts.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        dead_after: float = 10.0,
        max_age: float = 0.25,
        compact: bool = True,
        interval: float | None = None,
        labels: Mapping[str, str] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        for field, value, least in (("dead_after", dead_after, 0.0), ("max_age", max_age, -1.0)):
            if not (isinstance(value, int | float) and least < value < threading.TIMEOUT_MAX):
                raise ConfigurationError(field, value, "seconds > 0" if least == 0 else "seconds >= 0")
        self._clock = clock
        self._fixed = None if labels is None else checked_labels(labels)
        self._common: dict[str, str] | None = None
        self._trouble = ""
        self._max_age = float(max_age)
        self._members = Members(float(dead_after))
        self._untold = Untold()
        self._skips = SkippedFiles(self._untold)
        self._closed = False
        self._sequence = 0
        self._merged: MetricsSnapshot | None = None
        self._merged_at = 0.0
        self._lock = threading.RLock()
        self._directory, open_to_all = _made(directory)
        self._files = PublishedFiles(self._directory, self._skips)
        self._log = RateLimitedLog(self._untold, clock=clock)
        if open_to_all:
            self._log.warning(
                "writable",
                "batchscope: every user of this machine can write to %s, and so forge or delete counts: chmod o-w it",
                self._directory,
            )
            self._untold.tell()
        self._compactor = Compactor(self._directory, self._log) if compact else None
        self._periodic = None if interval is None else Periodic(self.get_snapshot, interval, "batchscope-directory")
        forked(self)
        if self._periodic is not None:
            self._periodic.start()

    @property
    def skipped(self) -> dict[str, int]:
        """What could not be used, by reason, each file or peer once."""
        return dict(self._skips.counts)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called: the last merge stays readable."""
        return self._closed

    def get_snapshot(self) -> MetricsSnapshot:
        """The merge of all: counts of the living and the dead, gauges and rates of the living."""
        with self._reading():
            now = self._clock()
            if self._merged is None or (now - self._merged_at >= self._max_age and not self._closed):
                self._merged, self._merged_at = self._merge(now), now
            return self._merged

    def read_totals(self) -> CumulativeState:
        """The cumulative part of the same merge."""
        return cumulative_of(self.get_snapshot())

    def living(self) -> list[str]:
        """The instances that were alive at the last look."""
        with self._reading():
            return [snapshot.instance_id for snapshot in self._members.living(self._clock())]

    def snapshots(self) -> list[tuple[MetricsSnapshot, bool]]:
        """Each process's own snapshot as of the last look, and whether it lives; not those in the archive."""
        with self._reading():
            now, members = self._clock(), self._members
            gone = [member.publication.snapshot for member in members.gone(now)]
            living = members.living(now)
        alive = {snapshot.instance_id for snapshot in living}
        return [(one, True) for one in living] + [(one, False) for one in gone if one.instance_id not in alive]

    def processes(self) -> Processes:
        """Who lives and how many are gone, as of the last look, and why that look failed if it did."""
        with self._reading():
            return self._members.processes(self._clock())._replace(trouble=self._trouble)

    def close(self) -> None:
        """Stop reading, after a last look when there is a thread; it can be called again."""
        if self._periodic is not None:
            self._periodic.close()
        self._closed = True

    def _merge(self, now: float) -> MetricsSnapshot:
        if not self._closed:
            self._refresh(now)
        self._sequence += 1
        archived = self._members.archive.counts
        gone = [member.publication.snapshot for member in self._members.gone(now)]
        whole = combine(
            self._members.living(now), [*([archived] if archived is not None else []), *gone],
            lambda instance, why: self._skips.skip(instance, "unmergeable", why),
        )  # fmt: skip
        whole = self._skips.shown_in(whole)
        whole = msgspec.structs.replace(whole, generation=0, sequence=self._sequence, labels=self._labels(whole))
        return whole if self._merged is None else steady(whole, self._merged)

    def _labels(self, whole: MetricsSnapshot) -> dict[str, str]:
        """The labels of the sum: fixed, or those that nobody who was ever seen contradicts."""
        if self._fixed is not None:
            return self._fixed
        if self._members.archive.counts is not None or len(self._members):
            known = [whole.labels] if self._common is None else [self._common, whole.labels]
            self._common = common(known)
        return self._common or {}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """What holds the lock; BusyError where this thread does already: a signal handler or a finalizer."""
        if self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001  (see ``Draining``)
            raise BusyError("this thread reads these processes already: read them after the handler or finalizer")
        with self._lock:
            yield
        self._untold.tell()

    def _after_fork(self) -> None:
        self._lock = threading.RLock()

    def _refresh(self, now: float) -> None:
        listed = self._look(now)
        if listed is None or self._compactor is None or not self._files.trusted:
            return
        self._compactor.sweep(listed, now, self._members.dead_after)
        if self._compactor.fold(self._members, listed, now):
            listed = self._look(now)
        if listed is not None and self._files.trusted:
            self._compactor.delete(self._members, listed)

    def _look(self, now: float) -> Listing | None:
        """Bring the members up to date; None, and all stays as it is, when no whole view was to be had.

        A view is whole if the directory held the same before and after: while files are renamed, one
        listing may show neither the old nor the new name.
        """
        for _ in range(_LOOKS):
            try:
                listed = listing(self._directory)
                held = self._files.archive(listed)
                publications = self._files.publications(listed, held)
                if listing(self._directory)[:2] == listed[:2]:
                    self._take(listed, publications, held, now)
                    self._trouble = ""
                    return listed
            except FileNotFoundError:
                continue  # renamed or deleted since it was listed; or the directory is gone
            except OSError as error:
                self._trouble = f"{self._directory} cannot be read: {error.strerror or error}"
                self._log.warning("look", "batchscope: could not read %s: %r", self._directory, error)
                return None
        gone = f"the directory {self._directory} is gone: make it again, or restart the processes"
        moving = f"the directory {self._directory} changes faster than it can be read"
        self._trouble = moving if self._directory.is_dir() else gone
        self._log.warning("look", "batchscope: %s", self._trouble)
        return None

    def _take(self, listed: Listing, publications: dict[Published, Publication], held: Archive, now: float) -> None:
        self._files.decoded = publications
        for name in listed.foreign:
            self._skips.skip(name, FOREIGN, "not a name of this directory's files")
        seen = [(publication, published.claimed) for published, publication in publications.items()]
        for publication in self._members.update(seen, held, now):
            why = f"publications {publication.base}..{publication.sequence} are in the archive in part"
            self._skips.skip(publication.instance, OVERLAPPING, why)


def _made(directory: str | os.PathLike[str]) -> tuple[Path, bool]:
    """The directory, which is there now, and whether everybody can write to it."""
    path = Path(usable_path("directory", directory))
    try:
        make_directory(path)
        listing(path)
        return path, writable_by_everybody(path)
    except OSError as error:
        raise ConfigurationError("directory", str(path), f"a directory that can be read or made ({error})") from error
