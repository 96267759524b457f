"""Blocks of time, resampled: what happens at one time in an engine happens together.

Requests one by one would look ten times as certain as they are: they share their queue. A block is as long as the
square root rule gives for so many requests, at least eight of them in a run.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FEWEST_BLOCKS, MOST_BLOCKS = 8, 40


def blocks_of(instants: Floats) -> npt.NDArray[np.int64]:
    """The block of each instant, from 0: equal stretches of time between the first and the last."""
    count = block_count(len(instants))
    first, last = float(instants.min()), float(instants.max())
    if last <= first:
        return np.zeros(len(instants), np.int64)
    return np.minimum((instants - first) / (last - first) * count, count - 1).astype(np.int64)


def block_count(requests: int) -> int:
    """About 3 sqrt(n) requests a block."""
    return max(FEWEST_BLOCKS, min(MOST_BLOCKS, round(math.sqrt(requests) / 3)))


def resampled_weights(blocks: int, draws: int, random: np.random.Generator) -> Floats:
    """How often each block is in each draw of as many blocks, with replacement; a row a draw."""
    return random.multinomial(blocks, np.full(blocks, 1 / blocks), size=draws).astype(np.float64)


def widened(point: float | Floats, draws: Floats, factor: float) -> Floats:
    """Draws ``factor`` times as far from ``point``; none below 0."""
    wide: Floats = np.maximum(point + factor * (draws - point), 0.0)
    return wide


def student_factor(blocks: int) -> float:
    """How much farther than drawn 95 % lie, since there are so few blocks: their variance is estimated, too.

    Student's t over the normal distribution (Cornish-Fisher expansion, within 0.5 % from 7 degrees of freedom on), and
    the bias of a resampled variance.
    """
    z, free = 1.959964, blocks - 1
    expansion = (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return (1 + expansion / z) * math.sqrt(blocks / free)
