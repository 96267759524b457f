"""Tidying a directory of snapshots: the dead into the archive, what the archive covers deleted."""

from __future__ import annotations

from pathlib import Path

from batchscope.background import RateLimitedLog
from batchscope.publishing import archive
from batchscope.publishing.files import Listing, Published, archive_name, discard_file, discard_folder, discard_own
from batchscope.publishing.liveness import Members
from batchscope.publishing.publication import Publication


class Compactor:
    """Folds the dead into the archive. Any number of these may work in one directory, and stop anywhere.

    The order makes it safe without a lock. 1. Claim a dead process's file by renaming it: if the process lives
    after all, it misses the file at its next publication and leaves out what was in it from then on. 2. Write
    the archive's next revision: its name can be taken once only, so nobody overwrites another's. 3. Delete what
    the highest revision covers, whoever wrote that. A crash after 1 leaves a file that counts as before; after
    2, files that the archive covers and nobody counts.
    """

    def __init__(self, directory: Path, log: RateLimitedLog) -> None:
        self._directory = directory
        self._log = log
        self._temporary: dict[str, float] = {}

    def fold(self, members: Members, listed: Listing, now: float) -> bool:
        """Steps 1 and 2; whether there may be a new revision."""
        gone = [member.publication for member in members.gone(now) if member.claimed or self._claim(member.publication)]
        if not gone:
            return False
        revision = max(listed.archives, default=0) + 1
        instances = {published.instance for published in listed.published}
        try:
            archive.write(self._directory, revision, members.archive.with_gone(gone, instances))
        except OSError as error:
            self._log.warning("archive", "batchscope: could not write an archive to %s: %r", self._directory, error)
            return False
        return True

    def _claim(self, publication: Publication) -> bool:
        """Take a file for good; False when its process was quicker: it lives."""
        published = Published(publication.instance, publication.sequence)
        try:
            self._path(published.name).rename(self._path(published._replace(claimed=True).name))
        except FileNotFoundError:
            return False
        except OSError as error:
            self._log.warning("claim", "batchscope: could not rename %s: %r", published.name, error)
            return False
        return True

    def delete(self, members: Members, listed: Listing) -> None:
        """Step 3. Old revisions go first: who still finds one knows that no file it does not cover is missing."""
        for revision in listed.archives[:-1]:
            discard_folder(self._path(archive_name(revision)))
        if any(archive.exists(self._directory, revision) for revision in listed.archives[:-1]):
            return
        for published in listed.published:
            if members.archive.covers(published.instance, published.sequence):
                discard_file(self._path(published.name))

    def sweep(self, listed: Listing, now: float, after: float) -> None:
        """Delete files that a crash left half-written: those still there ``after`` seconds of the reader's clock."""
        self._temporary = {name: self._temporary.get(name, now) for name in listed.temporary}
        for name, seen in self._temporary.items():
            if now - seen >= after:
                discard_own(self._path(name))

    def _path(self, name: str) -> Path:
        return self._directory / name
