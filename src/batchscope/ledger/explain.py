"""Why was it slow: one request's time, or that of the slowest beside the others', in parts without a rest.

The parts are those of ``request_parts``. What a run does not hold is said in ``notes``, and ``complete`` is False where
the split is not whole for that reason: recorded without spans, without instants.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchscope.configuration import SchedulerLimits
from batchscope.errors import BatchscopeError
from batchscope.ledger.instants import began_at, instant_to_time
from batchscope.ledger.iteration_lines import Floats, Ints, Mask, numbers
from batchscope.ledger.request_parts import Column, Cut, Histories, Part
from batchscope.records import CompletionReason, Outcome
from batchscope.sinks import RunHeader

SCHEMA = "batchscope.explain/1"
WORST_SHOWN = 10
STRETCHES_SHOWN = 3


class Metric(StrEnum):
    """What the slowest are chosen by, as the command names it; ``quantity`` is its column."""

    quantity: str

    def __new__(cls, value: str, quantity: str = "") -> Self:
        """A string with its column."""
        metric = str.__new__(cls, value)
        metric._value_ = value
        metric.quantity = quantity
        return metric

    TTFT = "ttft", "time_to_first_token"
    TPOT = "tpot", "time_per_output_token"
    E2E = "e2e", "total_time"
    GAP = "gap", "max_emission_gap"


class NotToldError(BatchscopeError):
    """The run does not hold what was asked for; the message says what is missing."""


class UnknownRequestError(BatchscopeError):
    """No finished request, or several, have the id that was asked for."""


class TimePart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of one request's time; ``share`` is of its e2e latency, ``before_first_token`` seconds of ``seconds``."""

    part: Part
    limiter: str | None
    modelled: bool
    seconds: float
    share: float
    before_first_token: float


class ExplainedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request and where its time went, the largest part first; ``arrived`` is in seconds since the run began."""

    request: int
    request_id: str
    request_class: str
    reason: str
    arrived: float
    arrived_time: dt.datetime
    total_time: float
    time_to_first_token: float | None
    time_per_output_token: float | None
    max_emission_gap: float | None
    tokens_generated: int | None
    prompt_tokens: int | None
    cached_tokens: int | None
    preemptions: int | None
    parts: tuple[TimePart, ...]


class ComparedPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the metric's time among the slowest and among the others: shares, and mean seconds a request.

    Of TPOT the means are seconds an output token.
    """

    part: Part
    limiter: str | None
    modelled: bool
    share: float
    share_of_others: float | None
    mean: float
    mean_of_others: float | None


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which the slow ones were slow together: seconds since the run began, its iterations where of one rank.

    ``requests`` of the slowest lie in it, ``most_at_once`` at the same moment, first reached at ``busiest``.
    """

    begin: float
    end: float
    begin_time: dt.datetime
    requests: int
    most_at_once: int
    busiest: float
    iterations: int
    first_iteration: int | None
    last_iteration: int | None


class Slow(msgspec.Struct, frozen=True, kw_only=True):
    """One of the slowest: its value, and the largest part of the metric's time."""

    request: int
    request_id: str
    value: float
    part: Part
    limiter: str | None
    part_share: float


class Slowest(msgspec.Struct, frozen=True, kw_only=True):
    """The slowest by one metric beside the others. ``parts``: what makes them slower comes first (mean less mean)."""

    metric: Metric
    share: float
    requests: int
    others: int
    threshold: float
    mean: float
    mean_of_others: float | None
    parts: tuple[ComparedPart, ...]
    stretches: tuple[Stretch, ...]
    stretches_in_all: int
    worst: tuple[Slow, ...]


class CostModel(msgspec.Struct, frozen=True):
    """What modelled parts stand on: how many iterations it was fitted to, and how far off it is in the median."""

    iterations: int
    median_error: float
    seconds_per_prefill_token: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: of one request, or of the slowest. ``notes`` say what the run does not hold."""

    schema: str = SCHEMA
    complete: bool
    request: ExplainedRequest | None = None
    slowest: Slowest | None = None
    limits: SchedulerLimits = SchedulerLimits()
    reported_ratio: float | None = None
    """Of the iterations, how many say themselves what limited them; of the others it was inferred."""
    cost_model: CostModel | None = None
    notes: tuple[str, ...] = ()


class Recorded(Protocol):
    """What is read of a run: ``batchscope.ledger.open_run`` gives one."""

    @property
    def headers(self) -> list[RunHeader]:
        """By segment."""

    def requests(self) -> pa.Table:
        """Finished requests."""

    def iterations(self) -> pa.Table:
        """Iterations."""

    def spans(self) -> pa.Table:
        """Who took part in what."""


class _Facts(NamedTuple):
    """A run, loaded."""

    histories: Histories
    header: RunHeader
    began: float
    reported: float | None

    def since(self, ticks: Ints) -> Floats:
        """Instants in seconds since the run began."""
        return self.histories.ticks.seconds(ticks) + (self.histories.ticks.origin - self.began)

    def time(self, since_began: float) -> dt.datetime:
        """The clock on the wall by then."""
        return instant_to_time(self.header, self.began + since_began)


class Explainer:
    """Answers questions about one run; its tables are read once. Raises NotToldError where no request has instants."""

    def __init__(self, run: Recorded) -> None:
        iterations = run.iterations()
        histories = Histories(run.requests(), iterations, run.spans())
        if not len(histories.requests):
            raise NotToldError("no request finished in this run: there is nothing to explain yet")
        if not len(histories.told):
            raise NotToldError(
                f"none of the {len(histories.requests):,} requests has its instants (arrived_at, finished_at): where "
                "their time went cannot be known; RequestTracker records them"
            )
        reported = (
            pc.mean(iterations.column("limiter_reported").cast(pa.float64())).as_py() if len(iterations) else None
        )
        self._facts = _Facts(histories, run.headers[-1], began_at(run.headers[0]), reported)

    def request(self, name: str) -> Explanation:
        """The request with this id, or ``#`` and its number in the run; UnknownRequestError where it is not one."""
        row = _found(self._facts.histories, name)
        (cut,) = self._facts.histories.cut(np.array([row]))
        explained = _explained(self._facts, row, cut)
        unknown = sum(part.seconds for part in explained.parts if part.part is Part.UNKNOWN)
        return self._explanation(unknown > 0, request=explained)

    def worst(self, metric: Metric, share: float = 0.01) -> Explanation:
        """The slowest ``share`` (0..1, at least one request) of the completed ones by ``metric``, beside the others."""
        values = numbers(self._facts.histories.requests, metric.quantity)
        among = _completed(self._facts.histories)
        among = among[np.isfinite(values[among])]
        if not len(among):
            raise NotToldError(f"no completed request has a {metric.quantity}: who was slow cannot be known")
        slowest, unknown = _slowest(self._facts, metric, values, among, share)
        return self._explanation(unknown, slowest=slowest)

    def _explanation(
        self, unknown: bool, request: ExplainedRequest | None = None, slowest: Slowest | None = None
    ) -> Explanation:
        histories, cost = self._facts.histories, self._facts.histories.cost
        return Explanation(
            complete=histories.has_spans and not (unknown and request is not None),
            request=request,
            slowest=slowest,
            limits=self._facts.header.limits,
            reported_ratio=self._facts.reported,
            cost_model=cost and CostModel(cost.iterations, cost.median_error, cost.seconds_per_prefill_token),
            notes=tuple(_notes(histories, unknown=unknown)),
        )


def _notes(histories: Histories, *, unknown: bool) -> Iterable[str]:
    """What the run does not hold, and what follows from that."""
    if not histories.has_spans:
        yield (
            "recorded without spans (level lean, or without a RequestTracker): who took part in which iteration is not "
            "known, so after its queue a request's time cannot be told apart, and stays unknown"
        )
    elif unknown:
        yield (
            "unknown: iterations of that time are not in the record (rejected, lost, or before it began), or nobody "
            "knows which rank a request waited for"
        )
    if missing := len(histories.requests) - len(histories.told):
        yield f"{missing:,} of {len(histories.requests):,} requests have no instants, and are left out"
    if histories.has_spans and histories.cost is None:
        yield (
            "what other requests' prefill took of decoding cannot be modelled: too few iterations with, or without "
            "prefill tokens; decoding is shown whole"
        )


def _found(histories: Histories, name: str) -> int:
    """The row of the request that is meant."""
    rows = np.flatnonzero(pc.equal(histories.requests.column("request_id"), name).fill_null(False).to_numpy())
    if not len(rows) and name.startswith("#") and name[1:].isdigit():
        rows = np.flatnonzero(histories.number == int(name[1:]))
    if not len(rows):
        raise UnknownRequestError("no finished request has this id; --worst e2e shows ids")
    if len(rows) > 1:
        named = ", ".join(f"'#{number}'" for number in histories.number[rows[:5]].tolist())
        raise UnknownRequestError(f"{len(rows):,} requests have this id: ask for one of {named}")
    row = int(rows[0])
    if row not in histories.told:
        raise NotToldError("this request has no instants (arrived_at, finished_at): where its time went is not known")
    return row


def _explained(facts: _Facts, row: int, cut: Cut) -> ExplainedRequest:
    histories = facts.histories
    fields = histories.requests.slice(row, 1).to_pylist()[0]
    before, both = (histories.ticks.seconds(ticks[0]) for ticks in (cut.before, cut.before + cut.after))
    whole = float(both.sum())
    parts = [
        TimePart(
            part=column.part,
            limiter=column.limiter,
            modelled=_is_modelled(histories, column),
            seconds=float(both[place]),
            share=float(both[place]) / whole if whole else 0.0,
            before_first_token=float(before[place]),
        )
        for place, column in enumerate(histories.columns)
        if both[place]
    ]
    parts.sort(key=lambda part: -part.seconds)
    arrived = fields["arrived_at"] - facts.began
    recorded: dict[str, Any] = {name: fields[name] for name in _AS_RECORDED}
    recorded |= {name: None if fields[name] is None else int(fields[name]) for name in _COUNTS}
    return ExplainedRequest(
        request=int(histories.number[row]),
        arrived=arrived,
        arrived_time=facts.time(arrived),
        parts=tuple(parts),
        total_time=fields["finished_at"] - fields["arrived_at"],
        **recorded,
    )


_AS_RECORDED = (
    "request_id", "request_class", "reason", "time_to_first_token", "time_per_output_token", "max_emission_gap",
)  # fmt: skip
_COUNTS = ("tokens_generated", "prompt_tokens", "cached_tokens", "preemptions")


def _is_modelled(histories: Histories, column: Column) -> bool:
    return column.modelled and histories.cost is not None


def _completed(histories: Histories) -> Ints:
    """Rows of the completed requests whose life is known."""
    completed = [reason.value for reason in CompletionReason if reason.outcome is Outcome.COMPLETED]
    of = pc.is_in(histories.requests.column("reason"), value_set=pa.array(completed)).to_numpy()
    rows: Ints = histories.told[of[histories.told]]
    return rows


class _Sums:
    """Parts of the metric's time, summed over some requests; ``weight``: what a mean is taken over."""

    def __init__(self, columns: int) -> None:
        self.parts = np.zeros(columns, dtype=np.float64)
        self.weight = 0.0

    def add(self, seconds: Floats, weights: Floats) -> None:
        """Rows of parts."""
        self.parts += seconds.sum(axis=0)
        self.weight += float(weights.sum())

    @property
    def shares(self) -> Floats:
        """Of all of it."""
        return self.parts / max(float(self.parts.sum()), 1e-300)

    @property
    def means(self) -> Floats:
        """Seconds of each part."""
        return self.parts / max(self.weight, 1e-300)


def _slowest(facts: _Facts, metric: Metric, values: Floats, among: Ints, share: float) -> tuple[Slowest, bool]:
    """The slowest of ``among``; and whether some of their time is unknown."""
    histories = facts.histories
    size = max(1, math.ceil(share * len(among) - 1e-9))
    ranked = among[np.argsort(-values[among], kind="stable")]
    slow = np.zeros(len(values), dtype=np.bool_)
    slow[ranked[:size]] = True
    tokens = np.maximum(numbers(histories.requests, "tokens_generated") - 1, 1)
    mine, others = _Sums(len(histories.columns)), _Sums(len(histories.columns))
    top: dict[int, tuple[int, float]] = {}
    windows: list[tuple[Floats, Floats]] = []
    for cut in histories.cut(among, gaps=metric is Metric.GAP):
        seconds = histories.ticks.seconds(_window(histories, metric, cut))
        weights = tokens[cut.rows] if metric is Metric.TPOT else np.ones(len(cut.rows))
        of_slow = slow[cut.rows]
        mine.add(seconds[of_slow], weights[of_slow])
        others.add(seconds[~of_slow], weights[~of_slow])
        windows.append(_bounds(facts, metric, cut, of_slow))
        wanted = np.flatnonzero(np.isin(cut.rows, ranked[:WORST_SHOWN]))
        for place in wanted.tolist():
            largest = int(seconds[place].argmax())
            top[int(cut.rows[place])] = largest, float(seconds[place, largest] / max(seconds[place].sum(), 1e-300))
    begins, ends = (np.concatenate(column) for column in zip(*windows, strict=True))
    stretches, in_all = _stretches(facts, begins, ends)
    found = Slowest(
        metric=metric,
        share=share,
        requests=size,
        others=len(among) - size,
        threshold=float(values[ranked[size - 1]]),
        mean=float(values[ranked[:size]].mean()),
        mean_of_others=float(values[ranked[size:]].mean()) if size < len(among) else None,
        parts=tuple(_compared(histories, mine, others)),
        stretches=tuple(stretches),
        stretches_in_all=in_all,
        worst=tuple(_worst(histories, values, ranked[: min(size, WORST_SHOWN)].tolist(), top)),
    )
    unknown = mine.parts[[column.part is Part.UNKNOWN for column in histories.columns]].sum() > 0
    return found, bool(unknown)


def _window(histories: Histories, metric: Metric, cut: Cut) -> Ints:
    """The parts that make up the metric."""
    if metric is Metric.TTFT:
        return cut.before
    if metric is Metric.E2E:
        return cut.before + cut.after
    if metric is Metric.GAP and cut.gap is not None:
        return cut.gap
    decoding = cut.after.copy()
    decoding[:, [column.part is Part.AFTER for column in histories.columns]] = 0
    return decoding


def _bounds(facts: _Facts, metric: Metric, cut: Cut, chosen: Mask) -> tuple[Floats, Floats]:
    """When the metric's time of the chosen requests began and ended, since the run began."""
    histories, rows = facts.histories, cut.rows[chosen]
    if metric is Metric.GAP and cut.gap is not None and cut.gap_ends is not None:
        ends = cut.gap_ends[chosen]
        begins = ends - cut.gap[chosen].sum(axis=1)
    else:
        names = {
            Metric.TTFT: ("arrived_at", "first_token_at"),
            Metric.TPOT: ("first_token_at", "last_token_at"),
        }.get(metric, ("arrived_at", "finished_at"))
        begins, ends = (histories.instants[name][rows] for name in names)
    return facts.since(begins), facts.since(ends)


def _compared(histories: Histories, mine: _Sums, others: _Sums) -> Iterable[ComparedPart]:
    """The parts that occur, what makes the slow ones slower first."""
    alone = not others.weight
    excess = mine.means if alone else mine.means - others.means
    for place in np.argsort(-excess, kind="stable").tolist():
        column = histories.columns[place]
        if mine.parts[place] or others.parts[place]:
            yield ComparedPart(
                part=column.part,
                limiter=column.limiter,
                modelled=_is_modelled(histories, column),
                share=float(mine.shares[place]),
                share_of_others=None if alone else float(others.shares[place]),
                mean=float(mine.means[place]),
                mean_of_others=None if alone else float(others.means[place]),
            )


def _worst(
    histories: Histories, values: Floats, rows: Sequence[int], top: dict[int, tuple[int, float]]
) -> Iterable[Slow]:
    ids = histories.requests.column("request_id")
    for row in rows:
        place, share = top[row]
        column = histories.columns[place]
        yield Slow(
            request=int(histories.number[row]),
            request_id=ids[row].as_py() or "",
            value=float(values[row]),
            part=column.part,
            limiter=column.limiter,
            part_share=share,
        )


def _stretches(facts: _Facts, begins: Floats, ends: Floats) -> tuple[list[Stretch], int]:
    """Times in which these windows overlap without a break: those with the most requests, and how many there are."""
    order = np.argsort(begins, kind="stable")
    begins, ends = begins[order], ends[order]
    reach = np.maximum.accumulate(ends)
    firsts = np.flatnonzero(np.append(True, begins[1:] > reach[:-1]))
    counts = np.diff(np.append(firsts, len(begins)))
    largest = np.argsort(-counts, kind="stable")[:STRETCHES_SHOWN]
    parts = [slice(first, first + count) for first, count in zip(firsts[largest], counts[largest], strict=True)]
    return [_stretch(facts, begins[part], ends[part]) for part in parts], len(firsts)


def _stretch(facts: _Facts, begins: Floats, ends: Floats) -> Stretch:
    begin, end = float(begins.min()), float(ends.max())
    instants = np.concatenate((begins, ends))
    change = np.concatenate((np.ones(len(begins)), -np.ones(len(ends))))
    order = np.lexsort((change, instants))  # at one instant who leaves goes first
    at_once = np.cumsum(change[order])
    busiest = int(at_once.argmax())
    lines = facts.histories.lines
    within = np.flatnonzero((facts.since(lines.starts) < end) & (facts.since(lines.ends) > begin))
    of_one_line = len(set(lines.line[within].tolist())) == 1
    return Stretch(
        begin=begin,
        end=end,
        begin_time=facts.time(begin),
        requests=len(begins),
        most_at_once=int(at_once[busiest]),
        busiest=float(instants[order][busiest]),
        iterations=len(within),
        first_iteration=int(lines.ordinal[within[0]]) if of_one_line else None,
        last_iteration=int(lines.ordinal[within[-1]]) if of_one_line else None,
    )
