"""Stands in for SGLang where a plug-in is imported: the classes that it subclasses, with SGLang 0.5.23's signatures."""

from __future__ import annotations

import importlib
import sys
import types
from types import SimpleNamespace

METRICS = "sglang.srt.observability.metrics_collector"


class SchedulerMetricsCollector:
    def __init__(
        self, labels, server_args, enable_lora=False, enable_hierarchical_cache=False, enable_streaming_session=False
    ):
        self.labels, self.calls = labels, []

    def log_stats(self, stats):
        self.calls.append("log_stats")

    def observe_queue_time(self, latency):
        self.calls.append("observe_queue_time")

    def increment_retracted_reqs(self, num_retracted_reqs, num_retracted_input_tokens, num_retracted_output_tokens):
        self.calls.append("increment_retracted_reqs")

    def increment_realtime_tokens(
        self, dp_cooperation_info, prefill_compute_tokens=0, prefill_cache_tokens=0, decode_tokens=0
    ):
        self.calls.append("increment_realtime_tokens")

    def emit_constants(self, max_total_num_tokens, page_size, num_pages):
        self.calls.append("emit_constants")


class TokenizerMetricsCollector:
    def __init__(self, server_args=None, labels=None, bucket_time_to_first_token=None):
        self.labels, self.calls = labels or {}, []

    def observe_one_finished_request(
        self, labels, prompt_tokens, generation_tokens, cached_tokens, e2e_latency, has_grammar,
        cached_tokens_details=None, spec_verify_ct=0, is_streaming=False, time_per_output_token=None,
    ):  # fmt: skip
        self.calls.append("observe_one_finished_request")

    def observe_time_to_first_token(self, labels, value, *, stream):
        self.calls.append("observe_time_to_first_token")

    def observe_inter_token_latency(self, labels, internval, num_new_tokens):
        self.calls.append("observe_inter_token_latency")

    def observe_one_aborted_request(self, labels):
        self.calls.append("observe_one_aborted_request")


class HookRegistry:
    hooks = []  # noqa: RUF012  (one a test: see below)

    @classmethod
    def register(cls, target, hook, hook_type):
        cls.hooks.append((target, hook, hook_type))


def install(monkeypatch):
    """A process where SGLang is this; ``batchscope.plugins.sglang`` is imported anew in it."""
    parts = METRICS.split(".")
    for end in range(1, len(parts)):
        name = ".".join(parts[:end])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    metrics = types.ModuleType(METRICS)
    metrics.SchedulerMetricsCollector = SchedulerMetricsCollector
    metrics.TokenizerMetricsCollector = TokenizerMetricsCollector
    monkeypatch.setitem(sys.modules, METRICS, metrics)
    plugins, registry = types.ModuleType("sglang.srt.plugins"), types.ModuleType("sglang.srt.plugins.hook_registry")
    registry.HookRegistry, registry.HookType = HookRegistry, SimpleNamespace(AROUND="around")
    monkeypatch.setattr(HookRegistry, "hooks", [])
    monkeypatch.setitem(sys.modules, plugins.__name__, plugins)
    monkeypatch.setitem(sys.modules, registry.__name__, registry)
    monkeypatch.delitem(sys.modules, "batchscope.plugins.sglang", raising=False)
    module = importlib.import_module("batchscope.plugins.sglang")
    monkeypatch.setitem(sys.modules, "batchscope.plugins.sglang", module)
    return module


def server_args(**values):
    return SimpleNamespace(
        **{
            "max_running_requests": 8, "chunked_prefill_size": 256, "max_prefill_tokens": 1024,
            "disaggregation_mode": "null", "enable_forward_pass_metrics": False,
            "forward_pass_metrics_ipc_name": None,
        } | values
    )  # fmt: skip


def stats(running=3, waiting=2):
    return SimpleNamespace(
        num_running_reqs=SimpleNamespace(total=running), num_queue_reqs=SimpleNamespace(total=waiting),
        num_grammar_queue_reqs=0, token_usage=0.5,
    )  # fmt: skip
