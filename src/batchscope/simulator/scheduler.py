"""The embedded scheduler: continuous batching at iteration level. It knows neither clock nor tracker.

A batch is formed in three steps. Decoding requests come first, a token each; one whose blocks are full
takes another, and when none is left a request is evicted, to be recomputed later. Then prefills go on, in
chunks, under what is left of the token budget. Then waiting requests are admitted, first come first served
within a priority, until something stops it: the batch's limiter. Whom to evict, what to keep free and whether
decodes and prefills share an iteration is the policy's (``policies.py``).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from heapq import heappop, heappush
from itertools import chain, pairwise

import msgspec

from batchscope.records import BatchLimiter
from batchscope.simulator.batch import Batch, Chunk
from batchscope.simulator.decoding import DecodingGroup
from batchscope.simulator.kv_cache import KvCache
from batchscope.simulator.options import SchedulerOptions
from batchscope.simulator.policies import POLICIES
from batchscope.simulator.requests import LiveRequest
from batchscope.simulator.workload import MAX_TOKENS, RequestSpec


class Scheduler:
    """Every request that has arrived and not ended; ``form_batch`` and ``complete`` alternate."""

    def __init__(self, options: SchedulerOptions) -> None:
        self.options = options
        self.policy = POLICIES[options.policy](options)
        self.cache = KvCache(
            options.usable_blocks,
            options.block_size,
            options.hash_block_tokens,
            frees_in_order=self.policy.frees_in_order,
        )
        self._queue: list[tuple[tuple[int, int], LiveRequest]] = []  # a heap; withdrawn ones stay in it
        self._waiting = 0
        self._unseen: list[LiveRequest] = []  # came when the next batch was formed already, if it is formed ahead
        self._news = False  # whether somebody came that the latest batch does not know of
        self._leaving: list[LiveRequest] = []  # ended since, likewise: they hold their blocks for one more iteration
        self._deferred: dict[LiveRequest, None] = {}
        self._prefilling: dict[LiveRequest, None] = {}
        self._still: dict[LiveRequest, None] = {}  # decode again in the next iteration
        self.decoding = DecodingGroup(options.block_size)
        self._arrivals = 0
        self._admissions = 0

    def accept(self, spec: RequestSpec, slot: int) -> LiveRequest:
        """Make a request of ``spec``; it is neither waiting nor deferred yet."""
        self._arrivals += 1
        asked, spec = spec, self._cut(spec)
        full_blocks = spec.prompt_tokens // self.options.hash_block_tokens
        prefix = spec.prefix_hashes[:full_blocks] if self.options.prefix_caching else ()
        request = LiveRequest(spec, slot, self._arrivals, prefix)
        request.cut = spec is not asked
        return request

    def ever_fits(self, request: LiveRequest) -> bool:
        """Whether the empty cache could hold ``request``; one that it could not has to be rejected.

        So has one whose prompt leaves no room for an answer in the longest sequence.
        """
        return request.spec.output_tokens > 0 and self.cache.blocks_for(request.longest_context) <= self.cache.blocks

    def defer(self, request: LiveRequest) -> None:
        """Hold ``request`` back until it is enqueued: something beside this scheduler is not ready."""
        self._deferred[request] = None

    def enqueue(self, request: LiveRequest) -> None:
        """Let ``request`` wait for a place."""
        self._deferred.pop(request, None)
        if self.policy.forms_ahead:
            self._unseen.append(request)
        else:
            self._queue_up(request)

    def withdraw(self, request: LiveRequest) -> None:
        """Drop ``request`` between two iterations, wherever it is: cancelled, or out of time."""
        if request in self.decoding:
            self.decoding.leave(request)
        elif request in self._prefilling:
            del self._prefilling[request]
        elif request in self._deferred:
            del self._deferred[request]
        elif request in self._unseen:
            self._unseen.remove(request)
        else:
            self._waiting -= 1
        self._end(request)

    @property
    def waiting(self) -> int:
        """Requests that could run and do not, evicted ones included."""
        return self._waiting + len(self._unseen)

    @property
    def running(self) -> int:
        """Requests that hold a place."""
        return len(self.decoding) + len(self._prefilling) + len(self._still)

    def form_batch(self, *, paused: bool = False) -> Batch:
        """Choose who takes part in the next iteration; the batch is empty when nobody can."""
        batch = self._formed(paused=paused)
        if self.policy.forms_ahead:
            if not batch and (self._unseen or self._leaving):  # there is no batch before it
                self._look_around()
                batch = self._formed(paused=paused)
            self._news = bool(self._unseen)
            self._see_arrivals()
        return batch

    def _formed(self, *, paused: bool) -> Batch:
        batch = Batch()
        self._fill(batch, paused=paused)
        if batch.preempted and not batch:  # nobody could go on, and now somebody can
            batch.unscheduled_prefill_tokens = 0
            self._move_again()
            self._fill(batch, paused=paused)
        return batch

    def _fill(self, batch: Batch, *, paused: bool) -> None:
        batch.deferred = len(self._deferred)
        self.policy.begin(self)
        if self.policy.prefills_alone:
            batch.limited_by = self._prefill(batch, paused=paused)
            if not batch.chunks:
                self._decode(batch)
                batch.limited_by = BatchLimiter.KV_CACHE if batch.preempted else batch.limited_by
                batch.kv_blocks_held = self.cache.held
            elif self.decoding and batch.limited_by is BatchLimiter.DEMAND:
                batch.limited_by = BatchLimiter.POLICY  # those who decode stand still
        else:
            self._decode(batch)
            batch.limited_by = self._prefill(batch, paused=paused)
        batch.waiting, batch.running = self.waiting, self.running

    def complete(self, batch: Batch) -> list[LiveRequest]:
        """The iteration is done; returns the requests that emitted their last token, ended now."""
        self._let_go()
        ended = self.decoding.advance() if batch.decode_slots else []
        for chunk in batch.chunks:
            if self._end_chunk(chunk):
                ended.append(chunk.request)
        self._move_again()
        for request in ended:
            if self.policy.forms_ahead:
                request.ended = True
                self._leaving.append(request)
            else:
                self._end(request)
        if batch.decode_slots or ended:
            self.policy.decoded(1 if batch.decode_slots else 0, ended=bool(ended))
        return ended

    def blocks_asked(self, request: LiveRequest) -> int:
        """Of the available blocks, how many an admission of ``request`` would take."""
        return self.cache.asked(request.known_tokens, self._usable_prefix(request))

    def steady_stretch(self, batch: Batch) -> int:
        """How many iterations can follow ``batch``, the latest one, in which nobody ended, and repeat it.

        As long as nothing comes from outside, the same requests decode, the same prompt takes all that is left of the
        budget, and the same obstacle stops admission, until somebody ends, the prompt does, or somebody finds no block:
        blocks only become fewer meanwhile. Each is what ``Batch.repeat`` makes of the one before; go through as many of
        them as you like by ``advance_by``.
        """
        if batch.preempted or self._news:
            return 0
        if not batch.chunks and (self._prefilling or not self.policy.steady(self)):
            return 0
        most = self._chunks_alike(batch) if batch.chunks else MAX_TOKENS
        if not most or not batch.decode_slots:
            return most
        return self.decoding.steps_within(self.cache.available, min(most, self.decoding.steps_before_an_end()))

    def _chunks_alike(self, batch: Batch) -> int:
        """How many chunks as large as the latest one, which took the whole budget, its prompt has before its last."""
        chunk, request = batch.chunks[0], batch.chunks[0].request
        budget = self.options.max_scheduled_tokens - len(batch.decode_slots)
        if not self.policy.reserves_prompts:
            return 0  # each takes blocks
        if len(batch.chunks) > 1 or chunk.ends_prefill or chunk.tokens != budget:
            return 0
        if request.computed < request.ever_computed:
            return 0  # how much is recomputed differs
        return (request.known_tokens - request.computed - 1) // budget

    def blocks_held(self, batch: Batch, steps: int) -> list[int]:
        """The KV blocks held in ``batch``, and in each of the first ``steps`` iterations of its steady stretch."""
        held = self.cache.held
        ahead = self.decoding.blocks_held(held, steps) if batch.decode_slots else [held] * (steps + 1)
        ahead[0] = batch.kv_blocks_held  # of which some may have been let go since
        return ahead

    def advance_by(self, batch: Batch, steps: int) -> None:
        """Go through the first ``steps`` iterations, at least one, of the steady stretch of ``batch``."""
        needed = self.decoding.blocks_needed(steps) if batch.decode_slots else 0
        if not batch.chunks or self.cache.free >= needed:
            self.cache.take(needed)
            for chunk in batch.chunks:
                self._compute(chunk.request, steps * chunk.tokens)
        else:  # what is taken may evict what the next chunk would find resident
            for before, now in pairwise(self.decoding.blocks_held(0, steps)):
                self.cache.take(now - before)
                self._compute(batch.chunks[0].request, batch.chunks[0].tokens)
        if batch.decode_slots:
            self.decoding.advance_by(steps)
            self.policy.decoded(steps, ended=False)

    def _cut(self, spec: RequestSpec) -> RequestSpec:
        """The request as the engine bounds it."""
        longest = self.options.max_sequence_tokens
        if longest is None or spec.prompt_tokens + spec.output_tokens <= longest:
            return spec
        return msgspec.structs.replace(spec, output_tokens=max(0, longest - spec.prompt_tokens))

    def _decode(self, batch: Batch) -> None:
        """Everybody who decodes takes part, unless there is no block for it."""
        if self.decoding.blocks_sought() > self.cache.available and len(self.decoding) == 1:
            self._let_go()  # an empty cache holds it
        if self.decoding.blocks_sought() > self.cache.available:
            self.policy.make_room(self, batch)
            self._evict_for_blocks(batch)
        else:
            self.cache.take(self.decoding.blocks_sought())
        batch.decode_slots = self.decoding.slots()
        batch.decode_context_tokens = self.decoding.context_tokens

    def _evict_for_blocks(self, batch: Batch) -> None:
        """Whoever needs a block opens one, in turn; where none is left somebody is evicted, its new block too."""
        opened: dict[LiveRequest, None] = {}
        for request in self.decoding.block_seekers():
            while request in self.decoding and not self.cache.available:
                victim = self.policy.victim(chain(self.decoding, self._prefilling))
                victim.blocks.private += victim in opened
                self.evict(victim, batch)
            if request in self.decoding:
                self.cache.take(1)
                opened[request] = None

    def _prefill(self, batch: Batch, *, paused: bool) -> BatchLimiter:
        """Prefills that have begun go on, others begin, until something stops it; returns what did."""
        budget = self.options.max_scheduled_tokens - len(batch.decode_slots)
        starved = dict.fromkeys(self._still, 1)
        held = bool(starved)
        for request in self._prefilling:
            tokens, needed = budget, self._blocks_of_chunk(request, budget)
            if not self.policy.goes_on(batch):
                tokens, held = 0, True
            elif not self.cache.grow(request.blocks, needed):
                tokens, held, starved[request] = 0, True, needed
            budget -= batch.add_chunk(request, tokens)
        limiter = self._admit(batch, budget, paused=paused)
        batch.kv_blocks_held = self.cache.held
        if starved:
            self.policy.relieve(starved, self, batch)
        return BatchLimiter.KV_CACHE if held else limiter

    def _blocks_of_chunk(self, request: LiveRequest, budget: int) -> int:
        """Those that the next chunk of a prompt that has begun takes."""
        if self.policy.reserves_prompts:
            return 0
        tokens = min(request.known_tokens, request.computed + budget)
        return self.cache.blocks_for(tokens) - self.cache.blocks_of(request.blocks)

    def evict(self, victim: LiveRequest, batch: Batch) -> None:
        """Preemption by recomputation: the victim loses its place and its blocks, and waits again."""
        if victim in self.decoding:
            self.decoding.leave(victim)
        elif victim in self._still:
            del self._still[victim]
        else:
            del self._prefilling[victim]
        if self.cache.frees_in_order and self.options.prefix_caching:
            self._name_computed(victim)
        self.cache.release(victim.blocks)
        victim.ever_computed = max(victim.ever_computed, victim.computed)
        victim.computed = 0
        self._arrivals += 1
        victim.rank = self.policy.rank_when_evicted(victim, self._arrivals)
        self._queue_up(victim)
        batch.preempted.append(victim.slot)

    def hold_still(self, request: LiveRequest) -> None:
        """Who decodes takes no part in the batch that is formed."""
        self.decoding.leave(request)
        self._still[request] = None

    def _move_again(self) -> None:
        for request in self._still:
            self.decoding.join(request)
        self._still.clear()

    def _name_computed(self, victim: LiveRequest) -> None:
        """Make what is computed of the answer resident, too, so that the victim may find it again."""
        full_blocks = victim.computed // self.options.hash_block_tokens
        own = [(victim.number, block) for block in range(len(victim.prefix), full_blocks)]
        victim.prefix = [*victim.prefix, *own]
        self.cache.publish(victim.blocks, victim.prefix, full_blocks)

    def _admit(self, batch: Batch, budget: int, *, paused: bool) -> BatchLimiter:
        """Give places to waiting requests until something stops it; returns what did."""
        past: list[LiveRequest] = []
        limiter = self._admit_in_order(batch, budget, past, paused=paused)
        for request in past:
            heappush(self._queue, (request.rank, request))
        self._waiting += len(past)
        return BatchLimiter.KV_CACHE if past and limiter is BatchLimiter.DEMAND else limiter

    def _admit_in_order(self, batch: Batch, budget: int, past: list[LiveRequest], *, paused: bool) -> BatchLimiter:
        """``past`` gets those without room who let others pass; they are no longer in the queue."""
        while (limiter := self._obstacle(batch, budget, paused=paused)) is None:
            request = self._next_waiting()
            if not self.policy.cuts_prompts and batch.chunks and request.known_tokens > budget:
                return BatchLimiter.TOKEN_BUDGET
            if not (self.policy.admits(request, self, batch) and self._reserve(request, batch, budget)):
                self.policy.refused(BatchLimiter.KV_CACHE)
                if not self.policy.looks_past:
                    return BatchLimiter.KV_CACHE
                past.append(heappop(self._queue)[1])
                self._waiting -= 1
                continue
            heappop(self._queue)
            self._give_place(request, batch)
            whole = request.known_tokens if not self.policy.cuts_prompts else budget
            budget -= batch.add_chunk(request, max(budget, whole))
            budget = max(0, budget)
        return limiter

    def _give_place(self, request: LiveRequest, batch: Batch) -> None:
        self._waiting -= 1
        self._admissions += 1
        request.admission = self._admissions
        self._prefilling[request] = None
        batch.admitted.append(request)

    def _obstacle(self, batch: Batch, budget: int, *, paused: bool) -> BatchLimiter | None:
        """What forbids an admission before the next request has even been looked at."""
        if not self._waiting and not batch.preempted:
            return self._nobody_waits(batch)
        closed = None if paused else self.policy.closed
        if batch.preempted or closed is not None:
            return BatchLimiter.KV_CACHE if batch.preempted else closed
        if paused:
            return BatchLimiter.PAUSED
        if not budget:
            return BatchLimiter.TOKEN_BUDGET
        if self.policy.places_taken(self, batch) >= self.options.max_running_requests:
            self.policy.refused(BatchLimiter.REQUEST_SLOTS)
            return BatchLimiter.REQUEST_SLOTS
        return BatchLimiter.POLICY if len(batch.chunks) == self.options.max_prefill_requests else None

    def _nobody_waits(self, batch: Batch) -> BatchLimiter:
        if batch.unscheduled_prefill_tokens:
            return BatchLimiter.TOKEN_BUDGET
        return BatchLimiter.DEFERRED if self._deferred else BatchLimiter.DEMAND

    def _next_waiting(self) -> LiveRequest:
        while self._queue[0][1].ended:
            heappop(self._queue)
        return self._queue[0][1]

    def _reserve(self, request: LiveRequest, batch: Batch, budget: int) -> bool:
        """Blocks for the prompt of ``request``, or its first chunk; what the cache still has of it is not computed."""
        spare, prefix, tokens = self.policy.spare_blocks(self), self._usable_prefix(request), request.known_tokens
        if not self.policy.reserves_prompts:
            tokens = min(tokens, self.cache.resident(prefix) * self.options.hash_block_tokens + budget)
        if not self.cache.reserve(request.blocks, tokens, prefix, spare):
            return False
        request.computed = len(request.blocks.shared) * self.options.hash_block_tokens
        if not request.ever_computed:
            request.computed = max(request.computed, request.spec.cached_tokens)
        saved = max(0, request.computed - request.ever_computed)
        request.cached_tokens += saved
        batch.cached_prompt_tokens += saved
        return True

    def _usable_prefix(self, request: LiveRequest) -> Sequence[Hashable]:
        """One token must be computed."""
        return request.prefix[: (request.known_tokens - 1) // self.options.hash_block_tokens]

    def _end_chunk(self, chunk: Chunk) -> bool:
        """Account for a chunk that was computed; whether its request has emitted its last token."""
        request = chunk.request
        self._compute(request, chunk.tokens)
        if not chunk.ends_prefill:
            return False
        del self._prefilling[request]
        request.emitted += 1
        if request.emitted == request.spec.output_tokens:
            return True
        self.decoding.join(request)
        return False

    def _queue_up(self, request: LiveRequest) -> None:
        heappush(self._queue, (request.rank, request))
        self._waiting += 1

    def _look_around(self) -> None:
        self._let_go()
        self._see_arrivals()

    def _let_go(self) -> None:
        for request in self._leaving:
            self.cache.release(request.blocks)
        self._leaving.clear()

    def _see_arrivals(self) -> None:
        for request in self._unseen:
            self._arrivals += 1
            request.rank = request.rank[0], self._arrivals  # behind whom the batch that is formed has evicted
            self._queue_up(request)
        self._unseen.clear()

    def _compute(self, request: LiveRequest, tokens: int) -> None:
        """So many tokens more of ``request`` are in the cache; whole hash blocks of its prompt are for others, too."""
        computed = request.computed = request.computed + tokens
        if computed > request.ever_computed:  # noqa: PLR1730  (often)
            request.ever_computed = computed
        if request.blocks.considered < len(request.prefix):
            self.cache.publish(request.blocks, request.prefix, computed // self.options.hash_block_tokens)

    def _end(self, request: LiveRequest) -> None:
        self.cache.release(request.blocks)
        request.ended = True
