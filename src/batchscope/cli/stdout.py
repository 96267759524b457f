"""Stdout, where views go, and what can happen to it."""

from __future__ import annotations

import contextlib
import os
import sys

from batchscope.cli.options import CommandError


class NobodyReadsError(Exception):
    """Whoever read stdout has seen enough (``| head``): no error, but the end of what goes on."""


def write(output: bytes) -> None:
    """All of it, at once. A reader that has seen enough is no error; a full disk is."""
    with contextlib.suppress(NobodyReadsError):
        write_on(output)


def write_on(output: bytes) -> None:
    """A part of what goes on: ``NobodyReadsError`` where nobody reads any more."""
    if sys.stdout is None:
        raise CommandError("stdout is closed: there is nowhere to write to")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(output)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        discard()
        raise NobodyReadsError from None


def discard() -> None:
    """Send what is still buffered nowhere: the interpreter's own flush at the end has nothing to complain about."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
