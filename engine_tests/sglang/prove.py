"""batchscope against SGLang's own classes: its collectors, its tokenizer manager's reporting, its publisher.

The engine does not run here, so requests are played: real ``TokenizerManager.collect_metrics`` and
``abort_request``, real time statistics, real ``SchedulerStats``, real forward-pass messages over a real socket.
What batchscope counts must be what SGLang's Prometheus metrics say.
"""

from __future__ import annotations

import inspect
import math
import os
import pickle
import sys
import tempfile
import threading
import time
import timeit
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

# torchvision's wheel has its operators for CUDA only; SGLang imports it and uses none of them here.
_operators = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from prometheus_client import REGISTRY
from sglang.srt.disaggregation.utils import DisaggregationMode
from sglang.srt.managers import tokenizer_manager
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.observability import metrics_collector as theirs
from sglang.srt.observability.forward_pass_metrics import (
    ForwardPassMetrics,
    QueuedRequestMetrics,
    ScheduledRequestMetrics,
    _FpmPublisherThread,
)
from sglang.srt.observability.req_time_stats import APIServerReqTimeStats, SchedulerReqTimeStats
from sglang.srt.plugins.hook_registry import HookRegistry
from sglang.srt.runtime_context import get_context, get_parallel

from batchscope.engines.sglang.scheduler import SglangScheduler
from batchscope.engines.sglang.tokenizer import ABORT_SECONDS, SglangTokenizer
from batchscope.plugins import sglang as ours
from batchscope.plugins import sglang_switch
from batchscope.publishing import SnapshotDirectory

SECONDS = 30.0
PASSES = 20
_METHODS = {
    SglangTokenizer: (theirs.TokenizerMetricsCollector, ours._TOKENIZER),
    SglangScheduler: (theirs.SchedulerMetricsCollector, ours._SCHEDULER),
}


def check(what: str, found: object, expected: object) -> None:
    """Print and compare; sums of seconds to float rounding."""
    close = isinstance(expected, float) and math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)  # type: ignore[arg-type]
    print(f"  {what}: {found}")
    if found != expected and not close:
        sys.exit(f"{what}: batchscope says {found}, expected {expected}")


def until(what: str, holds: Any) -> None:
    """Poll; the program ends if it does not come to hold."""
    for _ in range(int(SECONDS / 0.02)):
        if holds():
            return
        threading.Event().wait(0.02)
    sys.exit(f"not within {SECONDS} s: {what}")


def total(name: str, **labels: str) -> float:
    """The sum of an SGLang metric over its series."""
    return sum(
        sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == f"sglang:{name}" and all(sample.labels.get(key) == value for key, value in labels.items())
    )


class Manager(SimpleNamespace):
    """As much of a ``TokenizerManager`` as its reporting needs; its methods are SGLang's."""

    def __init__(self, collector: Any) -> None:
        super().__init__(
            metrics_collector=collector, enable_metrics=True, enable_priority_scheduling=False,
            disaggregation_mode=DisaggregationMode.NULL, rid_to_state={},
            _request_has_grammar=lambda _: False, _dispatch_to_scheduler=lambda _: None,
        )  # fmt: skip

    def request(self, rid: str, *, stream: bool = True) -> SimpleNamespace:
        """A request that arrives now."""
        stats = APIServerReqTimeStats()
        stats.set_created_time()
        self.rid_to_state[rid] = SimpleNamespace(
            obj=SimpleNamespace(stream=stream, custom_labels=None), time_stats=stats, ttft_observed=False,
            last_completion_tokens=0, finished=False, abort_sent=False,
        )  # fmt: skip
        return self.rid_to_state[rid]

    def output(self, state: SimpleNamespace, tokens: int, finish: str | None = None, prefilled_at: float = 0) -> None:
        """An output of ``tokens`` so far, in the order of ``_handle_batch_output``."""
        told = SchedulerReqTimeStats(prefill_finished_time=prefilled_at)
        received = SimpleNamespace(
            completion_tokens=[tokens], prompt_tokens=[100], cached_tokens=[64], time_stats=[told],
            finished_reasons=[{"type": finish} if finish else None],
        )  # fmt: skip
        stats, first_output_at = state.time_stats, None
        if stats.first_token_time == 0.0:
            first_output_at = time.perf_counter()
            of_scheduler = TokenizerManager._get_scheduler_first_token_time(state, received, 0)
            stats.set_first_token_time(ts=of_scheduler or first_output_at)
            stats.set_last_time(ts=first_output_at)
        if finish:
            state.finished = True
            stats.set_finished_time(ts=first_output_at)
        TokenizerManager.collect_metrics(self, state, received, 0)

    def abort(self, rid: str) -> None:
        """Somebody gives a request up."""
        TokenizerManager.abort_request(self, rid)


def play(manager: Manager) -> None:
    """Twelve requests: twice each way to end, one that the engine refuses, one that is given up in the queue."""
    for turn in range(2):
        streamed, one, at_once = (manager.request(f"{name}{turn}") for name in ("streamed", "one", "at once"))
        for tokens in (1, 2, 5, 5, 9):
            manager.output(streamed, tokens, "stop" if tokens == 9 else None)
        manager.output(one, 1, "length")
        manager.output(at_once, 16, "stop")
        whole = manager.request(f"whole{turn}", stream=False)
        prefilled_at = time.perf_counter()
        manager.output(whole, 30, "length", prefilled_at=prefilled_at)
        gone = manager.request(f"gone{turn}")
        manager.output(gone, 1)
        manager.output(gone, 3)
        manager.abort(f"gone{turn}")
        manager.output(gone, 4, "abort")
    manager.output(manager.request("refused"), 0, "abort")
    manager.request("queued")
    manager.abort("queued")


def compare(snapshot: Any) -> None:
    """batchscope's figures of requests against SGLang's metrics."""
    stats, totals = snapshot.request_stats, snapshot.totals
    check("requests that sglang saw finish", stats.total_requests, int(total("num_requests_total")))
    check("completed", stats.completed_requests, 8)
    check("cancelled", stats.cancelled_requests, 2)
    check("aborted by the engine", totals.requests_by_reason["error"], 1)
    check("generation tokens", totals.generation_tokens_of_requests, int(total("generation_tokens_total")))
    for name in ("time_to_first_token", "inter_token_latency"):
        (found,) = snapshot.histograms[name].values()
        check(f"{name}: count", found.count, int(total(f"{name}_seconds_count")))
        check(f"{name}: sum", found.sum, total(f"{name}_seconds_sum"))


def of_each(collector: Any) -> None:
    """The identities of single requests, and what SGLang observes of each."""
    whole = sum(request.total_time for request in collector.request_samples())
    check("total time: sum", whole, total("e2e_request_latency_seconds_sum"))
    samples = [request for request in collector.request_samples() if request.reason == "other"]
    split = [request for request in samples if not math.isnan(request.decode_time)]
    check("requests whose time is split", len(split), 6)
    for request in split:
        whole = request.time_to_first_token + request.decode_time
        if not math.isclose(whole, request.total_time, abs_tol=1e-9):
            sys.exit(f"first token + decode = {whole}, total {request.total_time}")
    per_token = [request.time_per_output_token for request in samples if request.tokens_generated > 1]
    known = [value for value in per_token if not math.isnan(value)]
    metric = "request_time_per_output_token_seconds"
    check("time per output token: count", len(known), int(total(f"{metric}_count")))
    check("time per output token: sum", sum(known), total(f"{metric}_sum"))


def signatures() -> None:
    """Whatever SGLang passes by name, its recorders take."""
    for recorder, (collector, names) in _METHODS.items():
        for name in names:
            parameters = list(inspect.signature(getattr(collector, name)).parameters)[1:]
            inspect.signature(getattr(recorder, name)).bind(None, **dict.fromkeys(parameters))
    print("  signatures fit")


def hook() -> None:
    """The installed plug-in changes SGLang's choice, everywhere it was imported, only when switched on."""
    role, default = theirs.STAT_LOGGER_ROLE_TOKENIZER, theirs.TokenizerMetricsCollector
    check("switched off", tokenizer_manager.resolve_collector_class(role, default), default)
    os.environ["BATCHSCOPE_SGLANG"] = "1"
    sglang_switch.register()
    HookRegistry.apply_hooks()
    check("switched on", tokenizer_manager.resolve_collector_class(role, default), ours.BatchscopeTokenizerCollector)
    check("other roles", theirs.resolve_collector_class("storage", theirs.StorageMetricsCollector),
          theirs.StorageMetricsCollector)  # fmt: skip


def schedule(collector: Any, endpoint: str) -> None:
    """What a scheduler reports: constants, queue times, a retraction, its state, its forward passes."""
    collector.emit_constants(
        max_total_num_tokens=6400, max_total_num_tokens_swa=None, weight_memory_usage_gb=1.0,
        kv_cache_memory_usage_gb=1.0, graph_memory_usage_gb={}, max_running_requests_under_SLO=None, page_size=64,
        num_pages=100, context_len=2048, startup_available_gpu_memory_gb=1.0,
    )  # fmt: skip
    publisher = _FpmPublisherThread(endpoint, worker_id="w", dp_rank=0)
    collector.increment_retracted_reqs(2, 200, 20)
    collector.increment_realtime_tokens(None, prefill_compute_tokens=36, prefill_cache_tokens=64)
    for wait in (0.5, 0.25):
        stats = SchedulerReqTimeStats(wait_queue_entry_time=100.0)
        stats.set_metrics_collector(collector)
        stats.set_forward_entry_time(100.0 + wait)
    state = theirs.SchedulerStats(num_grammar_queue_reqs=1, token_usage=0.75)
    state.num_running_reqs, state.num_queue_reqs = theirs.QueueCount(7), theirs.QueueCount(3)
    collector.log_stats(state)
    scope = collector.batchscope.collector

    def published() -> bool:  # a subscriber that comes late misses what was sent before
        publisher.publish(
            ForwardPassMetrics(
                worker_id="w",
                wall_time=0.01,
                scheduled_requests=ScheduledRequestMetrics(num_decode_requests=7, sum_decode_kv_tokens=700),
                queued_requests=QueuedRequestMetrics(num_prefill_requests=3),
            )
        )
        return scope.get_snapshot().totals.iterations >= PASSES

    until("forward passes arrive", published)
    publisher.shutdown()


def merged(directory: Path) -> None:
    """What ``batchscope serve`` shows of the two processes together."""
    with SnapshotDirectory(directory) as processes:
        until("both are published", lambda: processes.get_snapshot().request_stats.queue_time.count == 2)
        until("requests are published", lambda: processes.get_snapshot().request_stats.total_requests > 0)
        snapshot = processes.get_snapshot()
    check("merged: requests", snapshot.request_stats.total_requests, int(total("num_requests_total")))
    check("merged: queue time sum", snapshot.histograms["queue_time"]["default"].sum, total("queue_time_seconds_sum"))
    check("merged: running", snapshot.gauges.requests_running, int(total("num_running_reqs")))
    check("merged: KV cache usage", snapshot.gauges.kv_cache_usage, total("token_usage"))
    check("merged: preemptions", snapshot.totals.preemptions, int(total("num_retracted_requests_total")))
    limits = snapshot.limits
    check("merged: limits", (limits.max_running_requests, limits.max_scheduled_tokens, limits.kv_cache_blocks),
          (32, 2048, int(total("num_pages"))))  # fmt: skip
    check("merged: rejected", snapshot.totals.rejected_records, {})
    check("merged: role, label", (snapshot.role, snapshot.labels), ("unified", {"model_name": "tiny"}))


def queued_abort(collector: Any) -> None:
    """The request that was given up in the queue counts once SGLang had time to say otherwise."""
    recorder, scope = collector.batchscope.recorder, collector.batchscope.collector
    really = recorder.clock
    recorder.clock = lambda: really() + 2 * ABORT_SECONDS
    check("cancelled, the queued one included", scope.get_snapshot().request_stats.cancelled_requests,
          int(total("num_aborted_requests_total")))  # fmt: skip


def cost(collector: Any) -> None:
    """Time of SGLang's own observation of a later output, and what batchscope's adds."""
    labels = dict(collector.labels)
    own = theirs.TokenizerMetricsCollector.observe_inter_token_latency
    both = type(collector).observe_inter_token_latency
    alone, together = (
        min(timeit.repeat(lambda call=call: call(collector, labels, 0.02, 1), number=2000, repeat=7)) / 2000
        for call in (own, both)
    )
    print(f"  an output costs sglang {alone * 1e6:.2f} us, with batchscope {together * 1e6:.2f} us")


def main() -> None:
    """All of it, in one process for both of SGLang's."""
    signatures()
    hook()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"BATCHSCOPE_PORT": "off", "BATCHSCOPE_SNAPSHOT_DIR": f"{folder}/snapshots"}
        ranks = dict.fromkeys(("tp_rank", "pp_rank", "moe_ep_rank", "attn_tp_rank", "attn_cp_rank"), 0)
        settings = {
            "enable_metrics": True, "stat_loggers": ours.stat_loggers(), "served_model_name": "tiny",
            "max_running_requests": 32, "chunked_prefill_size": 2048, "enable_forward_pass_metrics": True,
            "forward_pass_metrics_ipc_name": f"ipc://{folder}/fpm", "tokenizer_worker_num": 1,
        }  # fmt: skip
        with (
            get_context().override_server_args(**settings) as server_args,
            get_parallel().override(**ranks, dp_rank=None),
        ):
            check("sent to another process", pickle.loads(pickle.dumps(ours.stat_loggers())), ours.stat_loggers())  # noqa: S301
            scheduler = theirs.SchedulerMetricsCollector.init_new(
                server_args=server_args, enable_priority_scheduling=False, enable_lora=False,
                enable_hierarchical_cache=False,
            ).collector  # fmt: skip
            tokenizer = theirs.resolve_collector_class("tokenizer", theirs.TokenizerMetricsCollector)(
                server_args=server_args, labels=theirs.tokenizer_metric_labels()
            )
            check("classes", (type(scheduler), type(tokenizer)), tuple(ours.stat_loggers().values()))
            play(Manager(tokenizer))
            compare(tokenizer.batchscope.collector.get_snapshot())
            of_each(tokenizer.batchscope.collector)
            schedule(scheduler, f"ipc://{folder}/fpm.0")
            merged(Path(folder) / "snapshots")
            queued_abort(tokenizer)
            cost(tokenizer)
            for collector in (scheduler, tokenizer):
                collector.batchscope.close()
    print("sglang: ok")


if __name__ == "__main__":
    main()
