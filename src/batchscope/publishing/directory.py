"""SnapshotDirectory: what many processes published into one directory, read as one."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from batchscope.background import Periodic, RateLimitedLog
from batchscope.clock import Clock
from batchscope.errors import ConfigurationError
from batchscope.publishing import archive
from batchscope.publishing.compaction import Compactor
from batchscope.publishing.files import (
    Listing,
    Published,
    archive_name,
    listing,
    make_directory,
    read_whole,
    usable_path,
    writable_by_everybody,
)
from batchscope.publishing.frame import FOREIGN, UNREADABLE, FrameError
from batchscope.publishing.publication import Publication, decode
from batchscope.publishing.reader import FleetReader, logger

OVERLAPPING = "overlapping"
_LOOKS = 20


class SnapshotDirectory(FleetReader):
    """Reads, merges and tidies a directory that ``SnapshotPublisher`` writes into.

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
        super().__init__(dead_after, max_age, clock, labels)
        self._directory = Path(usable_path("directory", directory))
        try:
            make_directory(self._directory)
            listing(self._directory)
            open_to_all = writable_by_everybody(self._directory)
        except OSError as error:
            allowed = f"a directory that can be read or made ({error})"
            raise ConfigurationError("directory", str(self._directory), allowed) from error
        self._decoded: dict[Published, Publication] = {}
        self._unusable: dict[Published, tuple[int, int]] = {}
        self._archive: tuple[int, archive.Archive] = (0, archive.Archive())
        self._trusted = True
        self._log = RateLimitedLog(logger, clock=clock)
        if open_to_all:
            self._log.warning(
                "writable",
                "batchscope: every user of this machine can write to %s, and so forge or delete counts: chmod o-w it",
                self._directory,
            )
        self._compactor = Compactor(self._directory, self._log) if compact else None
        self._periodic = None if interval is None else Periodic(self.get_snapshot, interval, "batchscope-directory")
        if self._periodic is not None:
            self._periodic.start()

    def close(self) -> None:
        """Stop reading, after a last look when there is a thread; it can be called again."""
        if self._periodic is not None:
            self._periodic.close()
        super().close()

    def _refresh(self, now: float) -> None:
        listed = self._look(now)
        if listed is None or self._compactor is None or not self._trusted:
            return
        self._compactor.sweep(listed, now, self._members.dead_after)
        if self._compactor.fold(self._members, listed, now):
            listed = self._look(now)
        if listed is not None and self._trusted:
            self._compactor.delete(self._members, listed)

    def _look(self, now: float) -> Listing | None:
        """Bring the members up to date; None, and all stays as it is, when no whole view was to be had.

        A view is whole if the directory held the same before and after: while files are renamed, one
        listing may show neither the old nor the new name.
        """
        for _ in range(_LOOKS):
            try:
                listed = listing(self._directory)
                held = self._read_archive(listed)
                publications = self._read_published(listed, held)
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

    def _take(
        self, listed: Listing, publications: dict[Published, Publication], held: archive.Archive, now: float
    ) -> None:
        self._decoded = publications
        for name in listed.foreign:
            self._skips.skip(name, FOREIGN, "not a name of this directory's files")
        seen = [(publication, published.claimed) for published, publication in publications.items()]
        for publication in self._members.update(seen, held, now):
            why = f"publications {publication.base}..{publication.sequence} are in the archive in part"
            self._skips.skip(publication.instance, OVERLAPPING, why)

    def _read_published(self, listed: Listing, held: archive.Archive) -> dict[Published, Publication]:
        """All that count, decoded once each. FileNotFoundError when one has gone since it was listed."""
        found: dict[Published, Publication] = {}
        self._unusable = {one: sign for one, sign in self._unusable.items() if one in listed.published}
        for published in listed.published:
            if held.covers(published.instance, published.sequence):
                continue
            publication = self._known(published) or self._read(published)
            if publication is not None:
                found[published] = publication
            else:  # what its process published before, while we remember it: a counter must not fall
                found |= {one: last for one, last in self._decoded.items() if one.instance == published.instance}
        return found

    def _known(self, published: Published) -> Publication | None:
        """Decoded before: the content of a name never changes, and claiming changes only the name."""
        return self._decoded.get(published) or self._decoded.get(published._replace(claimed=False))

    def _read(self, published: Published) -> Publication | None:
        path = self._directory / published.name
        status = path.lstat()
        sign = (status.st_mtime_ns, status.st_size)
        if self._unusable.get(published) == sign:
            return None
        try:
            return _decoded(published, read_whole(path))
        except FileNotFoundError:
            raise
        except FrameError as error:
            self._unusable[published] = sign
            self._skips.skip(published.name, error.reason, error)
        except OSError as error:
            self._skips.skip(published.name, UNREADABLE, error)
        return None

    def _read_archive(self, listed: Listing) -> archive.Archive:
        """The highest revision; the one known before when it cannot be read, and then nothing is tidied."""
        revision, known = self._archive
        highest = max(listed.archives, default=0)
        self._trusted = True
        if highest == revision and (not revision or archive.exists(self._directory, revision)):
            return known
        try:
            found = archive.read(self._directory, highest) if highest else archive.Archive()
        except (FrameError, OSError) as error:
            if isinstance(error, FileNotFoundError) and max(listing(self._directory).archives, default=0) != highest:
                raise  # replaced by a newer one
            self._trusted = False
            reason = error.reason if isinstance(error, FrameError) else UNREADABLE
            self._skips.skip(archive_name(highest), reason, error)
            return known
        self._archive = (highest, found)
        return found


def _decoded(published: Published, data: bytes) -> Publication:
    """The publication in ``data``; FrameError if it is not the one that the name promises."""
    publication = decode(data)
    if (publication.instance, publication.sequence) != published[:2]:
        raise FrameError(FOREIGN, f"publication {publication.sequence} of {publication.instance!r}")
    return publication
