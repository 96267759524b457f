"""Are users served in time, and would they still be tomorrow: joint attainment, and whether the backlog grows.

Requests that share a queue are slow together, so the interval of a share of them is Wilson's with the *effective*
number of requests: as many independent ones would vary as much from block to block of time (Kish 1965, design effect).

Attainment alone does not tell of an engine that falls behind: in a short run the queue has not grown long enough yet.
So the slope of the backlog is looked at, too: which share of the requests that come stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from batchscope.aggregation.slo import Z95, wilson_interval
from batchscope.configuration import DEFAULT_CLASS, SloTargets
from batchscope.prediction.blocks import block_count, blocks_of, resampled_weights
from batchscope.prediction.figures import RequestInstants
from batchscope.prediction.observed import Gone, NotEnoughError
from batchscope.simulator import RequestSpec

Floats = npt.NDArray[np.float64]

WARM_UP = 0.25
"""Of the time in which requests arrive: an empty engine fills, that is no growth."""
SAMPLES_PER_BLOCK = 25
DRAWS = 200
TOLERATED_GROWTH = 0.05
"""Of the requests that come: less cannot be told from the ups and downs of a run of a few hundred."""
WORST_TOLD_APART = 2.0
"""Twice the target and worse is all the same, where requests are compared by how near they come to it."""


class Attainment(msgspec.Struct, frozen=True):
    """The share of ``requests`` that met all of their targets, with its 95 % interval; ``nan`` of none.

    ``effective``: so many independent requests would tell as much.
    """

    value: float
    low: float
    high: float
    requests: int
    effective: float


class Growth(msgspec.Struct, frozen=True):
    """The backlog's growth (waiting and running), in requests that stay for each that comes, with its 95 % interval.

    0: as many leave as come; 1: nobody leaves. ``nan`` where all arrive at once.
    """

    value: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the requests show a growth that is not tolerated: not that one cannot be excluded."""
        return self.low > TOLERATED_GROWTH


def nearness(workload: Sequence[RequestSpec], instants: RequestInstants, slo: Mapping[str, SloTargets]) -> Floats:
    """Of each request, its worst latency over that one's target: at most 1 where it met all of them.

    ``inf``: it was refused, or never ended. ``nan``: its class (see ``MetricsConfiguration.slo``) has no targets. As
    in a collector, an answer of one token has no time per output token to miss, and the limit itself is met.
    """
    worst = np.full(len(workload), math.nan)
    classes = np.array([targets_class(spec.request_class, slo) for spec in workload])
    of_requests = measured(instants)
    for name, targets in slo.items():
        for target, limit in targets.declared.items():
            if target not in of_requests:
                raise NotEnoughError(f"{target} was not followed: expected one of {', '.join(of_requests)}")
            ratio = np.nan_to_num(of_requests[target] / limit, nan=math.inf)
            worst = np.where(classes == name, np.fmax(worst, ratio), worst)
    return worst


class Judged(NamedTuple):
    """Of everybody who asked, aligned: how near each came to its targets (``nearness``), when, and whose targets hold.

    Who gave up, or was given no token, has missed: ``inf``.
    """

    near: Floats
    arrived: Floats
    classes: npt.NDArray[np.str_]

    @property
    def attainment(self) -> Attainment:
        """Of all of them, each by the targets of its class."""
        return attainment_of(self.near, self.arrived)

    @property
    def by_class(self) -> dict[str, Attainment]:
        """Of each class that has targets."""
        named = sorted(set(self.classes[~np.isnan(self.near)].tolist()))
        return {name: attainment_of(self.near[of], self.arrived[of]) for name in named for of in [self.classes == name]}


def gone_count(workload: Sequence[RequestSpec], gone: Gone, slo: Mapping[str, SloTargets]) -> int:
    """How many of those who had gone when recorded have targets."""
    marked = [False] * len(workload) if gone.given_up is None else gone.given_up.tolist()
    classes = [spec.request_class for spec, left in zip(workload, marked, strict=True) if left]
    return sum(has_targets(name, slo) for name in [*classes, *(name for _, name in gone.unserved)])


def judged(
    workload: Sequence[RequestSpec],
    instants: RequestInstants,
    slo: Mapping[str, SloTargets],
    gone: Gone,
    rate_scale: float = 1.0,
) -> Judged:
    """Everybody, the requests of ``workload`` first; ``rate_scale``: they arrive so many times as fast as recorded."""
    near = nearness(workload, instants, slo)
    if gone.given_up is not None:
        near[gone.given_up[: len(near)] & ~np.isnan(near)] = math.inf
    lost = [(at / rate_scale, targets_class(name, slo)) for at, name in gone.unserved if has_targets(name, slo)]
    return Judged(
        near=np.append(near, np.full(len(lost), math.inf)),
        arrived=np.append(instants.arrived, [at for at, _ in lost]),
        classes=np.array([*(targets_class(spec.request_class, slo) for spec in workload), *(name for _, name in lost)]),
    )


def check_targets(name: str, workload: Sequence[RequestSpec], slo: Mapping[str, SloTargets]) -> None:
    """NotEnoughError where no request of the run ``name`` has a target."""
    classes = {targets_class(spec.request_class, slo) for spec in workload}
    if not any(has_targets(each, slo) for each in classes):
        expected = ", ".join(sorted(each for each, targets in slo.items() if targets.declared)) or "none"
        had = ", ".join(sorted(classes))
        raise NotEnoughError(f"{name} has requests of {had}, and targets are of {expected}: expected a class of both")


def has_targets(request_class: str | None, slo: Mapping[str, SloTargets]) -> bool:
    """Whether a request of this class can meet or miss anything."""
    name = targets_class(request_class, slo)
    return name in slo and bool(slo[name].declared)


def targets_class(request_class: str | None, slo: Mapping[str, SloTargets]) -> str:
    """The class whose targets hold for a request: its own, or that of all where classes are not told apart."""
    return DEFAULT_CLASS if set(slo) == {DEFAULT_CLASS} else request_class or DEFAULT_CLASS


def measured(instants: RequestInstants) -> dict[str, Floats]:
    """By target, what is compared with it; ``nan`` where the request has not ended."""
    latencies = instants.latencies()
    short = np.where((instants.output_tokens < 2) & ~np.isnan(instants.last_token), 0.0, math.nan)
    found = {
        "time_to_first_token": latencies["time_to_first_token"],
        "time_per_output_token": np.fmax(latencies["time_per_output_token"], short),
        "e2e_latency": latencies["total_time"],
    }
    if instants.max_emission_gap is not None:
        found["max_emission_gap"] = np.fmax(instants.max_emission_gap, short)
    return found


def attainment_of(nearness: Floats, arrived: Floats) -> Attainment:
    """Of the requests that have targets (``nearness`` not ``nan``); ``arrived``: their instants, for blocks of time."""
    evaluated = ~np.isnan(nearness)
    count = int(evaluated.sum())
    if not count:
        return Attainment(math.nan, math.nan, math.nan, 0, 0.0)
    effective = effective_requests(nearness[evaluated], arrived[evaluated])
    share = float((nearness[evaluated] <= 1).mean())
    low, high = wilson_interval(share * effective, effective)
    return Attainment(share, low, high, count, effective)


def nearness_at(share: float, nearness: Floats, arrived: Floats, seed: int = 0) -> tuple[float, float]:
    """Between which values lies the nearness that a ``share`` of the requests stays within: 95 % of resampled blocks.

    It tells more than attainment where nearly all are in time: whether by far, or just so.
    """
    evaluated = ~np.isnan(nearness)
    order = np.argsort(nearness[evaluated])
    sorted_nearness, blocks = nearness[evaluated][order], blocks_of(arrived[evaluated])
    weights = resampled_weights(int(blocks.max()) + 1, DRAWS, np.random.default_rng(seed))
    drawn = []
    for row in weights:
        passed = np.cumsum(row[blocks][order])
        drawn.append(sorted_nearness[np.searchsorted(passed, share * passed[-1])] if passed[-1] else math.nan)
    low, high = np.nanpercentile(drawn, [2.5, 97.5], method="nearest")
    return float(low), float(high)


def effective_requests(nearness: Floats, arrived: Floats) -> float:
    """So many independent requests would vary as much.

    Where all of them met their targets, or none, it is seen from how near they came.
    """
    met = (nearness <= 1).astype(np.float64)
    values = met if 0 < met.mean() < 1 else np.minimum(nearness, WORST_TOLD_APART)
    independent = float(values.var()) / len(values)
    if independent <= 0:
        return float(len(values))
    blocks = blocks_of(arrived)
    sizes, sums = np.bincount(blocks), np.bincount(blocks, values)
    errors = (sums - values.mean() * sizes)[sizes > 0]
    varies = float((errors**2).sum()) * len(errors) / max(1, len(errors) - 1) / len(values) ** 2
    return len(values) / max(1.0, varies / independent)


def backlog_growth(arrived: Floats, ended: Floats) -> Growth:
    """The slope of the requests waiting and running while requests arrive, without a warm-up, over their rate.

    ``ended`` is ``nan`` for a refused request: it is no backlog. Least squares over blocks of time.
    """
    served = ~np.isnan(ended)
    arrived, ended = np.sort(arrived[served]), np.sort(ended[served])
    if len(arrived) < 2 or arrived[-1] <= arrived[0]:
        return Growth(math.nan, math.nan, math.nan)
    since = arrived[0] + WARM_UP * (arrived[-1] - arrived[0])
    blocks = block_count(len(arrived))
    instants = np.linspace(since, arrived[-1], blocks * SAMPLES_PER_BLOCK + 1)[1:]
    backlog = np.searchsorted(arrived, instants, "right") - np.searchsorted(ended, instants, "right")
    rate = float((len(arrived) - np.searchsorted(arrived, since)) / (arrived[-1] - since))
    slope, error = _slope(*(values.reshape(blocks, -1).mean(axis=1) for values in (instants, backlog)))
    return Growth(slope / rate, (slope - Z95 * error) / rate, (slope + Z95 * error) / rate)


def _slope(x: Floats, y: Floats) -> tuple[float, float]:
    """Of the line through the points, and its standard error."""
    x, y = x - x.mean(), y - y.mean()
    spread = float((x**2).sum())
    slope = float((x * y).sum()) / spread
    return slope, math.sqrt(float(((y - slope * x) ** 2).sum()) / (len(x) - 2) / spread)
