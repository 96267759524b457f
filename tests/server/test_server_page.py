"""The page at the endpoint: HTML for browsers, files without a token, figures only with it."""

import contextlib
import gzip
import http.client
import json
import os
import signal
import threading
import warnings

import pytest
from server_doubles import Source, ask, fetch

from batchscope import SchedulerMetricsCollector
from batchscope.dashboard.history import History
from batchscope.dashboard.recorder import Recorder
from batchscope.server import make_asgi_app, serve

TOKEN = "s3cret"  # noqa: S105  (of this test)
BROWSER = [("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8")]


@pytest.fixture(autouse=True)
def _no_token_around(monkeypatch):
    monkeypatch.delenv("BATCHSCOPE_TOKEN", raising=False)


@pytest.fixture
def source():
    """One whose history, once asked for, ends with the test."""
    source = Source()
    yield source
    source.closed = True


def test_a_browser_gets_the_page_and_others_the_index_as_ever():
    app = make_asgi_app(Source())
    page = ask(app, "/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert b"<title>batchscope</title>" in page.body
    assert "Accept" in page.headers["vary"]
    for accept in (
        [],
        [("Accept", "*/*")],
        [("Accept", "application/json")],
        [("Accept", "application/json, text/html;q=0.9")],
    ):
        assert "/history" in ask(app, "/", headers=accept).json()["endpoints"]


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/page/colors.css", "/page/page.css"])
def test_the_files_carry_a_strict_policy_and_need_no_token(path):
    source = Source()
    answer = ask(make_asgi_app(source, token=TOKEN), path, headers=BROWSER)
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert source.reads == 0


def test_the_figures_need_the_token(source):
    app = make_asgi_app(source, token=TOKEN)
    assert ask(app, "/history").status == 401
    assert ask(app, "/history", query=f"token={TOKEN}").status == 401
    assert ask(app, "/history", headers=[("Authorization", f"Bearer {TOKEN}")]).status == 200


@pytest.mark.parametrize(
    "path", ["/page/", "/page/index.html", "/page/../app.py", "/page/__init__.py", "/page/nothing.js"]
)
def test_nothing_else_is_there(path):
    assert ask(make_asgi_app(Source()), path, headers=BROWSER).status == 404


def test_a_file_that_a_browser_has_is_not_sent_again_and_others_are_packed():
    app = make_asgi_app(Source())
    plain = ask(app, "/page/app.js")
    packed = ask(app, "/page/app.js", headers=[("Accept-Encoding", "gzip")])
    assert gzip.decompress(packed.body) == plain.body
    again = ask(app, "/page/app.js", headers=[("If-None-Match", plain.headers["etag"])])
    assert (again.status, again.body) == (304, b"")


def test_mounted_below_a_path_it_is_there_too():
    from starlette.applications import Starlette
    from starlette.routing import Mount

    app = Starlette(routes=[Mount("/batchscope", make_asgi_app(Source()))])
    assert b"<title>" in ask(app, "/batchscope/", headers=BROWSER).body
    assert ask(app, "/batchscope/page/app.js").headers["content-type"].startswith("text/javascript")


def test_it_can_be_switched_off():
    source = Source()
    with serve(source, port=0, page=False) as handle:
        assert "/history" not in json.loads(fetch(handle, "/", headers=dict(BROWSER)).body)["endpoints"]
        assert fetch(handle, "/history").status == 404
        assert fetch(handle, "/page/app.js").status == 404
    assert source.reads == 0


def test_on_loopback_a_foreign_name_gets_neither_page_nor_figures():
    """DNS rebinding: a page of evil.example leads its own name to 127.0.0.1."""
    with serve(Source(), port=0) as handle:
        for path in ("/", "/page/app.js", "/history"):
            assert fetch(handle, path, headers={"Host": "evil.example", **dict(BROWSER)}).status == 421
            assert fetch(handle, path, headers=dict(BROWSER)).status == 200


def test_a_closed_source_answers_503_and_why():
    source = Source()
    app = make_asgi_app(source)
    source.closed = True
    answer = ask(app, "/history")
    assert answer.status == 503
    assert "closed" in answer.json()["error"]


def test_a_source_that_hangs_holds_up_neither_the_start_nor_the_end():
    source = Source()
    source.gate.clear()
    try:
        with serve(source, port=0) as handle:
            assert fetch(handle, "/", headers=dict(BROWSER)).status == 200
    finally:
        source.gate.set()


@pytest.mark.parametrize(
    "query", ["since=x", "seconds=7", "last=-1", "last=99999999999", "since=&seconds=10&last=50", "since=%00"]
)
def test_any_query_is_answered(query, source):
    assert ask(make_asgi_app(source), "/history", query=query).json()["schema"] == "batchscope.history/1"


def test_who_still_asks_while_it_ends_does_not_begin_the_history_anew():
    with SchedulerMetricsCollector() as collector:
        recorder = Recorder(collector)
        recorder.start()
        recorder.close()
        recorder.start()
        assert not recorder._periodic.running


def test_of_a_closed_source_no_history_is_begun():
    collector = SchedulerMetricsCollector()
    collector.close()
    with Recorder(collector) as recorder:
        recorder.start()
        assert not recorder._periodic.running


def test_before_its_first_sample_the_history_has_a_time():
    with SchedulerMetricsCollector() as collector, Recorder(collector, wall=lambda: 1_764_345_600.7) as recorder:
        recorder.start()
        assert recorder.history.newest == 1_764_345_600


def test_the_threads_of_its_history_end_with_it_although_viewers_ask_on():
    before = {thread for thread in threading.enumerate() if thread.name == "batchscope-history"}
    ended = threading.Event()
    with SchedulerMetricsCollector() as collector, serve(collector, port=0) as handle:
        viewers = [threading.Thread(target=_ask_on, args=(handle, ended)) for _ in range(4)]
        for viewer in viewers:
            viewer.start()
        handle.close()
        ended.set()
        for viewer in viewers:
            viewer.join()
        after = {thread for thread in threading.enumerate() if thread.name == "batchscope-history"}
        assert after - before == set()  # those of other tests may end meanwhile


def _ask_on(handle, ended):
    while not ended.is_set():
        with contextlib.suppress(OSError, http.client.HTTPException):
            fetch(handle, "/history")


def test_a_forked_child_can_read_the_history_whoever_held_its_lock():
    history = History()
    with history._lock:
        with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns of forks beside threads
            child = os.fork()
        if not child:
            signal.alarm(20)
            os._exit(0 if history.since().newest == 0 else 1)
        assert os.waitpid(child, 0)[1] == 0
