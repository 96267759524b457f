"""What a run implies without saying it: instants of requests from their durations, the context that iterations read.

An engine that tells durations at a request's end (vLLM) tells instants, too: the end is that of an iteration, and the
rest lies before it. And who decodes takes part in every iteration from its first token to its last, with one token
more each: that is the context which an iteration reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_BACKWARDS = (
    ("last_token_at", None, None),
    ("first_token_at", "last_token_at", "decode_time"),
    ("first_scheduled_at", "first_token_at", "prefill_time"),
    ("arrived_at", "first_scheduled_at", "queue_time"),
)
"""An instant, and the later one which it lies a duration before."""


def floats(table: Any, name: str) -> Floats:
    """A column, ``nan`` where it is null."""
    return np.asarray(table[name].to_numpy(), np.float64)


def instants_of(requests: Any, iterations: Any) -> dict[str, Floats]:
    """The four instants of each row of ``requests``: as recorded, else from durations, back from its end.

    Its end is that of the iteration whose record came with it, by the engine's clock; else that of the record. One
    token has no decode time.
    """
    found: dict[str, Floats] = {}
    for name, after, duration in _BACKWARDS:
        recorded = floats(requests, name)
        if after is None:
            implied = _ends(floats(requests, "finished_at"), iterations)
            implied[np.isnan(floats(requests, "decode_time")) & ~(floats(requests, "tokens_generated") == 1)] = np.nan
        else:
            took = floats(requests, str(duration))
            if duration == "decode_time":
                took = np.where(floats(requests, "tokens_generated") == 1, np.nan_to_num(took), took)
            implied = found[after] - took
        found[name] = np.where(np.isnan(recorded), implied, recorded)
    return found


def _ends(told: Floats, iterations: Any) -> Floats:
    """Of requests that were told of at these instants."""
    at, finished = floats(iterations, "at"), floats(iterations, "finished_at")
    if not len(at):
        return told.copy()
    order = np.argsort(at, kind="stable")
    place = np.minimum(np.searchsorted(at[order], told), len(at) - 1)
    same = at[order][place] == told
    ended = finished[order][place]
    return np.where(same & ~np.isnan(ended), ended, told)


def contexts_of(finished: Floats, decoding: Floats, requests: Mapping[str, Floats]) -> Floats:
    """Tokens of context of those who decode in each iteration, the new ones included; ``nan`` where it is not known.

    ``finished`` and ``decoding`` are of the iterations, in order: when each ended and how many decoded. ``requests``
    has the columns ``first_token_at``, ``last_token_at``, ``prompt_tokens`` and ``tokens_generated``. Known is an
    iteration in which as many requests are between their tokens as are said to decode. Of one that was evicted
    meanwhile, or emits several tokens at once, the tokens are spread evenly over the iterations between.
    """
    if len(finished) < 2:
        return np.full(len(finished), np.nan)
    first, last, prompt, tokens = (requests[name] for name in _LIVES)
    known = ~np.isnan(first + last + prompt + tokens)
    between = (finished[1:] + finished[:-1]) / 2
    begun = np.searchsorted(between, first[known]) + 1
    ended = np.searchsorted(between, last[known]) + 1
    pace = (tokens[known] - 1) / np.maximum(ended - begun, 1)
    present, offset, slope = (
        _while_decoding(begun, ended, amount, len(finished))
        for amount in (np.ones(len(begun)), prompt[known] + 1 - pace * begun, pace)
    )
    return np.where(present == decoding, offset + slope * np.arange(len(finished)), np.nan)


_LIVES = ("first_token_at", "last_token_at", "prompt_tokens", "tokens_generated")


def _while_decoding(begun: npt.NDArray[np.int64], ended: npt.NDArray[np.int64], amount: Floats, count: int) -> Floats:
    """The sum, iteration by iteration, of what each request adds from the one where it begins until it has ended."""
    changes = np.zeros(count + 1)
    np.add.at(changes, begun, amount)
    np.add.at(changes, ended, -amount)
    return np.cumsum(changes)[:-1]
