"""The archive: the counts of every process that is gone, and up to where it holds whom."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from batchscope.errors import DecodeError
from batchscope.publishing.files import (
    archive_name,
    discard_folder,
    holds_counts,
    read_counts,
    sync_directory,
    temporary_name,
    write_counts,
)
from batchscope.publishing.frame import DAMAGED, FrameError, Header, pack, unpack
from batchscope.publishing.merge_fleet import ended
from batchscope.publishing.publication import Publication
from batchscope.statistics.merge import merge_snapshots
from batchscope.statistics.snapshot import MetricsSnapshot, decode_snapshot

FORMAT = "batchscope.archive/2"
REMEMBERED = 1000
"""How many instances that fell silent are remembered by name: about 50 kB."""


class ArchiveHeader(Header, frozen=True, kw_only=True):
    """Instance -> the sequence up to which its counts are in the archive.

    ``final`` are those that said goodbye: they are listed until their files are gone. ``silent`` are those that
    may wake up: the last 1,000 are listed. ``forgotten``: some silent one is no longer.
    ``lives``: how many instances it holds, listed or not; 0 in archives of before it was counted.
    """

    silent: dict[str, int] = msgspec.field(default_factory=dict)
    final: dict[str, int] = msgspec.field(default_factory=dict)
    forgotten: bool = False
    lives: int = 0

    @property
    def processes(self) -> int:
        """How many instances it holds, at least."""
        return max(self.lives, len(self.silent.keys() | self.final.keys()))

    def sequence(self, instance: str) -> int:
        """Up to where the counts of ``instance`` are held; 0 if it is not listed."""
        return max(self.silent.get(instance, 0), self.final.get(instance, 0))


class Archive(NamedTuple):
    """One revision, as it is read and written; ``counts`` is None as long as nobody is gone."""

    header: ArchiveHeader = ArchiveHeader(format=FORMAT)
    counts: MetricsSnapshot | None = None

    def covers(self, instance: str, sequence: int) -> bool:
        """Whether publication ``sequence`` of ``instance`` is in the archive."""
        return sequence <= self.header.sequence(instance)

    def with_gone(self, gone: Iterable[Publication], listed: Iterable[str]) -> Archive:
        """The next revision: with the counts of ``gone``; ``listed`` are the instances that still have files."""
        gone, listed = list(gone), set(listed)
        parts = [ended(publication.snapshot) for publication in gone]
        counts = ended(merge_snapshots(parts if self.counts is None else [self.counts, *parts]))
        silent, final = dict(self.header.silent), {k: v for k, v in self.header.final.items() if k in listed}
        for publication in sorted(gone, key=lambda one: one.sequence):
            silent.pop(publication.instance, None)  # the latest comes last
            (final if publication.final else silent)[publication.instance] = publication.sequence
        kept = dict(list(silent.items())[-REMEMBERED:])
        lives = self.header.processes + len({one.instance for one in gone if not self.header.sequence(one.instance)})
        forgotten = self.header.forgotten or len(kept) < len(silent)
        return Archive(ArchiveHeader(format=FORMAT, silent=kept, final=final, forgotten=forgotten, lives=lives), counts)


def encode(archive: Archive) -> bytes:
    """A frame whose body is the counts."""
    return pack(archive.header, archive.counts.to_json(histograms=True) if archive.counts is not None else b"")


def decode(data: bytes) -> Archive:
    """The way back; FrameError on anything else."""
    header, body = unpack(data, ArchiveHeader, FORMAT)
    try:
        return Archive(header, decode_snapshot(body) if body else None)
    except DecodeError as error:
        raise FrameError(DAMAGED, str(error)) from error


def read(directory: Path, revision: int) -> Archive:
    """Revision ``revision``; FileNotFoundError when there is a newer one, FrameError or OSError if unreadable."""
    return decode(read_counts(directory / archive_name(revision)))


def exists(directory: Path, revision: int) -> bool:
    """Whether ``revision`` is still there: then no file has been deleted that only a later one covers."""
    return holds_counts(directory / archive_name(revision))


def write(directory: Path, revision: int, archive: Archive) -> bool:
    """Write ``revision`` durably; False if somebody else has written it before. OSError if it cannot be written."""
    temporary = directory / temporary_name()
    try:
        write_counts(temporary, encode(archive))
        temporary.rename(directory / archive_name(revision))
    except FileExistsError:
        discard_folder(temporary)
        return False
    except OSError as error:
        discard_folder(temporary)
        if (directory / archive_name(revision)).is_dir():  # ENOTEMPTY, by some file systems EEXIST
            return False
        raise error from None
    sync_directory(directory)
    return True
