"""vLLM inside a program: AsyncLLM with ``stat_logger``, the offline LLM with ``attach``. A line of JSON each.

python embedded.py MODEL_DIRECTORY
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from batchscope.plugins.vllm import attach, stat_logger

REQUESTS, TOKENS = 12, 16
SAMPLING = SamplingParams(max_tokens=TOKENS, ignore_eos=True, temperature=0, detokenize=False)
PROMPTS = [{"prompt_token_ids": [4 + number] * 20} for number in range(REQUESTS)]


def options(model: str) -> dict[str, Any]:
    """The same small engine for both."""
    return {
        "model": model, "load_format": "dummy", "dtype": "bfloat16", "enforce_eager": True, "max_model_len": 512,
        "max_num_seqs": 4, "max_num_batched_tokens": 256, "block_size": 32, "num_gpu_blocks_override": 64,
        "skip_tokenizer_init": True, "disable_log_stats": False,
    }  # fmt: skip


def tell(what: str, collector: Any) -> None:
    snapshot = collector.get_snapshot()
    print(
        json.dumps({
            "what": what, "completed": snapshot.request_stats.completed_requests, "version": snapshot.engine.version,
            "tokens": snapshot.totals.generation_tokens, "requests": REQUESTS, "wanted": REQUESTS * TOKENS,
        }),
        flush=True,
    )  # fmt: skip


async def asynchronous(model: str) -> None:
    logger = stat_logger()
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**options(model)), stat_loggers=[logger])

    async def one(number: int) -> None:
        async for _ in engine.generate(PROMPTS[number], SAMPLING, f"r{number}"):
            pass

    try:
        await asyncio.gather(*(one(number) for number in range(REQUESTS)))
        tell("AsyncLLM", logger.collector)
    finally:
        engine.shutdown()


def offline(model: str) -> None:
    llm = LLM(**options(model))
    collector = attach(llm)
    llm.generate(PROMPTS, SAMPLING, use_tqdm=False)
    tell("LLM", collector)


if __name__ == "__main__":
    asyncio.run(asynchronous(sys.argv[1]))
    offline(sys.argv[1])
