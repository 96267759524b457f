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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from batchscope.configuration import DEFAULT_CLASS
from batchscope.errors import ConfigurationError
from batchscope.prediction.attainment import Attainment, Judged, check_targets, gone_count, judged
from batchscope.prediction.blocks import block_count, blocks_of, resampled_weights
from batchscope.prediction.candidates import Space
from batchscope.prediction.figures import Figure, Off, RequestInstants, figure_of, figures_of, worst_off
from batchscope.prediction.matched import Matched, in_its_measure, matched_targets
from batchscope.prediction.model import FittedModel, cost_of
from batchscope.prediction.observed import NEVER_BINDING, NotEnoughError, Observed
from batchscope.prediction.served import Served, Simulations, Slo, instants_of, mean_goodput, with_gaps
from batchscope.prediction.whatif import beyond, check_engine, check_enough
from batchscope.simulator import LinearCostModel, SchedulerOptions
from batchscope.simulator.instants import Instants, simulate_instants
from batchscope.text import shown

Floats = npt.NDArray[np.float64]

VERDICTS = {"change": "Change the settings", "keep": "Change nothing", "undecided": "Cannot be decided"}
"""What each verdict is called."""
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


FLAGS = {
    "vLLM": {
        "max_running_requests": "--max-num-seqs",
        "max_scheduled_tokens": "--max-num-batched-tokens",
        "kv_cache_blocks": "--num-gpu-blocks-override",
    },
    "SGLang": {
        "max_running_requests": "--max-running-requests",
        "max_scheduled_tokens": "--chunked-prefill-size",
        "kv_cache_blocks": "--max-total-tokens",
    },
}
"""In each engine's own words. SGLang counts tokens of its KV cache, not blocks."""
WORSE_BY = 0.01
FAR_OFF = 0.1
"""A replay whose goodput is off by more is no ground to say that nothing would be better."""


class Outcome(msgspec.Struct, frozen=True):
    """What a setting gives: its figures, and who is served in time.

    ``goodput``: requests that met all targets, a second from the first arrival to the last end, the mean over constants
    that fit as well; all else is with those that were found. ``seconds``: until that end. ``by_class``: the attainment
    of each class that has targets. ``preemptions`` is their number, ``limited_by`` shares of busy time. ``figures``: of
    each latency, ``max_emission_gap`` among them.
    """

    settings: dict[str, Any]
    goodput: float
    attainment: Attainment
    by_class: dict[str, Attainment]
    figures: dict[str, Figure]
    limited_by: dict[str, float]
    preemptions: int
    seconds: float


class Tried(msgspec.Struct, frozen=True):
    """A setting that was simulated, on the first ``requests`` of the run; means over some constants that fit as well.

    ``alike``: its goodput cannot be told from that of the best. Latencies in seconds, ``nan`` where nobody was served.
    """

    settings: dict[str, Any]
    requests: int
    goodput: float
    p99_time_to_first_token: float
    p99_time_per_output_token: float
    preemptions: float
    alike: bool


class Advice(msgspec.Struct, frozen=True):
    """``verdict``: ``change``, ``keep`` (the gain lies inside of its interval, or there is none) or ``undecided``.

    ``gain``: goodput of ``best`` over that of ``now``, less 1, with its 95 % interval (``inf`` where now nobody is
    served in time); ``why``: the verdict in a sentence. ``alike_low``, ``alike_high``: a goodput between them cannot be
    told from that of ``best``. ``tried``: every setting, the best first, those of the whole run before others.
    ``curve``: by number of places, the best goodput on the whole run. ``replay_error``: replayed over recorded goodput,
    less 1; ``nan`` where a target was not recorded. ``replay_off``: of the latencies that have targets, the figure
    whose replay is farthest off. ``matched``: each target that was recorded, and what stands for it in the replay.
    """

    verdict: str
    why: str
    now: Outcome
    best: Outcome
    changed: dict[str, Any]
    gain: float
    gain_low: float
    gain_high: float
    alike_low: float
    alike_high: float
    replay_error: float
    replay_off: Off | None
    matched: list[Matched]
    requests: int
    simulations: int
    curve: dict[int, float]
    tried: list[Tried]
    extrapolated: list[str]
    notes: list[str]


Stage = Callable[[str, int, int], None]
"""Told what is searched, how many of its simulations are done, and of how many."""


def advise(
    observed: Observed,
    model: FittedModel,
    slo: Slo,
    *,
    space: Space | None = None,
    workers: int = 1,
    seed: int = 0,
    on_simulated: Stage | None = None,
) -> Advice:
    """Search ``space``. ``workers`` processes: each imports the caller's main module, which has to be guarded.

    ``slo`` by request class: a request is judged by the targets of its own. NotEnoughError: no target is given, or
    none of a class that came; fewer than 100 requests; or no setting serves anybody in time.
    """
    if not any(targets.declared for targets in slo.values()):
        raise NotEnoughError("no target: name one, a time to first token say, that users are to be served in")
    check_engine(observed, model)
    check_enough(observed, "advice")
    check_targets(observed.name, observed.workload, slo)
    _check_memory(observed, space or Space())
    return _Advisor(observed, model, slo, space or Space(), seed, on_simulated or (lambda *_: None)).advice(workers)


def _check_memory(observed: Observed, space: Space) -> None:
    """ConfigurationError where fewer KV blocks could be had than there were."""
    most, had = space.most_kv_cache_blocks, observed.options.kv_cache_blocks
    if most is not None and most < had:
        known = f"at least {had}, which the run had" if had != NEVER_BINDING else (
            "a run that says how many there were, or --assume kv_cache_blocks=N"
        )  # fmt: skip
        raise ConfigurationError("most_kv_cache_blocks", most, known)


class _Advisor:
    def __init__(self, observed: Observed, model: FittedModel, slo: Slo, space: Space, seed: int, tell: Stage) -> None:
        self._observed, self._model, self._slo, self._space = observed, model, slo, space
        self._tell, self._stage = tell, ""
        self._all = len(observed.workload)
        self._weights = resampled_weights(block_count(self._all), RESAMPLED, np.random.default_rng(seed))
        self._now = observed.options
        self._long = self._all >= MANY_REQUESTS
        self._costs = [model.cost, *model.drawn_costs[: FEW_DRAWS if self._long else DRAWS]]
        self._begun: dict[SchedulerOptions, tuple[int, Served]] = {}
        self._whole: dict[SchedulerOptions, list[Served]] = {}

    def advice(self, workers: int) -> Advice:
        """All of it."""
        replayed = self._simulated(self._now)
        observed, instants = self._observed, instants_of(self._observed, replayed)
        self._matched = matched_targets(observed.workload, observed.instants, instants, self._slo)
        matched = in_its_measure(self._slo, self._matched)
        with Simulations(
            observed, self._slo, workers, lambda done, of: self._tell(self._stage, done, of), matched=matched
        ) as self._simulations:
            return self._advice(replayed)

    def _advice(self, replayed: Instants) -> Advice:
        self._searched = self._spread(replayed)
        self._search(self._space.grid(self._now, replayed))
        served = self._finalists()
        best = self._chosen(served)
        gain, low, high = self._gain(served[self._now], served[best])
        error = self._replay_error()
        found = self._simulated(best)
        self._whole.update(served)
        now, then = (self._outcome(*each) for each in ((self._now, replayed), (best, found)))
        if not now.goodput and not then.goodput:
            raise NotEnoughError(self._nobody())
        verdict, why = _verdict(best == self._now, gain, low, high, error)
        if verdict != "undecided" and self._overturned(verdict, best):
            verdict, why = "undecided", _why_overturned(verdict, self._matched)
        alike = self._alike(best, low, high)
        return Advice(
            verdict=verdict, why=why, now=now, best=then, changed=_difference(self._now, best),
            gain=gain, gain_low=low, gain_high=high, alike_low=alike[0], alike_high=alike[1], replay_error=error,
            replay_off=self._replay_off(now), matched=self._matched, requests=self._all,
            simulations=self._simulations.count, curve=self._curve(), tried=self._tried(*alike),
            extrapolated=beyond(self._model, found), notes=self._notes(found),
        )  # fmt: skip

    # The search

    def _search(self, grid: list[SchedulerOptions]) -> None:
        """Fewer and fewer settings on more and more of the run; then what lies close to the best."""
        for share in RUNGS:
            requests = int(self._all * share)
            if requests >= SHORTEST_RUNG:
                self._stage = f"settings on {requests:,} requests"
                grid = self._halved(grid, requests)
        self._stage = f"settings on all {self._all:,} requests"
        self._try(grid)
        self._stage = "close to the best"
        for _ in range(FEW_ROUNDS if self._long else ROUNDS_CLOSER):
            best = self._best
            self._try(self._space.close_to(best, self._now))
            if self._best == best:
                break

    def _halved(self, grid: list[SchedulerOptions], requests: int) -> list[SchedulerOptions]:
        served = self._simulations((options, self._model.cost, requests) for options in grid)
        self._begun.update((options, (requests, one)) for options, one in zip(grid, served, strict=True))
        goodput = np.array([each.goodput for each in served])
        order = np.argsort(-goodput, kind="stable")
        kept = order[: max(FEWEST_KEPT, math.ceil(KEPT * len(grid)))]
        return list(dict.fromkeys([self._now, *(grid[index] for index in kept)]))

    def _try(self, options: Sequence[SchedulerOptions]) -> None:
        self._whole.update(self._with(self._searched, options))

    def _with(
        self, costs: Sequence[LinearCostModel], options: Sequence[SchedulerOptions]
    ) -> dict[SchedulerOptions, list[Served]]:
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
        return max(self._whole, key=lambda each: mean_goodput(self._whole[each]))

    def _finalists(self) -> dict[SchedulerOptions, list[Served]]:
        """The recorded setting and the best ones, each with all of the constants."""
        most = mean_goodput(self._whole[self._best])
        self._stage = "the best with other constants"
        unlike: dict[tuple[float, int], SchedulerOptions] = {}
        for each in sorted(self._whole, key=lambda each: len(_difference(self._now, each))):
            goodput = mean_goodput(self._whole[each])
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

    def _chosen(self, served: Mapping[SchedulerOptions, list[Served]]) -> SchedulerOptions:
        """Of those that cannot be told apart from the best: as recorded, else who evicts least and changes least.

        A further change has to save the eviction of one request in a hundred.
        """
        goodput = {each: mean_goodput(of) for each, of in served.items()}
        alike = [each for each in served if goodput[each] >= (1 - TOLD_APART) * max(goodput.values())]
        if self._now in alike:
            return self._now
        evicted = {each: float(np.mean([one.preemptions for one in served[each]])) for each in alike}
        return min(
            alike,
            key=lambda each: (100 * evicted[each] / self._all + len(_difference(self._now, each)), -goodput[each]),
        )

    # What is said of it

    def _gain(self, now: list[Served], best: list[Served]) -> tuple[float, float, float]:
        """Of the goodput, and 95 % of it over other constants and resampled blocks of time; both resampled alike."""
        before, after = (mean_goodput(each) for each in (now, best))
        if not before:
            return (math.inf, math.inf, math.inf) if after else (0.0, 0.0, 0.0)
        blocks = blocks_of(self._observed.instants.arrived)
        draws = [
            self._resampled(after, blocks) / np.maximum(self._resampled(before, blocks), 1e-12) - 1
            for before, after in zip(now, best, strict=True)
        ]
        gain = after / before - 1
        low, high = np.percentile(draws, [2.5, 97.5])
        return gain, min(gain, float(low)), max(gain, float(high))

    def _overturned(self, verdict: str, best: SchedulerOptions) -> bool:
        """Whether it would be another by the targets that have as many in time in the replay as really were."""
        other = best
        if verdict == "keep":
            goodput = {
                each: mean_goodput([one.by_matched for one in of])
                for each, of in self._with(self._searched, list(self._whole)).items()
            }
            other = max(goodput, key=lambda each: goodput[each])
        if not self._matched or other == self._now:
            return False
        served = self._with(self._costs, [self._now, other])
        gain, low, _ = self._gain(*([one.by_matched for one in served[each]] for each in (self._now, other)))
        return low <= 0 if verdict == "change" else gain > TOLD_APART and low > 0

    def _resampled(self, served: Served, blocks: npt.NDArray[np.int64]) -> Floats:
        weights = self._weights
        return weights @ np.bincount(blocks, served.met, minlength=weights.shape[1]) / served.seconds

    def _replay_error(self) -> float:
        """Where the recorded run tells who was served in time."""
        observed = self._observed
        if with_gaps(self._slo) and observed.instants.max_emission_gap is None:
            return math.nan
        met = int((self._judged(observed.instants).near <= 1).sum())
        replayed = self._whole[self._now][0].goodput
        return replayed / (met / observed.end) - 1 if met else math.nan if not replayed else math.inf

    def _replay_off(self, now: Outcome) -> Off | None:
        declared = {target for targets in self._slo.values() for target in targets.declared}
        recorded = figures_of(self._observed.instants, np.ones(self._all, bool))
        names = {"total_time" if target == "e2e_latency" else target for target in declared} & set(recorded)
        return worst_off(recorded, now.figures, sorted(names))

    def _judged(self, instants: RequestInstants) -> Judged:
        return judged(self._observed.workload, instants, self._slo, self._observed.gone)

    def _simulated(self, options: SchedulerOptions) -> Instants:
        return simulate_instants(self._observed.workload, options, self._model.cost, follow_gaps=True)

    def _outcome(self, options: SchedulerOptions, found: Instants) -> Outcome:
        instants = instants_of(self._observed, found)
        everybody = self._judged(instants)
        seconds = float(np.nanmax(found.last_token, initial=0.0))
        figures = figures_of(instants, np.ones(self._all, bool))
        if found.max_emission_gap is not None:
            figures["max_emission_gap"] = figure_of(found.max_emission_gap)
        busy = sum(found.busy_seconds.values())
        return Outcome(
            settings=_settings(options),
            goodput=mean_goodput(self._whole[options]),
            attainment=everybody.attainment,
            by_class=everybody.by_class,
            figures=figures,
            limited_by={name: spent / busy for name, spent in sorted(found.busy_seconds.items())},
            preemptions=int(found.preemptions.sum()),
            seconds=seconds,
        )

    def _alike(self, best: SchedulerOptions, low: float, high: float) -> tuple[float, float]:
        """Which goodput cannot be told from the best one: the gain's interval, and what one place moves a schedule."""
        now, most = (mean_goodput(self._whole[each]) for each in (self._now, best))
        bounds = (now * (1 + low), now * (1 + high)) if now else (most, most)
        return min(bounds[0], most * (1 - TOLD_APART)), max(bounds[1], most * (1 + TOLD_APART))

    def _tried(self, low: float, high: float) -> list[Tried]:
        """All settings, on as many requests as each was tried on at most."""
        served = {options: (requests, [one]) for options, (requests, one) in self._begun.items()}
        served |= {options: (self._all, each) for options, each in self._whole.items()}
        found = [
            Tried(
                settings=_settings(options),
                requests=requests,
                goodput=mean_goodput(each),
                p99_time_to_first_token=_mean([one.p99_time_to_first_token for one in each]),
                p99_time_per_output_token=_mean([one.p99_time_per_output_token for one in each]),
                preemptions=_mean([float(one.preemptions) for one in each]),
                alike=requests == self._all and low <= mean_goodput(each) <= high,
            )
            for options, (requests, each) in served.items()
        ]
        return sorted(found, key=lambda each: (-each.requests, -each.goodput))

    def _curve(self) -> dict[int, float]:
        curve: dict[int, float] = {}
        for options, served in self._whole.items():
            places = options.max_running_requests
            curve[places] = max(curve.get(places, 0.0), mean_goodput(served))
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
        if gone := gone_count(observed.workload, observed.gone, self._slo):
            notes.append(f"{gone:,} requests were given up when recorded: they count as missed")
        refused = int(np.isnan(found.last_token).sum())
        if refused:
            notes.append(f"{refused} requests do not fit the best setting and count as missed")
        return notes


def flags(advice: Advice) -> dict[str, dict[str, int]]:
    """By engine, its flags and their values for what is changed; a policy is no flag, but another scheduler."""
    found: dict[str, dict[str, int]] = {}
    for engine, names in FLAGS.items():
        values = dict(advice.changed)
        if engine == "SGLang" and "kv_cache_blocks" in values:
            values["kv_cache_blocks"] *= advice.best.settings["block_size"]
        found[engine] = {flag: values[name] for name, flag in names.items() if name in values}
    return found


def flags_of_engine(advice: Advice, engine: str) -> dict[str, str]:
    """By engine its flags as they are typed: those of the run's engine, of all where that is another one."""
    known = tuple(name.lower() for name in FLAGS)
    return {
        name: " ".join(f"{flag} {value}" for flag, value in values.items())
        for name, values in flags(advice).items()
        if values and (engine.lower().startswith(name.lower()) or not engine.lower().startswith(known))
    }


def what_gets_worse(advice: Advice) -> dict[tuple[str, str], tuple[float, float]]:
    """By statistic and latency what it is now and would be, where that is longer by more than a per cent."""
    return {
        (statistic, name): (before, after)
        for name, now in advice.now.figures.items()
        for statistic in ("mean", "p99")
        for before, after in [(getattr(now, statistic), getattr(advice.best.figures[name], statistic))]
        if after > before * (1 + WORSE_BY)
    }


def _mean(values: list[float]) -> float:
    """Of what is known."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


SETTINGS = ("max_running_requests", "max_scheduled_tokens", "kv_cache_blocks", "block_size", "policy")


def _settings(options: SchedulerOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in SETTINGS}


def _difference(now: SchedulerOptions, then: SchedulerOptions) -> dict[str, Any]:
    return {name: getattr(then, name) for name in SETTINGS if getattr(then, name) != getattr(now, name)}


def _verdict(same: bool, gain: float, low: float, high: float, error: float) -> tuple[str, str]:
    """What is advised and why; ``error`` of the replay's goodput, ``nan``: not known."""
    kept = ""
    if same:
        kept = f"no setting that was tried has a goodput more than {100 * TOLD_APART:g} % higher"
    elif low <= 0 <= high:
        kept = f"a gain of {_signed(gain)} may as well be none (95 % interval {_signed(low)} .. {_signed(high)})"
    if abs(error) > FAR_OFF if kept else _as_far_off(error, gain):
        off = f"is off by {_signed(error)}" if math.isfinite(error) else "is 0, that of the replay is not"
        claim = "that nothing would be better" if kept else f"for a gain of {_signed(gain)}"
        return "undecided", f"replayed, the recorded goodput {off}: no ground {claim}"
    if kept:
        return "keep", kept
    return "change", f"{_signed(gain)} goodput" if math.isfinite(gain) else "now nobody is served in time"


def _as_far_off(error: float, gain: float) -> bool:
    """Whether the replay is off, up or down, by a factor as large as the gain's."""
    ratio = 1 + error
    return ratio == 0 or 1 + gain <= max(ratio, 1 / ratio)


def _why_overturned(verdict: str, matched: Sequence[Matched]) -> str:
    """With the target that the replay is farthest off from."""
    worst = max(matched, key=lambda each: abs(math.log(each.matched / each.limit)))
    of_class = "" if worst.request_class == DEFAULT_CLASS else f" of {shown(worst.request_class)}"
    otherwise = "the gain may as well be none" if verdict == "change" else "another setting would be better"
    return (
        f"replayed, as many requests{of_class} are within {worst.target} {worst.matched:.3g} s as were within "
        f"{worst.limit:.3g} s when recorded ({_signed(worst.off)}); by that measure {otherwise}"
    )


def _signed(ratio: float) -> str:
    return f"{100 * ratio:+.1f} %" if math.isfinite(ratio) else "any size"
