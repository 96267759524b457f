"""What a ``VllmConfig`` says of an engine: its limits, its name, which front end this is. Read by attribute."""

from __future__ import annotations

from typing import Any

from batchscope.configuration import SchedulerLimits
from batchscope.engines.settings import plain_settings
from batchscope.engines.vllm.source import FrontEnd


def limits_of(vllm_config: Any, ranks: int = 1) -> SchedulerLimits:
    """What one data-parallel rank's batch is measured against; what the configuration does not say is None.

    ``max_num_active_seqs`` and ``max_num_scheduled_tokens`` where set, else ``max_num_seqs`` and
    ``max_num_batched_tokens``. ``num_gpu_blocks`` is known once the engine core is up; vLLM adds up those of all
    ``ranks`` that a front end serves.
    """
    scheduler = getattr(vllm_config, "scheduler_config", None)
    cache = getattr(vllm_config, "cache_config", None)
    blocks = _count(cache, "num_gpu_blocks")
    return SchedulerLimits(
        max_running_requests=_count(scheduler, "max_num_active_seqs") or _count(scheduler, "max_num_seqs"),
        max_scheduled_tokens=_count(scheduler, "max_num_scheduled_tokens")
        or _count(scheduler, "max_num_batched_tokens"),
        kv_cache_blocks=blocks // max(ranks, 1) or None if blocks else None,
        kv_block_size=_count(cache, "block_size"),
    )


def labels_of(vllm_config: Any) -> dict[str, str]:
    """``model_name``: the name under which the model is served."""
    name = getattr(getattr(vllm_config, "model_config", None), "served_model_name", None)
    if isinstance(name, list | tuple):
        name = name[0] if name else None
    return {"model_name": name} if isinstance(name, str) else {}


def max_model_len_of(vllm_config: Any) -> int | None:
    """Tokens that prompt and answer may have together."""
    return _count(getattr(vllm_config, "model_config", None), "max_model_len")


def front_end_of(vllm_config: Any) -> FrontEnd:
    """Which of ``--api-server-count`` processes this is."""
    parallel = getattr(vllm_config, "parallel_config", None)
    index = getattr(parallel, "_api_process_rank", 0)
    return FrontEnd(index if isinstance(index, int) and index > 0 else 0, _count(parallel, "_api_process_count") or 1)


_SECTIONS = (
    "model_config", "cache_config", "scheduler_config", "parallel_config", "speculative_config", "load_config",
    "lora_config", "device_config", "observability_config", "compilation_config", "attention_config",
)  # fmt: skip
_TEXTS = (
    "policy", "scheduler_policy", "dtype", "cache_dtype", "quantization", "method", "device_type", "runner_type",
    "distributed_executor_backend", "data_parallel_backend", "backend", "load_format", "tokenizer_mode",
    "prefix_caching_hash_algo", "mamba_cache_mode", "runner", "convert", "kv_role",
)  # fmt: skip


def configuration_of(vllm_config: Any) -> dict[str, Any]:
    """The resolved settings, by section: numbers, switches and a few names; no path, address, secret or text."""
    found = {name: plain_settings(getattr(vllm_config, name, None), _TEXTS) for name in _SECTIONS}
    return {name: settings for name, settings in found.items() if settings}


def _count(section: Any, name: str) -> int | None:
    value = getattr(section, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
