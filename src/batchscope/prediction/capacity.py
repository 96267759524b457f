"""The highest rate at which users are still served in time: the recorded requests, faster and faster.

A rate *holds* where the share of requests that meet all of their targets is large enough, and the backlog does not
grow for certain (see ``attainment``). Every rate is tried with the same requests, in the same order and proportions of
time: numbers common to all make two rates comparable, and the share fall steadily. So bisection finds the edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from batchscope.configuration import SloTargets
from batchscope.errors import ConfigurationError
from batchscope.prediction.attainment import (
    TOLERATED_GROWTH,
    Attainment,
    Growth,
    Judged,
    backlog_growth,
    check_targets,
    gone_count,
    judged,
    nearness_at,
)
from batchscope.prediction.figures import RequestInstants
from batchscope.prediction.fit import FEWEST_REQUESTS
from batchscope.prediction.model import ALL_CONSTANTS, FittedModel
from batchscope.prediction.observed import Gone, NotEnoughError, Observed
from batchscope.prediction.whatif import beyond, faster
from batchscope.simulator import LinearCostModel, RequestSpec, SchedulerOptions
from batchscope.simulator.instants import Instants, simulate_instants

Floats = npt.NDArray[np.float64]

MOST_SIMULATIONS = 25
LOWEST, HIGHEST = 1 / 64, 1024
"""Multiples of the recorded rate that are looked at."""
WITHIN, WITHIN_OF_BOUND = 1.01, 1.03
"""The edge lies between a rate that holds and one that does not, this much higher; a bound of its interval likewise."""
SHORT = 20
"""Fewer mean total times than this, and the traffic is over before the engine has settled."""


class Traffic(msgspec.Struct, frozen=True):
    """What is asked of an engine: requests in order of arrival, its settings, and what an iteration costs it.

    Who is ``gone`` has missed at every rate.
    ``recorded``: what the requests met, where that is known;
    ``as_recorded``: under these options. ``model``: where the cost comes from, if it was fitted.
    """

    name: str
    workload: tuple[RequestSpec, ...]
    options: SchedulerOptions
    cost: LinearCostModel
    gone: Gone = Gone()
    recorded: RequestInstants | None = None
    model: FittedModel | None = None
    as_recorded: bool = True

    @property
    def rate(self) -> float:
        """Requests a second, between the first and the last arrival."""
        return (len(self.workload) + len(self.gone.unserved) - 1) / self.seconds

    @property
    def seconds(self) -> float:
        """Between the first and the last arrival."""
        return self.workload[-1].arrival - self.workload[0].arrival


class RatePoint(msgspec.Struct, frozen=True):
    """One simulation: ``rate`` requests a second, ``rate_scale`` times the recorded one. ``holds``: see the module.

    ``holds_surely``, ``holds_possibly``: at the worse and at the better end of what these requests tell, 95 %.
    ``by_class``: the attainment of each class that has targets.
    """

    rate_scale: float
    rate: float
    attainment: Attainment
    growth: Growth
    holds: bool
    holds_surely: bool
    holds_possibly: bool
    by_class: dict[str, Attainment] = {}


class Capacity(msgspec.Struct, frozen=True):
    """The highest rate that holds, requests a second, and as a multiple of the recorded one; ``nan`` where none does.

    ``low``, ``high``: its 95 % interval (which requests came, and which constants are as likely); ``nan`` where these
    requests are too few to tell. ``edge``: what fails beyond it, ``attainment`` or ``backlog``, empty: nothing.
    ``recorded``: the attainment that the run had, beside the model's at ``rate_scale`` 1 in ``points``, which is of the
    same settings where they are ``as_recorded``. ``limited_by``:
    shares of busy time at the capacity. ``seconds`` that the requests last there.
    """

    name: str
    rate: float
    rate_scale: float
    low: float
    high: float
    recorded_rate: float
    target: float
    slo: dict[str, SloTargets]
    requests: int
    given_up: int
    edge: str
    seconds: float
    recorded: Attainment | None
    as_recorded: bool
    limited_by: dict[str, float]
    points: list[RatePoint]
    extrapolated: list[str]
    notes: list[str]

    @property
    def found(self) -> bool:
        """Whether any rate holds."""
        return not math.isnan(self.rate)


def traffic_of(observed: Observed, model: FittedModel, options: SchedulerOptions | None = None) -> Traffic:
    """What a run asked of its engine; ``options``: other settings than the recorded ones."""
    return Traffic(
        name=observed.name,
        workload=observed.workload,
        options=options or observed.options,
        cost=model.cost,
        gone=observed.gone,
        recorded=observed.instants,
        model=model,
        as_recorded=options in {None, observed.options},
    )


def capacity(
    traffic: Traffic,
    slo: Mapping[str, SloTargets],
    *,
    target: float = 0.9,
    on_simulated: Callable[[int], None] | None = None,
) -> Capacity:
    """The highest rate at which a share of ``target`` of the requests meets all targets of ``slo`` (by class).

    At most ``MOST_SIMULATIONS``, after each of which ``on_simulated`` is told how many there were. NotEnoughError where
    nothing can be said of the traffic: too few requests, all at once, or none of a class that has targets.
    """
    check_share(target)
    _check_enough(traffic, slo)
    rates = _Rates(traffic, slo, target, on_simulated)
    scale = rates.edge(lambda point: point.holds, WITHIN)
    if scale is None:
        return rates.capacity(math.nan, math.nan, math.nan)
    spread = _doubt_of_constants(traffic, rates.found(scale))
    surely = rates.edge(lambda point: point.holds_surely, WITHIN_OF_BOUND, most=rates.left // 2)
    possibly = rates.edge(lambda point: point.holds_possibly, WITHIN_OF_BOUND)
    return rates.capacity(scale, _widened(scale, surely, 1 / spread[1]), _widened(scale, possibly, 1 / spread[0]))


def check_share(target: float) -> None:
    """ConfigurationError for a share of the requests that is none."""
    if not 0 < target < 1:
        raise ConfigurationError("attainment", target, "a share between 0 and 1")


def _check_enough(traffic: Traffic, slo: Mapping[str, SloTargets]) -> None:
    count = len(traffic.workload)
    if count < FEWEST_REQUESTS:
        raise NotEnoughError(f"{traffic.name}: {count} requests: a capacity takes at least {FEWEST_REQUESTS}")
    if traffic.seconds <= 0:
        raise NotEnoughError(f"{traffic.name}: all requests arrive at once: there is no rate to be changed")
    check_targets(traffic.name, traffic.workload, slo)


class _Rates:
    """The rates that were tried."""

    def __init__(
        self,
        traffic: Traffic,
        slo: Mapping[str, SloTargets],
        target: float,
        on_simulated: Callable[[int], None] | None,
    ) -> None:
        self._traffic, self._slo, self._target = traffic, slo, target
        self._tell = on_simulated or (lambda _: None)
        self._gaps = any("max_emission_gap" in targets.declared for targets in slo.values())
        self._points: dict[float, RatePoint] = {}
        self._found: dict[float, tuple[Instants, RequestInstants]] = {}

    @property
    def left(self) -> int:
        """Simulations that may still be run."""
        return MOST_SIMULATIONS - len(self._points)

    def edge(self, passes: Callable[[RatePoint], bool], within: float, most: int = MOST_SIMULATIONS) -> float | None:
        """The highest rate that passes, by doubling or halving and then bisection; ``None`` where none does.

        What was tried for another question counts for this one. ``most`` new ones.
        """
        until = max(0, self.left - most)
        while True:
            good = max((scale for scale, point in self._points.items() if passes(point)), default=None)
            bad = min((scale for scale in self._points if good is None or scale > good), default=None)
            following = _next(good, bad, within)
            if following is None or self.left <= until:
                return good
            self._try(following)

    def found(self, scale: float) -> Instants:
        """The simulation at a rate that was tried."""
        return self._found[scale][0]

    def capacity(self, scale: float, low: float, high: float) -> Capacity:
        """The answer, with what was tried on the way to it."""
        traffic, recorded = self._traffic, self._traffic.recorded
        found, instants = self._found.get(scale) or self._found[min(self._found)]
        above = min((other for other in self._points if not other <= scale), default=None)
        busy = found.busy_seconds
        return Capacity(
            name=traffic.name,
            rate=scale * traffic.rate,
            rate_scale=scale,
            low=low * traffic.rate,
            high=high * traffic.rate,
            recorded_rate=traffic.rate,
            target=self._target,
            slo=dict(self._slo),
            requests=self._judged(instants).attainment.requests,
            given_up=self._given_up,
            edge=self._what_fails(above),
            seconds=traffic.seconds / scale,
            recorded=self._judged(recorded).attainment if recorded is not None and self._followed(recorded) else None,
            as_recorded=traffic.as_recorded,
            limited_by={cause: seconds / (sum(busy.values()) or 1.0) for cause, seconds in sorted(busy.items())},
            points=[point for _, point in sorted(self._points.items())],
            extrapolated=beyond(traffic.model, found) if traffic.model is not None else [],
            notes=self._notes(scale, found, instants),
        )

    def _try(self, scale: float) -> None:
        traffic = self._traffic
        workload = faster(traffic.workload, scale)
        found = simulate_instants(workload, traffic.options, traffic.cost, follow_gaps=self._gaps)
        arrived, tokens = (
            np.array([getattr(spec, field) for spec in workload], np.float64) for field in ("arrival", "output_tokens")
        )
        instants = RequestInstants(
            arrived, found.first_scheduled, found.first_token, found.last_token, tokens, found.max_emission_gap
        )
        self._points[scale] = self._point(scale, instants)
        self._found[scale] = found, instants
        self._tell(len(self._points))

    def _point(self, scale: float, instants: RequestInstants) -> RatePoint:
        found = self._judged(instants, scale)
        attainment, growth = found.attainment, backlog_growth(instants.arrived, instants.last_token)
        low, high = nearness_at(self._target, found.near, found.arrived)
        holds = attainment.value >= self._target and not growth.certain
        surely = holds and high <= 1 and growth.value <= TOLERATED_GROWTH
        possibly = holds or (low <= 1 and not growth.certain)
        return RatePoint(scale, scale * self._traffic.rate, attainment, growth, holds, surely, possibly, found.by_class)

    def _judged(self, instants: RequestInstants, scale: float = 1.0) -> Judged:
        """Of all that asked: who gave up has missed."""
        return judged(self._traffic.workload, instants, self._slo, self._traffic.gone, scale)

    @property
    def _given_up(self) -> int:
        return gone_count(self._traffic.workload, self._traffic.gone, self._slo)

    def _followed(self, instants: RequestInstants) -> bool:
        return not self._gaps or instants.max_emission_gap is not None

    def _what_fails(self, above: float | None) -> str:
        if above is None:
            return ""
        return "attainment" if self._points[above].attainment.value < self._target else "backlog"

    def _notes(self, scale: float, found: Instants, instants: RequestInstants) -> list[str]:
        traffic, notes = self._traffic, []
        refused = int(np.isnan(found.last_token).sum())
        if refused:
            notes.append(f"{refused:,} requests do not fit these settings, are refused and have missed")
        if given_up := self._given_up:
            notes.append(
                f"{given_up:,} requests were given up when recorded: they have missed at every rate; of 'batchscope "
                "report' those are not in the share that went before a target had passed"
            )
        if traffic.model is not None:
            notes += [f"{name} is not identified by {traffic.model.run}" for name in traffic.model.not_identified]
        if math.isnan(scale):
            return notes
        lasts, total = traffic.seconds / scale, float(np.nanmean(instants.last_token - instants.arrived))
        if lasts < SHORT * total:
            notes.append(
                f"at this rate the requests are over in {lasts:.3g} s, {lasts / total:.1f} times what one takes: "
                "record for longer to be surer"
            )
        return notes


def _next(good: float | None, bad: float | None, within: float) -> float | None:
    """The rate to try, between the highest that passes and the next one that does not; ``None``: enough is known."""
    if good is None:
        lower = 1.0 if bad is None else bad / 2
        return lower if lower >= LOWEST else None
    if bad is None:
        return 2 * good if 2 * good <= HIGHEST else None
    return math.sqrt(good * bad) if bad > within * good else None


def _doubt_of_constants(traffic: Traffic, found: Instants) -> tuple[float, float]:
    """How many times as long the same iterations take with constants as likely: 95 % of them.

    An engine that takes so many times as long has so many times less capacity.
    """
    if traffic.model is None:
        return 1.0, 1.0
    draws = np.array(traffic.model.draws)
    work = np.array(found.work)[: draws.shape[1]]
    ours = work @ np.array([getattr(traffic.cost, name) for name in ALL_CONSTANTS[: len(work)]])
    low, high = np.percentile(draws @ work / ours, [2.5, 97.5])
    return min(1.0, float(low)), max(1.0, float(high))


def _widened(scale: float, bound: float | None, factor: float) -> float:
    """A bound by which requests came, and one by the constants, independent of it: their logarithms like errors."""
    if bound is None:
        return math.nan
    away = math.hypot(math.log(bound / scale), math.log(factor))
    return scale * math.exp(math.copysign(away, math.log(factor) or math.log(bound / scale)))
