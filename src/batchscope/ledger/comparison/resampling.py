"""Blocks of time, drawn again: how much a figure would vary, of a run whose requests depend on each other.

A run's time is cut into cells. A resample is a circle of ``length`` cells after another, begun at random places, until
it is as long as the run (Politis & Romano 1992); drawn for both runs at the same places where the workload is shared,
so that what it does to both falls out. The length follows from the autocorrelation (Politis & White 2004, with the
correction of Patton, Politis & White 2009).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

RESAMPLES = 300
_BINS = 2048
"""Distinct values of a resampled percentile; more of them are taken together."""
_SHARES = np.concatenate([np.linspace(0, 1, _BINS // 2), 1 - np.geomspace(0.1, 1e-5, _BINS // 2)])
_EXACT_IN_FLOAT32 = 1 << 21  # a resample has some times as many


def block_length(values: Floats) -> float:
    """How many cells a block has to have, for the autocorrelation of ``values``, one a cell; at least 1."""
    count = len(values)
    longest = math.ceil(min(3 * math.sqrt(count), count / 3))
    quiet = max(5, int(math.sqrt(math.log10(count))))
    lags = min(math.ceil(math.sqrt(count)) + quiet, count // 2)
    covariance = _autocovariance(values, lags)
    if not covariance[0] > 0:
        return 1.0
    bound = 2 * math.sqrt(math.log10(count) / count)
    large = np.abs(covariance[1:] / covariance[0]) >= bound
    last = _last_large(large, quiet)
    window = min(2 * max(last, 1), lags)
    lag = np.arange(1, window + 1)
    weight = np.clip(2 * (1 - lag / window), 0, 1)
    density = covariance[0] + 2 * float(np.sum(weight * covariance[1 : window + 1]))
    slope = 2 * float(np.sum(weight * lag * covariance[1 : window + 1]))
    if density <= 0:
        return 1.0
    return float(max(1.0, min((1.5 * (slope / density) ** 2 * count) ** (1 / 3), longest)))


def _autocovariance(values: Floats, lags: int) -> Floats:
    centred = values - values.mean()
    spectrum = np.fft.rfft(centred, 2 * len(values))
    return np.asarray(np.fft.irfft(spectrum * np.conj(spectrum))[: lags + 1] / len(values))


def _last_large(large: npt.NDArray[np.bool_], quiet: int) -> int:
    """The last lag before ``quiet`` lags in a row that are not large; without such a row the last large one."""
    run = 0
    for lag, is_large in enumerate(large, start=1):
        run = 0 if is_large else run + 1
        if run == quiet:
            return lag - quiet
    return int(np.flatnonzero(large)[-1]) + 1 if large.any() else 0


def draw(cells: int, length: int, random: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """How often each cell is in each resample, shape (resamples, cells)."""
    starts = random.integers(0, cells, (resamples, -(-cells // length)))
    chosen = ((starts[:, :, None] + np.arange(length)) % cells).reshape(resamples, -1)[:, :cells]
    flat = (chosen + cells * np.arange(resamples)[:, None]).ravel()
    return np.bincount(flat, minlength=resamples * cells).reshape(resamples, cells).astype(np.float64)


def resampled_means(times_drawn: Floats, cell: Whole, values: Floats, weights: Floats) -> Floats:
    """The weighted mean of ``values`` in each resample; nan where it has none of them."""
    cells = times_drawn.shape[1]
    total = times_drawn @ np.bincount(cell, values * weights, cells)
    weight = times_drawn @ np.bincount(cell, weights, cells)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / weight)


class ResampledValues:
    """Percentiles of values in each resample, all from one pass."""

    def __init__(self, times_drawn: Floats, cell: Whole, values: Floats) -> None:
        self._bins = np.unique(values if len(values) <= _BINS else np.quantile(values, _SHARES, method="higher"))
        index = np.searchsorted(self._bins, values)
        cells = times_drawn.shape[1]
        counts = np.bincount(cell * len(self._bins) + index, minlength=cells * len(self._bins))
        whole = np.float32 if len(values) < _EXACT_IN_FLOAT32 else np.float64
        drawn = times_drawn.astype(whole) @ counts.reshape(cells, -1).astype(whole)
        self._cumulated = np.cumsum(drawn, axis=1, out=drawn)

    def percentile(self, share: float) -> Floats:
        """Of each resample; a resample without values has the smallest."""
        wanted = self._cumulated.dtype.type(share) * self._cumulated[:, -1:]
        return np.asarray(self._bins[np.minimum((self._cumulated < wanted).sum(axis=1), len(self._bins) - 1)])
