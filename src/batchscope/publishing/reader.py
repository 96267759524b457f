"""The files of a directory that ``SnapshotPublisher`` writes, each decoded once."""

from __future__ import annotations

from pathlib import Path

from batchscope.publishing import archive as archives
from batchscope.publishing.archive import Archive
from batchscope.publishing.files import Listing, Published, archive_name, listing, read_whole
from batchscope.publishing.frame import FOREIGN, UNREADABLE, FrameError
from batchscope.publishing.publication import Publication, decode
from batchscope.publishing.skipped import SkippedFiles


class PublishedFiles:
    """Reads publications and the archive of ``directory``; what cannot be read is told to ``skips``, and left out.

    ``decoded``: what counted at the last look. ``trusted``: the archive could be read; else nothing may be tidied.
    """

    def __init__(self, directory: Path, skips: SkippedFiles) -> None:
        self._directory, self._skips = directory, skips
        self.decoded: dict[Published, Publication] = {}
        self.trusted = True
        self._unusable: dict[Published, tuple[int, int]] = {}
        self._archive: tuple[int, Archive] = (0, Archive())

    def publications(self, listed: Listing, held: Archive) -> dict[Published, Publication]:
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
                found |= {one: last for one, last in self.decoded.items() if one.instance == published.instance}
        return found

    def _known(self, published: Published) -> Publication | None:
        """Decoded before: the content of a name never changes, and claiming changes only the name."""
        return self.decoded.get(published) or self.decoded.get(published._replace(claimed=False))

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

    def archive(self, listed: Listing) -> Archive:
        """The highest revision; the one known before when it cannot be read, and then nothing is tidied."""
        revision, known = self._archive
        highest = max(listed.archives, default=0)
        self.trusted = True
        if highest == revision and (not revision or archives.exists(self._directory, revision)):
            return known
        try:
            found = archives.read(self._directory, highest) if highest else Archive()
        except (FrameError, OSError) as error:
            if isinstance(error, FileNotFoundError) and max(listing(self._directory).archives, default=0) != highest:
                raise  # replaced by a newer one
            self.trusted = False
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
