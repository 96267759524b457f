"""The requests that emit a token in every iteration, without touching each of them in every iteration.

All of them go one token forward at the same time. So one counter, the step, says for every member how far
it is: its context is what it was when it joined plus the steps since. When it ends and when it needs
its next block are known the moment it joins, and an iteration looks only at those whose time has come.
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
        self._fills_block: list[dict[LiveRequest, None]] = [{} for _ in range(block_size)]
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
        for calendar in self._calendars(request):
            calendar[request] = None

    def leave(self, request: LiveRequest) -> None:
        """Stop decoding ``request``: it ended, was evicted or cancelled. Its counters become current."""
        for calendar in self._calendars(request):
            del calendar[request]
        del self._slots[request]
        request.emitted += self._step - self._joined.pop(request)
        request.computed = request.known_tokens - 1
        self.context_tokens -= request.known_tokens

    def emitted(self, request: LiveRequest) -> int:
        """Tokens that ``request``, a member, has emitted so far."""
        return request.emitted + self._step - self._joined[request]

    def block_seekers(self) -> list[LiveRequest]:
        """Members whose blocks are full: the next step's token opens a new one."""
        return list(self._fills_block[self._step % len(self._fills_block)])

    def advance(self) -> list[LiveRequest]:
        """Every member emits a token; those that have emitted their last one leave, and are returned."""
        ending = list(self._last_step.get(self._step, ()))
        self.context_tokens += len(self._slots)
        self._step += 1
        for request in ending:
            self.leave(request)
        self._last_step.pop(self._step - 1, None)
        return ending

    def steps_before_an_end(self) -> int:
        """So many steps may follow in none of which a member emits its last token."""
        return min(self._last_step, default=self._step) - self._step

    def blocks_opened(self, steps: int) -> list[int]:
        """How many blocks the members will have opened by each of the next ``steps`` steps, if none ends."""
        size, now = len(self._fills_block), self._step % len(self._fills_block)
        demand = [len(seekers) for seekers in (*self._fills_block[now:], *self._fills_block[:now])]
        return list(accumulate(demand[:steps] if steps <= size else islice(cycle(demand), steps)))

    def blocks_needed(self, steps: int) -> int:
        """How many blocks the members open in the next ``steps`` steps."""
        size, now = len(self._fills_block), self._step % len(self._fills_block)
        rounds, rest = divmod(steps, size)
        some = [len(self._fills_block[(now + ahead) % size]) for ahead in range(rest)]
        return rounds * len(self._slots) + sum(some)

    def steps_within(self, blocks: int, most: int) -> int:
        """How many steps, ``most`` at most, can follow before they need more than ``blocks``."""
        size = len(self._fills_block)
        rounds = blocks // len(self._slots)  # each member opens one block a round
        if most <= rounds * size:
            return most
        left = blocks - rounds * len(self._slots)
        return min(most, rounds * size + bisect_right(self.blocks_opened(size), left))

    def advance_by(self, steps: int) -> None:
        """So many steps at once, each with a new block for whoever needs one; nobody ends in them."""
        size = len(self._fills_block)
        for ahead in range(min(steps, size)):
            opened = 1 + (steps - 1 - ahead) // size
            for request in self._fills_block[(self._step + ahead) % size]:
                request.blocks.private += opened
        self.context_tokens += steps * len(self._slots)
        self._step += steps

    def _calendars(self, request: LiveRequest) -> tuple[dict[LiveRequest, None], dict[LiveRequest, None]]:
        """Where ``request`` is noted: by the steps at which it opens a block, and by its last step."""
        joined = self._joined[request]
        opens_block = (joined + 1 - request.known_tokens) % len(self._fills_block)
        last = joined + request.spec.output_tokens - request.emitted - 1
        return self._fills_block[opens_block], self._last_step.setdefault(last, {})
