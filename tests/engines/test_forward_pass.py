"""Forward-pass metrics of another process: messages become iterations, and what is lost on the way is counted."""

import sys
import threading
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope import BatchLimiter, ConfigurationError, MissingExtraError, SchedulerLimits, SchedulerMetricsCollector
from batchscope.engines.forward_pass import ForwardPasses, ForwardPassReader
from batchscope.testing import RecordingMetrics

encode = msgspec.msgpack.encode
DEADLINE = 20.0


def message(counter=0, wall=0.05, prefill=2, tokens=700, decode=30, queued=5, preempted=1, **other):
    """As SGLang 0.5.23 encodes it, the fields we do not read included."""
    return encode(
        {
            "version": 1, "worker_id": "w", "dp_rank": 0, "counter_id": counter, "wall_time": wall,
            "scheduled_requests": {
                "num_prefill_requests": prefill, "sum_prefill_tokens": tokens, "var_prefill_length": 2.5,
                "sum_prefill_kv_tokens": 64, "num_decode_requests": decode, "sum_decode_kv_tokens": 9000,
                "var_decode_kv_tokens": 3.5,
            },
            "queued_requests": {
                "num_prefill_requests": queued, "sum_prefill_tokens": 999, "var_prefill_length": 0.0,
                "num_decode_requests": preempted, "sum_decode_kv_tokens": 100, "var_decode_kv_tokens": 0.0,
            },
        } | other
    )  # fmt: skip


def test_a_message_is_an_iteration_of_its_rank():
    metrics = RecordingMetrics()
    ForwardPasses(metrics).feed(message(counter=7, dp_rank=3), 10.0)
    [iteration] = metrics.iterations
    assert (iteration.iteration_number, iteration.rank) == (7, 3)
    assert (iteration.request_count, iteration.prefill_requests, iteration.waiting_requests) == (32, 2, 6)
    assert (iteration.scheduled_tokens, iteration.prefill_tokens, iteration.tokens_generated) == (730, 700, 30)
    assert (iteration.started_at, iteration.finished_at) == (9.95, 10.0)
    assert iteration.decode_context_tokens == 9000


def test_the_collector_gets_utilization_and_limiter_from_it():
    now = [1.0]
    collector = SchedulerMetricsCollector(limits=SchedulerLimits(32, 2048), clock=lambda: now[0])
    passes = ForwardPasses(collector)
    for counter in range(10):
        now[0] += 0.0625
        passes.feed(message(counter, wall=0.0625), now[0])
    snapshot = collector.get_snapshot()
    assert snapshot.totals.iterations == 10
    assert snapshot.iteration_stats.time_weighted_utilization == 1.0
    assert snapshot.totals.busy_seconds == pytest.approx(0.625)
    assert snapshot.totals.rejected_records == {}
    assert "each sender's own" in snapshot.definitions["iteration_duration"]
    assert snapshot.iteration_stats.limited_by[BatchLimiter.REQUEST_SLOTS] == 1.0  # inferred: a full batch, a queue


def test_a_heartbeat_is_no_iteration():
    metrics = RecordingMetrics()
    passes = ForwardPasses(metrics)
    passes.feed(message(prefill=0, tokens=0, decode=0, wall=0.0), 1.0)
    assert (metrics.iterations, passes.idle, passes.received) == ([], 1, 1)


def test_gaps_in_the_sequence_are_counted_for_each_sender_and_a_restart_is_none():
    metrics = RecordingMetrics()
    passes = ForwardPasses(metrics)
    for counter, rank in ((0, 0), (1, 0), (5, 0), (6, 0), (0, 1), (1, 1), (0, 0), (1, 0)):
        passes.feed(message(counter, dp_rank=rank), 1.0)
    assert passes.missed == 3
    assert [error.error_type for error in metrics.errors] == ["forward_pass_messages_missed"]


def test_another_version_is_counted_and_left_out():
    metrics = RecordingMetrics()
    passes = ForwardPasses(metrics)
    passes.feed(message(version=2), 1.0)
    assert (passes.foreign, metrics.iterations) == (1, [])
    assert metrics.errors[0].error_type == "forward_pass_message_foreign"


def test_messages_of_older_sglang_without_a_version_are_taken_and_other_maps_without_one_are_not():
    metrics = RecordingMetrics()
    passes = ForwardPasses(metrics)
    older = msgspec.msgpack.decode(message(counter=3))
    del older["version"]
    passes.feed(encode(older), 1.0)
    passes.feed(encode({"temperature": 21}), 1.0)
    passes.feed(encode(older | {"version": 0}), 1.0)
    assert (passes.received, passes.foreign) == (1, 2)
    assert [iteration.iteration_number for iteration in metrics.iterations] == [3]


def test_the_queue_in_tokens_is_that_of_each_ranks_last_message():
    passes = ForwardPasses(RecordingMetrics())
    assert passes.queued_tokens == 0
    for counter, rank in ((0, 0), (1, 0), (0, 1)):
        passes.feed(message(counter, dp_rank=rank), 1.0)
    assert passes.queued_tokens == 2 * (999 + 100)
    last = passes.latest["w", 0]
    assert (last.counter_id, last.scheduled_requests.sum_prefill_kv_tokens) == (1, 64)
    assert (last.scheduled_requests.var_decode_kv_tokens, last.queued_requests.sum_prefill_tokens) == (3.5, 999)
    passes.feed(encode({"version": 1, "worker_id": "w"}), 2.0)  # a heartbeat: nobody waits
    assert passes.queued_tokens == 999 + 100


def test_workers_that_come_and_go_for_ever_do_not_fill_the_memory():
    passes = ForwardPasses(RecordingMetrics())
    for worker in range(1500):
        passes.feed(message(0, worker_id=str(worker)), 1.0)
    assert len(passes.latest) == 1024
    assert ("1499", 0) in passes.latest


@pytest.mark.parametrize(
    ("sender", "scope", "expected"),
    [
        ("sglang", "", "span on the GPU"),
        ("dynamo", "", "from one update_from_output to the next"),
        ("", "execute_model_cuda", "execute_model on the GPU, by CUDA events"),
        ("dynamo", "host\x1b[31m", "timing_scope 'host\\x1b[31m', which is not known"),
    ],
)
def test_what_wall_time_is_follows_the_sender_and_the_message_itself(sender, scope, expected):
    collector = SchedulerMetricsCollector()
    ForwardPasses(collector, sender=sender).feed(message(timing_scope=scope), 1.0)
    assert expected in collector.get_snapshot().definitions["iteration_duration"]


def test_a_sender_nobody_knows_is_refused():
    with pytest.raises(ConfigurationError, match="sglang, dynamo"):
        ForwardPasses(RecordingMetrics(), sender="vllm")


def test_unknown_fields_are_ignored_and_missing_ones_are_zero():
    metrics = RecordingMetrics()
    passes = ForwardPasses(metrics)
    passes.feed(message(timing_scope="execute_model_cuda"), 1.0)
    passes.feed(encode({"version": 1, "scheduled_requests": {"num_decode_requests": 4}}), 2.0)
    assert [iteration.request_count for iteration in metrics.iterations] == [32, 4]


@given(st.binary(max_size=200))
def test_no_bytes_hurt(payload):
    metrics = RecordingMetrics()
    passes = ForwardPasses(metrics)
    passes.feed(payload, 1.0)
    assert passes.undecodable + passes.foreign + passes.received == 1


@pytest.fixture
def publisher(tmp_path):
    zmq = pytest.importorskip("zmq", reason="pyzmq is not installed")
    context = zmq.Context()
    sockets = []

    def bind():
        socket = context.socket(zmq.PUB)
        socket.setsockopt(zmq.LINGER, 0)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        sockets.append(socket)
        return socket, f"tcp://127.0.0.1:{port}"

    yield bind
    for socket in sockets:
        socket.close()
    context.term()


def send_until(socket, frames, arrived):
    """A subscription takes effect a moment after it was made: the first messages may fall into the void."""
    pause = threading.Event()
    end = time.monotonic() + DEADLINE
    while not arrived():
        assert time.monotonic() < end, "nothing arrived"
        socket.send_multipart(frames)
        pause.wait(0.01)


def test_messages_of_several_ranks_arrive_over_zmq(publisher):
    (one, first), (other, second) = publisher(), publisher()
    collector = SchedulerMetricsCollector()
    with ForwardPassReader(collector, [first, second], clock=time.monotonic) as reader:
        send_until(one, [b"", b"\0" * 8, message(0)], lambda: reader.passes.received > 0)
        before = reader.passes.received
        send_until(other, [message(0, dp_rank=1)], lambda: reader.passes.received > before)
        send_until(one, [b"junk"], lambda: reader.passes.undecodable > 0)
    reader.close()
    snapshot = collector.get_snapshot()
    assert snapshot.totals.iterations == reader.passes.received
    assert snapshot.error_stats.errors_by_type["forward_pass_message_undecodable"] == reader.passes.undecodable


def test_a_wrong_endpoint_is_said_with_what_is_allowed():
    pytest.importorskip("zmq", reason="pyzmq is not installed")
    for wrong in ("nonsense", "tcp://", []):
        with pytest.raises(ConfigurationError, match="endpoint"):
            ForwardPassReader(RecordingMetrics(), wrong, clock=time.monotonic)


def test_without_pyzmq_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(MissingExtraError, match=r"batchscope\[zmq\]"):
        ForwardPassReader(RecordingMetrics(), "tcp://127.0.0.1:1", clock=time.monotonic)
