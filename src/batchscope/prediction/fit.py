"""The constants of the cost model from a run, at the depth that the run allows.

* ``iterations``: what each iteration computed and how long it took is known: a regression on what ran.
* ``forward passes``: of each iteration, or of some, what it computed and how long its forward pass took, but not what
  the engine did until the next: a regression on the passes, and from the requests' instants the time between them.
* ``requests``: only instants and lengths of requests are known: the constants whose simulated schedule comes closest
  to the recorded instants, found by search. What a request waited for is what others computed, so even the fewest
  requests say much of every constant; but only a run with more than one operating point tells them apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchscope.checks import check_positive
from batchscope.errors import ConfigurationError
from batchscope.prediction.blocks import blocks_of, resampled_weights, student_factor, widened
from batchscope.prediction.followed import followed
from batchscope.prediction.model import ALL_CONSTANTS, CONSTANTS, FittedModel, Range, constants_of, cost_of
from batchscope.prediction.observed import IterationsSeen, NotEnoughError, Observed
from batchscope.prediction.search import minimize
from batchscope.simulator import LinearCostModel, RequestSpec
from batchscope.simulator.cost import non_negative_least_squares, token_pairs
from batchscope.simulator.instants import simulate_instants

Floats = npt.NDArray[np.float64]

FEWEST_REQUESTS = 100
FEWEST_ITERATIONS = 500
DRAWS = 200
MOST_PROPOSALS = 10
WIDENED_BETWEEN = 2.5
"""So much wider is what lies between forward passes: blocks know nothing of a schedule that another value gives."""
PRIOR = 0.003
"""What the first guess weighs in a regression, beside as many decode times."""
PAYS = 0.95
"""With one constant more the held-out iterations have to be missed by so much less."""
ENTANGLED = 1e-6
SEARCHED_REQUESTS = 1500
"""So many requests, the first ones, are searched through; then all of a longer run for the last digits."""
START = np.log([15e-3, 60e-6, 60e-6, 120e-9])
"""The order of magnitude of an 8B model on one GPU; the search begins with the best multiple of it."""
MULTIPLES = np.linspace(-2.1, 2.1, 11)


BETWEEN = np.array([0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 2, 4])
CLOSE_BETWEEN = np.linspace(-0.1, 0.1, 21)
"""Times a pass of next to nothing: what may lie between forward passes, and closer to the best of these."""


def fit(observed: Observed, *, until: float = 1.0, seed: int = 0) -> FittedModel:
    """The model of what happened in the first ``until`` (a share of its time) of the run.

    NotEnoughError below 100 requests that finished by then. ``seed`` of the resampling: equal arguments, equal models.
    """
    check_positive("until", until, "a share of the run")
    if until > 1:
        raise ConfigurationError("until", until, "a share of the run, at most 1")
    horizon = observed.end * until
    finished = int((observed.instants.last_token <= horizon).sum())
    if finished < FEWEST_REQUESTS:
        raise NotEnoughError(
            f"{observed.name}: {finished} requests finished in what is to be fitted: expected at least "
            f"{FEWEST_REQUESTS}; record for longer"
        )
    seen = observed.iterations.until(horizon) if observed.iterations is not None else None
    random = np.random.default_rng(seed)
    unknown: list[str] = []
    assumed = observed.assumed
    if seen is not None and len(seen) >= FEWEST_ITERATIONS:
        unknown = entangled(seen)
        depth, (point, draws, error) = "iterations", _from_iterations(seen, random)
        if observed.forward_passes:
            depth, between = "forward passes", _TimeBetween(observed, horizon, point)
            point, draws, error, told = between.added(draws, random)
            assumed = (*assumed, told)
    else:
        depth, (point, draws, error) = "requests", _Search(observed, horizon).run(random)
    replayed = simulate_instants(_arrived_by(observed, horizon), observed.options, cost_of(point), until=horizon)
    return FittedModel(
        run=observed.name,
        engine=observed.engine,
        depth=depth,
        requests=finished,
        until=until,
        constants=constants_of(point, draws, np.array(replayed.work), unknown),
        seen=Range(replayed.largest_batch, replayed.largest_context, replayed.largest_chunk),
        options=observed.options,
        assumed=assumed,
        error=error,
        draws=draws.tolist(),
    )


def _arrived_by(observed: Observed, horizon: float) -> tuple[RequestSpec, ...]:
    return observed.workload[: int((observed.instants.arrived <= horizon).sum())]


# From iterations


def _from_iterations(seen: IterationsSeen, random: np.random.Generator) -> tuple[Floats, Floats, float]:
    """Least squares over iterations without those that something else held up; then over resampled blocks."""
    kept = _regular(seen)
    count = _constants_that_pay(kept)
    point = _regressed(kept, count=count)
    blocks = blocks_of(kept.finished_at)
    weights = resampled_weights(int(blocks.max()) + 1, DRAWS, random)
    draws = np.array([_regressed(kept, row[blocks], count=count) for row in weights])
    draws = widened(point, draws, student_factor(weights.shape[1]))
    error = float(np.mean(np.abs(step_times(cost_of(point), kept) - kept.seconds)) / kept.seconds.mean())
    return point, draws, error


def entangled(seen: IterationsSeen) -> list[str]:
    """Constants whose work always came in the same proportion to others': no iteration tells them apart."""
    columns = np.column_stack(
        [np.ones(len(seen)), seen.prefill_tokens, seen.decoding_requests, seen.kv_tokens_read]
    )  # fmt: skip
    columns /= np.maximum(np.abs(columns).max(axis=0), 1e-12)
    names = []
    for index, name in enumerate(CONSTANTS):
        others = np.delete(columns, index, axis=1)
        rest = columns[:, index] - others @ np.linalg.lstsq(others, columns[:, index], rcond=None)[0]
        if float(np.abs(rest).max()) < ENTANGLED:
            names.append(name)
    return names


def _regular(seen: IterationsSeen) -> IterationsSeen:
    """Without what took ten times as long as iterations that computed as much: a compilation, a paused machine."""
    expected = step_times(cost_of(_regressed(seen)), seen)
    ratio = seen.seconds / np.maximum(expected, 1e-9)
    return seen.where(ratio < 10 * np.median(ratio))


def _constants_that_pay(seen: IterationsSeen) -> int:
    """All, where every other block of time foretells the rest clearly better with them than with the usual ones."""
    odd = blocks_of(seen.finished_at) % 2 == 1
    misses = [
        [_missed(_regressed(seen.where(fitted), count=count), seen.where(~fitted)) for fitted in (odd, ~odd)]
        for count in (len(CONSTANTS), len(ALL_CONSTANTS))
    ]
    pays = all(more < PAYS * usual for usual, more in zip(*misses, strict=True))
    return len(ALL_CONSTANTS) if pays else len(CONSTANTS)


def _missed(point: Floats, seen: IterationsSeen) -> float:
    return float(np.abs(step_times(cost_of(point), seen) - seen.seconds).sum())


def _regressed(seen: IterationsSeen, weights: Floats | None = None, *, count: int = len(CONSTANTS)) -> Floats:
    scale = np.ones(len(seen)) if weights is None else np.sqrt(weights)
    pairs = token_pairs(seen.prefill_tokens, seen.decoding_requests, seen.kv_tokens_read)
    model = LinearCostModel.fit(
        seen.prefill_tokens * scale,
        seen.decoding_requests * scale,
        seen.kv_tokens_read * scale,
        seen.seconds * scale,
        ones=scale,
        pairs=pairs * scale if count > len(CONSTANTS) else None,
    )
    return np.array([getattr(model, name) for name in ALL_CONSTANTS[:count]])


def step_times(cost: LinearCostModel, seen: IterationsSeen) -> Floats:
    """What the model says that each recorded iteration takes."""
    usual = (
        cost.fixed
        + cost.per_prefill_token * seen.prefill_tokens
        + cost.per_decoding_request * seen.decoding_requests
        + cost.per_kv_token_read * seen.kv_tokens_read
    )
    usual += cost.beyond_graphs * (seen.decoding_requests > cost.graphed_requests)
    return usual + cost.per_token_pair * token_pairs(seen.prefill_tokens, seen.decoding_requests, seen.kv_tokens_read)


# From forward passes


class _TimeBetween:
    """What lies between forward passes (scheduling, sampling, the host), a constant an iteration.

    The requests tell it: with too little of it the simulated schedule runs ahead of the recorded one. It belongs to
    ``fixed``. Its doubt is that of resampled blocks of time, of each the value with which its requests come closest.
    """

    def __init__(self, observed: Observed, horizon: float, point: Floats) -> None:
        self._point = point
        ends = np.sort(observed.instants.last_token)
        self._misfit = _Misfit(observed, min(horizon, float(ends[min(len(ends), SEARCHED_REQUESTS) - 1])))

    def added(self, draws: Floats, random: np.random.Generator) -> tuple[Floats, Floats, float, str]:
        """The constants with it, their draws, the error of the requests' instants, and what was found in a sentence."""
        iteration = self._point[0] + 1e-4  # what it is compared with: an iteration of next to nothing
        coarse = self._errors(iteration * BETWEEN)
        near = iteration * BETWEEN[int(_misfits(coarse, self._misfit).argmin())]
        tried = np.unique(np.maximum(near + iteration * CLOSE_BETWEEN, 0.0))
        errors = self._errors(tried)
        misfits = _misfits(errors, self._misfit)
        found = float(tried[misfits.argmin()])
        drawn = self._drawn(tried, errors, random)
        drawn = widened(found, drawn, WIDENED_BETWEEN)
        low, high = np.percentile(drawn, [2.5, 97.5])
        told = (
            f"between its forward passes the engine takes {1e3 * found:.3g} ms ({1e3 * low:.3g} .. {1e3 * high:.3g}) "
            "an iteration, as the requests tell: fixed has it"
        )
        shift = np.zeros_like(draws)
        shift[:, 0] = random.permutation(drawn)
        return self._with(found), draws + shift, float(misfits.min()) / len(PARTS), told

    def _with(self, between: float) -> Floats:
        point = self._point.copy()
        point[0] += between
        return point

    def _errors(self, values: Floats) -> Floats:
        """Of each instant with each value, a row a value."""
        with np.errstate(divide="ignore"):  # a constant of 0 stays one
            found: Floats = np.array([self._misfit.errors(np.log(self._with(float(value)))) for value in values])
        errors: Floats = np.abs(found)
        return errors

    def _drawn(self, tried: Floats, errors: Floats, random: np.random.Generator) -> Floats:
        """The best value of each draw of as many blocks of time."""
        blocks = blocks_of(self._misfit.at)
        weights = resampled_weights(int(blocks.max()) + 1, DRAWS, random)
        of_parts = []
        for part in range(len(PARTS)):
            of = self._misfit.parts == part
            sums = np.array([np.bincount(blocks[of], row[of], minlength=weights.shape[1]) for row in errors])
            counts = np.bincount(blocks[of], minlength=weights.shape[1])
            of_parts.append((weights @ sums.T) / np.maximum(weights @ counts, 1)[:, None])
        best: Floats = tried[np.sum(of_parts, axis=0).argmin(axis=1)]
        return best


def _misfits(errors: Floats, misfit: _Misfit) -> Floats:
    of_parts = [errors[:, misfit.parts == part].mean(axis=1) for part in range(len(PARTS))]
    return np.array(np.sum(of_parts, axis=0))


# From requests


class _Search:
    """The constants whose schedule comes closest to the recorded instants.

    Two ways lead there, and the better end counts. Given a simulated schedule, decode times are linear in the
    constants: a regression proposes others, as long as that helps. And a simplex goes its way from the first guess.
    A simplex ends both, over the beginning of a long run first.
    """

    def __init__(self, observed: Observed, horizon: float) -> None:
        self._observed = observed
        self._horizon = horizon

    def run(self, random: np.random.Generator) -> tuple[Floats, Floats, float]:
        """The constants, some that are as likely, and the mean error of the instants."""
        short = _Misfit(self._observed, self._short_horizon())
        guess = START + min(MULTIPLES, key=lambda multiple: short(START + multiple))
        ways = [
            minimize(short, _proposed(short, guess), step=0.2, most_calls=110),
            minimize(short, guess, step=0.3, most_calls=150),
        ]
        found = minimize(short, min(ways, key=lambda way: way.value).point, step=0.1, most_calls=110)
        whole = short
        if self._horizon > short.horizon:
            whole = _Misfit(self._observed, self._horizon)
            found = minimize(whole, found.point, step=0.05, most_calls=25)
        return np.exp(found.point), self._draws(np.exp(found.point), random), found.value / len(PARTS)

    def _draws(self, point: Floats, random: np.random.Generator) -> Floats:
        """As likely constants: of a regression that follows the recorded instants, and from there to ``point``.

        Each of the two estimates is right for another reason; what they do not agree on is not known.
        """
        observed, instants = self._observed, self._observed.instants
        workload = _arrived_by(observed, self._horizon)
        served = instants.first(len(workload))
        regressed, draws = followed(
            workload, observed.options, served.first_token, served.last_token,
            start=point, until=self._horizon, draws=DRAWS, random=random,
        )  # fmt: skip
        return np.maximum(draws + random.uniform(size=(DRAWS, 1)) * (point - regressed), 0.0)

    def _short_horizon(self) -> float:
        ends = np.sort(self._observed.instants.last_token)
        return min(self._horizon, float(ends[min(len(ends), SEARCHED_REQUESTS) - 1]))


def _proposed(misfit: _Misfit, guess: Floats) -> Floats:
    """From ``guess`` on what a regression over the simulated schedule says, whole or half, while that is better."""
    point, value = guess, misfit(guess)
    for _ in range(MOST_PROPOSALS):
        target = misfit.regressed(point, guess)
        better = min(((point + target) / 2, target), key=misfit)
        if misfit(better) >= value:
            break
        point, value = better, misfit(better)
    return point


PARTS = ("first token", "decode", "last token")


class _Misfit:
    """How far the simulated instants lie from the recorded ones: means of relative errors, of three kinds."""

    def __init__(self, observed: Observed, horizon: float) -> None:
        self.horizon = horizon
        self._options = observed.options
        self._workload = _arrived_by(observed, horizon)
        served = len(self._workload)
        instants = observed.instants
        self._arrived, self._first, self._last = (
            values[:served] for values in (instants.arrived, instants.first_token, instants.last_token)
        )
        self._begun, self._ended = self._first <= horizon, self._last <= horizon
        self.at = np.concatenate([self._first[self._begun], self._last[self._ended], self._last[self._ended]])
        self.parts = np.repeat(np.arange(3), [self._begun.sum(), self._ended.sum(), self._ended.sum()])
        self._scales = self._relative_to()
        self._values: dict[bytes, float] = {}

    def __call__(self, point: Floats) -> float:
        key = point.tobytes()
        if key not in self._values:
            errors = np.abs(self.errors(point))
            self._values[key] = float(sum(errors[self.parts == part].mean() for part in range(len(PARTS))))
        return self._values[key]

    def regressed(self, point: Floats, guess: Floats) -> Floats:
        """The constants with which the schedule that ``point`` gives has the recorded decode times.

        ``guess`` holds, weakly, those that these times do not tell; none falls by more than a factor of three. Where
        nobody decodes, ``point`` itself.
        """
        work = simulate_instants(
            self._workload, self._options, cost_of(np.exp(point)), until=1.3 * self.horizon
        ).decode_work[:, : len(CONSTANTS)]
        decoded = self._last - self._first
        known = self._ended & ~np.isnan(work[:, 0]) & (decoded > 0)
        if not known.any():
            return point
        weights = 1 / (decoded[known] + 0.1 * decoded[known].mean())
        prior = PRIOR * np.sqrt(known.sum()) * np.ones(len(point))
        rows = np.vstack([work[known] * weights[:, None], np.diag(prior / np.exp(guess))])
        constants = non_negative_least_squares(rows, np.concatenate([decoded[known] * weights, prior]))
        return np.log(np.maximum(constants, np.exp(point) / 3))

    def errors(self, point: Floats) -> Floats:
        """Of each request its first token, its decode time and its last token; ``point``: logarithms of constants."""
        late = 1.3 * self.horizon
        found = simulate_instants(self._workload, self._options, cost_of(np.exp(point)), until=late)
        first, last = (np.nan_to_num(values, nan=late) for values in (found.first_token, found.last_token))
        decode = (last - first) - (self._last - self._first)
        return np.concatenate([
            (first - self._first)[self._begun], decode[self._ended], (last - self._last)[self._ended],
        ]) / self._scales  # fmt: skip

    def _relative_to(self) -> Floats:
        """The recorded duration, and a tenth of the mean one: a short one need not be met to the microsecond."""
        waited, decoded = self._first - self._arrived, self._last - self._first
        total = self._last - self._arrived
        return np.concatenate([
            values[chosen] + 0.1 * values[chosen].mean() + 1e-9
            for values, chosen in ((waited, self._begun), (decoded, self._ended), (total, self._ended))
        ])  # fmt: skip
