"""A body with a header that says what it is and how long: what a file or a message of this room consists of.

The header is one line of JSON, the body follows. A frame that was cut, damaged or written by something else is
told apart from a whole one before anything of its body is used.
"""

from __future__ import annotations

import zlib
from typing import TypeVar

import msgspec

from batchscope.errors import DecodeError

MAX_BYTES = 32 * 2**20
"""The largest frame that is read: 400 times a full snapshot of the default configuration."""
MAX_HEADER = 4096
FOREIGN, TRUNCATED, DAMAGED, OVERSIZED, UNREADABLE = "foreign", "truncated", "damaged", "oversized", "unreadable"


class FrameError(DecodeError):
    """A frame that is not used; ``reason`` is one of the few words that skipped files are counted by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What every header says; ``format`` names the kind of the body and its version."""

    format: str
    length: int = 0
    crc32: int = 0


H = TypeVar("H", bound=Header)


def pack(header: Header, body: bytes) -> bytes:
    """``header`` with the body's length and checksum, then the body."""
    full = msgspec.structs.replace(header, length=len(body), crc32=zlib.crc32(body))
    return msgspec.json.encode(full) + b"\n" + body


def unpack(data: bytes, kind: type[H], form: str) -> tuple[H, bytes]:
    """The way back; FrameError unless ``data`` is one whole frame of ``form``."""
    line, newline, body = data.partition(b"\n")
    header = unpack_header(line, kind, form, whole=bool(newline))
    if len(body) != header.length:
        reason = TRUNCATED if len(body) < header.length else DAMAGED
        raise FrameError(reason, f"{len(body)} bytes: expected {header.length}, as its header says")
    if zlib.crc32(body) != header.crc32:
        raise FrameError(DAMAGED, f"checksum {zlib.crc32(body)}: expected {header.crc32}, as its header says")
    return header, body


def unpack_header(line: bytes, kind: type[H], form: str, *, whole: bool = True) -> H:
    """The header alone; FrameError says what is wrong with it."""
    if not whole:
        raise FrameError(TRUNCATED if line[:1] in {b"", b"{"} else FOREIGN, "no header line: expected one of JSON")
    try:
        header = msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise FrameError(FOREIGN, f"not a header of {form!r}: {error}") from error
    if header.format != form:
        raise FrameError(FOREIGN, f"format {header.format!r}: expected {form!r}")
    return header
