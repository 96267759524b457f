"""Which settings would serve more of the recorded requests in time, and is the gain more than doubt.

The goodput of a setting is the requests that meet all of their targets, a second until the last one has ended.
Requests that were given up in the recorded run, and those that a setting refuses, are missed.

Searched is a grid (``candidates``): all of it on the beginning of the run, the best of it on more, few on all of it
(successive halving: Jamieson & Talwalkar, AISTATS 2016), then what lies close to the best. A schedule is chaotic: one
place more moves the goodput by a per cent either way; and who is served just in time is not, where the engine is a
little slower. So what counts is the mean over other constants that fit as well, a few in the search, more at its end;
of those that cannot be told apart then, the one counts that evicts and changes least.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

from batchscope.configuration import SloTargets
from batchscope.prediction.attainment import Attainment, attainment_of, nearness
from batchscope.prediction.blocks import block_count, blocks_of, resampled_weights
from batchscope.prediction.candidates import Space
from batchscope.prediction.figures import Figure, RequestInstants, figure_of, figures_of
from batchscope.prediction.model import FittedModel, cost_of
from batchscope.prediction.observed import NotEnoughError, Observed
from batchscope.prediction.whatif import beyond, check_engine
from batchscope.simulator import LinearCostModel, SchedulerOptions
from batchscope.simulator.instants import Instants, simulate_instants

Floats = npt.NDArray[np.float64]
Slo = Mapping[str, SloTargets]

RUNGS = (0.05, 0.2)
"""Shares of the run on which many, then fewer settings are tried, before the rest is tried on all of it."""
KEPT = 0.3
FEWEST_KEPT = 6
SHORTEST_RUNG = 300
"""Requests: with fewer of them a beginning says nothing of the whole."""
ROUNDS_CLOSER, FEW_ROUNDS = 3, 1
FINALISTS, FEW_FINALISTS = 8, 4
FINAL_WITHIN = 0.03
TOLD_APART = 0.015
"""Of goodput: closer settings are the same; about what one place more or less moves a schedule of some hundred."""
FAST_AND_SLOW, SLOW = (0.1, 0.9), (0.9,)
"""Quantiles of the time that the recorded work takes with other constants."""
DRAWS, FEW_DRAWS, MANY_REQUESTS = 10, 3, 3000
"""Other constants that fit as well. Of a long run they are better known, and each simulation takes longer."""
RESAMPLED = 200
IN_PROCESS_BELOW = 100_000
"""Requests to simulate, all settings together: fewer are done before other processes have started."""


class Outcome(msgspec.Struct, frozen=True):
    """What a setting gives: its figures, and who is served in time.

    ``goodput``: requests that met all targets, a second. ``preemptions`` is their number, ``limited_by`` shares of
    busy time. ``figures``: of each latency, ``max_emission_gap`` among them.
    """

    settings: dict[str, Any]
    goodput: float
    attainment: Attainment
    figures: dict[str, Figure]
    limited_by: dict[str, float]
    preemptions: int
    seconds: float


class Advice(msgspec.Struct, frozen=True):
    """``verdict``: ``change``, ``keep`` (the gain lies inside of its interval, or there is none) or ``undecided``.

    ``gain``: goodput of ``best`` over that of ``now``, less 1, with its 95 % interval (``inf`` where now nobody is
    served in time); ``why``: the verdict in a sentence. ``curve``: by number of places, the best goodput on the whole
    run. ``replay_error``: replayed over recorded goodput, less 1; ``nan`` where a target was not recorded.
    """

    verdict: str
    why: str
    now: Outcome
    best: Outcome
    changed: dict[str, Any]
    gain: float
    gain_low: float
    gain_high: float
    replay_error: float
    requests: int
    simulations: int
    curve: dict[int, float]
    extrapolated: list[str]
    notes: list[str]


def advise(
    observed: Observed, model: FittedModel, slo: Slo, *, space: Space | None = None, workers: int = 1, seed: int = 0
) -> Advice:
    """Search ``space``. ``workers`` processes: each imports the caller's main module, which has to be guarded.

    NotEnoughError: no target is given, or no setting serves anybody in time.
    """
    if not any(targets.declared for targets in slo.values()):
        raise NotEnoughError("no target: name one, a time to first token say, that users are to be served in")
    check_engine(observed, model)
    with _Simulations(observed, slo, workers) as simulations:
        return _Advisor(observed, model, slo, simulations, space or Space(), seed).advice()


class _Served(msgspec.Struct, frozen=True):
    """Of one simulation: who was served in time, until when it went on, evictions."""

    met: npt.NDArray[np.bool_]
    seconds: float
    preemptions: int

    @property
    def goodput(self) -> float:
        return float(self.met.sum()) / self.seconds if self.seconds > 0 else 0.0


def _served(observed: Observed, slo: Slo, options: SchedulerOptions, cost: LinearCostModel, requests: int) -> _Served:
    workload = observed.workload[:requests]
    found = simulate_instants(workload, options, cost, follow_gaps=_with_gaps(slo))
    met = nearness(workload, instants_of(observed, found), slo) <= 1
    return _Served(met, float(np.nanmax(found.last_token, initial=0.0)), int(found.preemptions.sum()))


def _with_gaps(slo: Slo) -> bool:
    return any(targets.max_emission_gap is not None for targets in slo.values())


def instants_of(observed: Observed, found: Instants) -> RequestInstants:
    """What the first requests of the run met in a simulation."""
    recorded, count = observed.instants, len(found.last_token)
    return RequestInstants(
        recorded.arrived[:count], found.first_scheduled, found.first_token, found.last_token,
        recorded.output_tokens[:count], found.max_emission_gap,
    )  # fmt: skip


_Task = tuple[SchedulerOptions, LinearCostModel, int]
_given: tuple[Observed, Slo] | None = None
"""In a process of the pool: the run and the targets, sent once."""


def _give(observed: Observed, slo: Slo) -> None:
    global _given  # noqa: PLW0603  (a process of a pool has nowhere else to keep what it was started with)
    _given = observed, slo


def _served_of_given(task: _Task) -> _Served:
    assert _given is not None  # noqa: S101  (the pool's initializer ran)
    observed, slo = _given
    return _served(observed, slo, *task)


class _Simulations:
    """Simulations, on several cores where there are enough of them to pay; each is done once."""

    def __init__(self, observed: Observed, slo: Slo, workers: int) -> None:
        self._given = observed, slo
        self._workers = min(workers, os.cpu_count() or 1)
        self._pool: ProcessPoolExecutor | None = None
        self._known: dict[_Task, _Served] = {}
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, tasks: Iterable[_Task]) -> list[_Served]:
        asked = list(tasks)
        new = [task for task in dict.fromkeys(asked) if task not in self._known]
        self._known.update(zip(new, self._results(new), strict=True))
        self.count += len(new)
        return [self._known[task] for task in asked]

    def _results(self, tasks: list[_Task]) -> Iterable[_Served]:
        if self._workers > 1 and self._pool is None and sum(task[2] for task in tasks) >= IN_PROCESS_BELOW:
            started = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, started, initializer=_give, initargs=self._given)
        if self._pool is None:
            observed, slo = self._given
            return [_served(observed, slo, *task) for task in tasks]
        return self._pool.map(_served_of_given, tasks)


class _Advisor:
    def __init__(
        self, observed: Observed, model: FittedModel, slo: Slo, simulations: _Simulations, space: Space, seed: int
    ) -> None:
        self._observed, self._model, self._slo, self._space = observed, model, slo, space
        self._simulations, self._random = simulations, np.random.default_rng(seed)
        self._all = len(observed.workload)
        self._now = observed.options
        self._long = self._all >= MANY_REQUESTS
        self._costs = [model.cost, *model.drawn_costs[: FEW_DRAWS if self._long else DRAWS]]
        self._whole: dict[SchedulerOptions, list[_Served]] = {}

    def advice(self) -> Advice:
        """All of it."""
        replayed = self._simulated(self._now)
        self._searched = self._spread(replayed)
        self._search(self._space.grid(self._now, replayed))
        served = self._finalists()
        best = self._chosen(served)
        gain, low, high = self._gain(served[self._now], served[best])
        error = self._replay_error()
        found = self._simulated(best)
        now, then = (self._outcome(*each) for each in ((self._now, replayed), (best, found)))
        if not now.goodput and not then.goodput:
            raise NotEnoughError(self._nobody())
        verdict, why = _verdict(best == self._now, gain, low, high, error)
        return Advice(
            verdict=verdict, why=why, now=now, best=then, changed=_difference(self._now, best),
            gain=gain, gain_low=low, gain_high=high, replay_error=error,
            requests=self._all, simulations=self._simulations.count, curve=self._curve(),
            extrapolated=beyond(self._model, found), notes=self._notes(found),
        )  # fmt: skip

    # The search

    def _search(self, grid: list[SchedulerOptions]) -> None:
        """Fewer and fewer settings on more and more of the run; then what lies close to the best."""
        for share in RUNGS:
            requests = int(self._all * share)
            if requests >= SHORTEST_RUNG:
                grid = self._halved(grid, requests)
        self._try(grid)
        for _ in range(FEW_ROUNDS if self._long else ROUNDS_CLOSER):
            best = self._best
            self._try(self._space.close_to(best, self._now))
            if self._best == best:
                break

    def _halved(self, grid: list[SchedulerOptions], requests: int) -> list[SchedulerOptions]:
        served = self._simulations((options, self._model.cost, requests) for options in grid)
        goodput = np.array([each.goodput for each in served])
        order = np.argsort(-goodput, kind="stable")
        kept = order[: max(FEWEST_KEPT, math.ceil(KEPT * len(grid)))]
        return list(dict.fromkeys([self._now, *(grid[index] for index in kept)]))

    def _try(self, options: Sequence[SchedulerOptions]) -> None:
        self._whole.update(self._with(self._searched, options))

    def _with(
        self, costs: Sequence[LinearCostModel], options: Sequence[SchedulerOptions]
    ) -> dict[SchedulerOptions, list[_Served]]:
        """Each setting on the whole run, with each of the constants."""
        served = iter(self._simulations((each, cost, self._all) for each in options for cost in costs))
        return {each: [next(served) for _ in costs] for each in options}

    def _spread(self, replayed: Instants) -> list[LinearCostModel]:
        """The constants that were found, some as likely that are fast, some that are slow.

        A setting that serves everybody just in time serves nobody in time where the engine is a little slower.
        """
        draws = np.array(self._model.draws)
        order = np.argsort(draws @ np.array(replayed.work)[: draws.shape[1]]) if len(draws) else draws
        chosen = (
            [order[int(share * (len(order) - 1))] for share in (SLOW if self._long else FAST_AND_SLOW)]
            if len(order)
            else []
        )
        return [self._model.cost, *(cost_of(draws[index]) for index in chosen)]

    @property
    def _best(self) -> SchedulerOptions:
        return max(self._whole, key=lambda each: _mean_goodput(self._whole[each]))

    def _finalists(self) -> dict[SchedulerOptions, list[_Served]]:
        """The recorded setting and the best ones, each with all of the constants."""
        most = _mean_goodput(self._whole[self._best])
        unlike: dict[tuple[float, int], SchedulerOptions] = {}
        for each in sorted(self._whole, key=lambda each: len(_difference(self._now, each))):
            goodput = _mean_goodput(self._whole[each])
            if goodput >= (1 - FINAL_WITHIN) * most:
                unlike.setdefault((-goodput, sum(one.preemptions for one in self._whole[each])), each)
        return self._with(
            self._costs,
            list(
                dict.fromkeys(
                    [self._now, *(unlike[key] for key in sorted(unlike)[: FEW_FINALISTS if self._long else FINALISTS])]
                )
            ),
        )

    def _chosen(self, served: Mapping[SchedulerOptions, list[_Served]]) -> SchedulerOptions:
        """Of those that cannot be told apart from the best: as recorded, else who evicts least and changes least.

        A further change has to save the eviction of one request in a hundred.
        """
        goodput = {each: _mean_goodput(of) for each, of in served.items()}
        alike = [each for each in served if goodput[each] >= (1 - TOLD_APART) * max(goodput.values())]
        if self._now in alike:
            return self._now
        evicted = {each: float(np.mean([one.preemptions for one in served[each]])) for each in alike}
        return min(
            alike,
            key=lambda each: (100 * evicted[each] / self._all + len(_difference(self._now, each)), -goodput[each]),
        )

    # What is said of it

    def _gain(self, now: list[_Served], best: list[_Served]) -> tuple[float, float, float]:
        """Of the goodput, and 95 % of it over other constants and resampled blocks of time; both resampled alike."""
        before, after = (_mean_goodput(each) for each in (now, best))
        if not before:
            return (math.inf, math.inf, math.inf) if after else (0.0, 0.0, 0.0)
        blocks = blocks_of(self._observed.instants.arrived)
        weights = resampled_weights(block_count(self._all), RESAMPLED, self._random)
        draws = [
            self._resampled(after, blocks, weights) / np.maximum(self._resampled(before, blocks, weights), 1e-12) - 1
            for before, after in zip(now, best, strict=True)
        ]
        gain = after / before - 1
        low, high = np.percentile(draws, [2.5, 97.5])
        return gain, min(gain, float(low)), max(gain, float(high))

    def _resampled(self, served: _Served, blocks: npt.NDArray[np.int64], weights: Floats) -> Floats:
        return weights @ np.bincount(blocks, served.met, minlength=weights.shape[1]) / served.seconds

    def _replay_error(self) -> float:
        """Where the recorded run tells who was served in time."""
        observed = self._observed
        if _with_gaps(self._slo) and observed.instants.max_emission_gap is None:
            return math.nan
        met = int((nearness(observed.workload, observed.instants, self._slo) <= 1).sum())
        replayed = self._whole[self._now][0].goodput
        return replayed / (met / observed.end) - 1 if met else math.nan if not replayed else math.inf

    def _simulated(self, options: SchedulerOptions) -> Instants:
        return simulate_instants(self._observed.workload, options, self._model.cost, follow_gaps=True)

    def _outcome(self, options: SchedulerOptions, found: Instants) -> Outcome:
        observed = self._observed
        instants = instants_of(observed, found)
        near = nearness(observed.workload, instants, self._slo)
        given_up = np.full(observed.left_out, math.inf)
        when = np.linspace(0, observed.end, observed.left_out)
        seconds = float(np.nanmax(found.last_token, initial=0.0))
        figures = figures_of(instants, np.ones(self._all, bool))
        if found.max_emission_gap is not None:
            figures["max_emission_gap"] = figure_of(found.max_emission_gap)
        busy = sum(found.busy_seconds.values())
        return Outcome(
            settings={name: getattr(options, name) for name in SETTINGS},
            goodput=float((near <= 1).sum()) / seconds if seconds else 0.0,
            attainment=attainment_of(np.concatenate([near, given_up]), np.concatenate([instants.arrived, when])),
            figures=figures,
            limited_by={name: spent / busy for name, spent in sorted(found.busy_seconds.items())},
            preemptions=int(found.preemptions.sum()),
            seconds=seconds,
        )

    def _curve(self) -> dict[int, float]:
        curve: dict[int, float] = {}
        for options, served in self._whole.items():
            places = options.max_running_requests
            curve[places] = max(curve.get(places, 0.0), _mean_goodput(served))
        return dict(sorted(curve.items()))

    def _nobody(self) -> str:
        targets = "; ".join(
            ", ".join(f"{name} {limit:g} s" for name, limit in each.declared.items()) for each in self._slo.values()
        )
        return f"{self._observed.name}: none of {len(self._whole)} settings serves anybody within {targets}"

    def _notes(self, found: Instants) -> list[str]:
        observed = self._observed
        notes = list(observed.assumed)
        notes += [f"{name} is not identified by {self._model.run}" for name in self._model.not_identified]
        if observed.left_out:
            notes.append(f"{observed.left_out} requests that got no token count as missed")
        refused = int(np.isnan(found.last_token).sum())
        if refused:
            notes.append(f"{refused} requests do not fit the best setting and count as missed")
        return notes


def _mean_goodput(served: Sequence[_Served]) -> float:
    """Over the constants of its simulations."""
    return float(np.mean([one.goodput for one in served]))


SETTINGS = ("max_running_requests", "max_scheduled_tokens", "kv_cache_blocks", "block_size", "policy")


def _difference(now: SchedulerOptions, then: SchedulerOptions) -> dict[str, Any]:
    return {name: getattr(then, name) for name in SETTINGS if getattr(then, name) != getattr(now, name)}


def _verdict(same: bool, gain: float, low: float, high: float, error: float) -> tuple[str, str]:
    if same:
        return "keep", f"no setting that was tried has a goodput more than {TOLD_APART:.1%} higher"
    if low <= 0 <= high:
        return "keep", f"the gain of {gain:+.1%} lies inside of its interval"
    if abs(error) >= gain:
        return "undecided", f"replayed, the recorded goodput is off by {error:+.1%}: more than the gain of {gain:+.1%}"
    return "change", f"{gain:+.1%} goodput"
