"""transformers' continuous batching on a CPU with random weights, measured by batchscope; exit 0 if all figures hold.

Staggered arrivals, streaming, one cancel, and a KV cache small enough that requests are preempted, some twice.
Prints a line a check. Needs torch and transformers 5.23 beside batchscope.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from batchscope import MetricsSnapshot, SchedulerMetricsCollector
from batchscope.engines.transformers import Attachment, attach
from batchscope.ledger import open_run
from batchscope.testing import violations

REQUESTS, PROMPT, NEW_TOKENS = 24, 60, 64
EOS = 7
failures = 0


def check(what: str, got: Any, expected: Any) -> None:
    """One line: what, and whether it is so."""
    global failures  # noqa: PLW0603  (a script's count)
    failures += got != expected
    print(
        f"{'ok ' if got == expected else 'NOT'} {what}: {got}" + ("" if got == expected else f", expected {expected}")
    )


def tiny_model() -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation="sdpa", bos_token_id=1, eos_token_id=EOS, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def configuration(blocks: int) -> ContinuousBatchingConfig:
    return ContinuousBatchingConfig(
        page_size=16, num_blocks=blocks, max_batch_tokens=128, max_requests_per_batch=16,
        use_async_batching=False, use_cuda_graph=False, allow_block_sharing=False,
    )  # fmt: skip


def prompts() -> list[list[int]]:
    chance = random.Random(0)
    return [[chance.randrange(8, 512) for _ in range(PROMPT)] for _ in range(REQUESTS)]


def manager_with_preemptions(model: Any) -> None:
    """Requests come one after the other; the last is cancelled while it waits or runs."""
    collector = SchedulerMetricsCollector()
    os.environ["BATCHSCOPE_RECORD"] = tempfile.mkdtemp()
    generation = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1)
    manager = model.init_continuous_batching(generation_config=generation, continuous_batching_config=configuration(48))
    attachment = attach(manager, collector)
    emitted: dict[str, int] = {}
    pause = threading.Event()
    manager.start()
    ids = []
    for number, prompt in enumerate(prompts()):
        ids.append(manager.add_request(prompt, streaming=number % 2 == 0))
        pause.wait(0.002)
    manager.cancel_request(ids[-1])
    outputs: dict[str, Any] = {}
    while len(outputs) < REQUESTS - 1:
        result = manager.get_result(timeout=30)
        if result is None:
            break
        if result.is_finished():
            outputs[result.request_id] = result
            emitted[result.request_id] = len(result.generated_tokens)
    manager.stop(block=True)
    manager.destroy()
    report_manager(collector, attachment, emitted)
    report_run(collector, Path(os.environ.pop("BATCHSCOPE_RECORD")), emitted)


def report_manager(collector: SchedulerMetricsCollector, attachment: Attachment, emitted: dict[str, int]) -> None:
    snapshot = collector.get_snapshot()
    samples = {sample.request_id: sample for sample in collector.request_samples()}
    check("manager: hooks that failed", attachment.failures, 0)
    check("manager: hooks this version lacks", attachment.missing, [])
    check("manager: contradictions", violations(snapshot, drained=True), [])
    check("manager: requests received", snapshot.totals.requests_received, REQUESTS)
    check("manager: requests completed", snapshot.request_stats.completed_requests, REQUESTS - 1)
    check("manager: requests cancelled", snapshot.request_stats.cancelled_requests, 1)
    counted = {name: sample.tokens_generated for name, sample in samples.items() if name in emitted}
    check("manager: tokens of every request", counted == emitted, True)
    check("manager: each generated all it may", set(emitted.values()), {NEW_TOKENS})
    done = [sample for name, sample in samples.items() if name in emitted]
    known = [s for s in done if s.time_to_first_token >= 0 and s.decode_time > 0 and s.queue_time >= 0]
    check("manager: requests with a whole timeline", len(known), REQUESTS - 1)
    check("manager: some were preempted", snapshot.totals.preemptions > 0, True)
    check("manager: preempted requests have preempted time", all(
        sample.preempted_time > 0 for sample in done if sample.preemptions), True)  # fmt: skip
    check("manager: tokens computed again", snapshot.totals.recomputed_tokens > 0, True)
    gaps = snapshot.request_stats.inter_token_latency.count
    expected = sum(sample.tokens_generated - 1 for sample in samples.values() if sample.tokens_generated)
    check("manager: inter-token latencies", gaps, expected)
    limited = {str(name) for name, share in snapshot.iteration_stats.limited_by.items() if share > 0}
    check("manager: the KV cache limited the batch", "kv_cache" in limited, True)
    check("manager: the limiter was reported", snapshot.iteration_stats.limiter_reported_ratio, 1.0)
    print(f"    {snapshot.totals.iterations} iterations, {snapshot.totals.preemptions} preemptions, limited by "
          f"{sorted(limited)}, TTFT p50 {snapshot.request_stats.time_to_first_token.p50:.4f} s")  # fmt: skip


def report_run(collector: SchedulerMetricsCollector, root: Path, emitted: dict[str, int]) -> None:
    """The run that ``attach`` recorded, because the environment asked for it, says what the live snapshot says."""
    snapshot = collector.get_snapshot()
    collector.close()
    run = open_run(root)
    requests, iterations, tokens = run.requests(), run.iterations(), run.tokens()  # now: files are read when asked for
    problems = run.problems
    shutil.rmtree(root)
    done = requests.filter(pc.equal(requests.column("reason"), "max_tokens_reached"))
    check("run: state and problems", (run.state, problems), ("finished", []))
    check("run: engine and limits", (run.header.engine, run.header.limits), (snapshot.engine, snapshot.limits))
    check("run: requests", len(requests), snapshot.request_stats.total_requests)
    check("run: completed", len(done), snapshot.request_stats.completed_requests)
    check("run: iterations", len(iterations), snapshot.totals.iterations)
    check(
        "run: tokens of iterations",
        pc.sum(iterations.column("tokens_generated")).as_py(),
        snapshot.totals.generation_tokens,
    )
    check("run: tokens with an instant", len(tokens), snapshot.totals.generation_tokens)
    check("run: preemptions", pc.sum(requests.column("preemptions")).as_py(), snapshot.totals.preemptions)
    names = dict(zip(requests.column("request").to_pylist(), requests.column("request_id").to_pylist(), strict=True))
    counted = Counter(names[number] for number in tokens.column("request").to_pylist())
    check("run: tokens of every request", {name: counted[name] for name in emitted} == emitted, True)
    for name in ("time_to_first_token", "time_per_output_token", "total_time", "queue_time"):
        found = float(np.percentile(done.column(name).to_numpy(), 99))
        check(f"run: p99 of {name}", math.isclose(found, getattr(snapshot.request_stats, name).p99, rel_tol=1e-9), True)
    summary = run.document.summary
    check("run: its line in batchscope runs", (summary.requests, summary.completed, summary.iterations),
          (len(requests), len(done), len(iterations)))  # fmt: skip


def generate_batch(model: Any) -> None:
    """The other entry point: a model, measured for all managers it makes; some answers end with the EOS token."""
    collector = SchedulerMetricsCollector()
    attachment = attach(model, collector)
    generation = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=True, eos_token_id=[EOS, *range(100, 106)])
    outputs = model.generate_batch(
        prompts(), generation_config=generation, continuous_batching_config=configuration(256), warmup=False
    )
    attachment.detach()
    report_batch(collector.get_snapshot(), outputs, attachment)
    check("batch: detached, the model is as before", "init_continuous_batching" in vars(model), False)


def report_batch(snapshot: MetricsSnapshot, outputs: dict[str, Any], attachment: Attachment) -> None:
    tokens = sum(len(output.generated_tokens) for output in outputs.values())
    ended = sum(output.generated_tokens[-1] in {EOS, *range(100, 106)} for output in outputs.values())
    check("batch: hooks that failed", attachment.failures, 0)
    check("batch: contradictions", violations(snapshot, drained=True), [])
    check("batch: requests completed", snapshot.request_stats.completed_requests, len(outputs))
    check("batch: output tokens", snapshot.totals.generation_tokens, tokens)
    reasons = {reason: count for reason, count in snapshot.totals.requests_by_reason.items() if count}
    check("batch: some answers ended by themselves", 0 < ended < REQUESTS, True)
    check("batch: reasons", reasons, {"eos_token_reached": ended, "max_tokens_reached": len(outputs) - ended})
    check("batch: engine", snapshot.engine.kind, "transformers")
    check("batch: limits came from the engine", snapshot.limits.max_running_requests, 16)


if __name__ == "__main__":
    whole = tiny_model()
    manager_with_preemptions(whole)
    generate_batch(whole)
    print(f"{failures} checks failed" if failures else "all checks passed")
    sys.exit(1 if failures else 0)
