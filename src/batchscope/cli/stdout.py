"""Stdout, where the report goes, and what can happen to it."""

from __future__ import annotations

import os
import sys

from batchscope.cli.options import CommandError


def write(output: bytes) -> None:
    """All of it, at once. A reader that has seen enough (``| head``) is no error; a full disk is."""
    if sys.stdout is None:
        raise CommandError("stdout is closed: the report has nowhere to go")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(output)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        discard()


def discard() -> None:
    """Send what is still buffered nowhere: the interpreter's own flush at the end has nothing to complain about."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
