"""nano-vLLM: its engine's step, its scheduler and its block manager as they are; the model is a cost and a coin."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from foreign.harness import EOS, Arrival, Clock, Outcome, Told, arrivals, bare_package, cost, next_token, stand_in

from batchscope import BatchLimiter, CompletionReason, SchedulerLimits

_BLOCK = 256
WORKLOADS = {
    "64 places, 110 blocks": ((64, 4096, 110), arrivals(400, 16, (100, 1500), (20, 260), families=3)),
    "8 places": ((8, 4096, 400), arrivals(250, 7, (50, 900), (5, 120), seed=2)),
    "budget 1024, prompts to 3000": ((64, 1024, 300), arrivals(240, 7, (200, 3000), (10, 120), seed=3)),
}


class _Hash:
    """What its block manager asks of xxhash."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)
        self.update = self._hash.update

    def intdigest(self) -> int:
        return int.from_bytes(self._hash.digest(), "little")


def run(clones: Path) -> Iterator[Outcome]:
    """Each workload once."""
    bare_package("nanovllm", clones / "nano-vllm" / "nanovllm")
    for name in ("torch", "torch.multiprocessing", "transformers", "tqdm", "nanovllm.engine.model_runner"):
        stand_in(name)
    stand_in("tqdm.auto")
    stand_in("xxhash", xxh64=_Hash)
    for workload, ((places, budget, blocks), requests) in WORKLOADS.items():
        limits = SchedulerLimits(places, budget, kv_cache_blocks=blocks, kv_block_size=_BLOCK)
        clock = Clock()
        told = Told(limits, clock)
        _serve(_engine(limits, clock, told), requests, clock, told)
        yield told.outcome("nano-vLLM", workload)


class Glue:
    """Mixed into its scheduler: batchscope at the two places where something happens."""

    clock: Clock
    told: Told

    def schedule(self: Any) -> Any:
        in_order, fresh = list(self.running), [seq for seq in self.waiting if not hasattr(seq, "cached")]
        seqs, is_prefill = super().schedule()
        for seq in fresh:
            if seq.block_table:
                seq.cached = seq.num_cached_tokens  # as it was admitted: the prefix cache's
        evicted = [seq for seq in in_order if seq in self.waiting]
        half_done = [seq for seq in self.waiting if seq.block_table]
        self.told.stopped(BatchLimiter.KV_CACHE if evicted else self._limiter(seqs, is_prefill=is_prefill))
        self.formed = self.told.forming(
            [seq.number for seq in seqs],
            [seq.number for seq in evicted],
            scheduled_tokens=[seq.num_scheduled_tokens for seq in seqs],
            kv_cache_usage=len(self.block_manager.used_block_ids) / len(self.block_manager.blocks),
            cached_prompt_tokens=sum(seq.cached for seq in fresh if seq.block_table),
            unscheduled_prefill_tokens=sum(
                seq.num_tokens - seq.num_cached_tokens - seq.num_scheduled_tokens for seq in half_done
            ),
        )
        return seqs, is_prefill

    def _limiter(self: Any, seqs: Any, *, is_prefill: bool) -> BatchLimiter:
        """The conditions of the ``break``s of its own prefill loop, asked again."""
        full = len(seqs) >= self.max_num_seqs
        if self.waiting:
            head, admitted = self.waiting[0], seqs if is_prefill else []
            if is_prefill and full:
                return BatchLimiter.REQUEST_SLOTS
            if sum(seq.num_scheduled_tokens for seq in admitted) < self.max_num_batched_tokens:
                refused = not head.block_table and self.block_manager.can_allocate(head) == -1
                return BatchLimiter.KV_CACHE if refused else BatchLimiter.TOKEN_BUDGET
            return BatchLimiter.TOKEN_BUDGET
        if len(seqs) == len(self.running):
            return BatchLimiter.DEMAND
        return BatchLimiter.REQUEST_SLOTS if full else BatchLimiter.POLICY

    def postprocess(self: Any, seqs: Any, token_ids: Any, is_prefill: bool) -> None:
        before = [seq.num_completion_tokens for seq in seqs]
        super().postprocess(seqs, token_ids, is_prefill)
        emitted = [seq.num_completion_tokens - had for seq, had in zip(seqs, before, strict=True)]
        self.told.iteration(self.formed, emitted)
        for seq in seqs:
            if seq.is_finished:
                said = {"cached_tokens": seq.cached}
                self.told.finished(seq.number, CompletionReason.EOS_TOKEN_REACHED, self.clock(), **said)


def _engine(limits: SchedulerLimits, clock: Clock, told: Told) -> Any:
    from nanovllm.engine.llm_engine import LLMEngine
    from nanovllm.engine.scheduler import Scheduler
    from nanovllm.engine.sequence import Sequence

    Sequence.block_size = _BLOCK
    engine = LLMEngine.__new__(LLMEngine)  # its constructor loads a model
    engine.scheduler = type("Measured", (Glue, Scheduler), {"clock": clock, "told": told})(
        SimpleNamespace(
            max_num_seqs=limits.max_running_requests,
            max_num_batched_tokens=limits.max_scheduled_tokens,
            eos=EOS,
            kvcache_block_size=_BLOCK,
            num_kvcache_blocks=limits.kv_cache_blocks,
        )
    )
    engine.model_runner = SimpleNamespace(call=_model(clock))
    return engine


def _model(clock: Clock) -> Any:
    def call(_name: str, seqs: Any, _is_prefill: bool) -> list[int]:
        clock.now += cost(sum(seq.num_scheduled_tokens for seq in seqs), len(seqs), sum(len(seq) for seq in seqs))
        return [next_token(seq.number, len(seq)) for seq in seqs]

    return call


def _serve(engine: Any, requests: list[Arrival], clock: Clock, told: Told) -> None:
    from nanovllm.sampling_params import SamplingParams

    due = list(reversed(requests))
    while due or not engine.is_finished():
        if engine.is_finished():
            clock.now = max(clock.now, due[-1].at)
        while due and due[-1].at <= clock.now:
            request = due.pop()
            engine.add_request(request.tokens(), SamplingParams(max_tokens=request.output))
            engine.scheduler.waiting[-1].number = request.number
            told.arrived(request.number, request.prompt, request.at)
        engine.step()
