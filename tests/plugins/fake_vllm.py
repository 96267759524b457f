"""Stands in for vLLM where a plug-in is imported: the classes that it subclasses, with vLLM 0.32's signatures."""

from __future__ import annotations

import abc
import importlib
import sys
import types
from types import SimpleNamespace


class StatLoggerBase(abc.ABC):
    @abc.abstractmethod
    def __init__(self, vllm_config, engine_index=0): ...

    @abc.abstractmethod
    def record(self, scheduler_stats, iteration_stats, mm_cache_stats=None, engine_idx=0): ...

    @abc.abstractmethod
    def log_engine_initialized(self): ...

    def log(self):  # noqa: B027  (as in vLLM)
        pass

    def record_sleep_state(self, is_awake, level):  # noqa: B027
        pass


class AggregateStatLoggerBase(StatLoggerBase):
    @abc.abstractmethod
    def __init__(self, vllm_config, engine_indexes): ...

    def record_admission_rejection(self, reason):
        pass


def import_plugin(monkeypatch):
    """``batchscope.plugins.vllm``, imported anew in a process where vLLM is this."""
    loggers = types.ModuleType("vllm.v1.metrics.loggers")
    loggers.StatLoggerBase, loggers.AggregateStatLoggerBase = StatLoggerBase, AggregateStatLoggerBase
    for name in ("vllm", "vllm.v1", "vllm.v1.metrics"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.v1.metrics.loggers", loggers)
    monkeypatch.delitem(sys.modules, "batchscope.plugins.vllm", raising=False)
    module = importlib.import_module("batchscope.plugins.vllm")
    monkeypatch.delitem(sys.modules, "batchscope.plugins.vllm")
    return module


def vllm_config():
    """What is read of a VllmConfig."""
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=8, max_num_batched_tokens=256),
        cache_config=SimpleNamespace(num_gpu_blocks=24),
        model_config=SimpleNamespace(served_model_name="tiny", max_model_len=512),
        parallel_config=SimpleNamespace(),
    )


def scheduler(running, waiting=0):
    return SimpleNamespace(
        num_running_reqs=running, num_waiting_reqs=waiting, num_skipped_waiting_reqs=0, kv_cache_usage=0.5,
        prefix_cache_stats=SimpleNamespace(
            requests=0, queries=0, hits=0, preempted_requests=0, preempted_queries=0, preempted_hits=0
        ),
        connector_prefix_cache_stats=None, cudagraph_stats=None, running_lora_adapters={}, waiting_lora_adapters={},
        spec_decoding_stats=None, iteration_details=None,
        num_kv_fetch_reqs_by_stage={},
    )  # fmt: skip


class Manager:
    """As vLLM's StatLoggerManager: makes each logger, tells it that the engine is up, and calls it each step."""

    def __init__(self, *factories, engine_indexes=(0,)):
        self.engine_indexes = list(engine_indexes)
        self.stat_loggers = [factory(vllm_config(), engine_indexes=self.engine_indexes) for factory in factories]
        for logger in self.stat_loggers:
            logger.log_engine_initialized()

    def record(self, scheduler_stats, iteration_stats, engine_idx=0):
        for logger in self.stat_loggers:
            logger.record(scheduler_stats, iteration_stats, mm_cache_stats=None, engine_idx=engine_idx)
