"""Which settings are tried: a grid around the recorded ones, then what lies close to the best of it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import msgspec

from batchscope.checks import check_whole, is_number
from batchscope.errors import ConfigurationError
from batchscope.simulator import SchedulerOptions
from batchscope.simulator.instants import Instants
from batchscope.simulator.policies import POLICIES

VARIED = ("max_running_requests", "max_scheduled_tokens", "kv_cache_blocks", "policy")
"""What can be searched. The token budget is also the chunk: no prefill of an iteration is larger."""
PLACES = tuple(2 ** (step / 2) for step in range(-6, 5))
"""Times as many places: from an eighth to four times."""
BUDGETS = (0.25, 0.5, 1, 2, 4)
CLOSE = (0.84, 0.92, 0.96, 1.04, 1.08, 1.19)
"""Times the best number of places: what the grid leaves between its points."""
CLOSE_BUDGETS = (0.71, 1.41)
SMALLEST_BUDGET = 64
"""Tokens: below, no engine is run."""
MOST_PER_TOKEN = 100
"""KV blocks: the activations of a token take a fraction of what it takes in the cache."""
CACHES = (0.5, 1.0)
"""How much of the memory that could be had the KV cache gets, where more of it could be."""


class Space(msgspec.Struct, frozen=True):
    """What may be changed.

    ``vary``: which of ``VARIED``. ``most_kv_cache_blocks``: as many blocks could be had (a larger share of the
    device's memory); ``None``: no more than recorded. ``kv_blocks_per_token``: blocks of the KV cache that each
    further token of the budget costs, since a larger batch needs memory for its activations, and that each token
    less gives back. ``policies`` that the engine can be set to.
    """

    vary: tuple[str, ...] = ("max_running_requests", "max_scheduled_tokens", "kv_cache_blocks")
    most_kv_cache_blocks: int | None = None
    kv_blocks_per_token: float = 0.0
    policies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.vary if name not in VARIED]
        if unknown or not self.vary:
            raise ConfigurationError("vary", ", ".join(unknown), f"one or more of {', '.join(VARIED)}")
        for name in self.policies:
            if name not in POLICIES:
                raise ConfigurationError("try_policy", name, f"one of {', '.join(POLICIES)}")
        if self.most_kv_cache_blocks is not None:
            check_whole("most_kv_cache_blocks", self.most_kv_cache_blocks, 1, 2**40)
        if not is_number(self.kv_blocks_per_token) or not 0 <= self.kv_blocks_per_token <= MOST_PER_TOKEN:
            raise ConfigurationError(
                "kv_blocks_per_token", self.kv_blocks_per_token, f"KV blocks from 0 to {MOST_PER_TOKEN}"
            )

    def grid(self, options: SchedulerOptions, replayed: Instants) -> list[SchedulerOptions]:
        """The first settings to try, the recorded ``options`` among them; ``replayed``: what those gave."""
        places = _around(_binding_places(options, replayed), PLACES, self._varies("max_running_requests"))
        budgets = [options.max_scheduled_tokens]
        if self._varies("max_scheduled_tokens"):
            binds = replayed.largest_chunk + replayed.largest_batch >= options.max_scheduled_tokens
            budgets += [round(options.max_scheduled_tokens * factor) for factor in BUDGETS if factor < 1 or binds]
        caches = [options.kv_cache_blocks]
        if self._varies("kv_cache_blocks") and self.most_kv_cache_blocks:
            more = self.most_kv_cache_blocks - options.kv_cache_blocks
            caches += [options.kv_cache_blocks + round(more * share) for share in CACHES]
        policies = [options.policy, *(self.policies if self._varies("policy") else ())]
        found = (
            self._changed(options, options, running, budget, blocks, policy)
            for running, budget, blocks, policy in product(
                [options.max_running_requests, *places], budgets, caches, policies
            )
        )
        return _distinct([options, *found])

    def close_to(self, best: SchedulerOptions, options: SchedulerOptions) -> list[SchedulerOptions]:
        """Settings that differ a little from the ``best`` so far, in one number each."""
        places, budget = best.max_running_requests, best.max_scheduled_tokens
        running = _around(places, CLOSE, self._varies("max_running_requests"))
        tokens = _around(budget, CLOSE_BUDGETS, self._varies("max_scheduled_tokens"))
        cache = self._cache_before_trade(best, options)
        found = [self._changed(best, options, one, budget, cache, best.policy) for one in running]
        found += [self._changed(best, options, places, one, cache, best.policy) for one in tokens]
        return _distinct(found)

    def _varies(self, name: str) -> bool:
        return name in self.vary

    def _cache_before_trade(self, best: SchedulerOptions, options: SchedulerOptions) -> int:
        return best.kv_cache_blocks + self._traded(best.max_scheduled_tokens, options)

    def _traded(self, budget: int, options: SchedulerOptions) -> int:
        return round(self.kv_blocks_per_token * (budget - options.max_scheduled_tokens))

    def _changed(
        self, base: SchedulerOptions, options: SchedulerOptions, running: int, budget: int, blocks: int, policy: str
    ) -> SchedulerOptions | None:
        """``None``: no such setting, each decoding request needs a token of the budget, and somebody a block."""
        budget = budget if budget == options.max_scheduled_tokens else max(budget, SMALLEST_BUDGET)
        if running > budget and not self._varies("max_scheduled_tokens"):
            return None
        budget = max(budget, running)
        blocks -= self._traded(budget, options)
        if blocks < 1:
            return None
        return msgspec.structs.replace(
            base, max_running_requests=running, max_scheduled_tokens=budget, kv_cache_blocks=blocks, policy=policy
        )


def _binding_places(options: SchedulerOptions, replayed: Instants) -> int:
    """The number of places to search around: of places that are never all taken, as many as were."""
    return min(options.max_running_requests, replayed.largest_batch)


def _around(middle: int, factors: Iterable[float], varies: bool) -> list[int]:
    return [max(1, round(middle * factor)) for factor in factors] if varies else []


def _distinct(found: Iterable[SchedulerOptions | None]) -> list[SchedulerOptions]:
    return list(dict.fromkeys(each for each in found if each is not None))
