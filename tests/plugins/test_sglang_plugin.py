"""The SGLang plug-in as SGLang uses it, with a stand-in for SGLang's classes; engine_tests/ does it with SGLang's."""

import importlib
import logging
import pickle
import sys
import threading

import msgspec
import pytest
from fake_sglang import HookRegistry, SchedulerMetricsCollector, TokenizerMetricsCollector, install, server_args, stats

from batchscope import SchedulerLimits
from batchscope.errors import BatchscopeError
from batchscope.plugins.sglang_switch import HOOKED, choose, register
from batchscope.publishing import SnapshotDirectory

DEADLINE = 20.0


@pytest.fixture
def plugin(monkeypatch):
    for name in ("SGLANG", "HOST", "PORT", "TOKEN_FILE", "SNAPSHOT_DIR", "SLO"):
        monkeypatch.delenv(f"BATCHSCOPE_{name}", raising=False)
    return install(monkeypatch)


@pytest.fixture
def start(plugin, monkeypatch):
    """Makes both collectors as SGLang does, with these variables, and ends their threads afterwards."""
    made = []

    def begin(settings=None, tp_rank=0, **variables):
        monkeypatch.setenv("BATCHSCOPE_SGLANG", "1")
        for name, value in ({"PORT": "off"} | variables).items():
            monkeypatch.setenv(f"BATCHSCOPE_{name}", value)
        labels = {"model_name": "tiny", "engine_type": "unified"}
        settings = settings or server_args()
        classes = plugin.stat_loggers()
        tokenizer = classes["tokenizer"](server_args=settings, labels=labels, bucket_time_to_first_token=None)
        scheduler = classes["scheduler"](labels=labels | {"tp_rank": tp_rank, "pp_rank": 0}, server_args=settings)
        made.extend([tokenizer, scheduler])
        scheduler.emit_constants(max_total_num_tokens=6400, page_size=64, num_pages=100)
        return tokenizer, scheduler

    yield begin
    for collector in made:
        if collector.batchscope is not None:
            collector.batchscope.close()


def ours():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batchscope")]


def use(tokenizer, scheduler):
    """A request as SGLang reports it."""
    scheduler.observe_queue_time(0.125)
    scheduler.increment_realtime_tokens(None, prefill_compute_tokens=6, prefill_cache_tokens=4)
    scheduler.increment_retracted_reqs(
        num_retracted_reqs=1, num_retracted_input_tokens=10, num_retracted_output_tokens=2
    )
    scheduler.log_stats(stats())
    labels = dict(tokenizer.labels)
    tokenizer.observe_time_to_first_token(labels, 0.5, stream=True)
    labels = dict(tokenizer.labels)
    tokenizer.observe_inter_token_latency(labels, 1.5, 3)
    tokenizer.observe_one_finished_request(
        labels, 10, 4, 4, 2.0, False, None, spec_verify_ct=0, is_streaming=True, time_per_output_token=0.5
    )  # fmt: skip
    tokenizer.observe_one_aborted_request(tokenizer.labels)


ALL_CALLS = (
    ["observe_time_to_first_token", "observe_inter_token_latency", "observe_one_finished_request",
     "observe_one_aborted_request"],
    ["emit_constants", "observe_queue_time", "increment_realtime_tokens", "increment_retracted_reqs", "log_stats"],
)  # fmt: skip


@pytest.mark.parametrize("value", [None, "", "0", "off"])
def test_switched_off_sglang_hears_everything_and_batchscope_nothing(plugin, monkeypatch, caplog, value):
    before = ours()
    if value is not None:
        monkeypatch.setenv("BATCHSCOPE_SGLANG", value)
    with caplog.at_level(logging.DEBUG):
        tokenizer = plugin.BatchscopeTokenizerCollector(server_args=server_args(), labels={})
        scheduler = plugin.BatchscopeSchedulerCollector(labels={}, server_args=server_args())
        scheduler.emit_constants(max_total_num_tokens=1, page_size=1, num_pages=1)
        use(tokenizer, scheduler)
    assert (tokenizer.calls, scheduler.calls) == ALL_CALLS
    assert tokenizer.batchscope is scheduler.batchscope is None
    assert ours() == before
    assert caplog.records == []


def test_the_classes_are_what_sglang_asks_for_and_can_be_sent_to_its_processes(plugin):
    classes = plugin.stat_loggers()
    assert issubclass(classes["scheduler"], SchedulerMetricsCollector)
    assert issubclass(classes["tokenizer"], TokenizerMetricsCollector)
    assert pickle.loads(pickle.dumps(classes)) == classes  # noqa: S301  (our own)


def test_two_processes_publish_and_their_merge_counts_each_request_once(start, tmp_path):
    tokenizer, scheduler = start(SNAPSHOT_DIR=str(tmp_path), SLO="time_to_first_token=0.5")
    use(tokenizer, scheduler)
    assert (tokenizer.calls, scheduler.calls) == ALL_CALLS
    with SnapshotDirectory(tmp_path) as directory:
        _until(lambda: directory.get_snapshot().request_stats.total_requests == 1)
        _until(lambda: directory.get_snapshot().request_stats.queue_time.count == 1)
        merged = directory.get_snapshot()
    assert (merged.request_stats.total_requests, merged.totals.requests_received) == (1, 1)
    assert merged.slo_stats["default"].met == 1
    assert merged.request_stats.time_to_first_token.count == merged.request_stats.queue_time.count == 1
    assert merged.request_stats.inter_token_latency.count == 3
    assert (merged.gauges.requests_running, merged.limits) == (3, SchedulerLimits(8, 256, 100))
    assert (merged.labels, merged.engine.kind, merged.role) == ({"model_name": "tiny"}, "sglang", "unified")


def test_the_port_is_the_tokenizer_managers_alone(start, tmp_path):
    tokenizer, scheduler = start(SNAPSHOT_DIR=str(tmp_path), PORT="0")
    assert tokenizer.batchscope._service.url is not None
    assert scheduler.batchscope._service.url is None


def test_without_a_directory_it_says_that_the_scheduler_is_not_recorded(start, caplog):
    tokenizer, scheduler = start()
    use(tokenizer, scheduler)
    assert scheduler.batchscope is None
    assert "BATCHSCOPE_SNAPSHOT_DIR" in caplog.text
    assert tokenizer.batchscope.collector.get_snapshot().request_stats.total_requests == 1


def test_a_rank_that_repeats_another_ones_work_stays_silent(start, tmp_path, caplog):
    _, scheduler = start(tp_rank=1, SNAPSHOT_DIR=str(tmp_path))
    assert scheduler.batchscope is None
    assert caplog.records == []


def test_calls_that_another_version_makes_otherwise_do_not_hurt_it(start):
    tokenizer, _ = start()
    tokenizer.observe_inter_token_latency({}, "soon", None)
    tokenizer.observe_time_to_first_token({}, 0.5, stream=True)
    snapshot = tokenizer.batchscope.collector.get_snapshot()
    assert snapshot.totals.rejected_records == {"integration_failed": 1}
    assert snapshot.histograms["time_to_first_token"]["default"].count == 1


def test_if_it_cannot_begin_the_engine_does_not_hear_of_it(plugin, monkeypatch, caplog, tmp_path):
    def fails(*_):
        raise RuntimeError("no")

    monkeypatch.setenv("BATCHSCOPE_SGLANG", "1")
    monkeypatch.setenv("BATCHSCOPE_SNAPSHOT_DIR", str(tmp_path))
    monkeypatch.setattr("batchscope.plugins.sglang_start.begin_tokenizer", fails)
    monkeypatch.setattr("batchscope.plugins.sglang_start.begin_scheduler", fails)
    tokenizer = plugin.BatchscopeTokenizerCollector(server_args=server_args(), labels={})
    scheduler = plugin.BatchscopeSchedulerCollector(labels={}, server_args=server_args())
    scheduler.emit_constants(max_total_num_tokens=1, page_size=1, num_pages=1)
    use(tokenizer, scheduler)
    assert (tokenizer.calls, scheduler.calls) == ALL_CALLS
    assert caplog.text.count("RuntimeError('no')") == 2


@pytest.mark.parametrize("named_late", [False, True])
def test_forward_passes_become_iterations_wherever_sglang_publishes_them(start, tmp_path, named_late):
    zmq = pytest.importorskip("zmq")
    base = f"ipc://{tmp_path}/fpm"
    settings = server_args(enable_forward_pass_metrics=True, forward_pass_metrics_ipc_name=None if named_late else base)
    _, scheduler = start(settings, SNAPSHOT_DIR=str(tmp_path / "snapshots"))
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.bind(f"{base}.0")
        settings.forward_pass_metrics_ipc_name = base
        scheduler.log_stats(stats())
        assert socket.poll(DEADLINE * 1000), "nobody subscribed"
        socket.recv()
        payload = msgspec.msgpack.encode(
            {"version": 1, "wall_time": 0.01, "scheduled_requests": {"num_decode_requests": 3}}
        )
        socket.send_multipart((b"", bytes(8), payload))
        _until(lambda: scheduler.batchscope.collector.get_snapshot().totals.iterations == 1)
    assert scheduler.batchscope.collector.get_snapshot().gauges.kv_cache_usage == 0.5


def _until(holds):
    for _ in range(int(DEADLINE / 0.01)):
        if holds():
            return
        threading.Event().wait(0.01)
    raise AssertionError("did not come to hold")


def test_without_sglang_the_error_says_what_is_needed(monkeypatch):
    for name in [name for name in sys.modules if name == "sglang" or name.startswith("sglang.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sglang", None)
    monkeypatch.delitem(sys.modules, "batchscope.plugins.sglang", raising=False)
    with pytest.raises(ImportError, match=r"needs SGLang 0\.5\.23") as caught:
        importlib.import_module("batchscope.plugins.sglang")
    assert isinstance(caught.value, BatchscopeError)


def test_the_entry_point_hooks_nothing_unless_switched_on(plugin, monkeypatch):
    register()
    assert HookRegistry.hooks == []
    monkeypatch.setenv("BATCHSCOPE_SGLANG", "1")
    register()
    assert HookRegistry.hooks == [(HOOKED, choose, "around")]


def test_only_sglangs_own_collectors_are_replaced(plugin):
    other = type("Other", (SchedulerMetricsCollector,), {})
    assert choose(lambda _, default: default, "scheduler", SchedulerMetricsCollector) is (
        plugin.BatchscopeSchedulerCollector
    )
    assert choose(lambda *_: other, "scheduler", SchedulerMetricsCollector) is other
    assert choose(lambda _, default: default, "storage", dict) is dict
    assert choose(lambda _, default: default, "scheduler", dict) is dict
