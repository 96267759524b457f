"""Busy time against the wall: the engine is given a batch of work, and is busy from then until the last answer.

    python step_time.py MODEL_DIRECTORY [details] [reports]

``VLLM_ENABLE_V1_MULTIPROCESSING=0`` runs all in one process, where vLLM's elapsed time leaves out the model.
``details``: with vLLM's iteration details. ``reports``: with the scheduler that reports. A line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from embedded import PROMPTS, options
from vllm import LLM, SamplingParams

from batchscope.plugins.vllm import attach

SCHEDULER = "batchscope.plugins.vllm_scheduler.Reporting"
REPEATS = 4
SAMPLING = SamplingParams(max_tokens=48, ignore_eos=True, temperature=0, detokenize=False)


def engine(model: str, wanted: list[str]) -> LLM:
    chosen: dict[str, Any] = {"enable_logging_iteration_details": "details" in wanted}
    in_one = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0"
    if in_one:
        chosen |= {"distributed_executor_backend": "uni", "async_scheduling": False}
    if "reports" in wanted:
        chosen["scheduler_cls"] = SCHEDULER + ("Scheduler" if in_one else "AsyncScheduler")
    return LLM(**options(model), **chosen)


def main(model: str, *wanted: str) -> None:
    llm = engine(model, list(wanted))
    collector = attach(llm)
    llm.generate(PROMPTS[:2], SAMPLING, use_tqdm=False)  # what is done once is done
    collector.reset()
    start = time.monotonic()
    llm.generate(PROMPTS * REPEATS, SAMPLING, use_tqdm=False)
    wall = time.monotonic() - start
    totals, iterations = collector.get_snapshot().totals, collector.iteration_samples()
    print(
        json.dumps({
            "busy": totals.busy_seconds, "wall": wall, "iterations": totals.iterations,
            "durations": sum(iteration.processing_time for iteration in iterations),
            "reported": totals.busy_seconds_reported, "rejected": totals.rejected_records,
        })
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
