"""The names in a directory of snapshots: a name says what is in the file, and its content never changes.

* ``<instance>-<sequence>.snapshot``: what a process published last; its next publication has another name.
* ``<instance>-<sequence>.claimed``: the same file, taken by a reader that holds the process for dead.
* ``archive-<revision>/counts``: the counts of the dead; the highest revision is valid. A directory, because
  renaming one onto another that is not empty fails: of several writers of a revision exactly one succeeds.
* ``.batchscope-<32 hexadecimal digits>.tmp``: being written.
"""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path
from typing import NamedTuple

_PUBLISHED = re.compile(r"(?P<instance>[A-Za-z0-9_]{1,64})-(?P<sequence>\d{12,18})\.(?P<state>snapshot|claimed)")
_ARCHIVE = re.compile(r"archive-(?P<revision>\d{12,18})")
_TEMPORARY = re.compile(r"\.batchscope-[0-9a-f]{32}\.tmp")
COUNTS = "counts"


class Published(NamedTuple):
    """A published file."""

    instance: str
    sequence: int
    claimed: bool = False

    @property
    def name(self) -> str:
        """Its name in the directory."""
        return f"{self.instance}-{self.sequence:012d}.{'claimed' if self.claimed else 'snapshot'}"


class Listing(NamedTuple):
    """What a directory holds; ``foreign`` are files that end like ours and are not."""

    published: frozenset[Published]
    archives: tuple[int, ...]
    temporary: frozenset[str]
    foreign: frozenset[str]


def archive_name(revision: int) -> str:
    """The name of an archive."""
    return f"archive-{revision:012d}"


def temporary_name() -> str:
    """A name that nobody else uses."""
    return f".batchscope-{uuid.uuid4().hex}.tmp"


def listing(directory: Path) -> Listing:
    """What is in ``directory``, archives ascending; OSError if it cannot be listed."""
    published, archives, temporary, foreign = set(), [], set(), set()
    for name in os.listdir(directory):  # noqa: PTH208  (the names are all that is needed)
        if found := _PUBLISHED.fullmatch(name):
            published.add(Published(found["instance"], int(found["sequence"]), found["state"] == "claimed"))
        elif found := _ARCHIVE.fullmatch(name):
            archives.append(int(found["revision"]))
        elif _TEMPORARY.fullmatch(name):
            temporary.add(name)
        elif name.endswith((".snapshot", ".claimed")):
            foreign.add(name)
    return Listing(frozenset(published), tuple(sorted(archives)), frozenset(temporary), frozenset(foreign))
