"""What one process publishes: a snapshot, whose it is, and which of its counts a reader holds already."""

from __future__ import annotations

import re
from typing import NamedTuple

from batchscope.errors import DecodeError
from batchscope.publishing.frame import DAMAGED, FOREIGN, FrameError, Header, pack, unpack
from batchscope.statistics.snapshot import MetricsSnapshot, decode_snapshot

FORMAT = "batchscope.publication/2"
INSTANCE = re.compile(r"[A-Za-z0-9_]{1,64}")
_LONGEST_QUIET = 3600.0


class PublicationHeader(Header, frozen=True, kw_only=True):
    """The header of a publication: the fields of ``Publication`` but the snapshot."""

    instance: str
    base: int
    sequence: int
    final: bool
    quiet_seconds: float = 0.0


class Publication(NamedTuple):
    """The counts of ``instance`` after its publication ``base`` and up to its publication ``sequence``.

    ``base`` is 0 until a reader has folded the instance: then what was folded is left out. ``sequence`` is
    the snapshot's own, which grows with each: the heartbeat. ``final``: nothing comes after it.
    ``quiet_seconds``: for how long its process, alive and idle, may publish nothing more.
    """

    instance: str
    base: int
    sequence: int
    final: bool
    snapshot: MetricsSnapshot
    quiet_seconds: float = 0.0


def encode(publication: Publication) -> bytes:
    """A frame, histograms included."""
    instance, base, sequence, final, snapshot, quiet = publication
    header = PublicationHeader(
        format=FORMAT, instance=instance, base=base, sequence=sequence, final=final, quiet_seconds=quiet
    )
    return pack(header, snapshot.to_json(histograms=True))


def decode(data: bytes) -> Publication:
    """The way back; FrameError on anything that ``encode`` cannot have written."""
    header, body = unpack(data, PublicationHeader, FORMAT)
    if not INSTANCE.fullmatch(header.instance) or not 0 <= header.base < header.sequence:
        raise FrameError(FOREIGN, f"publication {header.instance!r} {header.base}..{header.sequence}: not an order")
    try:
        snapshot = decode_snapshot(body)
    except DecodeError as error:
        raise FrameError(DAMAGED, str(error)) from error
    if (snapshot.instance_id, snapshot.sequence) != (header.instance, header.sequence):
        raise FrameError(FOREIGN, f"snapshot of {snapshot.instance_id!r}: expected {header.instance!r}, as its header")
    quiet = min(max(header.quiet_seconds, 0.0), _LONGEST_QUIET)  # whoever dies is dead some day, whatever it promised
    return Publication(header.instance, header.base, header.sequence, header.final, snapshot, quiet)
