"""Bad clients, over real loopback: slow, silent, greedy, many. The server lets them go and serves the others."""

import math
import select

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_doubles import WAIT, Source, connect, ended, fetch

from batchscope import ConfigurationError
from batchscope.server import ConnectionLimits, serve
from batchscope.server.guard import Guard


@pytest.fixture(autouse=True)
def _no_token_around(monkeypatch):
    monkeypatch.delenv("BATCHSCOPE_TOKEN", raising=False)


@pytest.fixture
def handle():
    with serve(Source(), port=0) as running:
        yield running


def limited(source=None, **limits):
    return serve(source or Source(), port=0, limits=ConnectionLimits(**limits))


def test_oversized_headers_are_refused(handle):
    with connect(handle) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Large: " + b"a" * 40_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
        assert ended(connection)
    assert fetch(handle).status == 200


def answer_to(handle, sent):
    with connect(handle) as connection:
        connection.sendall(sent)
        status = connection.recv(65536)
        assert ended(connection)
        return status.partition(b"\r\n")[0].decode().removeprefix("HTTP/1.1 ")


LINES = b"GET %s HTTP/1.1\r\nHost: localhost\r\n%sConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        (b"/healthz", b"X-Large: " + b"a" * 16_000 + b"\r\n", "200 OK"),
        (b"/healthz", b"X-Large: " + b"a" * 16_400 + b"\r\n", "400 Bad Request"),
        (b"/healthz", b"X-Large: " + b"a" * 60_000 + b"\r\n", "400 Bad Request"),
        (b"/healthz", b"X-Small: a\r\n" * 3_000, "400 Bad Request"),
        (b"/healthz?" + b"a" * 60_000, b"", "400 Bad Request"),
    ],
)
def test_headers_are_bounded_also_when_they_come_in_one_piece(handle, target, fields, status):
    assert answer_to(handle, LINES % (target, fields)) == status


def test_many_small_requests_in_one_piece_are_all_answered():
    """The bound is a request's, not a piece's: 500 of them are 60 kB."""
    with limited(header_bytes=1024) as running, connect(running) as connection:
        connection.sendall((LINES % (b"/healthz", b"")).replace(b"close", b"keep-alive") * 500)
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 500:
            piece = connection.recv(65536)
            assert piece
            received += piece


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://localhost:9464/healthz", "200 OK"),
        (b"HTTP://LOCALHOST/metrics?name[]=batchscope_iterations_total", "200 OK"),
        (b"https://127.0.0.1", "200 OK"),
        (b"http://localhost?histograms=1", "200 OK"),
        (b"http://localhost/nothing", "404 Not Found"),
        (b"http:///metrics", "404 Not Found"),
        (b"ftp://localhost/metrics", "404 Not Found"),
        (b"http://evil.example/metrics", "421 Misdirected Request"),
    ],
)
def test_a_target_in_absolute_form_is_answered_and_its_host_counts(handle, target, status):
    """RFC 9112, 3.2.2: the Host header beside it is ignored."""
    assert answer_to(handle, LINES % (target, b"")) == status


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"no http at all\r\n\r\n"])
def test_garbage_is_refused_and_fills_no_log(handle, junk, caplog, capfd):
    with connect(handle) as connection:
        connection.sendall(junk)
        assert ended(connection)
    assert fetch(handle).status == 200
    assert not caplog.records
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"])
def test_who_does_not_finish_its_headers_is_let_go(sent):
    with limited(header_seconds=0.1) as running, connect(running) as connection:
        connection.sendall(sent)
        assert ended(connection)
        assert fetch(running).status == 200


def test_who_does_not_finish_a_second_request_is_let_go():
    with limited(header_seconds=0.1, idle_seconds=60.0) as running, connect(running) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /healthz HT")
        assert ended(connection)


def test_who_asks_for_nothing_more_is_let_go():
    with limited(idle_seconds=0.1) as running, connect(running) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert ended(connection)


def test_who_does_not_take_its_answers_is_let_go():
    with limited(answer_seconds=0.2) as running, connect(running) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
        waiting = select.poll()
        waiting.register(connection, select.POLLHUP | select.POLLERR | select.POLLRDHUP)
        assert waiting.poll(WAIT * 1000)
        assert fetch(running).status == 200


def test_headers_that_come_in_parts_are_answered(handle):
    with connect(handle) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHo")
        assert fetch(handle).status == 200
        connection.sendall(b"st: localhost\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert ended(connection)


def test_idle_connections_are_bounded_and_make_room_for_a_scrape():
    with limited(connections=50, header_seconds=60.0) as running:
        idle = [connect(running) for _ in range(200)]
        assert fetch(running).status == 200
        assert all(ended(connection) for connection in idle[:150])
        guard = running._server.guard
        assert guard.count <= 50
        for connection in idle:
            connection.close()


class Client:
    def __init__(self, guard):
        self.guard, self.dropped = guard, False

    def drop(self):
        self.dropped = True
        self.guard.forget(self)


@given(
    st.integers(1, 4), st.lists(st.tuples(st.sampled_from(["admit", "busy", "silent", "forget"]), st.integers(0, 9)))
)
def test_whatever_clients_do_no_more_have_a_place_than_there_are(places, story):
    """Also when the loop hears late of what one did that is gone."""
    guard = Guard(ConnectionLimits(connections=places))
    clients = {}
    for event, number in story:
        if event == "admit":
            clients[number] = Client(guard)
        if number in clients:
            getattr(guard, event)(clients[number])
        assert guard.count <= places


def test_with_all_places_busy_a_newcomer_is_refused_and_nobody_is_cut_off():
    source = Source()
    source.gate.clear()
    with limited(source, connections=1) as running, connect(running) as first:
        first.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert source.reading.wait(WAIT)
        try:
            with connect(running) as second:
                assert ended(second)
        except ConnectionResetError:
            pass  # so early that connecting itself failed
        source.gate.set()
        assert first.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "bad",
    [
        {"connections": 0},
        {"connections": 1.5},
        {"header_bytes": 100},
        {"header_seconds": 0},
        {"answer_seconds": math.inf},
        {"idle_seconds": math.nan},
        {"idle_seconds": "1"},
    ],
)
def test_limits_that_are_none_are_refused(bad):
    [field] = bad
    with pytest.raises(ConfigurationError, match=field):
        ConnectionLimits(**bad)
