"""The KV cache against a naive one: which hash blocks are resident, who holds them, who goes first."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchscope.simulator.kv_cache import Holding, KvCache

BLOCKS, BLOCK, PER_HASH = 20, 4, 2
HASH_TOKENS = BLOCK * PER_HASH


class _Owner:
    def __init__(self, prefix: list[int], tokens: int) -> None:
        self.holding = Holding()
        self.prefix = prefix
        self.tokens = tokens
        self.private = 0
        self.shared: list[int] = []


class CacheMachine(RuleBasedStateMachine):
    """Every rule does the same to the cache and to sets and lists that a reader can check by eye."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = KvCache(BLOCKS, BLOCK, HASH_TOKENS)
        self.owners: list[_Owner] = []
        self.resident: list[int] = []  # idle ones in the order in which they go

    def _held(self) -> int:
        shared = {name for owner in self.owners for name in owner.shared}
        return sum(owner.private for owner in self.owners) + PER_HASH * len(shared)

    def _idle(self) -> list[int]:
        shared = {name for owner in self.owners for name in owner.shared}
        return [name for name in self.resident if name not in shared]

    def _make_room(self) -> None:
        while self._held() + PER_HASH * len(self._idle()) > BLOCKS:
            self.resident.remove(self._idle()[0])

    @rule(family=st.integers(0, 1), fork=st.integers(0, 4), tokens=st.integers(1, 50), spare=st.integers(0, 5))
    def reserve(self, family, fork, tokens, spare):
        prefix = [10 * family + (k if k < fork else 5 + k) for k in range(tokens // HASH_TOKENS)]
        owner = _Owner(prefix, tokens)
        hits = next((k for k, name in enumerate(prefix) if name not in self.resident), len(prefix))
        owner.shared = prefix[:hits]
        owner.private = -(-tokens // BLOCK) - PER_HASH * hits
        self.owners.append(owner)
        fits = BLOCKS - self._held() >= spare
        assert self.cache.reserve(owner.holding, tokens, prefix, spare) is fits
        if not fits:
            self.owners.pop()
        self._make_room()

    @precondition(lambda self: self.owners)
    @rule(which=st.integers(0, 100), blocks=st.integers(0, 9))
    def take(self, which, blocks):
        owner = self.owners[which % len(self.owners)]
        taken = min(blocks, BLOCKS - self._held())
        self.cache.take(taken)
        owner.holding.private += taken
        owner.private += taken
        self._make_room()

    @precondition(lambda self: self.owners)
    @rule(which=st.integers(0, 100), computed=st.integers(0, 50))
    def publish(self, which, computed):
        owner = self.owners[which % len(self.owners)]
        blocks = min(computed, owner.tokens) // HASH_TOKENS
        seen = owner.holding.considered
        self.cache.publish(owner.holding, owner.prefix, blocks)
        for name in owner.prefix[seen:blocks]:
            if name not in self.resident:
                self.resident.append(name)
                owner.shared.append(name)
                owner.private -= PER_HASH

    @precondition(lambda self: self.owners)
    @rule(which=st.integers(0, 100))
    def release(self, which):
        owner = self.owners.pop(which % len(self.owners))
        self.cache.release(owner.holding)
        still_held = {name for other in self.owners for name in other.shared}
        for name in reversed(owner.shared):
            if name not in still_held:
                self.resident.remove(name)
                self.resident.append(name)

    @invariant()
    def counts_agree(self):
        assert self.cache.held == self._held() <= BLOCKS
        assert self.cache.available == BLOCKS - self._held()
        assert set(self.cache._holders) == set(self.resident)
        assert list(self.cache._idle) == self._idle()


TestKvCache = CacheMachine.TestCase
TestKvCache.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_released_prefix_is_reused_and_its_end_is_evicted_before_its_start():
    cache = KvCache(8, BLOCK, HASH_TOKENS)
    first = Holding()
    assert cache.reserve(first, 24, [1, 2, 3], spare=0)
    cache.publish(first, [1, 2, 3], 3)
    cache.release(first)
    assert cache.held == 0
    other = Holding()
    assert cache.reserve(other, 16, [], spare=0)  # 2 blocks free, so one hash block has to go: the last
    assert list(cache._holders) == [1, 2]
    again = Holding()
    assert cache.reserve(again, 12, [1], spare=0)
    assert again.shared == [1]
    assert again.private == 1


def test_two_requests_that_compute_the_same_block_at_once_keep_a_copy_each():
    cache = KvCache(8, BLOCK, HASH_TOKENS)
    holdings = Holding(), Holding()
    for holding in holdings:
        assert cache.reserve(holding, 8, [7], spare=0)
    for holding in holdings:
        cache.publish(holding, [7], 1)
    assert [(h.private, h.shared) for h in holdings] == [(0, [7]), (2, [])]
    assert cache.held == 4
