"""The rule of /healthz: work is there, and nothing has been done for too long."""

import math

import pytest

from batchscope import CompletionReason, ConfigurationError, RequestTracker, SchedulerMetricsCollector
from batchscope.publishing.liveness import Processes
from batchscope.server import make_asgi_app
from batchscope.server.health import STALL_SECONDS, judge, judge_processes
from batchscope.statistics.totals import Gauges

NEVER = math.nan


def gauges(in_flight, running, waiting, silent, oldest):
    return Gauges(
        requests_in_flight=in_flight,
        requests_running=running,
        requests_waiting=waiting,
        seconds_since_last_iteration=silent,
        oldest_waiting_seconds=oldest,
    )


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (Gauges(), "ok"),  # nothing is known
        (gauges(0, 0, 0, 1000.0, 0.0), "ok"),  # idle
        (gauges(1, 0, 1, 1000.0, 0.1), "ok"),  # the first request after a quiet hour
        (gauges(1, 0, 1, NEVER, 5.0), "ok"),  # the first request ever
        (gauges(1, 0, 1, NEVER, 61.0), "stalled"),
        (gauges(3, 0, 3, 61.0, 300.0), "stalled"),
        (gauges(3, 0, 3, 59.0, 300.0), "ok"),  # waits long, but iterations go on
        (gauges(3, 3, 0, 61.0, 0.0), "stalled"),  # all hold a place, none makes progress
        (gauges(3, 2, 1, 61.0, 1.0), "stalled"),  # a new one has come meanwhile
        (gauges(3, 3, 0, 60.0, 0.0), "ok"),  # the limit itself
        (gauges(2, 0, 0, 1000.0, 0.0), "ok"),  # only deferred ones
        (gauges(0, 3, 0, 100.0, NEVER), "ok"),  # a report of the last iteration, no tracker
        (gauges(0, 3, 2, 100.0, NEVER), "stalled"),  # it left requests waiting
        (gauges(0, None, None, NEVER, NEVER), "ok"),
    ],
)
def test_a_scheduler_is_stalled_when_work_waits_and_nothing_ends(found, status):
    health = judge(found)
    assert health.status == status
    assert health.healthy == (status == "ok")
    assert bool(health.reason) == (status == "stalled")
    assert all(value is None or not math.isnan(value) for value in health.figures.values())


def test_the_limit_can_be_chosen():
    found = gauges(3, 3, 0, 10.0, 0.0)
    assert judge(found, 9.0).status == "stalled"
    assert judge(found, STALL_SECONDS).status == "ok"


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, True, "60", None])
def test_a_limit_that_is_none_is_refused(bad):
    with pytest.raises(ConfigurationError, match="stall_seconds"):
        make_asgi_app(SchedulerMetricsCollector(), stall_seconds=bad)


@pytest.mark.parametrize(
    ("found", "status", "part"),
    [
        (Processes({}, 0), "ok", "no process yet"),
        (Processes({}, 2), "gone", "2 are gone"),
        (Processes({"a": Gauges()}, 2), "ok", ""),
        (Processes({"a": Gauges()}, 0, "/x is gone"), "unreadable", "/x is gone"),
        (Processes({"a": gauges(1, 1, 0, 0.1, 0.0), "b": gauges(3, 3, 0, 61.0, 0.0)}, 0), "stalled", "process b"),
        (Processes({"api": gauges(9, 0, 9, NEVER, 99.0), "b": gauges(3, 3, 0, 0.1, 0.0)}, 0), "ok", ""),
    ],
)
def test_of_several_processes_none_may_hang_and_one_must_live(found, status, part):
    health = judge_processes(gauges(1, 1, 0, 0.1, 0.0), found)
    assert health.status == status
    assert part in health.reason
    assert health.figures["processes"] == {"living": len(found.living), "gone": found.gone}


@pytest.mark.parametrize("bad", [5, None, "x"])
def test_what_is_no_source_is_refused_at_once(bad):
    with pytest.raises(ConfigurationError, match="source"):
        make_asgi_app(bad)


def test_an_engine_whose_requests_are_all_deferred_is_well_however_long_it_is_silent():
    now = [0.0]
    collector = SchedulerMetricsCollector(clock=lambda: now[0])
    tracker = RequestTracker(collector)
    running, *_ = [tracker.arrived(name) for name in "abcd"]
    tracker.iteration([running], deferred_requests=3)
    tracker.finished(running, CompletionReason.EOS_TOKEN_REACHED)
    for now[0] in (100.0, 179.0, 190.0, 10_000.0):
        assert judge(collector.read_totals().gauges).status == "ok"
