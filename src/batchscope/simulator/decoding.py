"""The requests that emit a token in every iteration, without touching each of them in every iteration.

All of them go one token forward at the same time. So one counter, the step, says for every member how far
it is: its context is what it was when it joined plus the steps since, and so are its blocks. When it ends and when it
needs its next block are known the moment it joins: an iteration looks only at those who end, and counts the blocks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, cycle, islice

from batchscope.simulator.requests import LiveRequest


class DecodingGroup:
    """The decoding requests, in the order in which they joined."""

    def __init__(self, block_size: int) -> None:
        self._slots: dict[LiveRequest, int] = {}
        self._joined: dict[LiveRequest, int] = {}
        self._step = 0  # the one that comes next
        self._block_size = block_size
        self._openers = [0] * block_size  # by the step, modulo the block size: how many members open a block at it
        self._last_step: dict[int, dict[LiveRequest, None]] = {}
        self.context_tokens = 0
        """Tokens of context that the next step reads, all members together."""

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, request: LiveRequest) -> bool:
        return request in self._slots

    def __iter__(self) -> Iterator[LiveRequest]:
        return iter(self._slots)

    def slots(self) -> list[int]:
        """The members' slots, a new list."""
        return list(self._slots.values())

    def join(self, request: LiveRequest) -> None:
        """``request`` has emitted a token, not its last one: from the next step on it decodes."""
        self._slots[request] = request.slot
        self._joined[request] = self._step
        self.context_tokens += request.known_tokens
        self._openers[self._opens_at(request)] += 1
        self._last_step.setdefault(self._ends_at(request), {})[request] = None

    def leave(self, request: LiveRequest) -> None:
        """Stop decoding ``request``: it ended, was evicted or cancelled. Its counters and its blocks become current."""
        self._openers[self._opens_at(request)] -= 1
        last = self._ends_at(request)
        ending = self._last_step[last]
        del ending[request]
        if not ending:
            del self._last_step[last]
        del self._slots[request]
        request.blocks.private += self.opened(request)
        request.emitted += self._step - self._joined.pop(request)
        request.computed = request.known_tokens - 1
        self.context_tokens -= request.known_tokens

    def emitted(self, request: LiveRequest) -> int:
        """Tokens that ``request``, a member, has emitted so far."""
        return request.emitted + self._step - self._joined[request]

    def opened(self, request: LiveRequest) -> int:
        """Blocks that ``request``, a member, has opened since it joined."""
        size, computed = self._block_size, request.computed
        return (computed + self._step - self._joined[request] + size - 1) // size - (computed + size - 1) // size

    def blocks_sought(self) -> int:
        """How many members have full blocks: the next step's token opens a new one."""
        return self._openers[self._step % self._block_size]

    def block_seekers(self) -> list[LiveRequest]:
        """Those members."""
        now = self._step % self._block_size
        return [request for request in self._slots if self._opens_at(request) == now]

    def advance(self) -> list[LiveRequest]:
        """Every member emits a token; those that have emitted their last one leave, and are returned."""
        ending = list(self._last_step.get(self._step, ()))
        self.context_tokens += len(self._slots)
        self._step += 1
        for request in ending:
            self.leave(request)
        return ending

    def steps_before_an_end(self) -> int:
        """So many steps may follow in none of which a member emits its last token."""
        return min(self._last_step, default=self._step) - self._step

    def blocks_held(self, now: int, steps: int) -> list[int]:
        """``now``, and what becomes of it by each of the next ``steps`` steps, with the blocks that they open."""
        return list(accumulate(islice(cycle(self._openers_ahead()), steps), initial=now))

    def blocks_needed(self, steps: int) -> int:
        """How many blocks the members open in the next ``steps`` steps."""
        rounds, rest = divmod(steps, self._block_size)
        return rounds * len(self._slots) + sum(self._openers_ahead()[:rest])

    def steps_within(self, blocks: int, most: int) -> int:
        """How many steps, ``most`` at most, can follow before they need more than ``blocks``."""
        size = self._block_size
        rounds = blocks // len(self._slots)  # each member opens one block a round
        if most <= rounds * size:
            return most
        left = blocks - rounds * len(self._slots)
        return min(most, rounds * size + bisect_right(list(accumulate(self._openers_ahead())), left))

    def advance_by(self, steps: int) -> None:
        """So many steps at once; nobody ends in them."""
        self.context_tokens += steps * len(self._slots)
        self._step += steps

    def _openers_ahead(self) -> list[int]:
        """How many members open a block at each of the next steps, as many as a block has tokens."""
        now = self._step % self._block_size
        return self._openers[now:] + self._openers[:now]

    def _opens_at(self, request: LiveRequest) -> int:
        """The steps, modulo the block size, at which ``request`` opens a block."""
        return (self._joined[request] + 1 - request.known_tokens) % self._block_size

    def _ends_at(self, request: LiveRequest) -> int:
        """The step at which ``request`` emits its last token."""
        return self._joined[request] + request.spec.output_tokens - request.emitted - 1
