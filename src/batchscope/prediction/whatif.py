"""The recorded requests under other settings: beside what was recorded, and beside the model's replay of that."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from batchscope.checks import check_ratio, is_number
from batchscope.errors import ConfigurationError
from batchscope.prediction.blocks import block_count, blocks_of, resampled_weights, student_factor, widened
from batchscope.prediction.figures import LATENCIES, Figure, RequestInstants, figures_of
from batchscope.prediction.fit import FEWEST_REQUESTS
from batchscope.prediction.model import FittedModel
from batchscope.prediction.observed import NotEnoughError, Observed, OtherEngineError
from batchscope.prediction.split import ErrorSplit, split_errors
from batchscope.simulator import LinearCostModel, RequestSpec, SchedulerOptions
from batchscope.simulator.instants import Instants, simulate_instants

Floats = npt.NDArray[np.float64]

SETTINGS = (
    "max_running_requests", "max_scheduled_tokens", "kv_cache_blocks", "block_size", "policy", "prefix_caching",
    "watermark_ratio", "max_prefill_requests", "max_sequence_tokens",
)  # fmt: skip
"""What can be set."""
COST_DRAWS = 15
"""Simulations, each with other constants out of the model's draws, from which intervals come."""
MANY_REQUESTS, FEW_DRAWS = 3000, 7
"""Of a long run the constants are better known, and a simulation takes longer."""
MOST_TIMES = 1000.0
"""As fast, or as slow: what lies beyond is another workload."""
FEWEST_FOR_INTERVAL = 20
"""Requests: of fewer no block of time says how much another may differ."""
OF_THE_WHOLE = "what limits the batch, preemptions and errors are of the whole run"
"""Beside figures of a part of it."""
MOST_REFUSED = 0.01
"""Of the requests: without so many, which are the longest, the figures are of others."""
BEYOND = 1.02
"""An iteration larger than anything seen by more than this factor is extrapolated."""


class Scenario(msgspec.Struct, frozen=True):
    """What one simulation gave: figures by latency, what limited the batch (share of busy time), preemptions."""

    figures: dict[str, Figure]
    limited_by: dict[str, float]
    preemptions: int | None
    seconds: float


class Prediction(msgspec.Struct, frozen=True):
    """``recorded`` as it was, ``replayed`` under the recorded settings, ``predicted`` under ``settings``.

    ``requests`` are those that all three are about. ``extrapolated`` names what leaves the range that was seen,
    ``errors`` where the replay errs. ``notes``: what was assumed or could not be identified.
    """

    recorded: Scenario
    replayed: Scenario
    predicted: Scenario
    requests: int
    settings: dict[str, Any]
    rate_scale: float
    errors: ErrorSplit
    extrapolated: list[str]
    notes: list[str]


def what_if(
    observed: Observed,
    model: FittedModel,
    settings: Mapping[str, Any] | None = None,
    *,
    rate_scale: float = 1.0,
    since: float = 0.0,
    seed: int = 0,
) -> Prediction:
    """Predict. ``since``: figures are of requests that finished, when recorded, after that share of the run.

    An unknown setting, or one out of its range, is a ``ConfigurationError``.
    """
    check_ratio("from", since)
    if not is_number(rate_scale) or not 1 / MOST_TIMES <= rate_scale <= MOST_TIMES:
        raise ConfigurationError("rate_scale", rate_scale, f"a factor from {1 / MOST_TIMES:g} to {MOST_TIMES:g}")
    check_engine(observed, model)
    check_enough(observed, "a prediction")
    chosen = observed.instants.last_token > since * observed.end if since else ~np.isnan(observed.instants.last_token)
    if not chosen.any():
        raise NotEnoughError(f"{observed.name}: no request finished after {since:g} of the run")
    options = with_settings(observed.options, settings or {})
    random = np.random.default_rng(seed)
    replay = _Simulated(observed, observed.options, model, chosen, rate_scale=1.0)
    as_recorded = options == observed.options and rate_scale == 1.0
    predicted = replay if as_recorded else _Simulated(observed, options, model, chosen, rate_scale=rate_scale)
    _check_room(observed, options, predicted.found)
    ratios = recorded_over_replayed(observed.instants, replay.instants, chosen, random)
    return Prediction(
        recorded=_recorded(observed, chosen),
        replayed=replay.scenario(ratios),
        predicted=predicted.scenario(ratios),
        requests=int(chosen.sum()),
        settings=changed_settings(observed.options, options, settings or {}),
        rate_scale=rate_scale,
        errors=split_errors(observed, model.cost, replay.found),
        extrapolated=beyond(model, predicted.found),
        notes=[*_notes(observed, model, predicted.found, chosen), *([OF_THE_WHOLE] if since else [])],
    )


def _check_room(observed: Observed, options: SchedulerOptions, found: Instants) -> None:
    """ConfigurationError where more than a few requests do not fit the cache: the others' figures say nothing."""
    longest = max(spec.longest_context for spec in observed.workload)
    lacking = math.ceil(longest / options.block_size) - options.usable_blocks
    refused = int(np.isnan(found.last_token).sum())
    if lacking > 0 and refused > MOST_REFUSED * len(observed.workload):
        expected = (
            f"at least {options.kv_cache_blocks + lacking:,}, for the longest of its requests: {refused:,} do not fit"
        )
        raise ConfigurationError("kv_cache_blocks", options.kv_cache_blocks, expected)


def with_settings(options: SchedulerOptions, settings: Mapping[str, Any]) -> SchedulerOptions:
    """``options`` with some of them changed."""
    for name in settings:
        if name not in SETTINGS:
            raise ConfigurationError("set", name, f"one of {', '.join(SETTINGS)}")
    changed = dict(settings)
    places = changed.get("max_running_requests", options.max_running_requests)
    if "max_scheduled_tokens" not in changed and isinstance(places, int) and places > options.max_scheduled_tokens:
        changed["max_scheduled_tokens"] = places  # each decoding request takes a token of the budget
    return msgspec.structs.replace(options, **changed)


def changed_settings(before: SchedulerOptions, after: SchedulerOptions, given: Collection[str]) -> dict[str, Any]:
    """Those that were ``given``, and what had to change with them."""
    return {
        name: value
        for name in (*given, *(name for name in SETTINGS if name not in given))
        for value in [getattr(after, name)]
        if name in given or value != getattr(before, name)
    }


def faster(workload: Sequence[RequestSpec], rate_scale: float) -> Sequence[RequestSpec]:
    """The same requests, ``rate_scale`` times as many a second."""
    if rate_scale == 1.0:
        return workload
    return [msgspec.structs.replace(spec, arrival=spec.arrival / rate_scale) for spec in workload]


class _Simulated:
    """One setting: the simulation with the model's constants, and some with constants as likely."""

    def __init__(
        self,
        observed: Observed,
        options: SchedulerOptions,
        model: FittedModel,
        chosen: npt.NDArray[np.bool_],
        *,
        rate_scale: float,
    ) -> None:
        self._observed, self._options, self._model, self._chosen = observed, options, model, chosen
        self._workload = faster(observed.workload, rate_scale)
        self.found = self._simulate(model.cost)

    @property
    def instants(self) -> RequestInstants:
        """What the requests met."""
        return self._instants(self.found)

    def scenario(self, ratios: Mapping[str, Floats]) -> Scenario:
        """Its figures with their intervals; ``ratios``: how far off the model has been, in some blocks of time."""
        means = self._means()
        figures = {}
        for name, figure in figures_of(self.instants, self._chosen).items():
            low, high = _interval(figure.mean, means[name], ratios[name])
            figures[name] = msgspec.structs.replace(figure, low=low, high=high)
        busy = self.found.busy_seconds
        return Scenario(
            figures=figures,
            limited_by={name: seconds / (sum(busy.values()) or 1.0) for name, seconds in sorted(busy.items())},
            preemptions=int(self.found.preemptions.sum()),
            seconds=float(np.fmax.reduce(self.found.last_token, initial=np.nan)),  # nan: all were refused
        )

    def _simulate(self, cost: LinearCostModel) -> Instants:
        return simulate_instants(self._workload, self._options, cost)

    def _instants(self, found: Instants) -> RequestInstants:
        arrived = np.array([spec.arrival for spec in self._workload])
        tokens = self._observed.instants.output_tokens
        return RequestInstants(arrived, found.first_scheduled, found.first_token, found.last_token, tokens)

    def _means(self) -> dict[str, Floats]:
        """Of each latency, with each of some constants that are as likely."""
        drawn = [
            self._instants(self._simulate(cost)).latencies()
            for cost in self._model.drawn_costs[: COST_DRAWS if len(self._workload) < MANY_REQUESTS else FEW_DRAWS]
        ]
        return {name: np.array([_mean(each[name][self._chosen]) for each in drawn]) for name in LATENCIES}


def _interval(mean: float, by_constants: Floats, ratios: Floats) -> tuple[float, float]:
    """95 % of what other constants and other blocks of time give; the mean itself is inside."""
    drawn = by_constants[:, None] * ratios[None, :]
    if math.isnan(mean) or np.isnan(drawn).all():
        return math.nan, math.nan
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return min(float(low), mean), max(float(high), mean)


def recorded_over_replayed(
    recorded: RequestInstants,
    replayed: RequestInstants,
    chosen: npt.NDArray[np.bool_],
    random: np.random.Generator,
    draws: int = 200,
) -> dict[str, Floats]:
    """The ratio of the means of each latency, over resampled blocks of time: how far the model may be off.

    Twice the variance that the blocks show: what was recorded varied so much, and what would be recorded will again.
    ``nan`` of too few requests.
    """
    block = np.zeros(len(chosen), np.int64)
    block[chosen] = blocks_of(recorded.arrived[chosen])
    weights = resampled_weights(block_count(int(chosen.sum())), draws, random)
    ratios, as_replayed = {}, replayed.latencies()
    for name, values in recorded.latencies().items():
        known = chosen & ~np.isnan(values) & ~np.isnan(as_replayed[name])
        truth, ours = (
            weights @ np.bincount(block[known], of[known], minlength=weights.shape[1])
            for of in (values, as_replayed[name])
        )
        if np.count_nonzero(known) < FEWEST_FOR_INTERVAL:
            ratios[name] = np.full(draws, math.nan)
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            whole = values[known].sum() / as_replayed[name][known].sum()
            ratios[name] = widened(whole, truth / ours, math.sqrt(2) * student_factor(weights.shape[1]))
    return ratios


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _recorded(observed: Observed, chosen: npt.NDArray[np.bool_]) -> Scenario:
    return Scenario(
        figures=figures_of(observed.instants, chosen),
        limited_by=observed.limited_by,
        preemptions=observed.preemptions,
        seconds=observed.end,
    )


def check_enough(observed: Observed, what: str) -> None:
    """NotEnoughError for a run whose requests are too few for ``what``."""
    if len(observed.workload) < FEWEST_REQUESTS:
        raise NotEnoughError(
            f"{observed.name}: {len(observed.workload)} requests: {what} takes at least {FEWEST_REQUESTS}; "
            "record for longer"
        )


def check_engine(observed: Observed, model: FittedModel) -> None:
    """OtherEngineError where the model was fitted to another engine, or another version of it."""
    if model.engine != observed.engine:
        raise OtherEngineError(
            f"the model is of {model.engine or 'an unnamed engine'}, the run {observed.name} of "
            f"{observed.engine or 'an unnamed engine'}: fit one to this run"
        )


def beyond(model: FittedModel, found: Instants) -> list[str]:
    """What the prediction does that the run did not show."""
    seen = model.seen
    pairs = (
        ("requests in a batch", found.largest_batch, seen.batch),
        ("tokens of context in a batch", found.largest_context, seen.context_tokens),
        ("prefill tokens in an iteration", found.largest_chunk, seen.chunk_tokens),
    )
    return [f"{now:,} {what}, {most:,} seen" for what, now, most in pairs if now > BEYOND * most]


def _notes(observed: Observed, model: FittedModel, found: Instants, chosen: npt.NDArray[np.bool_]) -> list[str]:
    notes = list(observed.assumed)
    notes += [f"{name} is not identified by {model.run}" for name in model.not_identified]
    if np.count_nonzero(chosen) < FEWEST_REQUESTS:
        notes.append(
            f"these figures are of {np.count_nonzero(chosen)} requests: p99 is told from 100 on, p95 from 20, p90 from "
            f"10, an interval from {FEWEST_FOR_INTERVAL}"
        )
    gave_up = 0 if observed.gone.given_up is None else int((observed.gone.given_up & chosen).sum())
    if gave_up:
        notes.append(
            f"{gave_up:,} requests that were cancelled, timed out or failed after their first token are in these "
            "figures; those of 'batchscope report' are of completed requests alone"
        )
    if observed.left_out:
        notes.append(f"{observed.left_out} requests that got no token are left out")
    refused = int(np.isnan(found.last_token).sum())
    if refused:
        notes.append(f"{refused} requests do not fit these settings and are refused")
    return notes
