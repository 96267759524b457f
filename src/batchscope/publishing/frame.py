"""A body with a header that says what it is and how long: what a file of this room consists of.

One line, then the body. The line is the header as JSON, a blank, and the checksum (CRC-32, 8 digits) of that JSON and
the body together. A frame that was cut, damaged or written by something else is told apart from a whole one before
anything in it is used.
"""

from __future__ import annotations

import re
import zlib
from typing import TypeVar

import msgspec

from batchscope.errors import DecodeError

MAX_BYTES = 32 * 2**20
"""The largest frame that is read: 400 times a full snapshot of the default configuration."""
FOREIGN, TRUNCATED, DAMAGED, OVERSIZED, UNREADABLE = "foreign", "truncated", "damaged", "oversized", "unreadable"


_CHECKSUM = re.compile(rb"[0-9a-f]{8}")


class FrameError(DecodeError):
    """A frame that is not used; ``reason`` is one of the few words that skipped files are counted by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What every header says; ``format`` names the kind of the body and its version."""

    format: str
    length: int = 0


H = TypeVar("H", bound=Header)


def pack(header: Header, body: bytes) -> bytes:
    """``header`` with the body's length, the checksum of all, then the body."""
    document = msgspec.json.encode(msgspec.structs.replace(header, length=len(body)))
    return document + b" " + _checksum(document, body) + b"\n" + body


def unpack(data: bytes, kind: type[H], form: str) -> tuple[H, bytes]:
    """The way back; FrameError unless ``data`` is one whole frame of ``form``."""
    line, newline, body = data.partition(b"\n")
    if not newline:
        raise FrameError(TRUNCATED if line[:1] in {b"", b"{"} else FOREIGN, "no header line: expected one of JSON")
    document, _, checksum = line.rpartition(b" ")
    header = _header(document if _CHECKSUM.fullmatch(checksum) else line, kind, form)
    if len(body) != header.length:
        reason = TRUNCATED if len(body) < header.length else DAMAGED
        raise FrameError(reason, f"{len(body)} bytes: expected {header.length}, as its header says")
    if (found := _checksum(document, body)) != checksum:
        raise FrameError(DAMAGED, f"checksum {found!r}: expected {checksum[:8]!r}, as it says itself")
    return header, body


def _checksum(document: bytes, body: bytes) -> bytes:
    return b"%08x" % zlib.crc32(body, zlib.crc32(document))


def _header(document: bytes, kind: type[H], form: str) -> H:
    """What the header says; FrameError if it is not one of ``form``."""
    try:
        header = msgspec.json.decode(document, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise FrameError(FOREIGN, f"not a header of {form!r}: {error}") from error
    if header.format != form:
        raise FrameError(FOREIGN, f"format {header.format!r}: expected {form!r}")
    return header
