"""Reading a file of JSON lines back, with the files it was rotated to."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

from batchscope.errors import DecodeError
from batchscope.exporters.jsonl.file import numbered_path
from batchscope.statistics.snapshot import MetricsSnapshot, decode_snapshot


class JsonLines:
    """Iterates over the snapshots of ``path``, the oldest first; ``skipped`` counts lines that are none.

    With ``rotated`` those of ``path.1``, ``path.2`` ... come before. What is written after the beginning may be
    missing; nothing comes twice, even if the writer rotates meanwhile. FileNotFoundError if there is no file.
    """

    def __init__(self, path: str | os.PathLike[str], *, rotated: bool = True) -> None:
        self._path = Path(os.path.realpath(path))  # where the writer rotates
        self._rotated = rotated
        self.skipped = 0

    def __iter__(self) -> Iterator[MetricsSnapshot]:
        self.skipped = 0
        with contextlib.ExitStack() as opened:
            for file in reversed(self._files(opened)):
                yield from self._snapshots(file)

    def _files(self, opened: contextlib.ExitStack) -> list[io.BufferedReader]:
        """The newest first: a file that moves on while they are opened is then met twice, never missed.

        One number may be missing: between two renames of the writer, or for good if it died there.
        """
        files: list[io.BufferedReader] = []
        number = missing = 0
        while missing < 2:
            try:
                path = numbered_path(self._path, number) if number else self._path
                file = opened.enter_context(path.open("rb"))
            except FileNotFoundError:
                missing += 1
            else:
                missing = 0
                if not any(os.path.sameopenfile(file.fileno(), other.fileno()) for other in files):
                    files.append(file)
            if not self._rotated:
                break
            number += 1
        if not files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path))
        return files

    def _snapshots(self, file: io.BufferedReader) -> Iterator[MetricsSnapshot]:
        for line in file:
            try:
                yield decode_snapshot(line)
            except DecodeError:
                self.skipped += 1


def read_json_lines(path: str | os.PathLike[str], *, rotated: bool = True) -> JsonLines:
    """The snapshots that a ``JsonLinesExporter`` wrote to ``path``; ``.skipped`` says how many lines were torn."""
    return JsonLines(path, rotated=rotated)
