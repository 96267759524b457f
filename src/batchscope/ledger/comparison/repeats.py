"""Repeats: three runs a side or more show what runs of the same engine differ by, so the verdict needs no floor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from batchscope.ledger.comparison.document import Difference
from batchscope.ledger.comparison.figures import Quantity, quantities_of
from batchscope.ledger.comparison.measured import Measured
from batchscope.ledger.comparison.pair import LARGEST_MARGIN, compare_pair, difference, figure_of, with_verdicts
from batchscope.ledger.comparison.pairing import Pairs
from batchscope.rows import Floats

FEWEST = 3


def figures_of(run: Measured, quantities: Sequence[Quantity]) -> dict[str, float]:
    """Each figure of a run; those that it does not have are left out."""
    found = {}
    for quantity in quantities:
        series = quantity.series(run)
        if len(series.values):
            found.update({quantity.figure(share): figure_of(series, share) for share in quantity.shares})
    return found


def spread_of(sides: Sequence[Sequence[Measured]]) -> dict[str, float]:
    """By how much repeats of the same side differ at most, relative to their mean, figure by figure."""
    found: dict[str, float] = {}
    quantities = quantities_of(*(run for side in sides for run in side))
    for side in sides:
        figures = [figures_of(run, quantities) for run in side] if len(side) > 1 else []
        for name in set.intersection(*map(set, figures)) if figures else ():
            values = [each[name] for each in figures]
            middle = abs(float(np.mean(values)))
            apart = (max(values) - min(values)) / middle if middle else 0.0
            found[name] = max(found.get(name, 0.0), apart)
    return found


def compare_repeats(
    a: Sequence[Measured],
    b: Sequence[Measured],
    shared: Sequence[Pairs],
    *,
    in_pairs: bool,
    seed: int = 0,
    margin: float = LARGEST_MARGIN,
) -> list[Difference]:
    """By Welch's interval between the runs' figures; ``in_pairs``: the i-th of both have a workload of their own.

    Then it is the interval of the differences within these pairs. ``shared``: how the i-th runs are paired, where all
    of them are: then what each pair of runs says by itself counts, too, beyond its floor.
    """
    quantities = quantities_of(*a, *b)
    sides = [[figures_of(run, quantities) for run in side] for side in (a, b)]
    of_a, of_b = (min(int((run.completed & run.counted).sum()) for run in side) for side in (a, b))
    counts = of_a, of_b
    of_pairs = [compare_pair(*each, seed=seed) for each in zip(a, b, shared, strict=False)]
    within = [{figure.figure: figure for figure in each} for each in of_pairs]
    found = []
    for quantity in quantities:
        for share in quantity.shares:
            name = quantity.figure(share)
            if all(name in figures for side in sides for figures in side):
                values = [np.array([figures[name] for figures in side]) for side in sides]
                between = _between(quantity, share, values, counts, in_pairs=in_pairs)
                found.append(_surer(quantity, share, between, [each[name] for each in within if name in each]))
    found = with_verdicts(found, margin, {figure.figure: True for figure in found}, min(counts))
    for figure in found:
        if figure.needed_repeats is not None:
            figure.needed_requests, figure.needed_repeats = None, _repeats(figure, min(len(a), len(b)))
    return found


def _between(
    quantity: Quantity, share: float, values: list[Floats], counts: tuple[int, int], *, in_pairs: bool
) -> Difference:
    figures = (float(values[0].mean()), float(values[1].mean()))
    positive = min(float(side.min()) for side in values) > 0
    if positive:  # noise of runs is a factor, not an amount
        values = [np.log(side) for side in values]
        figures = (math.exp(values[0].mean()), math.exp(values[1].mean()))
    if in_pairs:
        known = float(np.std(values[1] - values[0], ddof=1)) / math.sqrt(len(values[0])), len(values[0]) - 1.0
    else:
        known = welch(*values)
    return difference(quantity, share, figures, known, positive=positive, floor=0.0, counts=counts)


def _surer(quantity: Quantity, share: float, between: Difference, within: list[Difference]) -> Difference:
    """What the pairs say together, where that is surer than what lies between runs, and beyond what runs differ by."""
    if not within or any(figure.positive is not between.positive for figure in within):
        return between
    count = len(within)
    error = math.sqrt(sum(figure.error**2 for figure in within)) / count
    together = difference(
        quantity, share, (between.a, between.b), (error, sum(figure.freedom for figure in within)),
        positive=between.positive, floor=max(figure.floor for figure in within),
        counts=(between.n_a, between.n_b),
    )  # fmt: skip
    return together if together.p < between.p and abs(together.relative) > together.floor else between


def welch(a: Floats, b: Floats) -> tuple[float, float]:
    """The standard error of the difference of two means, and its degrees of freedom (Welch 1947)."""
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (a, b)]
    total = sum(parts)
    if not total:
        return 0.0, len(a) + len(b) - 2.0
    return math.sqrt(total), total**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, (a, b), strict=True))


def _repeats(figure: Difference, now: int) -> int:
    """About how many a side make the interval as narrow as the difference; at most a hundred are named."""
    half = (figure.high - figure.low) / 2
    wanted = abs(figure.relative) / 2
    if not (half > 0 and wanted > 0):
        return now + 1
    return max(now + 1, min(100, math.ceil(now * (half / wanted) ** 2)))
