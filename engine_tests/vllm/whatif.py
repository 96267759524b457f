"""Is what ``batchscope whatif`` says of vLLM so? Recorded at one setting, foretold for others, and run with those.

    python whatif.py DIRECTORY

Four engines of the same model stand side by side in this process, one a setting, and are served in turn, round by
round. About four minutes on two cores. Exit code 0: each prediction holds (see ``foretold.py``).
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from foretold import Asked, CoreClock, Foretold, Load, Setting, named, serve, workload

from server import ENVIRONMENT

os.environ |= ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
CLOCK = CoreClock()
CLOCK.follow(threading.current_thread())
BEGAN = time.time()
time.monotonic, time.time = CLOCK, lambda: BEGAN + CLOCK()  # what vLLM times requests with, before it is imported

from model import write_model
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.engine.llm_engine import LLMEngine

from batchscope import SchedulerMetricsCollector
from batchscope.engines.vllm.config import configuration_of
from batchscope.plugins.vllm import attach

SCHEDULER = "batchscope.plugins.vllm_scheduler.ReportingScheduler"
LOAD = Load(30, 6.0, 120, 300.0, prompts=(16, 48, 96, 200, 400), answers=(4, 16, 32, 64, 96))
FIRST = {"max_num_seqs": 16, "max_num_batched_tokens": 256, "num_gpu_blocks_override": 256}
CALLED = {
    "max_num_seqs": "max_running_requests", "max_num_batched_tokens": "max_scheduled_tokens",
    "num_gpu_blocks_override": "kv_cache_blocks",
}  # fmt: skip
OTHERS: tuple[Setting, ...] = (
    {"max_num_seqs": 6}, {"max_num_batched_tokens": 48}, {"num_gpu_blocks_override": 48},
)  # fmt: skip
WARM_UP = 12


class Engine:
    """vLLM with one setting, whose runs are recorded one by one."""

    def __init__(self, model: Path, setting: Setting) -> None:
        options: dict[str, Any] = {
            "model": str(model), "load_format": "dummy", "dtype": "bfloat16", "enforce_eager": True,
            "max_model_len": 512, "block_size": 32, "skip_tokenizer_init": True, "enable_prefix_caching": False,
            "distributed_executor_backend": "uni", "async_scheduling": False, "scheduler_cls": SCHEDULER,
            "disable_log_stats": False,
        }  # fmt: skip
        self._engine = LLMEngine.from_engine_args(EngineArgs(**options, **FIRST | setting))
        self._collector = attach(self._engine, SchedulerMetricsCollector(clock=CLOCK))
        self._numbers = itertools.count()

    def serve(self, asked: list[Asked]) -> float:
        """The seconds of its core that it took."""
        busy = self._engine.has_unfinished_requests
        return serve(asked, CLOCK, send=self._send, go_on=self._engine.step, busy=busy)

    def _send(self, asked: Asked) -> None:
        sampling = SamplingParams(max_tokens=asked.tokens, ignore_eos=True, temperature=0, detokenize=False)
        self._engine.add_request(f"r{next(self._numbers)}", {"prompt_token_ids": asked.prompt}, sampling)

    def record(self, root: Path, asked: list[Asked]) -> float:
        """Serve them, as a run of its own in ``root``."""
        recording = self._collector.record_to(root, configuration=configuration_of(self._engine.vllm_config))
        took = self.serve(asked)
        recording.close()
        return took


def main(home: Path) -> int:
    asked = workload(LOAD)
    write_model(home / "model")
    engines = {named(setting): Engine(home / "model", setting) for setting in ({}, *OTHERS)}
    for engine in engines.values():
        engine.serve([request._replace(at=0.0) for request in asked[:WARM_UP]])

    def record(setting: Setting, root: Path) -> float:
        return engines[named(setting)].record(root, asked)

    return 0 if Foretold("vllm", home / "whatif", OTHERS, CALLED, asked, record).prove() else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
