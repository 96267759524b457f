"""Whom real engines admit, whom they evict, and whether prefills and decodes share an iteration.

=============  ===========================================================================================
sarathi        decodes first, prefills in chunks under what is left of the budget; a watermark of free blocks
vllm           the same batches; admission on the prompt alone; the latest admitted is evicted, and is first again
sglang         prefills alone, in chunks; room is kept for the answers to come; whoever has answered least is evicted
prefill-first  whole prompts, alone in their iteration, as soon as there is room for them; decodes stand still
transformers   as sarathi's batches; no prompt begins while less than 15 % of the cache is free
=============  ===========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from batchscope.records import BatchLimiter
from batchscope.simulator.requests import LiveRequest, rank

if TYPE_CHECKING:
    from batchscope.simulator.batch import Batch
    from batchscope.simulator.options import SchedulerOptions
    from batchscope.simulator.scheduler import Scheduler


class StallFreeChunks:
    """Sarathi-Serve: no decode waits for a prefill; a prompt is computed in chunks beside them.

    Blocks for the whole prompt are reserved at the admission, and a watermark stays free for those who run.
    Evicted is who would be served last. Source: Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM
    Inference with Sarathi-Serve" (OSDI 2024), and the Sarathi replica scheduler of microsoft/vidur.
    """

    prefills_alone = False
    """Whether decoding requests stand still in an iteration that prefills."""
    cuts_prompts = True
    """Whether a prompt longer than what is left of the budget is computed in chunks."""
    reserves_prompts = True
    """Whether an admission takes the blocks of the whole prompt; else each chunk takes its own."""
    looks_past = False
    """Whether those behind a request that finds no room are tried, too."""
    frees_in_order = False
    """Whether the cache takes what was freed longest ago first, instead of what holds no prefix."""
    kept_blocks = 0
    """Blocks of the cache that no request ever gets."""
    forms_ahead = False
    """Whether a batch is formed while the one before computes: without who comes, and ends, meanwhile."""

    def __init__(self, options: SchedulerOptions) -> None:
        self.options = options
        self._watermark = options.watermark_blocks

    def begin(self, scheduler: Scheduler) -> None:
        """A batch is about to be formed."""

    @property
    def closed(self) -> BatchLimiter | None:
        """Why nobody is admitted, whatever room there is, until somebody leaves; ``None``: who fits is."""
        return None

    def admits(self, request: LiveRequest, scheduler: Scheduler, batch: Batch) -> bool:
        """Whether ``request`` may take the blocks of its prompt, if they are there."""
        del request, scheduler, batch
        return True

    def goes_on(self, batch: Batch) -> bool:
        """Whether a prompt that has begun may go on in this batch."""
        del batch
        return True

    def refused(self, limiter: BatchLimiter) -> None:
        """There was no room in the cache, or no place, for the head of the queue."""

    def places_taken(self, scheduler: Scheduler, batch: Batch) -> int:
        """Of ``max_running_requests``."""
        del batch
        return scheduler.running

    def spare_blocks(self, scheduler: Scheduler) -> int:
        """Blocks that an admission has to leave free."""
        return self._watermark if scheduler.running else 0

    def make_room(self, scheduler: Scheduler, batch: Batch) -> None:
        """The decoding requests need more blocks than there are; one by one they evict, unless this does."""

    def relieve(self, starved: dict[LiveRequest, int], scheduler: Scheduler, batch: Batch) -> None:
        """For the next chunks of ``starved`` there were not so many blocks as each needs; ``batch`` is formed."""

    def victim(self, running: Iterable[LiveRequest]) -> LiveRequest:
        """Who loses its place when there is no block left."""
        return max(running, key=rank)

    def rank_when_evicted(self, request: LiveRequest, latest: int) -> tuple[int, int]:
        """Its place in the queue; ``latest`` is behind everybody."""
        del latest
        return request.rank

    def decoded(self, steps: int, *, ended: bool) -> None:
        """So many iterations decoded; ``ended``: in the last one, or in one that did not (0), somebody ended."""

    def steady(self, scheduler: Scheduler) -> bool:
        """Whether the next admission would end as the one before, while nobody comes or leaves."""
        del scheduler
        return True


class AdmitOnPrompt(StallFreeChunks):
    """vLLM v1: a prompt that fits is admitted, whatever the answers will need.

    No block is kept back. Who was admitted last is evicted, waits at the head of the queue, and finds again
    those of its blocks, answer included, that nobody has taken: freed blocks are taken in the order in which
    they were freed. While somebody is evicted, nobody is admitted. One block is the null block, which stands for
    what a request does not hold: nobody gets it. Source: vllm/v1/core/sched/scheduler.py (``schedule``:
    ``self.running.pop()``, ``self.waiting.prepend_request``) and kv_cache_manager.py of 0.19, block_pool.py
    (``null_block``, ``get_usage``) of 0.32.
    """

    frees_in_order = True
    kept_blocks = 1

    def spare_blocks(self, scheduler: Scheduler) -> int:
        """None."""
        del scheduler
        return 0

    def victim(self, running: Iterable[LiveRequest]) -> LiveRequest:
        """The latest admitted of the lowest priority."""
        return max(running, key=lambda request: (request.rank[0], request.admission))


class ReserveForOutput(StallFreeChunks):
    """SGLang: admit only what leaves room for a share of the answers that are still to come.

    The share, ``new_token_ratio``, falls from 0.7 to 0.098 over 600 decoding iterations, and returns to 0.7 when
    the engine idles. A request's own answer counts whole at its admission. After a refusal, or when the last place is
    taken, nobody is tried until the batch has become smaller. When tokens run out, whoever has emitted least (of those,
    the longest prompt) is evicted, one by one, until the next token of each of the others fits; the evicted wait behind
    everybody, and the share becomes what the batch has turned out to need, and 20 tokens each.

    A batch is formed while the one before computes (the overlap scheduler): who comes meanwhile is seen one batch
    later, and waits behind whom this one evicts; the tokens that are computed meanwhile are not counted yet; the blocks
    of who ends are still held when the next batch is formed, and its place is given away two batches after that.
    ``output_tokens`` stands for the request's ``max_new_tokens``: the two are one where answers end at their limit.
    Source: sglang/srt/managers/schedule_policy.py (``PrefillAdder``), schedule_batch.py (``retract_decode``),
    scheduler.py (``event_loop_overlap``, ``get_next_batch_to_run``, ``update_running_batch``) and
    scheduler_components/new_token_ratio_tracker.py of 0.5.18.
    """

    prefills_alone = True
    forms_ahead = True
    initial_ratio, least_ratio, decay_steps = 0.7, 0.098, 600
    longest_estimate = 4096
    """Tokens: of a longer answer no more is counted on (``CLIP_MAX_NEW_TOKENS``)."""
    steps_of_room = 20
    """Tokens that each of the others is hoped to emit after an eviction (``SGLANG_RETRACT_DECODE_STEPS``)."""

    def __init__(self, options: SchedulerOptions) -> None:
        super().__init__(options)
        self.ratio = self.initial_ratio
        self._full: BatchLimiter | None = None
        self._ends = 0  # of the last iterations, a bit each: whether somebody ended in it
        self._evicted = False

    def begin(self, scheduler: Scheduler) -> None:
        """Nobody has to leave an empty batch; an engine that has idled is cautious again."""
        if not scheduler.running:
            self._full = None
            self.ratio = self.ratio if scheduler.waiting else self.initial_ratio

    @property
    def closed(self) -> BatchLimiter | None:
        """Why nobody leaves the queue: since a refusal nobody has left."""
        return self._full

    def admits(self, request: LiveRequest, scheduler: Scheduler, batch: Batch) -> bool:
        """Whether the tokens of the prompt, of its answer and of a share of the others' answers are there.

        Of who is admitted in the same batch the whole answer counts; of a prompt that is cut, not yet. A block more
        for each: its last one is not full.
        """
        if not scheduler.running:
            return True
        decoding, size = scheduler.decoding, self.options.block_size
        to_come = sum(self._estimate(member, decoding.emitted(member) - 1) for member in decoding)
        promised = sum(self._estimate(chunk.request, 0) + size for chunk in batch.chunks if chunk.ends_prefill)
        room = scheduler.cache.available * size - self.ratio * to_come - promised
        return (scheduler.blocks_asked(request) + 1) * size + self._estimate(request, request.emitted) < room

    def refused(self, limiter: BatchLimiter) -> None:
        """Nobody is tried again until somebody leaves."""
        self._full = limiter

    def spare_blocks(self, scheduler: Scheduler) -> int:
        """None beside what ``admits`` looks at."""
        del scheduler
        return 0

    def make_room(self, scheduler: Scheduler, batch: Batch) -> None:
        """Evict until the next token of everybody who is left fits."""
        decoding = scheduler.decoding
        order = sorted(
            decoding, key=lambda member: (decoding.emitted(member), -member.spec.prompt_tokens), reverse=True
        )
        while len(order) > 1:
            scheduler.evict(order.pop(), batch)
            if scheduler.cache.available >= decoding.blocks_sought():
                break
        answered = sum(decoding.emitted(member) - 1 for member in order)
        asked = sum(member.spec.output_tokens for member in order)
        self.ratio = min(1.0, (answered + self.steps_of_room * len(order)) / (asked + 1))
        self._full, self._evicted = None, True

    def rank_when_evicted(self, request: LiveRequest, latest: int) -> tuple[int, int]:
        """Behind everybody who waits."""
        return request.rank[0], latest

    def decoded(self, steps: int, *, ended: bool) -> None:
        """The share falls, but for an iteration that evicted; an end is noticed when two more batches were formed."""
        decay = (self.initial_ratio - self.least_ratio) / self.decay_steps
        self.ratio = max(self.ratio - (steps - self._evicted) * decay, self.least_ratio)
        self._evicted = False
        self._ends = self._ends << min(steps, 3) | ended
        if self._ends > 0b11:
            self._full = None
        self._ends &= 0b11

    def steady(self, scheduler: Scheduler) -> bool:
        """Not if somebody is to be tried: the share falls meanwhile."""
        full = scheduler.running >= self.options.max_running_requests
        return not self._ends and (self._full is not None or full or not scheduler.waiting)

    def _estimate(self, request: LiveRequest, emitted: int) -> int:
        return min(request.spec.output_tokens - emitted, self.longest_estimate)


class PrefillFirst(StallFreeChunks):
    """Prompts are computed whole, alone in their iteration, before any decode goes on.

    The scheduler that vLLM began with, and still the one of engines without chunked prefill: the best time to first
    token, at the price of gaps between tokens. A prompt longer than the budget has an iteration of its own. Source:
    Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention" (SOSP 2023), and
    ``_schedule_default`` of vllm/core/scheduler.py, 0.6.
    """

    prefills_alone = True
    cuts_prompts = False


class KeepShareFree(StallFreeChunks):
    """transformers' continuous batching: nobody is admitted while less than 15 % of the cache is free.

    That is so as an iteration begins, and then a prompt that has begun waits, too; within it the share is not looked at
    again. A chunk takes its blocks when it is computed, and one that finds no room lets smaller ones pass. Who runs and
    finds no block is evicted, the latest admitted first, waits behind everybody, and until somebody ends nobody is
    admitted. Source: transformers 5.23, generation/continuous_batching/scheduler.py
    (``FIFOScheduler``, ``_process_candidates``) and offloading_manager.py (``offload_requests``).
    """

    reserves_prompts = False
    looks_past = True
    least_free = 0.15

    def __init__(self, options: SchedulerOptions) -> None:
        super().__init__(options)
        self._scarce = False
        self._evicted = False

    def begin(self, scheduler: Scheduler) -> None:
        """Look at what is free; an engine that has idled admits again."""
        cache = scheduler.cache
        self._scarce = cache.available < self.least_free * cache.blocks
        self._evicted = self._evicted and scheduler.running > 0

    @property
    def closed(self) -> BatchLimiter | None:
        """Since an eviction nobody has ended."""
        return BatchLimiter.KV_CACHE if self._evicted else None

    def admits(self, request: LiveRequest, scheduler: Scheduler, batch: Batch) -> bool:
        """Unless little is free; the first request of a batch always may."""
        del request, scheduler
        return self.goes_on(batch)

    def goes_on(self, batch: Batch) -> bool:
        """Likewise."""
        return not (self._scarce and len(batch))

    def places_taken(self, scheduler: Scheduler, batch: Batch) -> int:
        """By those in the batch: who stands still has none."""
        del scheduler
        return len(batch)

    def spare_blocks(self, scheduler: Scheduler) -> int:
        """None: the share is looked at before."""
        del scheduler
        return 0

    def make_room(self, scheduler: Scheduler, batch: Batch) -> None:
        """Who finds no block, the latest admitted, stands still in this iteration."""
        del batch
        seekers = sorted(scheduler.decoding.block_seekers(), key=lambda request: request.admission)
        for request in seekers[scheduler.cache.available :]:
            scheduler.hold_still(request)

    def relieve(self, starved: dict[LiveRequest, int], scheduler: Scheduler, batch: Batch) -> None:
        """Evict of them, the latest first, until there is room for each who is left."""
        room = scheduler.cache.available
        victims: list[LiveRequest] = []
        while starved and len(victims) + 1 < scheduler.running and sum(starved.values()) > room:
            victims.append(starved.popitem()[0])
            room += scheduler.cache.blocks_of(victims[-1].blocks)
        for victim in reversed(victims):
            scheduler.evict(victim, batch)

    def rank_when_evicted(self, request: LiveRequest, latest: int) -> tuple[int, int]:
        """Behind everybody who waits."""
        self._evicted = True
        return request.rank[0], latest

    def decoded(self, steps: int, *, ended: bool) -> None:
        """Somebody has ended: others may be admitted."""
        del steps
        self._evicted = self._evicted and not ended


POLICIES: dict[str, type[StallFreeChunks]] = {
    "sarathi": StallFreeChunks,
    "vllm": AdmitOnPrompt,
    "sglang": ReserveForOutput,
    "prefill-first": PrefillFirst,
    "transformers": KeepShareFree,
}
"""By the name that ``SchedulerOptions.policy`` and ``--policy`` take."""
