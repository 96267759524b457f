"""Why was it slow: one request's time, or that of the slowest beside the others', in parts without a rest.

The parts are those of ``request_parts``. What a run does not hold is named in ``not_recorded`` and ``notes``: without
spans the time is split by the request's own instants, coarser and as whole. ``complete`` is False where more than 1 %
of the time is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchscope.errors import BatchscopeError
from batchscope.ledger.explanation import (
    ComparedPart,
    CostModel,
    ExplainedRequest,
    Explanation,
    Metric,
    Slowest,
    TimePart,
)
from batchscope.ledger.histories import Histories, recorded_id
from batchscope.ledger.instants import began_at
from batchscope.ledger.iteration_lines import Ints, numbers
from batchscope.ledger.request_parts import Cut, Part
from batchscope.ledger.slowest import Facts, is_modelled, slowest_of
from batchscope.records import CompletionReason, Outcome
from batchscope.sinks import RunHeader

__all__ = ["Explainer", "Explanation", "Metric", "NotToldError", "Recorded", "UnknownRequestError"]

_LONGEST_NUMBER = 19
_LITTLE = 0.01
"""Of the time: if more of it is unknown, the answer is not complete."""


_SIMULATED = "simulated time: seconds from the start of the run, of no day"


class NotToldError(BatchscopeError):
    """The run does not hold what was asked for; the message says what is missing."""


class UnknownRequestError(BatchscopeError):
    """No finished request, or several, have the id that was asked for."""


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


class Explainer:
    """Answers questions about one run; its tables are read once. Raises NotToldError where no request has instants."""

    def __init__(self, run: Recorded) -> None:
        iterations = run.iterations()
        histories = Histories(run.requests(), iterations, run.spans())
        if not len(histories.requests):
            raise NotToldError("no request finished in this run: there is nothing to explain yet")
        if not len(histories.told):
            raise NotToldError(
                f"none of the {len(histories.requests):,} requests has its instants (arrived_at, finished_at) or the "
                "durations that they follow from: where their time went cannot be known; RequestTracker records them"
            )
        reported = (
            pc.mean(iterations.column("limiter_reported").cast(pa.float64())).as_py() if len(iterations) else None
        )
        self._facts = Facts(histories, run.headers[-1], began_at(run.headers[0]), reported)

    def request(self, name: str) -> Explanation:
        """The request with this id, or ``#`` and its number in the run; UnknownRequestError where it is not one."""
        row = _found(self._facts.histories, name)
        (cut,) = self._facts.histories.cut(np.array([row]))
        explained = _explained(self._facts, row, cut)
        return self._explanation(explained.parts, request=explained)

    def worst(self, metric: Metric, share: float = 0.01) -> Explanation:
        """The slowest ``share`` (0..1, at least one request) of the completed ones by ``metric``, beside the others."""
        values = numbers(self._facts.histories.requests, metric.quantity)
        among = _completed(self._facts.histories)
        among = among[np.isfinite(values[among])]
        if not len(among):
            raise NotToldError(f"no completed request has a {metric.quantity}: who was slow cannot be known")
        slowest = slowest_of(self._facts, metric, values, among, share)
        return self._explanation(slowest.parts, slowest=slowest)

    def _explanation(
        self,
        parts: Sequence[TimePart | ComparedPart],
        request: ExplainedRequest | None = None,
        slowest: Slowest | None = None,
    ) -> Explanation:
        histories, cost = self._facts.histories, self._facts.histories.cost
        unknown = sum(part.share for part in parts if part.part is Part.UNKNOWN)
        return Explanation(
            complete=unknown <= _LITTLE,
            not_recorded=tuple(_absent(histories)),
            request=request,
            slowest=slowest,
            limits=self._facts.header.limits,
            reported_ratio=self._facts.reported,
            cost_model=cost and CostModel(cost.iterations, cost.median_error, cost.seconds_per_prefill_token),
            notes=(*_notes(histories, unknown=unknown > 0), *([_SIMULATED] if self._facts.header.simulated else [])),
        )


def _notes(histories: Histories, *, unknown: bool) -> Iterable[str]:
    """What the run does not hold, and what follows from that."""
    if not histories.has_spans:
        yield (
            "not recorded: spans (level lean, an import, no RequestTracker, vLLM without the scheduler that reports): "
            "who took part in which iteration is not known, so after its queue a request's time is by phase; being "
            "preempted, standing still and idle time are inside"
        )
    elif unknown:
        yield "unknown: iterations of that time are not in the record (rejected, lost, or before it began)"
    if not len(histories.lines):
        yield "not recorded: iterations: what held those who waited is not known"
    if derived := int(histories.from_durations.sum()):
        yield (
            f"of {derived:,} of {len(histories.requests):,} requests the engine told durations, no instants: these "
            "follow from their end, as late as it was heard of"
        )
    if unsplit := int((histories.emitted & ~histories.was_scheduled)[histories.told].sum()):
        yield (
            f"{unsplit:,} of {len(histories.requests):,} requests do not say when they were scheduled "
            "(first_scheduled_at): their time to the first token is not split into queue and prefill"
        )
    if missing := len(histories.requests) - len(histories.told):
        yield f"{missing:,} of {len(histories.requests):,} requests have no instants, and are left out"
    if histories.has_spans and histories.cost is None and (silent := histories.without_prefill_tokens):
        yield (
            f"not recorded: prefill tokens of {silent:,} of {len(histories.lines):,} iterations "
            "(tracker.iteration(scheduled_tokens=...) was not given): what other requests' prefill took of decoding "
            "cannot be modelled; decoding is shown whole"
        )
    elif histories.has_spans and histories.cost is None:
        yield (
            "what other requests' prefill took of decoding cannot be modelled: too few iterations with, or without "
            "prefill tokens; decoding is shown whole"
        )


def _absent(histories: Histories) -> Iterable[str]:
    if not histories.has_spans:
        yield "spans"
    if not len(histories.lines):
        yield "iterations"


def _found(histories: Histories, name: str) -> int:
    """The row of the request that is meant."""
    ids = histories.requests.column("request_id")
    rows = np.flatnonzero(pc.equal(ids, recorded_id(name)).fill_null(False).to_numpy())
    if not len(rows) and name.startswith("#") and name[1:].isdecimal() and len(name) < _LONGEST_NUMBER:
        rows = np.flatnonzero(histories.number == int(name[1:]))
        if not len(rows) and int(name[1:]) in histories.spans.request:
            raise UnknownRequestError("it did not finish in this run, and only finished requests are explained")
        if not len(rows):
            raise UnknownRequestError("no finished request has this number, nor this id; --worst e2e shows both")
    if not len(rows):
        raise UnknownRequestError("no finished request has this id; --worst e2e shows ids")
    if len(rows) > 1:
        named = ", ".join(f"'#{number}'" for number in histories.number[rows[:5]].tolist())
        raise UnknownRequestError(f"{len(rows):,} requests have this id: ask for one of {named}")
    row = int(rows[0])
    if row not in histories.told:
        raise NotToldError("this request has no instants (arrived_at, finished_at): where its time went is not known")
    return row


def _explained(facts: Facts, row: int, cut: Cut) -> ExplainedRequest:
    histories = facts.histories
    fields = histories.requests.slice(row, 1).to_pylist()[0]
    before, both = (histories.ticks.seconds(ticks[0]) for ticks in (cut.before, cut.before + cut.after))
    whole = float(both.sum())
    parts = [
        TimePart(
            part=column.part,
            limiter=column.limiter,
            modelled=is_modelled(histories, column),
            seconds=float(both[place]),
            share=float(both[place]) / whole if whole else 0.0,
            before_first_token=float(before[place]),
        )
        for place, column in enumerate(histories.columns)
        if both[place]
    ]
    parts.sort(key=lambda part: -part.seconds)
    arrived = float(facts.since(histories.instants["arrived_at"][[row]])[0])
    recorded: dict[str, Any] = {name: fields[name] for name in _AS_RECORDED}
    recorded |= {name: None if fields[name] is None else int(fields[name]) for name in _COUNTS}
    return ExplainedRequest(
        request=int(histories.number[row]),
        arrived=arrived,
        arrived_time=facts.time(arrived),
        parts=tuple(parts),
        total_time=whole,
        **recorded,
    )


_AS_RECORDED = (
    "request_id", "request_class", "reason", "time_to_first_token", "time_per_output_token", "max_emission_gap",
)  # fmt: skip
_COUNTS = ("tokens_generated", "prompt_tokens", "cached_tokens", "preemptions")


def _completed(histories: Histories) -> Ints:
    """Rows of the completed requests whose life is known."""
    completed = [reason.value for reason in CompletionReason if reason.outcome is Outcome.COMPLETED]
    of = pc.is_in(histories.requests.column("reason"), value_set=pa.array(completed)).to_numpy()
    rows: Ints = histories.told[of[histories.told]]
    return rows
