"""What vLLM's own PrometheusStatLogger costs a step, beside batchscope's logger, on identical statistics.

    python benchmarks/vllm_logger.py [--json FILE] [--rounds N]

Needs vLLM in the environment (docs/how-to/vllm.md); no model and no engine. CPU time of the calling thread (the
event loop that serves every request), the loggers interleaved round by round: best and median of the rounds.
"drain" is what reading those steps costs batchscope later, in another thread; "with drain" is the sum.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR")

import vllm
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.engine import FinishReason
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import FinishedRequestStats, IterationStats, SchedulerStats

from batchscope import SchedulerLimits, SchedulerMetricsCollector
from batchscope.plugins.vllm import stat_logger

CASES = ((256, 0), (256, 4), (32, 0), (32, 4), (0, 0))
STEPS = 400
MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512, "hidden_size": 128,
    "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "max_position_embeddings": 2048, "torch_dtype": "bfloat16",
}  # fmt: skip


def step(gaps: int, finished: int) -> IterationStats:
    """Outputs of a step: ``finished`` of the requests end, and as many new ones get their first token."""
    stats = IterationStats()
    stats.num_generation_tokens = gaps
    stats.inter_token_latencies_iter = [0.005 + 0.0001 * (k % 97) for k in range(gaps - finished)]
    stats.time_to_first_tokens_iter = [0.1] * finished
    stats.max_num_generation_tokens_iter = [64] * finished
    stats.n_params_iter = [1] * finished
    stats.finished_requests = [
        FinishedRequestStats(
            finish_reason=FinishReason.LENGTH, request_id=str(k), e2e_latency=1.2, num_prompt_tokens=100,
            num_generation_tokens=64, max_tokens_param=64, queued_time=0.1, prefill_time=0.1, inference_time=1.0,
            decode_time=0.9, mean_time_per_output_token=0.01,
        )
        for k in range(finished)
    ]  # fmt: skip
    return stats


def cost(record: Any, scheduler: SchedulerStats, outputs: IterationStats) -> float:
    """Seconds of this thread a call, the mean over some hundred."""
    start = time.thread_time_ns()
    for _ in range(STEPS):
        record(scheduler, outputs, engine_idx=0)
    return (time.thread_time_ns() - start) / STEPS / 1e9


def loggers() -> tuple[Any, Any, SchedulerMetricsCollector]:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "config.json").write_text(json.dumps(MODEL))
        config = EngineArgs(
            model=directory, load_format="dummy", enforce_eager=True, max_model_len=512, skip_tokenizer_init=True
        ).create_engine_config()
    collector = SchedulerMetricsCollector(limits=SchedulerLimits(256, 8192, 1000))
    ours = stat_logger(collector)(config, [0])
    ours.log_engine_initialized()
    return PrometheusStatLogger(config, [0]), ours, collector


def measure(rounds: int) -> list[dict[str, Any]]:
    theirs, ours, collector = loggers()
    scheduler = SchedulerStats(num_running_reqs=256, num_waiting_reqs=10, kv_cache_usage=0.5)
    steps = {case: step(*case) for case in CASES}
    times: dict[tuple[Any, str], list[float]] = {}
    gc.collect()
    for _ in range(rounds):
        for case, outputs in steps.items():
            times.setdefault((case, "vllm"), []).append(cost(theirs.record, scheduler, outputs))
            times.setdefault((case, "batchscope"), []).append(cost(ours.record, scheduler, outputs))
            start = time.thread_time_ns()
            collector.read_totals()
            times.setdefault((case, "drain"), []).append((time.thread_time_ns() - start) / STEPS / 1e9)
    assert collector.get_snapshot().totals.dropped_records == 0  # noqa: S101
    return [
        {"gaps": case[0], "finished": case[1]}
        | {
            f"{name}_{kind}_us": pick(times[case, name]) * 1e6
            for name in ("vllm", "batchscope", "drain")
            for kind, pick in (("best", min), ("median", statistics.median))
        }
        for case in CASES
    ]


def show(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'gaps':>5} {'finished':>8} | {'vLLM best':>10} {'median':>8} | {'ours best':>10} {'median':>8} |"
        f" {'drain':>7} | {'ratio':>6} {'with drain':>10}   (microseconds a step)"
    )
    for row in rows:
        vllm_best, best, drain = row["vllm_best_us"], row["batchscope_best_us"], row["drain_best_us"]
        print(
            f"{row['gaps']:5d} {row['finished']:8d} | {vllm_best:10.1f} {row['vllm_median_us']:8.1f} | {best:10.2f}"
            f" {row['batchscope_median_us']:8.2f} | {drain:7.2f} | {vllm_best / best:5.0f}x"
            f" {vllm_best / (best + drain):9.0f}x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    rows = measure(options.rounds)
    show(rows)
    if options.json:
        about = {"vllm": vllm.__version__, "python": platform.python_version(), "machine": platform.machine()}
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
