"""The embedded scheduler: continuous batching at iteration level. It knows neither clock nor tracker.

A batch is formed in three steps. Decoding requests come first, a token each; one whose blocks are full
takes another, and when none is left the request that would be served last is evicted, to be recomputed
later. Then prefills go on, in chunks, under what is left of the token budget. Then waiting requests are
admitted, first come first served within a priority, until something stops it: the batch's limiter.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import chain

from batchscope.records import BatchLimiter
from batchscope.simulator.batch import Batch, Chunk
from batchscope.simulator.decoding import DecodingGroup
from batchscope.simulator.kv_cache import KvCache
from batchscope.simulator.options import SchedulerOptions
from batchscope.simulator.requests import LiveRequest, rank
from batchscope.simulator.workload import RequestSpec


class Scheduler:
    """Every request that has arrived and not ended; ``form_batch`` and ``complete`` alternate."""

    def __init__(self, options: SchedulerOptions) -> None:
        self.options = options
        self.cache = KvCache(options.kv_cache_blocks, options.block_size, options.hash_block_tokens)
        self._queue: list[tuple[tuple[int, int], LiveRequest]] = []  # a heap; withdrawn ones stay in it
        self._waiting = 0
        self._deferred: dict[LiveRequest, None] = {}
        self._prefilling: dict[LiveRequest, None] = {}
        self._decoding = DecodingGroup(options.block_size)
        self._arrivals = 0

    def accept(self, spec: RequestSpec, slot: int) -> LiveRequest:
        """Make a request of ``spec``; it is neither waiting nor deferred yet."""
        self._arrivals += 1
        full_blocks = spec.prompt_tokens // self.options.hash_block_tokens
        prefix = spec.prefix_hashes[:full_blocks] if self.options.prefix_caching else ()
        return LiveRequest(spec, slot, self._arrivals, prefix)

    def ever_fits(self, request: LiveRequest) -> bool:
        """Whether the empty cache could hold ``request``; one that it could not has to be rejected."""
        return self.cache.blocks_for(request.longest_context) <= self.cache.blocks

    def defer(self, request: LiveRequest) -> None:
        """Hold ``request`` back until it is enqueued: something beside this scheduler is not ready."""
        self._deferred[request] = None

    def enqueue(self, request: LiveRequest) -> None:
        """Let ``request`` wait for a place."""
        self._deferred.pop(request, None)
        heappush(self._queue, (request.rank, request))
        self._waiting += 1

    def withdraw(self, request: LiveRequest) -> None:
        """Drop ``request`` between two iterations, wherever it is: cancelled, or out of time."""
        if request in self._decoding:
            self._decoding.leave(request)
        elif request in self._prefilling:
            del self._prefilling[request]
        elif request in self._deferred:
            del self._deferred[request]
        else:
            self._waiting -= 1
        self._end(request)

    @property
    def waiting(self) -> int:
        """Requests that could run and do not, evicted ones included."""
        return self._waiting

    @property
    def running(self) -> int:
        """Requests that hold a place."""
        return len(self._decoding) + len(self._prefilling)

    def form_batch(self, *, paused: bool = False) -> Batch:
        """Choose who takes part in the next iteration; the batch is empty when nobody can."""
        batch = Batch()
        batch.deferred = len(self._deferred)
        self._grow_decodes(batch)
        batch.decode_slots = self._decoding.slots()
        batch.decode_context_tokens = self._decoding.context_tokens
        budget = self.options.max_scheduled_tokens - len(self._decoding)
        for request in self._prefilling:
            budget -= batch.add_chunk(request, budget)
        batch.limited_by = self._admit(batch, budget, paused=paused)
        batch.waiting, batch.running = self.waiting, self.running
        batch.kv_blocks_held = self.cache.held
        return batch

    def complete(self, batch: Batch) -> list[LiveRequest]:
        """The iteration is done; returns the requests that emitted their last token, ended now."""
        ended = self._decoding.advance()
        for chunk in batch.chunks:
            if self._end_chunk(chunk):
                ended.append(chunk.request)
        for request in ended:
            self._end(request)
        return ended

    def steady_stretch(self, batch: Batch) -> list[int]:
        """The KV blocks held in each of the iterations that can follow ``batch``, all like it but for these.

        ``batch`` was the latest one and nobody ended in it. As long as nothing comes from outside, the same
        requests decode and the same obstacle stops admission, until somebody ends or finds no block: blocks
        only become fewer meanwhile. Go through as many of these as you like by ``advance_by``.
        """
        if batch.chunks or batch.preempted or self._prefilling:
            return []
        held, demand = self.cache.held, self._decoding.block_demand()
        stretch: list[int] = []
        for step in range(self._decoding.steps_before_an_end()):
            held += demand[step % len(demand)]
            if held > self.cache.blocks:
                break
            stretch.append(held)
        return stretch

    def advance_by(self, steps: int, blocks_held: int) -> None:
        """Go through ``steps`` iterations of a steady stretch, after which ``blocks_held`` are held."""
        self.cache.take(blocks_held - self.cache.held)
        self._decoding.advance_by(steps)

    def _grow_decodes(self, batch: Batch) -> None:
        for request in self._decoding.block_seekers():
            while request in self._decoding and not self.cache.grow(request.blocks):
                self._evict(max(chain(self._decoding, self._prefilling), key=rank), batch)

    def _evict(self, victim: LiveRequest, batch: Batch) -> None:
        """Preemption by recomputation: the victim loses its place and its blocks, and waits again."""
        if victim in self._decoding:
            self._decoding.leave(victim)
        else:
            del self._prefilling[victim]
        self.cache.release(victim.blocks)
        victim.ever_computed = max(victim.ever_computed, victim.computed)
        victim.computed = 0
        self.enqueue(victim)
        batch.preempted.append(victim.slot)

    def _admit(self, batch: Batch, budget: int, *, paused: bool) -> BatchLimiter:
        """Give places to waiting requests until something stops it; returns what did."""
        while (limiter := self._obstacle(batch, budget, paused=paused)) is None:
            request = self._next_waiting()
            if not self._reserve(request, batch):
                return BatchLimiter.KV_CACHE
            heappop(self._queue)
            self._waiting -= 1
            self._prefilling[request] = None
            budget -= batch.add_chunk(request, budget)
        return limiter

    def _obstacle(self, batch: Batch, budget: int, *, paused: bool) -> BatchLimiter | None:
        """What forbids an admission before the next request has even been looked at."""
        if batch.preempted:
            return BatchLimiter.KV_CACHE
        if not self._waiting:
            return self._nobody_waits(batch)
        if paused:
            return BatchLimiter.PAUSED
        if not budget:
            return BatchLimiter.TOKEN_BUDGET
        if self.running >= self.options.max_running_requests:
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

    def _reserve(self, request: LiveRequest, batch: Batch) -> bool:
        """Blocks for all that ``request`` has to prefill; what the cache still has of it is not computed."""
        usable = (request.known_tokens - 1) // self.options.hash_block_tokens  # one token must be computed
        spare = self.options.watermark_blocks if self.running else 0
        if not self.cache.reserve(request.blocks, request.known_tokens, request.prefix[:usable], spare):
            return False
        request.computed = len(request.blocks.shared) * self.options.hash_block_tokens
        saved = max(0, request.computed - request.ever_computed)
        request.cached_tokens += saved
        batch.cached_prompt_tokens += saved
        return True

    def _end_chunk(self, chunk: Chunk) -> bool:
        """Account for a chunk that was computed; whether its request has emitted its last token."""
        request = chunk.request
        request.computed += chunk.tokens
        request.ever_computed = max(request.ever_computed, request.computed)
        full_blocks = request.computed // self.options.hash_block_tokens
        self.cache.publish(request.blocks, request.prefix, full_blocks)
        if not chunk.ends_prefill:
            return False
        del self._prefilling[request]
        request.emitted += 1
        if request.emitted == request.spec.output_tokens:
            return True
        self._decoding.join(request)
        return False

    def _end(self, request: LiveRequest) -> None:
        self.cache.release(request.blocks)
        request.ended = True
