"""nano-vLLM: its engine's step, its scheduler and its block manager as they are; the model is a cost and a coin."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from batchscope import BatchLimiter, CompletionReason, SchedulerLimits
from foreign.harness import Arrival, Clock, Outcome, Told, arrivals, bare_package, cost, stand_in

_EOS = 2
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
        limits = SchedulerLimits(max_running_requests=places, max_scheduled_tokens=budget, kv_cache_blocks=blocks)
        clock = Clock()
        told = Told(limits, clock)
        _serve(_engine(limits, clock, told), requests, clock, told)
        yield told.outcome("nano-vLLM", workload)


def _engine(limits: SchedulerLimits, clock: Clock, told: Told) -> Any:
    from nanovllm.engine.llm_engine import LLMEngine
    from nanovllm.engine.scheduler import Scheduler
    from nanovllm.engine.sequence import Sequence

    class Measured(Scheduler):
        """Its scheduler, with batchscope at the two places where something happens."""

        def schedule(self) -> Any:
            in_order = list(self.running)
            seqs, is_prefill = super().schedule()
            self.formed_at = clock()
            scheduled = [seq.num_scheduled_tokens for seq in seqs]
            evicted = [seq for seq in in_order if seq in self.waiting]
            self.formed = {
                "started_at": clock(),
                "scheduled_tokens": scheduled,
                "preempted": [seq.number for seq in evicted],
                "waiting": sum(not seq.block_table for seq in self.waiting),
                "kv_cache_usage": len(self.block_manager.used_block_ids) / len(self.block_manager.blocks),
                "unscheduled_prefill_tokens": sum(
                    seq.num_tokens - seq.num_cached_tokens - seq.num_scheduled_tokens
                    for seq in self.waiting if seq.block_table
                ),
                "limited_by": self._limiter(seqs, evicted, sum(scheduled), is_prefill=is_prefill),
            }  # fmt: skip
            return seqs, is_prefill

        def _limiter(self, seqs: Any, evicted: Any, tokens: int, *, is_prefill: bool) -> BatchLimiter:
            """The conditions of the ``break``s of its own prefill loop, asked again."""
            if evicted:
                return BatchLimiter.KV_CACHE
            tokens = tokens if is_prefill else 0
            for head in list(self.waiting)[:1]:
                if is_prefill and len(seqs) >= self.max_num_seqs:
                    return BatchLimiter.REQUEST_SLOTS
                if tokens == self.max_num_batched_tokens:
                    return BatchLimiter.TOKEN_BUDGET
                if not head.block_table and self.block_manager.can_allocate(head) == -1:
                    return BatchLimiter.KV_CACHE
                return BatchLimiter.TOKEN_BUDGET
            if len(seqs) == len(self.running):
                return BatchLimiter.DEMAND
            return BatchLimiter.REQUEST_SLOTS if len(seqs) >= self.max_num_seqs else BatchLimiter.POLICY

        def postprocess(self, seqs: Any, token_ids: Any, is_prefill: bool) -> None:
            before = [seq.num_completion_tokens for seq in seqs]
            super().postprocess(seqs, token_ids, is_prefill)
            emitted = [seq.num_completion_tokens - had for seq, had in zip(seqs, before, strict=True)]
            told.iteration([seq.number for seq in seqs], emitted, finished_at=clock(), **self.formed)
            for seq in seqs:
                if seq.is_finished:
                    told.finished(seq.number, CompletionReason.EOS_TOKEN_REACHED, clock())

    Sequence.block_size = _BLOCK
    engine = LLMEngine.__new__(LLMEngine)  # its constructor loads a model
    engine.scheduler = Measured(
        SimpleNamespace(
            max_num_seqs=limits.max_running_requests, max_num_batched_tokens=limits.max_scheduled_tokens,
            eos=_EOS, kvcache_block_size=_BLOCK, num_kvcache_blocks=limits.kv_cache_blocks,
        )
    )  # fmt: skip
    engine.model_runner = SimpleNamespace(call=_model(clock))
    return engine


def _model(clock: Clock) -> Any:
    chance = random.Random(7)

    def call(_name: str, seqs: Any, _is_prefill: bool) -> list[int]:
        clock.now += cost(sum(seq.num_scheduled_tokens for seq in seqs), len(seqs), sum(len(seq) for seq in seqs))
        return [_EOS if chance.random() < 0.002 else chance.randrange(10, 30_000) for _ in seqs]

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
