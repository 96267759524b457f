"""Is what ``batchscope whatif`` says of transformers so? Recorded at one setting, foretold for others, run with those.

    python whatif.py DIRECTORY

About two minutes on two cores. Exit code 0: each prediction holds (see ``foretold.py``).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from foretold import Asked, CoreClock, Foretold, Load, Setting, serve, workload
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from batchscope import SchedulerMetricsCollector
from batchscope.engines.transformers import attach

LOAD = Load(30, 10.0, 120, 300.0, prompts=(16, 48, 96, 200), answers=(4, 16, 24, 40))
FIRST = {"max_requests_per_batch": 12, "max_batch_tokens": 256, "num_blocks": 256}
CALLED = {
    "max_requests_per_batch": "max_running_requests", "max_batch_tokens": "max_scheduled_tokens",
    "num_blocks": "kv_cache_blocks",
}  # fmt: skip
OTHERS: tuple[Setting, ...] = ({"max_requests_per_batch": 5}, {"max_batch_tokens": 48}, {"num_blocks": 64})
KNOWN = {"num_blocks = 64": {"TTFT p50": 0.25, "TPOT mean": 0.25, "TPOT p95": 0.35}}
"""Where one request in four is evicted, a step that takes a little longer decides who it is."""
WARM_UP = 6
MOST_WAIT = 0.0005


def tiny_model() -> Any:
    """Small, and yet a batch takes milliseconds."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, attn_implementation="sdpa", bos_token_id=1, eos_token_id=7, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


class Engine:
    """A manager with one setting, for one run."""

    def __init__(self, model: Any, setting: Setting) -> None:
        self._clock, self._in_flight = CoreClock(), 0
        self._collector = SchedulerMetricsCollector(clock=self._clock)
        configuration = ContinuousBatchingConfig(
            page_size=16, use_async_batching=False, use_cuda_graph=False, allow_block_sharing=False, **FIRST | setting
        )
        generation = GenerationConfig(max_new_tokens=max(LOAD.answers), do_sample=False, eos_token_id=-1)
        self._manager = model.init_continuous_batching(
            generation_config=generation, continuous_batching_config=configuration
        )
        attach(self._manager, self._collector)
        self._manager.start()
        self._clock.follow(self._manager._generation_thread)

    def serve(self, asked: list[Asked]) -> float:
        """The seconds of its core that it took."""
        return serve(asked, self._clock, send=self._send, go_on=self._listen, busy=lambda: self._in_flight > 0)

    def _send(self, asked: Asked) -> None:
        self._manager.add_request(asked.prompt, max_new_tokens=asked.tokens)
        self._in_flight += 1

    def _listen(self) -> None:
        while self._in_flight and (result := self._manager.get_result(timeout=MOST_WAIT)) is not None:
            self._in_flight -= result.is_finished()

    def record(self, root: Path, asked: list[Asked]) -> float:
        """Serve them, as a run of its own in ``root``, and end."""
        self.serve([request._replace(at=0.0) for request in asked[:WARM_UP]])
        recording = self._collector.record_to(root)
        took = self.serve(asked)
        recording.close()
        self._manager.stop(block=True)
        self._manager.destroy()
        return took


def main(home: Path) -> int:
    asked, model = workload(LOAD), tiny_model()

    def record(setting: Setting, root: Path) -> float:
        return Engine(model, setting).record(root, asked)

    return 0 if Foretold("transformers", home / "whatif", OTHERS, CALLED, asked, record, KNOWN).prove() else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
