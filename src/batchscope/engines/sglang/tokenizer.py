"""What SGLang's tokenizer manager tells its metrics collector, as batchscope's records: requests and their tokens.

One output of a request is one pass of ``TokenizerManager.collect_metrics`` (SGLang 0.5.23): the first output of a
request that is not aborted gives its time to first token, a later one the gap since the output before, a last one
the finished request; with the first two comes the very same ``labels`` object, made new for each output.

How a request ended is not told, and follows from that: a time per output token is given of those alone that
finished by stop or length, a first token of those alone that were not aborted in that output. Neither: aborted.
Then it was cancelled if somebody had asked for an abort, else the engine did it. An abort of a request that is
still queued is never followed by a finished request: after a while it counts by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np

from batchscope.engines.sglang.source import Call, SglangSource, values_of
from batchscope.engines.source import Remembered
from batchscope.engines.values import fit, numbers, refuse
from batchscope.reasons import RejectReason
from batchscope.records import CompletionReason, SchedulerMetrics
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
ABORT_SECONDS = 10.0
"""So long the finish of an aborted request may take to show up: the scheduler aborts at its next iteration."""
_ROUNDING = 1e-6
_MOST_TOKENS = 2**31
_COMPLETED = REASON_CODES[CompletionReason.OTHER]
_CANCELLED = REASON_CODES[CompletionReason.CANCELLED]
_ABORTED_BY_ENGINE = REASON_CODES[CompletionReason.ERROR]


class _LoggedNumber(IntEnum):
    """What is logged of a finished request."""

    AT = 0
    FIRST_TOKEN = 1
    PROMPT_TOKENS = 2
    GENERATED = 3
    CACHED = 4
    E2E = 5
    TIME_PER_OUTPUT_TOKEN = 6


class _Told(IntEnum):
    """What is logged: which call it was."""

    FIRST = 0
    GAP = 1
    FINISHED = 2
    ABORTED = 3


class _Memory(Remembered):
    """``received``: finished requests. ``asked``: the instants of aborts that nothing was heard of yet."""

    def __init__(self) -> None:
        super().__init__()
        self.received = 0
        self.asked: deque[float] = deque()


class SglangTokenizer(SglangSource[_Memory]):
    """Takes a tokenizer manager's observations for ``collector``.

    ``prefill_only``: a worker of disaggregated prefill, whose requests have no first token and are never told to
    have finished by stop or length; all that finish there count as completed.
    """

    def __init__(self, collector: SchedulerMetrics, *, prefill_only: bool = False) -> None:
        self._prefill_only = prefill_only
        self._output: Any = None
        self._first: Any = None
        super().__init__(collector, _Memory)

    # What SGLang calls, by its names.

    def observe_time_to_first_token(self, labels: Any, value: float, **_: Any) -> None:
        """A first output; ``labels`` is the object, not its contents, that marks the output."""
        self._output, self._first = labels, value
        self._log.append((_Told.FIRST, (self.clock(), value)))

    def observe_inter_token_latency(self, labels: Any, internval: float, num_new_tokens: int, **_: Any) -> None:  # noqa: ARG002
        """A later output of that many tokens, that many seconds after the one before (SGLang's spelling)."""
        if num_new_tokens > 0:
            self._log.append((_Told.GAP, (self.clock(), internval, num_new_tokens)))

    def observe_one_finished_request(
        self,
        labels: Any,
        prompt_tokens: int,
        generation_tokens: int,
        cached_tokens: int,
        e2e_latency: float,
        has_grammar: Any = None,  # noqa: ARG002
        cached_tokens_details: Any = None,  # noqa: ARG002
        spec_verify_ct: int = 0,  # noqa: ARG002
        is_streaming: Any = None,  # noqa: ARG002
        time_per_output_token: float | None = None,
        **_: Any,
    ) -> None:
        """A last output, however the request ended."""
        first = self._first if labels is self._output else None
        self._output = self._first = None
        said = first, prompt_tokens, generation_tokens, cached_tokens, e2e_latency, time_per_output_token
        self._log.append((_Told.FINISHED, (self.clock(), *said)))

    def observe_one_aborted_request(self, labels: Any = None, **_: Any) -> None:  # noqa: ARG002
        """An abort was sent to the scheduler."""
        self._log.append((_Told.ABORTED, (self.clock(),)))

    # The drain.

    def drain(self) -> list[Rows | Gaps]:
        """Rows of everything recorded so far; an abort becomes one after a while, without a further call."""
        return self._log.drain(self, always=bool(self._memory.asked))

    def _rows(self, events: list[Call]) -> list[Rows | Gaps]:
        out: list[Rows | Gaps] = [*self._starts(values_of(events, _Told.FIRST), StartColumn.TIME_TO_FIRST_TOKEN)]
        if gaps := values_of(events, _Told.GAP):
            out.append(self._latencies(gaps))
        self._memory.asked.extend(at for (at,) in values_of(events, _Told.ABORTED))
        if finished := values_of(events, _Told.FINISHED):
            out.append(self._requests(finished))
        if overdue := self._overdue():
            out.append(self._never_started(overdue))
        return out

    def _latencies(self, entries: Sequence[tuple[Any, ...]]) -> Gaps:
        """Token-weighted, as SGLang's own: interval / n, n times."""
        at, intervals, counts = numbers(entries, 3, self._reject).T
        fits = (counts > 0) & (counts < _MOST_TOKENS) & (counts == np.floor(counts))
        refuse(counts, ~fits, RejectReason.NOT_A_NUMBER, self._reject)
        known = ~np.isnan(counts)
        whole = counts[known].astype(np.int64)
        return Gaps(GapColumn.INTER_TOKEN_LATENCY, at[known], intervals[known] / whole, whole)

    def _requests(self, entries: Sequence[tuple[Any, ...]]) -> Rows:
        values = numbers(entries, len(_LoggedNumber), self._reject)
        fit(values[:, _LoggedNumber.FIRST_TOKEN :], self._reject)
        rows = empty_rows(RowKind.REQUEST, len(entries))
        rows[:, C.AT] = rows[:, C.FINISHED_AT] = values[:, _LoggedNumber.AT]
        rows[:, C.REASON] = [self._reason(entry) for entry in entries]
        rows[:, C.TOKENS_GENERATED] = np.nan_to_num(values[:, _LoggedNumber.GENERATED])
        rows[:, C.PROMPT_TOKENS] = values[:, _LoggedNumber.PROMPT_TOKENS]
        rows[:, C.CACHED_TOKENS] = values[:, _LoggedNumber.CACHED]
        rows[:, C.TOTAL_TIME] = rows[:, C.PROCESSING_TIME] = values[:, _LoggedNumber.E2E]
        self._split(rows, values)
        return self._counted(rows)

    def _split(self, rows: Floats, values: Floats) -> None:
        """TTFT and decode time: their sum is the whole, because SGLang measures both from the first token's instant."""
        tokens, first = rows[:, C.TOKENS_GENERATED], values[:, _LoggedNumber.FIRST_TOKEN]
        decode = values[:, _LoggedNumber.TIME_PER_OUTPUT_TOKEN] * (tokens - 1)
        one = np.isnan(decode) & ~np.isnan(first) & (tokens <= 1)
        left = values[:, _LoggedNumber.E2E] - decode
        left[(left < 0) & (left > -_ROUNDING)] = 0.0
        impossible = left < 0
        refuse(left, impossible, RejectReason.NEGATIVE, self._reject)
        decode[impossible] = np.nan
        rows[:, C.TIME_TO_FIRST_TOKEN] = np.where(np.isnan(left), first, left)
        rows[:, C.DECODE_TIME] = np.where(one, 0.0, decode)

    def _reason(self, entry: tuple[Any, ...]) -> float:
        told = entry[_LoggedNumber.TIME_PER_OUTPUT_TOKEN] is not None or entry[_LoggedNumber.FIRST_TOKEN] is not None
        if told or self._prefill_only:
            return _COMPLETED
        asked = self._memory.asked
        if asked and asked[0] <= entry[_LoggedNumber.AT]:
            asked.popleft()
            return _CANCELLED
        return _ABORTED_BY_ENGINE

    def _overdue(self) -> list[float]:
        """Instants of aborts that no finished request followed."""
        latest = self.clock() - ABORT_SECONDS
        asked, overdue = self._memory.asked, []
        while asked and asked[0] <= latest:
            overdue.append(asked.popleft())
        return overdue

    def _never_started(self, asked: Sequence[float]) -> Rows:
        rows = empty_rows(RowKind.REQUEST, len(asked))
        rows[:, C.AT] = rows[:, C.FINISHED_AT] = asked
        rows[:, C.REASON] = _CANCELLED
        rows[:, C.TOKENS_GENERATED] = 0
        return self._counted(rows)

    def _counted(self, rows: Floats) -> Rows:
        """First tokens were observed when they came (``OBSERVED``), so the finish does not observe them again."""
        self._memory.received += len(rows)
        rows[:, C.REQUEST_CLASS] = self.request_class
        rows[:, C.OBSERVED] = 1
        return Rows(RowKind.REQUEST, rows, [None] * len(rows))

    @property
    def _received(self) -> int:
        return self._memory.received

    def reset(self) -> None:
        """Count anew."""
        super().reset()
        self._memory.received = 0

    def after_fork(self) -> None:
        """In a child process: empty."""
        super().after_fork()
        self._output = self._first = None
