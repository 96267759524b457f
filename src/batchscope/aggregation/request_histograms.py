"""The histograms of requests: durations, sizes, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from batchscope.aggregation.slo import COMPLETED, outcomes_of
from batchscope.configuration import SloTargets
from batchscope.histograms.instrument import Instrument
from batchscope.rows import Floats, RequestColumn, StartColumn, distinct

C = RequestColumn
AT_START = {"queue_time": C.QUEUE_TIME, "time_to_first_token": C.TIME_TO_FIRST_TOKEN}
"""Observed when they happen, for every request."""
AT_FINISH = {
    "total_time": C.TOTAL_TIME,
    "time_per_output_token": C.TIME_PER_OUTPUT_TOKEN,
    "prefill_time": C.PREFILL_TIME,
    "decode_time": C.DECODE_TIME,
    "preempted_time": C.PREEMPTED_TIME,
}
"""Observed at the finish, of completed requests."""
SIZES = {"request_prompt_tokens": C.PROMPT_TOKENS, "request_generation_tokens": C.TOKENS_GENERATED}
COMPUTED_PROMPT, INFERENCE = "request_computed_prompt_tokens", "inference_time"
"""Of completed requests, too: prompt tokens not taken from a cache; prefill and decode time together."""
SERVER_TPOT = "server_time_per_output_token"
"""OpenTelemetry's: (request duration - time to first token) / (tokens - 1), of completed requests; for OTLP only."""
BY_CLASS = {
    "queue_time": None,
    "time_to_first_token": "time_to_first_token",
    "total_time": "e2e_latency",
    "time_per_output_token": "time_per_output_token",
}
"""The histograms kept a class each, and the SLO target that is an exact edge of theirs."""


class RequestHistograms:
    """``instruments`` by name and class (the empty one where classes are not told apart), fed with good rows."""

    def __init__(self, targets: Mapping[str, SloTargets], scale: int) -> None:
        """``targets`` of each request class, in the order of the classes' codes."""
        self.instruments: dict[str, dict[str, Instrument]] = {}
        for name in (*AT_START, *AT_FINISH, *SIZES, COMPUTED_PROMPT, INFERENCE, SERVER_TPOT):
            if name in BY_CLASS:
                edges = {class_name: _edges(of_class, BY_CLASS[name]) for class_name, of_class in targets.items()}
            else:
                edges = {"": ()}
            self.instruments[name] = {key: Instrument(scale, thresholds=found) for key, found in edges.items()}

    def started(self, rows: Floats) -> None:
        """Queue times and TTFTs of requests that have not finished yet, as ``StartColumn`` has them."""
        quantities = {
            "queue_time": rows[:, StartColumn.QUEUE_TIME],
            "time_to_first_token": rows[:, StartColumn.TIME_TO_FIRST_TOKEN],
        }
        self._add(quantities, rows[:, StartColumn.AT], rows[:, StartColumn.REQUEST_CLASS])

    def observe(self, rows: Floats) -> None:
        """Finished requests, as ``RequestColumn`` has them."""
        unobserved = _chosen(rows, rows[:, C.OBSERVED] == 0)
        quantities = {name: unobserved[:, column] for name, column in AT_START.items()}
        self._add(quantities, unobserved[:, C.AT], unobserved[:, C.REQUEST_CLASS])
        completed = _chosen(rows, outcomes_of(rows) == COMPLETED)
        quantities = {name: completed[:, column] for name, column in {**AT_FINISH, **SIZES}.items()}
        quantities[COMPUTED_PROMPT] = _computed_prompts(completed)
        quantities[INFERENCE] = completed[:, C.PREFILL_TIME] + completed[:, C.DECODE_TIME]
        quantities[SERVER_TPOT] = _server_times(completed)
        self._add(quantities, completed[:, C.AT], completed[:, C.REQUEST_CLASS])

    def _add(self, quantities: Mapping[str, Floats], at: Floats, classes: Floats) -> None:
        """Those that are kept a class each go to the classes of their requests, the others together to theirs."""
        whole, by_class = [], []
        for name, values in quantities.items():
            instruments = list(self.instruments[name].values())
            if len(instruments) == 1:
                whole.append((instruments[0], values))
            else:
                by_class.append((instruments, values))
        _together(whole, at)
        for code in distinct(classes) if by_class else ():
            of_class = np.flatnonzero(classes == code)
            _together([(instruments[int(code)], values[of_class]) for instruments, values in by_class], at[of_class])


def _together(fed: list[tuple[Instrument, Floats]], at: Floats) -> None:
    Instrument.observe_together([instrument for instrument, _ in fed], [values for _, values in fed], at)


def _edges(targets: SloTargets, target: str | None) -> tuple[float, ...]:
    limit = targets.declared.get(target) if target else None
    return () if limit is None else (limit,)


def _chosen(rows: Floats, mask: npt.NDArray[np.bool_]) -> Floats:
    """The rows of ``mask``; all of them without a copy."""
    return rows if mask.all() else rows.T.compress(mask, axis=1).T


def _computed_prompts(rows: Floats) -> Floats:
    """Prompt tokens less the cached ones; those that nobody said are none."""
    prompts = rows[:, C.PROMPT_TOKENS]
    computed: Floats = prompts - np.fmin(np.fmax(rows[:, C.CACHED_TOKENS], 0.0), prompts)
    return computed


def _server_times(rows: Floats) -> Floats:
    """What comes after the first token, the end of the request included, over the tokens after the first."""
    after = rows[:, C.TOTAL_TIME] - rows[:, C.TIME_TO_FIRST_TOKEN]
    tokens = rows[:, C.TOKENS_GENERATED]
    with np.errstate(divide="ignore", invalid="ignore"):
        times: Floats = after / (tokens - 1)
        times[~((tokens >= 2) & (after >= 0))] = np.nan
    return times
