"""The application: formats, filter, compression, health, tokens, refusals."""

import asyncio
import gzip
import json
import math
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text
from server_doubles import WAIT, Source, ask, call, fetch
from starlette.responses import Response
from starlette.routing import Route

from batchscope import BatchscopeError, ConfigurationError, decode_snapshot
from batchscope.errors import MissingExtraError
from batchscope.exporters.prometheus import Format, render_protobuf
from batchscope.server import make_asgi_app, serve

TOKEN = "s3cret"  # noqa: S105  (of this test)
PROTO = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"


@pytest.fixture(autouse=True)
def _no_token_around(monkeypatch):
    monkeypatch.delenv("BATCHSCOPE_TOKEN", raising=False)


def names(answer):
    return {family.name for family in parse_text(answer.body.decode())}


def test_text_is_what_everybody_gets_who_asks_for_nothing_else():
    answer = ask(make_asgi_app(Source()))
    assert answer.status == 200
    assert answer.headers["content-type"] == Format.TEXT.value
    assert "batchscope_iterations" in names(answer)
    assert answer.headers["cache-control"] == "no-store"
    assert "Accept" in answer.headers["vary"]


def test_openmetrics_and_protobuf_are_for_who_asks():
    source = Source()
    app = make_asgi_app(source)
    answer = ask(app, headers=[("Accept", "application/openmetrics-text;version=1.0.0,*/*;q=0.1")])
    assert answer.headers["content-type"] == Format.OPENMETRICS.value
    assert answer.body.endswith(b"# EOF\n")
    answer = ask(app, headers=[("Accept", "text/plain;q=0.5"), ("Accept", PROTO)])
    assert answer.headers["content-type"] == Format.PROTOBUF.value
    assert answer.body == render_protobuf(source.read_totals())


def test_a_filter_picks_families_by_any_of_their_names():
    query = "name[]=batchscope_iterations_total&name%5B%5D=batchscope_batch_size_requests_sum"
    answer = ask(make_asgi_app(Source()), query=query)
    assert names(answer) == {"batchscope_iterations", "batchscope_batch_size_requests"}
    assert ask(make_asgi_app(Source()), query="name[]=nothing").body == b""


def test_gzip_is_for_who_takes_it_and_worth_it():
    app = make_asgi_app(Source())
    plain = ask(app)
    packed = ask(app, headers=[("Accept-Encoding", "gzip")])
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 3
    assert names(plain) == {f.name for f in parse_text(gzip.decompress(packed.body).decode())}
    assert "content-encoding" not in plain.headers
    small = ask(app, query="name[]=batchscope_info", headers=[("Accept-Encoding", "gzip")])
    assert "content-encoding" not in small.headers


def test_the_snapshot_is_the_document_with_histograms_on_demand():
    app = make_asgi_app(Source())
    answer = ask(app, "/snapshot")
    assert answer.headers["content-type"] == "application/json"
    assert not decode_snapshot(answer.body).histograms
    assert decode_snapshot(ask(app, "/snapshot", query="histograms=1").body).histograms


def test_health_is_200_or_503_with_the_reason():
    app = make_asgi_app(Source())
    answer = ask(app, "/healthz")
    assert (answer.status, answer.json()["status"]) == (200, "ok")
    stalled = {"requests_in_flight": 2, "requests_waiting": 2, "seconds_since_last_iteration": 61.0}
    answer = ask(make_asgi_app(Source(**stalled)), "/healthz")
    assert (answer.status, answer.json()["status"]) == (503, "stalled")
    assert "2 requests wait" in answer.json()["reason"]
    assert ask(make_asgi_app(Source(**stalled), stall_seconds=70.0), "/healthz").status == 200


def test_a_closed_source_answers_503_everywhere_but_the_index():
    source = Source()
    app = make_asgi_app(source)
    source.closed = True
    for path in ("/metrics", "/snapshot", "/healthz"):
        answer = ask(app, path)
        assert answer.status == 503
        assert "closed" in answer.body.decode()
    assert source.reads == 0
    assert ask(app, "/").status == 200


def test_a_source_that_cannot_be_read_answers_503_and_recovers():
    source = Source()
    app = make_asgi_app(source)
    source.error = BatchscopeError("no snapshots yet")
    answer = ask(app)
    assert (answer.status, answer.json()["error"]) == (503, "no snapshots yet")
    source.error = None
    assert ask(app).status == 200


def test_a_defect_answers_500_without_its_text():
    source = Source()
    source.error = RuntimeError("path of somebody's file")
    with pytest.raises(RuntimeError):  # handed on to the server, which logs it
        ask(make_asgi_app(source))


@pytest.mark.parametrize("path", ["/nothing", "/metrics/x", "/metrics/", "/../etc"])
def test_other_paths_are_404_in_json(path):
    answer = ask(make_asgi_app(Source()), path)
    assert answer.status == 404
    assert "/metrics" in answer.json()["error"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/metrics", "/snapshot", "/healthz"])
def test_other_methods_are_405_with_allow(method, path):
    source = Source()
    answer = ask(make_asgi_app(source), path, method=method)
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert "GET" in answer.json()["error"]
    assert source.reads == 0


def test_head_has_the_headers_of_get():
    app = make_asgi_app(Source())
    assert ask(app, method="HEAD").headers["content-type"] == Format.TEXT.value


def test_the_index_lists_the_endpoints():
    assert set(ask(make_asgi_app(Source()), "/").json()["endpoints"]) == {
        "/metrics",
        "/snapshot",
        "/healthz",
        "/history",
    }


@pytest.mark.parametrize("path", ["/", "/metrics", "/snapshot", "/healthz", "/nothing"])
def test_without_the_token_nobody_learns_anything(path):
    source = Source()
    app = make_asgi_app(source, token=TOKEN)
    for headers in ([], [("Authorization", "Bearer wrong")], [("Authorization", f"Basic {TOKEN}")]):
        answer = ask(app, path, headers=headers, query=f"token={TOKEN}")
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert TOKEN not in answer.body.decode()
    assert source.reads == 0
    assert ask(app, path, headers=[("Authorization", f"Bearer {TOKEN}")]).status != 401


async def history(_request):
    """The last hour.

    Nobody reads on.
    """
    return Response(b"an hour")


ADDED = [Route("/yesterday", history, methods=["GET"])]


def test_a_route_that_is_added_is_answered_listed_and_behind_the_token():
    app = make_asgi_app(Source(), routes=ADDED, token=TOKEN)
    known = [("Authorization", f"Bearer {TOKEN}")]
    assert ask(app, "/yesterday").status == 401
    assert ask(app, "/yesterday", headers=known).body == b"an hour"
    assert ask(app, "/", headers=known).json()["endpoints"]["/yesterday"] == "The last hour."
    assert "/history, /yesterday" in ask(app, "/nothing", headers=known).json()["error"]
    assert ask(app, "/yesterday", method="POST", headers=known).status == 405


@pytest.mark.parametrize("path", ["/", "/metrics", "/snapshot", "/healthz"])
def test_a_route_that_is_added_takes_the_place_of_none_of_ours(path):
    taken = make_asgi_app(Source(), routes=[Route(path, history)])
    assert ask(taken, path).body != b"an hour"


def test_a_route_that_is_added_is_answered_under_our_names_only():
    with serve(Source(), port=0, routes=ADDED) as handle:
        assert fetch(handle, "/yesterday").body == b"an hour"
        assert fetch(handle, "/yesterday", headers={"Host": "evil.example"}).status == 421


def test_a_websocket_without_the_token_is_closed():
    sent = []

    async def send(message):
        sent.append(message)

    app = make_asgi_app(Source(), token=TOKEN)
    asyncio.run(app({"type": "websocket", "path": "/metrics", "headers": []}, None, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_the_token_may_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    (tmp_path / "token").write_text(TOKEN)
    assert ask(make_asgi_app(Source(), token_file=tmp_path / "token")).status == 401
    monkeypatch.setenv("BATCHSCOPE_TOKEN", TOKEN)
    app = make_asgi_app(Source())
    assert ask(app).status == 401
    assert ask(app, headers=[("Authorization", f"Bearer {TOKEN}")]).status == 200


def test_concurrent_scrapes_share_one_rendering_and_the_loop_stays_free():
    source = Source()
    app = make_asgi_app(source, max_age=0.0)
    source.gate.clear()

    async def scenario():
        scrapes = [asyncio.ensure_future(call(app)) for _ in range(40)]
        assert await asyncio.to_thread(source.reading.wait, WAIT)
        index = await call(app, "/")  # answered while the reading is held up
        source.gate.set()
        return index, await asyncio.gather(*scrapes)

    index, answers = asyncio.run(scenario())
    assert index.status == 200
    assert source.reads == 1
    assert len({answer.body for answer in answers}) == 1


def test_a_scrape_is_never_older_than_max_age():
    now, source = [0.0], Source()
    app = make_asgi_app(source, max_age=0.5, clock=lambda: now[0])

    async def scenario():
        for now[0], reads in ((0.0, 1), (0.4, 1), (0.5, 2), (10.0, 3)):
            await call(app)
            assert source.reads == reads

    asyncio.run(scenario())


def test_vllms_names_are_an_option():
    assert b"vllm:num_preemptions_total" in ask(make_asgi_app(Source(), vllm_names=True)).body


def test_it_can_be_mounted_in_another_application():
    from starlette.applications import Starlette
    from starlette.routing import Mount

    app = Starlette(routes=[Mount("/batchscope", make_asgi_app(Source()))])
    assert ask(app, "/batchscope/metrics").status == 200
    assert ask(app, "/batchscope/nothing").status == 404


@pytest.mark.parametrize("bad", [{"stall_seconds": 0}, {"series_budget": 0}, {"token": ""}])
def test_a_wrong_setting_is_refused_at_once(bad):
    with pytest.raises(ConfigurationError):
        make_asgi_app(Source(), **bad)


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_without_the_extra_the_error_names_it(monkeypatch, missing):
    for name in [name for name in sys.modules if name.startswith("batchscope.server.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"batchscope\[serve\]"):
        serve(Source(), port=0)


def test_json_has_no_nan():
    answer = ask(make_asgi_app(Source(oldest_waiting_seconds=math.nan)), "/healthz")
    assert json.loads(answer.body, parse_constant=pytest.fail)["figures"]["oldest_waiting_seconds"] is None
