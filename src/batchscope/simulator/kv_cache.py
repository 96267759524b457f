"""The KV cache: blocks that live requests hold, and prefixes that stay until their room is needed.

A prompt's prefix is known by the hashes of its hash blocks (512 tokens, so 32 blocks of 16). A hash block
becomes *resident* when a request has computed it. It is shared from then on: it counts once however many
requests hold it, and when the last of them ends it stays, idle, until the least recently used idle one
is evicted to make room. Blocks that hold no prefix are taken before that, unless blocks are freed *in order*,
as vLLM does: then what was freed longest ago is taken first, whatever it holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence


class Holding:
    """The blocks of one request: private ones, by number, and resident hash blocks, by name."""

    __slots__ = ("considered", "private", "shared")

    def __init__(self) -> None:
        self.private = 0
        self.shared: list[Hashable] = []
        self.considered = 0  # hash blocks of the prompt that were taken from the cache or offered to it


class KvCache:
    """Counts blocks; one holder of a block is never aware of another."""

    def __init__(self, blocks: int, block_size: int, hash_block_tokens: int, *, frees_in_order: bool = False) -> None:
        self.blocks = blocks
        self._block_size = block_size
        self._per_hash = hash_block_tokens // block_size
        self.frees_in_order = frees_in_order
        self.free = blocks
        """Blocks that hold nothing."""
        self._holders: dict[Hashable, int] = {}  # resident hash block -> live requests that hold it
        # Those with no holder, least recently used first, with their blocks; freed in order, nameless ones, too.
        self._idle: OrderedDict[Hashable, int] = OrderedDict()
        self._idle_blocks = 0
        self._freed = 0

    @property
    def available(self) -> int:
        """Blocks that an allocation can get: free ones and, by eviction, idle ones."""
        return self.free + self._idle_blocks

    @property
    def held(self) -> int:
        """Blocks held by live requests, shared ones once."""
        return self.blocks - self.available

    def blocks_for(self, tokens: int) -> int:
        """How many blocks ``tokens`` tokens fill, the last one perhaps in part."""
        return -(-tokens // self._block_size)

    def reserve(self, holding: Holding, tokens: int, prefix: Sequence[Hashable], spare: int) -> bool:
        """Give an empty holding the room for ``tokens`` tokens, of ``prefix`` as much as is resident.

        Refused, with nothing changed, unless ``spare`` blocks stay available.
        """
        hits, asked = self._hits_and_asked(tokens, prefix)
        if self.available - asked < spare:
            return False
        private, shared = self.blocks_for(tokens) - hits * self._per_hash, list(prefix[:hits])
        for name in shared:
            self._hold(name)
        self.take(private)
        holding.private = private
        holding.shared = shared
        holding.considered = hits
        return True

    def asked(self, tokens: int, prefix: Sequence[Hashable]) -> int:
        """Of the available blocks, how many such a reservation takes: what others hold is shared with them."""
        return self._hits_and_asked(tokens, prefix)[1]

    def blocks_of(self, holding: Holding) -> int:
        """How many blocks it holds."""
        return holding.private + len(holding.shared) * self._per_hash

    def grow(self, holding: Holding, blocks: int) -> bool:
        """So many more private blocks; False, with nothing changed, when fewer are available."""
        if self.available < blocks:
            return False
        self.take(blocks)
        holding.private += blocks
        return True

    def take(self, blocks: int) -> None:
        """Remove ``blocks`` available blocks from the free ones, evicting idle prefixes as needed."""
        free = self.free
        if free < blocks:
            idle, holders = self._idle, self._holders
            while free < blocks:
                name, freed = idle.popitem(last=False)
                holders.pop(name, None)
                free += freed
            self._idle_blocks -= free - self.free
        self.free = free - blocks

    def publish(self, holding: Holding, prefix: Sequence[Hashable], computed: int) -> None:
        """Make resident what the request has computed of its prefix: the first ``computed`` hash blocks.

        A block that another request made resident in the meantime stays private here, a duplicate.
        """
        holders = self._holders
        new = dict.fromkeys([name for name in prefix[holding.considered : computed] if name not in holders], 1)
        holders.update(new)
        holding.shared += new
        holding.private -= self._per_hash * len(new)
        holding.considered = max(holding.considered, min(computed, len(prefix)))

    def release(self, holding: Holding) -> None:
        """Take everything back; the end of a prefix becomes idle first, so it is evicted before its start."""
        if self.frees_in_order and holding.private:
            self._freed += 1
            self._rest(("freed", self._freed), holding.private)
        else:
            self.free += holding.private
        holders, idle, per_hash = self._holders, self._idle, self._per_hash
        before = len(idle)
        for name in reversed(holding.shared):
            holders[name] = still = holders[name] - 1
            if not still:
                idle[name] = per_hash
        self._idle_blocks += per_hash * (len(idle) - before)
        holding.private, holding.shared, holding.considered = 0, [], 0

    def _hits_and_asked(self, tokens: int, prefix: Sequence[Hashable]) -> tuple[int, int]:
        hits = self.resident(prefix)
        woken = [self._holders[name] for name in set(prefix[:hits])].count(0) if hits else 0
        return hits, self.blocks_for(tokens) - (hits - woken) * self._per_hash

    def resident(self, prefix: Sequence[Hashable]) -> int:
        """How many of its hash blocks, from the first on, are in the cache."""
        holders = self._holders
        for hits, name in enumerate(prefix):
            if name not in holders:
                return hits
        return len(prefix)

    def _hold(self, name: Hashable) -> None:
        self._holders[name] += 1
        self._idle_blocks -= self._idle.pop(name, 0)

    def _rest(self, name: Hashable, blocks: int) -> None:
        self._idle[name] = blocks
        self._idle_blocks += blocks
