"""The bootstrap that must not be used: requests drawn one by one, as if they did not depend on each other."""

from __future__ import annotations

import numpy as np

from batchscope.rows import RequestColumn


def calls_different(a, b, *, column=RequestColumn.TIME_TO_FIRST_TOKEN, resamples=300, seed=0):
    """Whether the 95 % interval of the difference of the means leaves out 0."""
    random = np.random.default_rng(seed)
    means = []
    for run in (a, b):
        values = run.rows[:, column]
        drawn = random.integers(0, len(values), (resamples, len(values)))
        means.append(values[drawn].mean(axis=1))
    low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
    return not low <= 0 <= high
