"""One process's files in a directory of snapshots."""

from __future__ import annotations

import contextlib
from pathlib import Path

from batchscope.errors import ConfigurationError
from batchscope.publishing import archive
from batchscope.publishing.files import Published, listing, make_directory, write_whole
from batchscope.publishing.frame import FrameError
from batchscope.publishing.publication import Publication, encode

_LOOKS = 5


class DirectoryWriter:
    """Puts publications into a directory and finds out which of them a reader has taken for good.

    Each publication is a file of its own name; when it is there, the one before is deleted. A reader takes a
    file by renaming it: of its renaming and our deleting exactly one succeeds. So a file of ours that is gone
    tells, without a lock, that a reader holds what was in it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._own: list[Published] = []
        try:
            make_directory(directory)
        except OSError as error:
            raise ConfigurationError("directory", str(directory), f"a directory that can be made ({error})") from error

    @property
    def outstanding(self) -> set[int]:
        """The sequences of the publications that a reader may find."""
        return {published.sequence for published in self._own}

    def put(self, publication: Publication) -> int | None:
        """Publish; None, or the sequence up to which a reader holds this process's counts already.

        In that case it has to be put again with the counts since then. OSError: nothing has changed but, at
        most, that a file of ours is still to be deleted, which the next call does first.
        """
        taken = self._settle()
        if taken is not None:
            return taken
        published = Published(publication.instance, publication.sequence)
        self._write(published.name, encode(publication))
        self._own.append(published)
        return self._settle()

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_whole(self._directory, name, data)
        except FileNotFoundError:  # somebody removed the directory
            make_directory(self._directory)
            write_whole(self._directory, name, data)

    def _settle(self) -> int | None:
        """Delete all of our files but the last; the highest sequence that a reader has taken."""
        taken = 0
        for old in self._own[:-1]:
            try:
                (self._directory / old.name).unlink()
            except FileNotFoundError:
                taken = max(taken, old.sequence if self._is_held(old) else 0)
            self._own.remove(old)
        for last in self._own[-1:]:
            if not (self._directory / last.name).exists():
                taken = max(taken, last.sequence if self._is_held(last) else 0)
                self._own.clear()
        return taken or None

    def _is_held(self, gone: Published) -> bool:
        """Whether a reader has what was in ``gone``; else somebody deleted it, and it has to be published again.

        A claimed file is deleted only when an archive covers it: looked for in this order, one is found.
        """
        if (self._directory / gone._replace(claimed=True).name).exists():
            return True
        header = self._archive_header()
        return header is not None and (header.forgotten or header.sequence(gone.instance) >= gone.sequence)

    def _archive_header(self) -> archive.ArchiveHeader | None:
        """What the highest revision lists; None without an archive: then nothing was ever taken for good."""
        for _ in range(_LOOKS):  # while one revision replaces another
            try:
                revisions = listing(self._directory).archives
            except FileNotFoundError:
                return None
            if not revisions:
                return None
            with contextlib.suppress(OSError, FrameError):
                return archive.read(self._directory, revisions[-1]).header
        return archive.ArchiveHeader(format=archive.FORMAT, forgotten=True)  # unreadable: rather lost than twice
