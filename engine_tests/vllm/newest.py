"""The newest vLLM's own scheduler and statistics, without kernels: what we read of them, and the limiters we report.

    python newest.py DIRECTORY SOURCES

``SOURCES`` are vLLM's Python files, taken from its wheel: newer than the vLLM of this environment, whose CPU build
comes later. Its scheduler plans steps and its output processor makes statistics; the model in between answers with
the token 7. Exit code 0 if all holds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, sys.argv[2])  # before the environment's own vLLM

import torch
import vllm.platforms
from checks import Checks
from model import write_model
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # the wheel's name says nothing of a CPU

from vllm import SamplingParams, __version__
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import FinishReason
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.metrics.stats import (
    FinishedRequestStats,
    IterationStats,
    PrefixCacheStats,
    SchedulerIterationDetails,
    SchedulerStats,
)
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.spec_decode.metrics import SpecDecodingStats
from vllm.v1.structured_output import StructuredOutputManager

from batchscope import SchedulerLimits, SchedulerMetricsCollector
from batchscope.engines.vllm.admission import Admission, decoded
from batchscope.engines.vllm.fields import (
    CONNECTOR,
    DETAILS,
    FINISHED,
    GRAPH,
    ITERATION,
    SCHEDULER,
    SPECULATION,
    Fields,
)
from batchscope.engines.vllm.source import VllmSource
from batchscope.plugins.vllm_scheduler import reporting

BLOCK, BLOCKS = 16, 64


def scheduler(home: Path, base: type, **options: Any) -> Any:
    """A scheduler of ``base`` that reports: 4 places, 64 tokens a step, 63 usable blocks of 16."""
    model = ModelConfig(
        model=str(home / "model"), dtype="bfloat16", seed=1, max_model_len=512, skip_tokenizer_init=True
    )
    planned = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_model_len": 512, "is_encoder_decoder": False}
    config = VllmConfig(
        model_config=model,
        scheduler_config=SchedulerConfig(
            **planned | {"enable_chunked_prefill": True, "async_scheduling": base is AsyncScheduler} | options
        ),
        cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=True),
        device_config=DeviceConfig(device="cpu"),
    )
    config.cache_config.num_gpu_blocks = BLOCKS
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    return reporting(base)(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=BLOCKS, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK,
        log_stats=True,
    )


def request(name: str, prompt: int, tokens: int = 8) -> Request:
    sampling = SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0)
    return Request(name, [11] * prompt, sampling, None)


def steps(planner: Any, most: int = 500) -> Iterator[tuple[Any, Any, Admission | None]]:
    """Plan and answer until nobody is left: what was planned, the outputs, what was reported of it."""
    for _ in range(most):
        if not planner.has_requests():
            return
        planned = planner.schedule()
        names = list(planned.num_scheduled_tokens)
        sampled = [[7] if not planner.requests[name].is_prefill_chunk else [] for name in names]
        answer = ModelRunnerOutput(
            req_ids=names, req_id_to_index={name: at for at, name in enumerate(names)}, sampled_token_ids=sampled
        )
        outputs = planner.update_from_output(planned, answer)
        for output in outputs.values():
            if output.scheduler_stats is not None:
                yield planned, output, decoded(output.scheduler_stats.num_kv_fetch_reqs_by_stage)


def limiters(planner: Any, *added: Request) -> list[str]:
    for one in added:
        planner.add_request(one)
    return [str(said.limited_by) if said else "nothing" for _, _, said in steps(planner)]


def check_names(checks: Checks) -> None:
    """Every attribute that we read is there."""
    missing: list[str] = []
    graph = __import__("vllm.compilation.cuda_graph", fromlist=["CUDAGraphStat"]).CUDAGraphStat
    for kind, names, thing in (
        ("SchedulerStats", SCHEDULER, SchedulerStats()),
        ("IterationStats", ITERATION, IterationStats()),
        ("FinishedRequestStats", FINISHED, FinishedRequestStats(FinishReason.STOP)),
        ("SpecDecodingStats", SPECULATION, SpecDecodingStats.new(2)),
        ("SchedulerIterationDetails", DETAILS, SchedulerIterationDetails(1, 1, 1, 1, 1, 1.0)),
        ("PrefixCacheStats", CONNECTOR, PrefixCacheStats()),
        ("CUDAGraphStat", GRAPH, graph(5, 8, 3, "FULL")),
    ):
        Fields(kind, names, missing.append)(thing)
    checks.equal(f"fields that vLLM {__version__} does not have", missing, [])


def check_limiters(checks: Checks, home: Path) -> None:
    """One true cause each."""
    for base in (Scheduler, AsyncScheduler):
        name = base.__name__
        alone = limiters(scheduler(home, base), request("a", 20))
        checks.equal(f"{name}: one request alone", set(alone), {"demand"})
        crowd = limiters(scheduler(home, base), *(request(f"r{number}", 4) for number in range(6)))
        checks.equal(f"{name}: six requests, four places", crowd[0], "request_slots")
        long = limiters(scheduler(home, base), request("a", 200))
        checks.equal(f"{name}: a prompt of 200 with 64 tokens a step", long[:4], ["token_budget"] * 3 + ["demand"])
        big = limiters(scheduler(home, base, max_num_batched_tokens=512), request("a", 500, 4), request("b", 510, 2))
        checks.equal(f"{name}: two prompts of 32 blocks each, 63 usable", big[1], "kv_cache")


def check_cadence(checks: Checks, home: Path) -> None:
    """Prompts wait for their turn though places and tokens are free: waiting ones, and one that is halfway."""
    planner = scheduler(home, Scheduler, prefill_schedule_interval=4)
    planner.add_request(request("a", 8, 40))
    said: list[tuple[int, str]] = []
    for number, (planned, _, report) in enumerate(steps(planner)):
        said.append((planned.num_scheduled_tokens.get("b", 0), str(report.limited_by) if report else "nothing"))
        if number == 1:
            planner.add_request(request("b", 90, 4))
    held = [limiter for tokens, limiter in said[2:] if tokens == 0][:2]
    checks.equal("cadence of 4: a prompt that waits for its turn", held, ["policy"] * len(held) if held else None)
    first = next(at for at, (tokens, _) in enumerate(said) if tokens > 1)
    between = [limiter for tokens, limiter in said[first + 1 : first + 4] if tokens == 0]
    checks.equal("cadence of 4: a prompt that stands still halfway", between, ["policy"] * 3)


def check_drafts(checks: Checks, home: Path) -> None:
    """Drafts take 20 of the 64 inputs a request: with three of them nobody else fits, in tokens there is room."""
    planner = scheduler(home, Scheduler)
    planner.vllm_config.speculative_config = SimpleNamespace(max_num_new_slots_for_drafting=20)
    checks.equal(
        "drafts' slots use the budget up",
        limiters(planner, *(request(f"r{number}", 1) for number in range(4)))[0],
        "token_budget",
    )


def check_preemption(checks: Checks, home: Path) -> None:
    """What came back after a preemption, by the cache's own statistics, against what was planned."""
    planner = scheduler(home, Scheduler, max_num_batched_tokens=512)
    for number in range(4):
        planner.add_request(request(f"r{number}", 200, 120))
    collector = SchedulerMetricsCollector(limits=SchedulerLimits(4, 512, BLOCKS - 1))
    source = VllmSource(collector)
    had: dict[str, int] = {}
    again = 0
    for planned, output, _ in steps(planner):
        for name in planned.scheduled_cached_reqs.resumed_req_ids:
            at = list(planned.scheduled_cached_reqs.req_ids).index(name)
            again += had[name] - planned.scheduled_cached_reqs.num_computed_tokens[at]
        had |= {name: one.num_computed_tokens for name, one in planner.requests.items() if one.num_computed_tokens}
        source.record(output.scheduler_stats, None)
    found = collector.get_snapshot().totals
    checks.holds("preempted requests compute tokens again", f"{again}", again > 0)
    checks.equal("recomputed tokens", found.recomputed_tokens, again)


def main() -> int:
    home = Path(sys.argv[1])
    write_model(home / "model")
    checks = Checks(f"vllm {__version__}")
    check_names(checks)
    check_limiters(checks, home)
    check_cadence(checks, home)
    check_drafts(checks, home)
    check_preemption(checks, home)
    print(
        f"vllm {__version__}: {checks.failures} checks do not hold"
        if checks.failures
        else f"vllm {__version__}: all hold"
    )
    return 1 if checks.failures else 0


if __name__ == "__main__":
    sys.exit(main())
