"""Under which names the endpoint answers: a page in a browser must not read it by DNS rebinding."""

import http.client

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_doubles import WAIT, Source, fetch

from batchscope import ConfigurationError
from batchscope.server import serve
from batchscope.server.hosts import AllowedHosts, allowed_hosts, declared_hosts

EVERYWHERE = "0.0.0.0"  # noqa: S104  (for a moment)


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch):
    monkeypatch.delenv("BATCHSCOPE_TOKEN", raising=False)
    monkeypatch.delenv("BATCHSCOPE_ALLOWED_HOSTS", raising=False)


def status_of(running, host, **headers):
    """The status of a request under that name; it is sent to loopback whatever it is."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=WAIT)
    try:
        connection.request("GET", "/metrics", headers={**headers, "Host": host})
        return connection.getresponse().status
    finally:
        connection.close()


OURS = ["localhost", "LocalHost:9464", "localhost.:80", "engine.localhost", "127.0.0.1", "127.0.0.1:1", "127.8.8.8",
        "[::1]:9464", "[::ffff:127.0.0.1]"]  # fmt: skip
OTHERS = ["evil.example", "evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[fe80::1]",
          "xlocalhost", "", "localhost@evil.example", "evil.example#localhost", "[::1].evil.example", EVERYWHERE,
          "127.0.0.1:80:evil", "\xff"]  # fmt: skip


def test_on_loopback_it_answers_to_names_of_loopback_only():
    with serve(Source(), port=0) as running:
        assert {status_of(running, host) for host in OURS} == {200}
        assert {host: status_of(running, host) for host in OTHERS} == dict.fromkeys(OTHERS, 421)
        answer = fetch(running, "/healthz", headers={"Host": "evil.example"})
    assert answer.status == 421
    assert "'evil.example' is not one of this endpoint's" in answer.json()["error"]
    assert "--allowed-host" in answer.json()["error"]


def test_a_name_of_the_bound_address_and_declared_ones_are_answered(monkeypatch):
    with serve(Source(), "localhost", 0, allowed_hosts=["Metrics.example", "10.0.0.1"]) as running:
        for host, status in (("metrics.example:80", 200), ("10.0.0.1", 200), ("localhost", 200), ("evil.example", 421)):
            assert status_of(running, host) == status
    monkeypatch.setenv("BATCHSCOPE_ALLOWED_HOSTS", "one.example, two.example")
    with serve(Source(), port=0) as running:
        assert [status_of(running, host) for host in ("one.example", "two.example", "evil.example")] == [200, 200, 421]
    with serve(Source(), port=0, allowed_hosts=["*"]) as running:
        assert status_of(running, "evil.example") == 200


def test_with_a_token_the_name_is_not_asked_for_unless_names_are_declared():
    """No page knows the token."""
    bearer = {"Authorization": "Bearer s3cret"}
    with serve(Source(), port=0, token="s3cret") as running:
        assert status_of(running, "evil.example") == 401
        assert status_of(running, "evil.example", **bearer) == 200
    with serve(Source(), port=0, token="s3cret", allowed_hosts=["a.example"]) as running:
        assert status_of(running, "evil.example", **bearer) == 421
        assert status_of(running, "a.example", **bearer) == 200


def test_beyond_loopback_every_name_is_answered_until_names_are_declared():
    with serve(Source(), EVERYWHERE, 0) as running:
        assert status_of(running, "evil.example") == 200
    with serve(Source(), EVERYWHERE, 0, allowed_hosts=["fleet.example"]) as running:
        found = {
            host: status_of(running, host) for host in ("fleet.example", "10.1.2.3:80", "localhost", "evil.example")
        }
    assert found == {"fleet.example": 200, "10.1.2.3:80": 200, "localhost": 200, "evil.example": 421}


def test_http_1_0_without_a_host_is_answered():
    assert AllowedHosts(frozenset()).allows(None)


@given(st.text())
def test_any_text_is_a_host_or_none_and_never_an_error(host):
    ours = allowed_hosts("127.0.0.1", "127.0.0.1", None, protected=False)
    assert ours.allows(host) in {True, False}
    assert not ours.allows(host + "x.example")


@pytest.mark.parametrize(
    ("given_hosts", "variable"),
    [("a.example", None), (["a b"], None), (["http://a.example"], None), ([""], None), ([None], None), (7, None),
     (["a.example/x"], None), ([":80"], None), (None, ""), (None, "a.example,,b"), (None, "a;b")],
)  # fmt: skip
def test_what_is_no_name_is_refused(given_hosts, variable, monkeypatch):
    if variable is not None:
        monkeypatch.setenv("BATCHSCOPE_ALLOWED_HOSTS", variable)
    with pytest.raises(ConfigurationError, match=r"(?i)allowed_hosts"):
        serve(Source(), port=0, allowed_hosts=given_hosts)


def test_nothing_declared_is_not_the_same_as_no_name():
    assert declared_hosts(None, {}) is None
    assert declared_hosts([], {}) == frozenset()
