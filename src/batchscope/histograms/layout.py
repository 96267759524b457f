"""Which bucket a value belongs to: base-2 exponential buckets, exact at every edge.

Problem: the bucket of v at scale s is ceil(log2(v) * 2^s) - 1, and a logarithm in floats errs by one
bucket beside an edge, exact powers of two included. Naive answer: correct it value by value.
Chosen idea: a double's bits, read as an integer, are ordered as its value is. Cut each octave into
2^(s+1) equal slots of the mantissa: a slot is narrower than any bucket, so it holds at most one edge.
One table says, a slot, what to add to the bits so that they carry into the next bucket's number just beyond
the edge: two shifts, a look-up and an addition are exact for every double, and take 2 ns a value in numpy.

Definition: OpenTelemetry data model, "ExponentialHistogram": bucket i covers (b^i, b^(i+1)] with
b = 2^(2^-scale). Prometheus' native histograms call the same bucket i + 1.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from math import isqrt, tanh

import numpy as np
import numpy.typing as npt

from batchscope.errors import ConfigurationError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MIN_SCALE, MAX_SCALE = -4, 12
LOWEST, HIGHEST = 1e-9, 1e9  # buckets cover [LOWEST, HIGHEST)

_MANTISSA_BITS = 52
_EXPONENT_BIAS = 1023
_FIRST_OCTAVE, _LAST_OCTAVE = -30, 29  # 2^-30 < 1e-9 and 1e9 < 2^30
_LN_2 = 0.6931471805599453


class BucketLayout:
    """The buckets of one scale. Made once a scale and process by ``bucket_layout``; immutable."""

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self.relative_error = tanh(_LN_2 / 2.0 ** (scale + 1))  # (b - 1) / (b + 1)
        self._fine = max(scale, 0)  # negative scales are scale 0 with buckets joined
        self._joined = max(-scale, 0)
        self._shift = _MANTISSA_BITS - self._fine - 1
        self._first_slot = (_FIRST_OCTAVE + _EXPONENT_BIAS) << (self._fine + 1)
        self._mantissas = _edge_mantissas(self._fine)
        self._lift = self._table()
        self.first = self.index(LOWEST)
        self.last = self.index(float(np.nextafter(HIGHEST, 0.0)))

    def index(self, value: float) -> int:
        """The bucket of ``value``, which must lie in [LOWEST, HIGHEST)."""
        bits: int = _AS_INTEGER.unpack(_AS_DOUBLE.pack(value))[0]
        return (bits + self._lift.item((bits >> self._shift) - self._first_slot)) >> self._shift

    def indices(self, values: Floats) -> Ints:
        """The bucket of each of ``values``, which must lie in [LOWEST, HIGHEST)."""
        bits = values.view(np.int64)
        slots = bits >> self._shift
        slots -= self._first_slot
        buckets: Ints = self._lift.take(slots)
        buckets += bits
        buckets >>= self._shift
        return buckets

    def edges(self, first: int, count: int) -> Floats:
        """The lower edges b^i of ``count`` buckets from ``first`` on, rounded down to doubles.

        Rounding down keeps them exact as inclusive upper bounds: v <= b^i just where v <= the double.
        """
        return self.lower_edges(np.arange(first, first + count, dtype=np.int64))

    def lower_edges(self, buckets: Ints) -> Floats:
        """The lower edge of each of ``buckets``, as ``edges`` has it."""
        fine = buckets << self._joined
        octaves = (fine >> self._fine) + _EXPONENT_BIAS
        within = self._mantissas[fine & ((1 << self._fine) - 1)]
        edges: Floats = ((octaves << _MANTISSA_BITS) | within).view(np.float64)
        return edges

    def _table(self) -> Ints:
        """For each slot: what lifts its doubles' bits to (bucket << shift), the ones beyond its edge to the next."""
        within = np.arange(2 << self._fine, dtype=np.int64) << self._shift
        last = within + (1 << self._shift) - 1
        before = np.searchsorted(self._mantissas, within, side="left") - 1
        after = np.searchsorted(self._mantissas, last, side="left") - 1
        octaves = np.arange(_FIRST_OCTAVE, _LAST_OCTAVE + 1, dtype=np.int64)[:, None]
        octave_bits = (octaves + _EXPONENT_BIAS) << _MANTISSA_BITS
        bucket = ((octaves << self._fine) + before) >> self._joined
        following = ((octaves << self._fine) + after) >> self._joined
        beyond = octave_bits + self._mantissas[after] + 1
        lift = np.where(
            following != bucket,
            (following << self._shift) - beyond,
            (bucket << self._shift) - (octave_bits + within),
        )
        return lift.ravel()


@lru_cache(maxsize=None, typed=True)
def bucket_layout(scale: int) -> BucketLayout:
    """The layout of ``scale``, shared by every histogram of it; ConfigurationError outside -4..12."""
    if type(scale) is not int or not MIN_SCALE <= scale <= MAX_SCALE:
        raise ConfigurationError("scale", scale, f"an integer from {MIN_SCALE} to {MAX_SCALE}")
    return BucketLayout(scale)


_AS_DOUBLE, _AS_INTEGER = struct.Struct("<d"), struct.Struct("<q")


def _edge_mantissas(scale: int) -> Ints:
    """The 52 mantissa bits of floor-rounded 2^(j / 2^scale), j = 0 .. 2^scale - 1.

    In fixed point with 128 guard bits: far more than the largest error of 13 roundings.
    """
    one = 1 << (_MANTISSA_BITS + 128)
    root, edges = 2 * one, [one]
    for _ in range(scale):
        root = isqrt(root * one)
        edges = [edge for lower in edges for edge in (lower, lower * root // one)]
    return np.array([(edge >> 128) - (1 << _MANTISSA_BITS) for edge in edges], dtype=np.int64)
