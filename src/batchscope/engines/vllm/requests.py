"""Rows of finished requests, of first tokens and of the time between events, from what vLLM said of them.

vLLM's intervals are differences of instants that may never have been set (0.0): such an interval is as long as
the machine is up, or since 1970, or negative (vllm#49135, vllm#56238). No interval can be longer than the logger
has been listening, so these are told apart without knowing any instant; they are refused and counted, and the
rest of the request counts.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from batchscope.engines.values import Reject, fit, numbers, refuse, start_rows
from batchscope.engines.vllm.facts import STOP, Event, Outputs
from batchscope.engines.vllm.participation import Finish
from batchscope.reasons import RejectReason
from batchscope.records import CompletionReason
from batchscope.rows import (
    REASON_CODES,
    Floats,
    GapColumn,
    Gaps,
    RequestColumn,
    RowKind,
    Rows,
    StartColumn,
    empty_rows,
)

C = RequestColumn
_SLACK_SECONDS = 1.0
"""Wall clocks are set while requests run; a second of it is no reason to refuse an interval."""
LENGTH, ABORT, ERROR = "length", "abort", "error"
REASONS = {
    STOP: CompletionReason.EOS_TOKEN_REACHED,  # or a stop string: vLLM's statistics do not tell
    LENGTH: CompletionReason.MAX_TOKENS_REACHED,  # or the model's own limit: see _reasons
    ABORT: CompletionReason.CANCELLED,
    ERROR: CompletionReason.ERROR,
    "repetition": CompletionReason.OTHER,
}


class _FinishedNumber(IntEnum):
    """The numbers of a finished request: the ``FINISHED`` fields after the reason and the id, in their order."""

    E2E = 0
    QUEUED = 1
    PREFILL = 2
    INFERENCE = 3
    DECODE = 4
    PROMPT_TOKENS = 5
    GENERATED = 6
    CACHED = 7
    PREEMPTIONS = 8
    MAX_TOKENS = 9


_INTERVALS = slice(_FinishedNumber.E2E, _FinishedNumber.DECODE + 1)
_FROM_SCHEDULED = (_FinishedNumber.QUEUED, _FinishedNumber.PREFILL, _FinishedNumber.INFERENCE)
_FROM_FIRST_TOKEN = (_FinishedNumber.PREFILL, _FinishedNumber.DECODE)


class RequestRows:
    """Makes rows of what requests got. ``since``: the instant from which on it was listened.

    ``class_of`` gives the code of a finished request's class by its id. It cannot be asked at a first token, for vLLM
    does not say whose that is: then times to first tokens are told with the classes, at the finish.
    """

    def __init__(
        self,
        request_class: float,
        max_model_len: int | None,
        since: float,
        reject: Reject,
        class_of: Callable[[Any], float] | None = None,
    ) -> None:
        self._class = request_class
        self._class_of = class_of
        self._max_model_len = max_model_len or np.inf
        self._since = since - _SLACK_SECONDS
        self._reject = reject

    def make(self, events: Sequence[Event], finishes: Sequence[Finish] | None = None) -> list[Rows | Gaps]:
        """START rows of first tokens and of queue times, REQUEST rows of the finished, gaps between events.

        ``finishes``: what was followed of each finished request, where that is known.
        """
        told = [(event[0], event[4]) for event in events if event[4] is not None]
        out: list[Rows | Gaps] = []
        firsts = [(at, _of_tokens(outputs)) for at, outputs in told if outputs.firsts]
        if firsts and self._class_of is None:
            out.append(self._first_tokens(*_joined(firsts)))
        gaps = [(at, outputs.gaps) for at, outputs in told if outputs.gaps]
        if gaps:
            out.append(self._gaps(*_joined(gaps)))
        finished = [(at, outputs) for at, outputs in told if outputs.finished]
        if finished:
            out += self._finished(finished, finishes)
        return [block for block in out if len(block.values)]

    def rejected(self, ats: Sequence[float]) -> Rows:
        """REQUEST rows of requests refused at admission."""
        rows = empty_rows(RowKind.REQUEST, len(ats))
        rows[:, C.AT] = rows[:, C.FINISHED_AT] = ats
        rows[:, C.REASON] = REASON_CODES[CompletionReason.REJECTED]
        rows[:, C.TOKENS_GENERATED] = 0
        rows[:, C.REQUEST_CLASS] = self._class
        rows[:, C.OBSERVED] = 1
        return Rows(RowKind.REQUEST, rows, [None] * len(ats))

    def _gaps(self, at: Floats, values: Floats) -> Gaps:
        unset = values > at - self._since
        if unset.any():
            self._reject(RejectReason.UNSET_INSTANT, int(np.count_nonzero(unset)))
            at, values = at[~unset], values[~unset]
        return Gaps(GapColumn.INTER_EMISSION_LATENCY, at, values)  # what else is wrong is found by the collector

    def _first_tokens(self, at: Floats, values: Floats) -> Rows:
        refuse(values, np.isnan(values), RejectReason.NOT_A_NUMBER, self._reject)
        refuse(values, values < 0, RejectReason.NEGATIVE, self._reject)
        self._refuse_unset(values, at)
        return start_rows(at, values, StartColumn.TIME_TO_FIRST_TOKEN, self._class)

    def _refuse_unset(self, values: Floats, at: Floats) -> None:
        longest = at - self._since
        refuse(
            values,
            values > (longest if values.ndim == 1 else longest[:, None]),
            RejectReason.UNSET_INSTANT,
            self._reject,
        )

    def _finished(self, told: Sequence[tuple[float, Outputs]], finishes: Sequence[Finish] | None) -> list[Rows]:
        at = np.array([at for at, outputs in told for _ in outputs.finished])
        finished = [said for _, outputs in told for said in outputs.finished]
        values = numbers([said[2:] for said in finished], len(_FinishedNumber), self._reject)
        tokenless = np.array([_is_tokenless(said) for said in finished])
        unscheduled = self._check(values, at, tokenless)
        rows = empty_rows(RowKind.REQUEST, len(values))
        rows[:, C.AT] = rows[:, C.FINISHED_AT] = at
        rows[:, C.REASON] = self._reasons([said[0] for said in finished], values)
        rows[:, C.REQUEST_CLASS] = self._class
        if self._class_of is not None:
            rows[:, C.REQUEST_CLASS] = [self._class_of(said[1]) for said in finished]
        rows[:, C.OBSERVED] = 1
        values[unscheduled, _FinishedNumber.QUEUED] = np.nan
        _fill(rows, values)
        rows[unscheduled & tokenless, C.PROCESSING_TIME] = np.nan
        # Of a pooling request no token comes, but its prompt was computed: it counts from the first token on.
        pooled = ~tokenless & (values[:, _FinishedNumber.GENERATED] == 0) & (values[:, _FinishedNumber.PREFILL] >= 0)
        rows[pooled, C.FIRST_TOKEN_AT] = at[pooled]
        if finishes is not None:
            _place(rows, np.array(finishes), at - values[:, _FinishedNumber.E2E])
        classes = rows[:, C.REQUEST_CLASS]
        out = [start_rows(at, values[:, _FinishedNumber.QUEUED], StartColumn.QUEUE_TIME, classes)]
        if self._class_of is not None:
            out.append(start_rows(at, rows[:, C.TIME_TO_FIRST_TOKEN], StartColumn.TIME_TO_FIRST_TOKEN, classes))
        return [*out, Rows(RowKind.REQUEST, rows, [said[1] for said in finished])]

    def _check(self, values: Floats, at: Floats, tokenless: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Refuse what cannot be; says who was never scheduled, whatever its queue time looks like.

        One that was aborted in the queue was never scheduled, and that is an ordinary end: nothing of it is refused.
        """
        values[values[:, _FinishedNumber.CACHED] < 0, _FinishedNumber.CACHED] = np.nan  # vLLM's way to say unknown
        unscheduled: npt.NDArray[np.bool_] = values[:, _FinishedNumber.INFERENCE] > at - self._since
        for interval in _FROM_SCHEDULED:
            values[tokenless & unscheduled, interval] = np.nan
        for interval in _FROM_FIRST_TOKEN:
            values[tokenless, interval] = np.nan
        self._refuse_unset(values[:, _INTERVALS], at)
        fit(values, self._reject)
        return unscheduled

    def _reasons(self, said: Sequence[Any], values: Floats) -> list[float]:
        filled = values[:, _FinishedNumber.PROMPT_TOKENS] + values[:, _FinishedNumber.GENERATED] >= self._max_model_len
        codes = []
        for reason, model_limit in zip(said, filled.tolist(), strict=True):
            found = REASONS.get(str(reason), CompletionReason.OTHER)
            if model_limit and found is CompletionReason.MAX_TOKENS_REACHED:
                found = CompletionReason.LENGTH_REACHED
            codes.append(REASON_CODES[found])
        return codes


def _fill(rows: Floats, values: Floats) -> None:
    for column, said in (
        (C.TOTAL_TIME, _FinishedNumber.E2E),
        (C.QUEUE_TIME, _FinishedNumber.QUEUED),
        (C.PREFILL_TIME, _FinishedNumber.PREFILL),
        (C.DECODE_TIME, _FinishedNumber.DECODE),
        (C.PROMPT_TOKENS, _FinishedNumber.PROMPT_TOKENS),
        (C.CACHED_TOKENS, _FinishedNumber.CACHED),
        (C.PREEMPTIONS, _FinishedNumber.PREEMPTIONS),
    ):
        rows[:, column] = values[:, said]
    rows[:, C.TIME_TO_FIRST_TOKEN] = values[:, _FinishedNumber.QUEUED] + values[:, _FinishedNumber.PREFILL]
    # A request whose tokens nobody tells is still a request.
    rows[:, C.TOKENS_GENERATED] = np.nan_to_num(values[:, _FinishedNumber.GENERATED])
    rows[:, C.PROCESSING_TIME] = _processing_time(values)


def _place(rows: Floats, followed: Floats, arrived: Floats) -> None:
    """The instants of requests that were followed through iterations; they ``arrived`` by the front end's clock."""
    number, scheduled, first, last, gap = followed.T
    mine = np.flatnonzero(~np.isnan(scheduled + arrived))
    instants = np.array([arrived, scheduled, first, last])[:, mine]
    ordered = np.fmin(np.fmax.accumulate(instants), rows[mine, C.AT])
    rows[mine, C.ARRIVED_AT : C.LAST_TOKEN_AT + 1] = np.where(np.isnan(instants), np.nan, ordered).T
    rows[mine, C.MAX_EMISSION_GAP] = gap[mine]
    rows[:, C.NUMBER] = number


def _processing_time(values: Floats) -> Floats:
    """Inference time; where it is not known what is left of the whole after the queue, as the specification has it."""
    whole = np.maximum(values[:, _FinishedNumber.E2E] - np.nan_to_num(values[:, _FinishedNumber.QUEUED]), 0.0)
    return np.where(np.isnan(values[:, _FinishedNumber.INFERENCE]), whole, values[:, _FinishedNumber.INFERENCE])


def _is_tokenless(said: tuple[Any, ...]) -> bool:
    """Aborted, or failed, before its first token: its only output event was its end."""
    return said[2 + _FinishedNumber.GENERATED] == 0 and str(said[0]) in (ABORT, ERROR)


def _of_tokens(outputs: Outputs) -> bytes:
    """The packed times to first tokens, without the ends of those who never got one.

    vLLM takes the first output event for the first token, and counts both from the same arrival to the same instant:
    such a request's time to first token is its whole time.
    """
    ends = [said[2] for said in outputs.finished if _is_tokenless(said)]
    if not ends:
        return outputs.firsts
    firsts = array("d", outputs.firsts)
    for end in ends:
        if end in firsts:
            firsts.remove(end)
    return firsts.tobytes()


def _joined(told: Sequence[tuple[float, bytes]]) -> tuple[Floats, Floats]:
    """Instants and values of packed latencies, one each."""
    at = np.repeat([at for at, _ in told], [len(packed) // 8 for _, packed in told])
    return at, np.frombuffer(b"".join([packed for _, packed in told])).copy()
