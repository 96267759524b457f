"""One run a side: by how much do these two differ, as far as their own variation says it.

Whether a third run would is not in them. So a difference below a floor is no verdict: what two runs of the same engine
differ by for reasons that neither shows, 2 % of a step's time and 5 % of tails, or what repeats of one side showed; and
for what queues, what steps 2 % slower would do to it, which near capacity is much more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from batchscope.ledger.comparison.document import Difference, Verdict
from batchscope.ledger.comparison.figures import CELLS, MEAN, PER_SECOND, SAME_WORK, Quantity, Series, quantities_of
from batchscope.ledger.comparison.measured import Measured
from batchscope.ledger.comparison.pairing import Pairs
from batchscope.ledger.comparison.resampling import (
    Floats,
    ResampledValues,
    Whole,
    block_length,
    draw,
    resampled_means,
)
from batchscope.ledger.comparison.student import holm, two_sided_p

CONFIDENCE = 0.95
FEWEST_BLOCKS = {True: 5, False: 40}
"""Blocks of time that a verdict needs, of a shared workload and of different ones: fewer hide how long requests hang
together, and differences of the workload pass for those of the engine."""
FEWEST_REQUESTS = 20
ROUNDING = 1e-9
QUEUE_GROWS = 2.0
"""Slower steps keep requests longer, so batches are fuller, which makes steps slower again: in the simulator the mean
TTFT of the same requests grows by 1.5 to 2.5 times what follows from the queue alone, at 0.8 to 0.95 of capacity."""
LARGEST_MARGIN = 0.10


class Sample(NamedTuple):
    """A series cut into cells."""

    cell: Whole
    series: Series

    @property
    def values(self) -> Floats:
        return self.series.values


def compare_pair(
    a: Measured,
    b: Measured,
    pairs: Pairs,
    *,
    seed: int,
    margin: float = LARGEST_MARGIN,
    spread: dict[str, float] | None = None,
) -> list[Difference]:
    """The difference of each figure that both have. ``spread``: what repeats of one side differed by, relative."""
    if pairs.shared:
        a, b = _chosen(a, pairs.a), _chosen(b, pairs.b)
        both = a.counted & b.counted
        a, b = a._replace(counted=both), b._replace(counted=both)
    quantities = quantities_of(a, b)
    all_samples = {quantity.name: _samples(quantity, a, b, pairs.shared) for quantity in quantities}
    samples = {name: sides for name, sides in all_samples.items() if all(len(side.values) for side in sides)}
    blocks = _Blocks(samples, quantities, paired=pairs.shared, seed=seed)
    requests = min(int((run.completed & run.counted).sum()) for run in (a, b))
    found: list[Difference] = []
    for quantity in quantities:
        if quantity.name in samples:
            found += _differences(quantity, *samples[quantity.name], blocks, spread or {})
    _apply_littles_law(found)
    enough = {figure.figure: blocks.enough(figure.figure) for figure in found}
    return with_verdicts(found, margin, enough, requests)


def _apply_littles_law(found: list[Difference]) -> None:
    """How many wait follows from how long they do (Little 1961): it is as sensitive."""
    floors = {figure.figure: figure.floor for figure in found}
    for figure in found:
        if figure.figure == "waiting":
            figure.floor = max(figure.floor, floors.get("mean_queue_time", 0.0), floors.get("mean_ttft", 0.0))


def _chosen(run: Measured, requests: Whole) -> Measured:
    """The run with these requests only, in this order; its span stays."""
    return run._replace(
        ids=run.ids[requests], classes=run.classes[requests], rows=run.rows[requests], outcomes=run.outcomes[requests],
        counted=run.counted[requests],
    )  # fmt: skip


def _samples(quantity: Quantity, a: Measured, b: Measured, shared: bool) -> tuple[Sample, Sample]:
    """Both in cells: of the same instants where the workload is shared, else of the same share of each run."""
    spans = (max(a.span, b.span),) * 2 if shared else (a.span, b.span)
    return tuple(  # type: ignore[return-value]
        Sample(_cells(series.at, span), series)
        for series, span in zip((quantity.series(a), quantity.series(b)), spans, strict=True)
    )


def _cells(at: Floats, span: float) -> Whole:
    if not span > 0:
        return np.zeros(len(at), np.int64)
    return np.clip((at / span * CELLS).astype(np.int64), 0, CELLS - 1)


class _Blocks:
    """The blocks that are drawn: of one length for what queues, and of another one for what does not.

    A percentile alone looks less correlated than it is; so all figures that hang together have the longest length
    that any of them asks for.
    """

    def __init__(
        self, samples: dict[str, tuple[Sample, Sample]], quantities: Sequence[Quantity], *, paired: bool, seed: int
    ) -> None:
        self.paired = paired
        self._lengths = dict.fromkeys(("queue", "step", "work"), 1)
        for quantity in quantities:
            if quantity.name in samples and quantity.unit != PER_SECOND:  # rates only shift from a cell to the next
                kind = self._kind(quantity)
                self._lengths[kind] = max(self._lengths[kind], *self._wanted(quantity, *samples[quantity.name]))
        random = np.random.default_rng(seed)
        self._drawn = {
            kind: (draw(CELLS, length, random), None if paired else draw(CELLS, length, random))
            for kind, length in self._lengths.items()
        }
        self._of_figure = {
            quantity.figure(share): self._kind(quantity) for quantity in quantities for share in quantity.shares
        }

    def _kind(self, quantity: Quantity) -> str:
        """What queues hangs together longest; of other requests all does that depends on how many there are."""
        if quantity.name == SAME_WORK:
            return "work"
        return "queue" if quantity.queues or not self.paired else "step"

    def _wanted(self, quantity: Quantity, a: Sample, b: Sample) -> list[int]:
        lengths = []
        for share in quantity.shares:
            left, right = influence(a, share), influence(b, share)
            apart = right - left
            if np.std(apart) <= ROUNDING * (np.std(left) + np.std(right)):
                lengths.append(1)
                continue
            lengths += [math.ceil(block_length(each)) for each in ([apart] if self.paired else [left, right])]
        return lengths

    def count(self, figure: str) -> float:
        """How many blocks the run has."""
        return CELLS / self._lengths[self._of_figure[figure]]

    def enough(self, figure: str) -> bool:
        """Whether these are enough for a verdict."""
        return self.count(figure) >= FEWEST_BLOCKS[self.paired or figure == SAME_WORK]

    def drawn(self, quantity: Quantity) -> tuple[Floats, Floats]:
        """How often each cell is in each resample, of both sides."""
        left, right = self._drawn[self._kind(quantity)]
        return left, left if right is None else right


def influence(sample: Sample, share: float) -> Floats:
    """How much each cell pulls at the figure: its part of the mean's, or of the percentile's, deviation."""
    values, weights = sample.values, sample.series.weights
    here = figure_of(sample.series, share)
    pull = (values - here) * weights / (abs(here) or 1.0) if share == MEAN else (values > here) - (1.0 - share)
    return np.bincount(sample.cell, pull, CELLS).astype(np.float64)


def figure_of(series: Series, share: float) -> float:
    """The mean, weighted, or a percentile: linear between neighbours, as everywhere."""
    if share == MEAN:
        return float(np.average(series.values, weights=series.weights)) if series.weights.sum() > 0 else math.nan
    return float(np.quantile(series.values, share))


def _differences(
    quantity: Quantity, a: Sample, b: Sample, blocks: _Blocks, spread: dict[str, float]
) -> list[Difference]:
    drawn = blocks.drawn(quantity)
    percentiles = [
        ResampledValues(times, sample.cell, sample.values) if quantity.shares != (MEAN,) else None
        for times, sample in zip(drawn, (a, b), strict=True)
    ]
    found = []
    for share in quantity.shares:
        if share == MEAN:
            again = [
                resampled_means(times, sample.cell, sample.values, sample.series.weights)
                for times, sample in zip(drawn, (a, b), strict=True)
            ]
        else:
            again = [each.percentile(share) for each in percentiles if each is not None]
        found.append(_difference(quantity, share, a, b, again, blocks, spread))
    return found


def _difference(
    quantity: Quantity,
    share: float,
    a: Sample,
    b: Sample,
    again: list[Floats],
    blocks: _Blocks,
    spread: dict[str, float],
) -> Difference:
    name = quantity.figure(share)
    count = blocks.count(name)
    freedom = max(count - 1, 1.0)
    left, right = figure_of(a.series, share), figure_of(b.series, share)
    positive = min(left, right, *(float(np.nanmin(each)) for each in again)) > 0
    varied = np.log(again[1] / again[0]) if positive else again[1] - again[0]
    error = float(np.nanstd(varied)) * math.sqrt(count / freedom)
    sensitivity = _sensitivity(a.series, share, left) * (QUEUE_GROWS if quantity.queues else 1.0)
    floor = max(quantity.floor(share) * max(abs(left), abs(right)), sensitivity)
    if left:
        floor = max(floor / abs(left), spread.get(name, 0.0))
    return difference(
        quantity,
        share,
        (left, right),
        (error, freedom),
        positive=positive,
        floor=floor,
        counts=(len(a.values), len(b.values)),
    )


def _sensitivity(series: Series, share: float, here: float) -> float:
    """What a step time that is off by the floor would do to the figure."""
    if np.isnan(series.slower).any():
        return 0.0
    return abs(figure_of(series._replace(values=series.slower), share) - here)


def difference(
    quantity: Quantity,
    share: float,
    figures: tuple[float, float],
    known: tuple[float, float],
    *,
    positive: bool,
    floor: float,
    counts: tuple[int, int],
) -> Difference:
    """The document of one figure, with its interval; the verdict comes when all are known.

    ``known``: the standard error, of the logarithm of b / a where ``positive``, and its degrees of freedom.
    """
    a, b = figures
    error, freedom = known
    apart = b - a
    tested = math.log(b / a) if positive else apart
    found = Difference(
        figure=quantity.figure(share),
        meaning=quantity.meaning if share == MEAN else f"{quantity.meaning}, percentile {share * 100:g}",
        unit=quantity.unit,
        a=a,
        b=b,
        difference=apart,
        relative=apart / abs(a) if a else math.nan,
        low=math.nan,
        high=math.nan,
        floor=floor,
        p=two_sided_p(tested / error, freedom) if error > 0 else float(apart == 0),
        verdict=Verdict.INCONCLUSIVE,
        n_a=counts[0],
        n_b=counts[1],
        better=None if not quantity.better or not apart else (apart > 0) == (quantity.better > 0),
        error=error,
        freedom=freedom,
        positive=positive,
    )
    if a:
        found.low, found.high = (bound / abs(a) for bound in found.interval(CONFIDENCE))
    return found


def with_verdicts(found: list[Difference], margin: float, enough: dict[str, bool], requests: int) -> list[Difference]:
    """Each with its verdict; that any of them is wrong has the level of one (Holm). ``requests``: of the smaller
    side.
    """
    rejected = holm([figure.p for figure in found], 1 - CONFIDENCE)
    for figure, significant in zip(found, rejected, strict=True):
        _judge(figure, significant, margin, enough[figure.figure], requests)
    return found


def _judge(figure: Difference, significant: bool, margin: float, enough: bool, requests: int) -> None:
    size = abs(figure.difference) / abs(figure.a) if figure.a else math.inf * bool(figure.difference)
    bound = max(abs(figure.low), abs(figure.high)) + figure.floor if figure.a else math.nan
    few = min(figure.n_a, figure.n_b) < FEWEST_REQUESTS
    if not figure.difference and not figure.error:
        figure.verdict, figure.within = Verdict.EQUIVALENT, figure.floor
    elif significant and enough and not few and size > figure.floor and (figure.a or figure.error):
        figure.verdict = Verdict.DIFFERS
    elif enough and not few and bound <= margin:
        figure.verdict, figure.within = Verdict.EQUIVALENT, bound
    else:
        _say_what_is_needed(figure, size, requests)


def _say_what_is_needed(figure: Difference, size: float, requests: int) -> None:
    """About as much as makes the interval as narrow as the difference, or as the floor where that is more."""
    half = (figure.high - figure.low) / 2 if figure.a else math.nan
    wanted = max(size, figure.floor) / 2
    times = (half / wanted) ** 2 if wanted > 0 else math.nan
    if math.isfinite(times) and times > 1:
        figure.needed_requests = _round_up(max(times * requests, FEWEST_REQUESTS))
    elif requests < FEWEST_REQUESTS:
        figure.needed_requests = FEWEST_REQUESTS
    figure.needed_repeats = 3


def _round_up(count: float) -> int:
    """To two digits."""
    digits = max(0, math.floor(math.log10(count)) - 1)
    step: int = 10**digits
    return math.ceil(count / step) * step
