"""A trace in Perfetto's own format, protobuf: for ui.perfetto.dev and its trace processor.

Packets of TrackEvents: a descriptor a track, then beginnings and ends of slices and values of counters in the order of
time. Names are interned: written once, then a number. All packets of events have one form, so they are made by numpy,
a block at a time. Colours are the viewer's: it gives equal names equal ones, so a limiter has its own.
Schema: https://perfetto.dev/docs/reference/trace-packet-proto; field numbers stand beside the names below.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.ledger.iteration_lines import Floats, Ints
from batchscope.ledger.trace import Trace
from batchscope.text import readable
from batchscope.wire import BYTES, FIXED64, VARINT, key, message, text, uint, varints

_PACKET, _TIMESTAMP, _SEQUENCE, _TRACK_EVENT, _INTERNED, _FLAGS, _TRACK = 1, 8, 10, 11, 12, 13, 60  # of TracePacket
_CLOCKS = 6
_TYPE, _NAME, _TRACK_UUID, _COUNT_VALUE, _DOUBLE_VALUE = 9, 10, 11, 30, 44  # of TrackEvent
_BEGIN, _END, _COUNTER = 1, 2, 4  # of its type
_CLEARED, _NEEDED = 1, 2  # of a packet's sequence_flags
_REALTIME, _BOOTTIME = 1, 6  # clocks; a packet's timestamp is of the second
_EXPLICIT = 3  # order of a track's children: by rank
_BLOCK = 1 << 16
_NAMES_A_PACKET = 1000
_OUTER_END, _INNER_END, _VALUE, _OUTER_BEGIN, _INNER_BEGIN = 1, 0, 2, 3, 4
"""Order of events at one instant, so that slices nest."""


def encode(trace: Trace) -> Iterator[bytes]:
    """The file, piece by piece; one after the other they are a ``Trace`` message."""
    yield _packet(_CLOCKS, _clock(_BOOTTIME, 0) + _clock(_REALTIME, max(round(trace.began * 1e9), 0)))
    yield from _names(trace.names)
    for place, track in enumerate(trace.tracks):
        content = uint(1, place + 1) + text(2, readable(track.name))
        if track.parent is not None:
            content += uint(5, track.parent + 1)
        if track.counter:
            content += message(8, b"")
        yield _packet(_TRACK, content + uint(11, _EXPLICIT) + uint(12, place))
    events = _events(trace)
    for first in range(0, len(events.at), _BLOCK):
        yield _encoded(events.take(slice(first, first + _BLOCK)))


def _packet(field: int, content: bytes, flags: int = _NEEDED) -> bytes:
    """A packet of the one sequence that there is, its fields in the order of their numbers."""
    fields = {_SEQUENCE: uint(_SEQUENCE, 1), _FLAGS: uint(_FLAGS, flags), field: message(field, content)}
    return message(_PACKET, b"".join(fields[number] for number in sorted(fields)))


def _clock(number: int, nanoseconds: int) -> bytes:
    return message(1, uint(1, number) + uint(2, nanoseconds))


def _names(names: tuple[str, ...]) -> Iterator[bytes]:
    for first in range(0, max(len(names), 1), _NAMES_A_PACKET):
        some = enumerate(names[first : first + _NAMES_A_PACKET], first + 1)
        interned = b"".join(message(2, uint(1, number) + text(2, readable(name))) for number, name in some)
        yield _packet(_INTERNED, interned, _NEEDED if first else _CLEARED)


class _Events(NamedTuple):
    """Packets to be: ``value`` is a counter's, ``name`` 0 where it has none."""

    at: Ints
    kind: Ints
    track: Ints
    name: Ints
    value: Floats

    def take(self, chosen: Ints | slice) -> _Events:
        """Some of them, or all in another order."""
        at, kind, track, name = (column[chosen] for column in self[:4])
        return _Events(at, kind, track, name, self.value[chosen])


def _events(trace: Trace) -> _Events:
    """In the order of time; at one instant ends come before beginnings, and the outer slice begins first."""
    slices, counts = trace.slices, trace.counts
    inner = slices.depth > 0
    none = np.zeros(len(slices.begin), dtype=np.int64)
    empty = np.zeros(len(slices.begin))
    columns = (
        (slices.begin, none + _BEGIN, slices.track + 1, slices.name + 1, empty),
        (slices.end, none + _END, slices.track + 1, none, empty),
        (
            counts.at,
            np.full(len(counts.at), _COUNTER),
            counts.track + 1,
            np.zeros(len(counts.at), np.int64),
            counts.value,
        ),
    )
    orders = (
        np.where(inner, _INNER_BEGIN, _OUTER_BEGIN),
        np.where(inner, _INNER_END, _OUTER_END),
        np.full(len(counts.at), _VALUE),
    )
    events = _Events(*(np.concatenate(column) for column in zip(*columns, strict=True)))
    return events.take(np.lexsort((np.concatenate(orders), events.at)))


_Bytes = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]


def _encoded(events: _Events) -> bytes:
    """A packet each: rows of bytes of which some are used. None has more than 127 bytes, so a length is one byte."""
    counter = events.kind == _COUNTER
    whole = events.value == np.rint(events.value)
    event = [
        _fixed(key(_TYPE, VARINT), len(counter)),
        _varints(events.kind),
        _where(events.name > 0, _fixed(key(_NAME, VARINT), len(counter)), _varints(events.name)),
        _fixed(key(_TRACK_UUID, VARINT), len(counter)),
        _varints(events.track),
        _where(
            counter & whole,
            _fixed(key(_COUNT_VALUE, VARINT), len(counter)),
            _varints(np.where(whole, events.value, 0).astype(np.int64)),
        ),
        _where(counter & ~whole, _fixed(key(_DOUBLE_VALUE, FIXED64), len(counter)), _doubles(events.value)),
    ]
    packet = [
        _fixed(key(_TIMESTAMP, VARINT), len(counter)),
        _varints(events.at),
        _fixed(uint(_SEQUENCE, 1) + key(_TRACK_EVENT, BYTES), len(counter)),
        _length(event),
        *event,
        _fixed(uint(_FLAGS, _NEEDED), len(counter)),
    ]
    rows = [_fixed(key(_PACKET, BYTES), len(counter)), _length(packet), *packet]
    content, used = (np.concatenate(part, axis=1) for part in zip(*rows, strict=True))
    encoded: bytes = content[used].tobytes()
    return encoded


def _fixed(content: bytes, count: int) -> _Bytes:
    return np.tile(np.frombuffer(content, np.uint8), (count, 1)), np.ones((count, len(content)), dtype=np.bool_)


def _varints(values: Ints) -> _Bytes:
    return varints(values.astype(np.uint64))


def _doubles(values: Floats) -> _Bytes:
    content = np.ascontiguousarray(values.astype("<f8")).view(np.uint8).reshape(len(values), 8)
    return content, np.ones(content.shape, dtype=np.bool_)


def _where(mask: npt.NDArray[np.bool_], *parts: _Bytes) -> _Bytes:
    """A field that only some have."""
    content, used = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return content, used & mask[:, None]


def _length(parts: list[_Bytes]) -> _Bytes:
    """What is used of them, as one byte."""
    used = sum(part[1].sum(axis=1) for part in parts)
    return np.asarray(used, dtype=np.uint8)[:, None], np.ones((len(parts[0][0]), 1), dtype=np.bool_)
