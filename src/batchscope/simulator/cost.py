"""How long an iteration takes: a linear model, and the fit that its default constants come from."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from batchscope.checks import LARGEST, check_not_negative, check_whole

_Floats = npt.NDArray[np.float64]
Amount = TypeVar("Amount", int, npt.NDArray[np.float64])
"""Of one iteration, or of many."""


class LinearCostModel(msgspec.Struct, frozen=True):
    """Seconds of an iteration: ``fixed``, plus so much a prefill token, decoding request and KV token read.

    A KV token read is a token of context that a request of the batch had before this iteration. ``per_token_pair``: an
    attention that computes one mask over the whole batch (PyTorch's ``sdpa``) holds each token against the context and
    the prompts of all requests, not of its own alone. ``beyond_graphs``: more, where more requests decode than
    ``graphed_requests``, the largest batch that CUDA graphs were captured for: the host launches each kernel then.

    The defaults are a Qwen-2-7B on one NVIDIA A30: a least-squares fit (``fit``) to the 4,292 batches that
    microsoft/vidur's Sarathi scheduler formed from its measured profile of that pair (chunks of 512
    tokens, at most 128 requests, contexts up to 4,096 tokens). The fit explains 99.86 % of the variance of
    the batch times; its error is 1.0 % in the median and 3.5 % at the 95th percentile. Outside that range
    it extrapolates: a chunk read against 100,000 tokens of context takes longer on a real A30.
    """

    fixed: float = 18.23e-3
    per_prefill_token: float = 124.3e-6
    per_decoding_request: float = 60.6e-6
    per_kv_token_read: float = 131.4e-9
    per_token_pair: float = 0.0
    beyond_graphs: float = 0.0
    graphed_requests: int = 0

    def __post_init__(self) -> None:
        for field in self.__struct_fields__[:-1]:
            check_not_negative(field, getattr(self, field), "seconds")
        check_whole("graphed_requests", self.graphed_requests, 0, LARGEST)

    def iteration_time(self, prefill_tokens: int, decoding_requests: int, kv_tokens_read: int) -> float:
        """Seconds that an iteration with this batch takes."""
        seconds = (
            self.fixed
            + self.per_prefill_token * prefill_tokens
            + self.per_decoding_request * decoding_requests
            + self.per_kv_token_read * kv_tokens_read
        )
        if self.per_token_pair:
            seconds += self.per_token_pair * token_pairs(prefill_tokens, decoding_requests, kv_tokens_read)
        return seconds + self.beyond_graphs * (decoding_requests > self.graphed_requests)

    @classmethod
    def fit(
        cls,
        prefill_tokens: npt.ArrayLike,
        decoding_requests: npt.ArrayLike,
        kv_tokens_read: npt.ArrayLike,
        seconds: npt.ArrayLike,
        *,
        ones: npt.ArrayLike | None = None,
        pairs: npt.ArrayLike | None = None,
    ) -> LinearCostModel:
        """The model with the least squared error over measured iterations, one element each.

        No constant comes out negative: more work never takes less time. ``ones`` is what ``fixed`` is multiplied
        with: where every column is scaled by a weight, that weight. Without ``pairs`` nothing is laid to them.
        """
        told = (prefill_tokens, decoding_requests, kv_tokens_read, *(() if pairs is None else (pairs,)))
        columns = [np.asarray(column, np.float64) for column in told]
        target = np.asarray(seconds, np.float64)
        fixed = np.ones_like(target) if ones is None else np.asarray(ones, np.float64)
        matrix = np.column_stack([fixed, *columns])
        return cls(*non_negative_least_squares(matrix, target).tolist())


def token_pairs(prefill_tokens: Amount, decoding_requests: Amount, kv_tokens_read: Amount) -> Amount:
    """Tokens of the batch, times the tokens of context and of prompts in it."""
    return (prefill_tokens + decoding_requests) * (kv_tokens_read + prefill_tokens)


def non_negative_least_squares(matrix: _Floats, target: _Floats) -> _Floats:
    """Exact, by trying every set of columns: the best one whose own solution has no negative part."""
    width = matrix.shape[1]
    best, least = np.zeros(width), math.inf
    for size in range(1, width + 1):
        for chosen in map(list, combinations(range(width), size)):
            solution = np.zeros(width)
            solution[chosen] = np.linalg.lstsq(matrix[:, chosen], target, rcond=None)[0]
            error = float(np.sum((matrix @ solution - target) ** 2))
            if solution.min() >= 0 and error < least:
                best, least = solution, error
    return best
