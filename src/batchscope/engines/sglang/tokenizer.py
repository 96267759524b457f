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

from batchscope.engines.sglang.source import NEGATIVE, NOT_A_NUMBER, SglangSource
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


class _Said(IntEnum):
    """What is logged of a finished request."""

    AT = 0
    FIRST_TOKEN = 1
    PROMPT_TOKENS = 2
    GENERATED = 3
    CACHED = 4
    E2E = 5
    TIME_PER_OUTPUT_TOKEN = 6


class SglangTokenizer(SglangSource):
    """Takes a tokenizer manager's observations for ``collector``.

    ``prefill_only``: a worker of disaggregated prefill, whose requests have no first token and are never told to
    have finished by stop or length; all that finish there count as completed.
    """

    def __init__(self, collector: SchedulerMetrics, *, prefill_only: bool = False) -> None:
        self._prefill_only = prefill_only
        super().__init__(collector)

    def _prepare(self) -> None:
        self._firsts, self._gaps = self._new_log(), self._new_log()
        self._finished, self._aborted = self._new_log(), self._new_log()
        self._asked: deque[float] = deque()
        self._output: Any = None
        self._first: Any = None

    # What SGLang calls, by its names.

    def observe_time_to_first_token(self, labels: Any, value: float, **_: Any) -> None:
        """A first output; ``labels`` is the object, not its contents, that marks the output."""
        self._output, self._first = labels, value
        self._put(self._firsts, self.clock(), value)

    def observe_inter_token_latency(self, labels: Any, internval: float, num_new_tokens: int, **_: Any) -> None:  # noqa: ARG002
        """A later output of that many tokens, that many seconds after the one before (SGLang's spelling)."""
        if num_new_tokens > 0:
            self._put(self._gaps, self.clock(), internval, num_new_tokens)

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
        self._put(
            self._finished, self.clock(), first, prompt_tokens, generation_tokens, cached_tokens, e2e_latency,
            time_per_output_token,
        )  # fmt: skip

    def observe_one_aborted_request(self, labels: Any = None, **_: Any) -> None:  # noqa: ARG002
        """An abort was sent to the scheduler."""
        self._put(self._aborted, self.clock())

    # The drain.

    def _rows(self) -> list[Rows | Gaps]:
        out: list[Rows | Gaps] = [*self.starts(self._firsts.take(), StartColumn.TIME_TO_FIRST_TOKEN)]
        if gaps := self._gaps.take():
            out.append(self._latencies(gaps))
        finished = self._finished.take()  # before the aborts: whoever was aborted was asked to be before
        self._asked.extend(at for (at,) in self._aborted.take())
        if finished:
            out.append(self._requests(finished))
        if overdue := self._overdue():
            out.append(self._never_started(overdue))
        return out

    def _latencies(self, entries: Sequence[tuple[Any, ...]]) -> Gaps:
        """Token-weighted, as SGLang's own: interval / n, n times."""
        at, intervals, counts = self.numbers(entries).T
        with np.errstate(invalid="ignore"):
            self.refuse(counts, ~((counts > 0) & (counts < _MOST_TOKENS) & (counts == np.floor(counts))), NOT_A_NUMBER)
        known = ~np.isnan(counts)
        whole = counts[known].astype(np.int64)
        return Gaps(GapColumn.INTER_TOKEN_LATENCY, at[known], intervals[known] / whole, whole)

    def _requests(self, entries: Sequence[tuple[Any, ...]]) -> Rows:
        values = self.numbers(entries)
        self.fit(values[:, _Said.FIRST_TOKEN :])
        rows = empty_rows(RowKind.REQUEST, len(entries))
        rows[:, C.AT] = rows[:, C.FINISHED_AT] = values[:, _Said.AT]
        rows[:, C.REASON] = [self._reason(entry) for entry in entries]
        rows[:, C.TOKENS_GENERATED] = np.nan_to_num(values[:, _Said.GENERATED])
        rows[:, C.PROMPT_TOKENS] = values[:, _Said.PROMPT_TOKENS]
        rows[:, C.CACHED_TOKENS] = values[:, _Said.CACHED]
        rows[:, C.TOTAL_TIME] = rows[:, C.PROCESSING_TIME] = values[:, _Said.E2E]
        self._split(rows, values)
        return self._counted(rows)

    def _split(self, rows: Floats, values: Floats) -> None:
        """TTFT and decode time: their sum is the whole, because SGLang measures both from the first token's instant."""
        tokens, first = rows[:, C.TOKENS_GENERATED], values[:, _Said.FIRST_TOKEN]
        decode = values[:, _Said.TIME_PER_OUTPUT_TOKEN] * (tokens - 1)
        one = np.isnan(decode) & ~np.isnan(first) & (tokens <= 1)
        left = values[:, _Said.E2E] - decode
        left[(left < 0) & (left > -_ROUNDING)] = 0.0
        impossible = left < 0
        self.refuse(left, impossible, NEGATIVE)
        decode[impossible] = np.nan
        rows[:, C.TIME_TO_FIRST_TOKEN] = np.where(np.isnan(left), first, left)
        rows[:, C.DECODE_TIME] = np.where(one, 0.0, decode)

    def _reason(self, entry: tuple[Any, ...]) -> float:
        told = entry[_Said.TIME_PER_OUTPUT_TOKEN] is not None or entry[_Said.FIRST_TOKEN] is not None
        if told or self._prefill_only:
            return _COMPLETED
        if self._asked and self._asked[0] <= entry[_Said.AT]:
            self._asked.popleft()
            return _CANCELLED
        return _ABORTED_BY_ENGINE

    def _overdue(self) -> list[float]:
        """Instants of aborts that no finished request followed."""
        latest = self.clock() - ABORT_SECONDS
        overdue = []
        while self._asked and self._asked[0] <= latest:
            overdue.append(self._asked.popleft())
        return overdue

    def _never_started(self, asked: Sequence[float]) -> Rows:
        rows = empty_rows(RowKind.REQUEST, len(asked))
        rows[:, C.AT] = rows[:, C.FINISHED_AT] = asked
        rows[:, C.REASON] = _CANCELLED
        rows[:, C.TOKENS_GENERATED] = 0
        return self._counted(rows)

    def _counted(self, rows: Floats) -> Rows:
        """First tokens were observed when they came (``OBSERVED``), so the finish does not observe them again."""
        self._received += len(rows)
        rows[:, C.REQUEST_CLASS] = self.request_class
        rows[:, C.OBSERVED] = 1
        return Rows(RowKind.REQUEST, rows, [None] * len(rows))

    def after_fork(self) -> None:
        """In a child process: empty."""
        super().after_fork()
        self._asked.clear()
        self._output = self._first = None
