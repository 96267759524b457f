"""Protocol buffers' wire format: as much as metrics and traces need.

Source: https://protobuf.dev/programming-guides/encoding/. Fields are written in the order of their numbers and
always, zeros included, as a runtime writes fields with explicit presence.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

_DOUBLE = struct.Struct("<d")
VARINT, FIXED64, BYTES = 0, 1, 2


def varint(value: int) -> bytes:
    """An unsigned integer, seven bits a byte, the lowest first."""
    if value < 0x80:
        return bytes((value,))
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def key(field: int, wire_type: int) -> bytes:
    """What a field begins with."""
    return varint(field << 3 | wire_type)


def uint(field: int, value: int) -> bytes:
    """A field of an unsigned type, or of an enum."""
    return key(field, VARINT) + varint(value)


def sint(field: int, value: int) -> bytes:
    """A field of type sint32 or sint64: 0, -1, 1, -2 ... become 0, 1, 2, 3 ..."""
    return key(field, VARINT) + varint(value << 1 if value >= 0 else ~(value << 1))


def double(field: int, value: float) -> bytes:
    """A field of type double."""
    return key(field, FIXED64) + _DOUBLE.pack(value)


def message(field: int, content: bytes) -> bytes:
    """A field that is a message."""
    return key(field, BYTES) + delimited(content)


def text(field: int, content: str) -> bytes:
    """A field of type string."""
    return message(field, content.encode())


def delimited(content: bytes) -> bytes:
    """``content`` behind its length: how one message follows another in a stream."""
    return varint(len(content)) + content


def packed_sints(field: int, values: npt.NDArray[np.int64]) -> bytes:
    """A packed repeated field of type sint64; nothing when it is empty."""
    if not len(values):
        return b""
    unsigned = ((values << 1) ^ (values >> 63)).view(np.uint64)
    if unsigned.max() < 0x80:
        return message(field, unsigned.astype(np.uint8).tobytes())
    encoded, used = varints(unsigned)
    return message(field, encoded[used].tobytes())


def varints(values: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Many unsigned integers at once: a row of bytes each, and which of them are used."""
    width = max(-(-int(values.max(initial=0)).bit_length() // 7), 1)
    septets = values[:, None] >> np.arange(0, 7 * width, 7, dtype=np.uint64)
    used = septets != 0
    used[:, 0] = True
    more = np.zeros_like(used)
    more[:, :-1] = used[:, 1:]
    encoded = (septets & np.uint64(0x7F)).astype(np.uint8) | np.where(more, 0x80, 0).astype(np.uint8)
    return encoded, used
