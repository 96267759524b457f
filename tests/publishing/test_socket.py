import logging
import os
import socket
import stat
import struct
import threading

import pytest
from fleet_doubles import Clock, Engine

from batchscope.errors import ConfigurationError
from batchscope.publishing import SnapshotDirectory, SnapshotSocket, frame, socket_reader
from batchscope.publishing.publication import Publication, encode


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "fleet.sock")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def reader(path, clock):
    with SnapshotSocket(path, clock=clock, max_age=0.0) as reader:
        yield reader


@pytest.fixture
def sender(path):
    """Makes engines that send to the path, and closes their connections."""
    made = []

    def sending(to=path):
        made.append(Engine(f"unix:{to}"))
        return made[-1]

    yield sending
    for engine in made:
        engine.publisher._transport.close()


def served(reader):
    return reader.get_snapshot().request_stats.total_requests


def connected(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30.0)
    connection.connect(path)
    return connection


def closed_by_reader(connection):
    """Waits for the reader's end of the connection."""
    with connection:
        try:
            return connection.recv(8) == b""
        except ConnectionResetError:
            return True


def eventually(holds):
    """Polls ``holds`` for half a minute."""
    pause = threading.Event()
    return any(holds() or pause.wait(0.01) for _ in range(3000))


def test_what_is_sent_is_what_a_directory_would_give(tmp_path, path, reader, clock, sender):
    engines = [sender().serve(n).publish() for n in (1, 2, 3)]
    for engine in engines:
        engine.publish()
    found = reader.get_snapshot()
    assert found.request_stats.total_requests == 6
    assert found.gauges.requests_running == 6
    assert found.merged_from == sorted(engine.collector.get_snapshot().instance_id for engine in engines)
    assert reader.read_totals().totals == found.totals


def test_a_reader_may_come_later_than_its_publishers(path, sender):
    engine = sender().serve(3)
    assert not engine.publisher.publish_now()
    assert engine.publisher.failures == 1
    with SnapshotSocket(path) as reader:
        engine.publish()
        assert served(reader) == 3
    assert not engine.publisher.publish_now()
    with SnapshotSocket(path) as again:
        engine.publish()
        assert served(again) == 3


def test_the_silent_keep_their_counts_and_a_revenant_counts_once(path, reader, clock, sender):
    engine = sender().serve(3).publish()
    clock.now += 10.0
    found = reader.get_snapshot()
    assert (found.request_stats.total_requests, found.gauges.requests_running) == (3, None)
    engine.serve(2).publish()
    found = reader.get_snapshot()
    assert (found.request_stats.total_requests, found.gauges.requests_running) == (5, 2)


def test_the_answer_that_got_lost_counts_nothing_twice(path, reader, clock, monkeypatch, sender):
    """The publisher does not know whether its publication arrived; meanwhile it was folded."""
    engine = sender().serve(3).publish()
    transport = engine.publisher._transport
    answer = transport._answer

    def lost(connection):
        answer(connection)
        raise TimeoutError

    monkeypatch.setattr(transport, "_answer", lost)
    engine.serve(1)
    assert not engine.publisher.publish_now()
    monkeypatch.undo()
    assert served(reader) == 4
    clock.now += 10.0
    assert served(reader) == 4
    engine.serve(1).publish()
    assert served(reader) == 5


def test_many_short_lives_leave_little_behind(path, reader, sender):
    for number in range(30):
        with sender().serve(2).publisher:
            pass
        assert served(reader) == 2 * (number + 1)
        assert len(reader._members) == 0
        assert len(reader._members.archive.header.final) <= 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack(">I", 5) + b"hello", "foreign"),
        (struct.pack(">I", 6) + b'{"form', "truncated"),
        (struct.pack(">I", 12) + b"hello\nworld!", "foreign"),
        (struct.pack(">I", 0), "foreign"),
        (struct.pack(">I", frame.MAX_BYTES + 1), "oversized"),
        (b"GET / HTTP/1.1\r\n\r\n", "oversized"),
    ],
)
def test_garbage_is_disconnected_counted_and_hurts_nobody(path, reader, data, reason, caplog, sender):
    engine = sender().serve(2).publish()
    with caplog.at_level(logging.WARNING, "batchscope"):
        connection = connected(path)
        connection.sendall(data)
        assert closed_by_reader(connection)
    assert reader.skipped == {reason: 1}
    assert sum(reason in record.getMessage() for record in caplog.records) == 1
    engine.serve(1).publish()
    assert served(reader) == 3
    assert reader.get_snapshot().totals.rejected_records == {f"snapshot_file_{reason}": 1}


def test_half_a_message_and_a_hang_up_is_counted(path, reader):
    with connected(path) as connection:
        connection.sendall(struct.pack(">I", 1000) + b"half")
    assert eventually(lambda: reader.skipped == {"truncated": 1})


def test_a_peer_that_never_completes_its_message_is_disconnected(path):
    with SnapshotSocket(path, timeout=0.05) as reader:
        connection = connected(path)
        connection.sendall(b"\0")
        assert closed_by_reader(connection)
        assert reader.skipped == {"slow": 1}


def test_a_connection_speaks_for_one_instance(path, reader):
    """So that one peer cannot fill the reader with names."""
    one, other = (Engine.collector.get_snapshot() for Engine in (Quiet(), Quiet()))
    connection = connected(path)
    for snapshot in (one, other):
        data = encode(Publication(snapshot.instance_id, 0, snapshot.sequence, False, snapshot))
        connection.sendall(struct.pack(">I", len(data)) + data)
    assert connection.recv(8) == bytes(8)
    assert closed_by_reader(connection)
    assert reader.skipped == {"foreign": 1}


class Quiet(Engine):
    def __init__(self):
        super().__init__("unix:/nowhere")


def test_too_many_connections_are_refused_one_by_one(path, reader, monkeypatch, sender):
    monkeypatch.setattr(socket_reader, "MOST_PEERS", 2)
    first, second = connected(path), connected(path)
    assert closed_by_reader(connected(path))
    assert reader.skipped == {"crowd": 1}
    first.close()
    second.close()
    engine = sender().serve(1)
    assert eventually(engine.publisher.publish_now)
    assert served(reader) == 1


def test_too_many_instances_are_refused(path, reader, monkeypatch, sender):
    monkeypatch.setattr(socket_reader, "MOST_MEMBERS", 1)
    sender().serve(1).publish()
    assert not sender().serve(1).publisher.publish_now()
    assert (served(reader), reader.skipped) == (1, {"crowd": 1})


def test_bytes_that_wait_are_bounded_over_all_connections(path, reader, monkeypatch):
    monkeypatch.setattr(socket_reader, "MOST_BUFFERED", 1000)
    with connected(path) as patient:
        patient.sendall(struct.pack(">I", 10_000) + bytes(600))
        greedy = connected(path)
        greedy.sendall(struct.pack(">I", 10_000) + bytes(600))
        assert eventually(lambda: reader.skipped == {"crowd": 1})
        greedy.close()


def test_only_the_owner_may_connect(path, reader):
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_the_socket_of_a_dead_reader_is_replaced_and_that_of_a_living_one_is_not(path, clock, sender):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with SnapshotSocket(path) as reader:
        with pytest.raises(ConfigurationError, match="no other reader"):
            SnapshotSocket(path)
        sender().serve(1).publish()
        assert served(reader) == 1
    assert not os.path.exists(path)


def test_another_kind_of_file_is_not_replaced(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match="another kind"):
        SnapshotSocket(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="socket can be made"):
        SnapshotSocket(tmp_path / "none" / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_path_that_the_kernel_does_not_take_is_said_at_construction(tmp_path, sender):
    long = tmp_path / ("x" * 108)
    with pytest.raises(ConfigurationError, match=r"1\.\.107 bytes"):
        SnapshotSocket(long)
    with pytest.raises(ConfigurationError, match=r"1\.\.107 bytes"):
        sender(long)


def test_a_closed_reader_ends_its_thread_and_keeps_its_last_merge(path, sender):
    reader = SnapshotSocket(path)
    sender().serve(2).publish()
    reader.close()
    reader.close()
    assert "batchscope-socket" not in {thread.name for thread in threading.enumerate()}
    assert (reader.closed, served(reader)) == (True, 2)


def test_readers_are_one_kind_of_source(tmp_path, path, reader):
    from batchscope.statistics.cumulative import StateSource

    names = {name for name in vars(StateSource) if not name.startswith("_")}
    for kind in (SnapshotDirectory, SnapshotSocket):
        assert all(hasattr(kind, name) for name in names)
