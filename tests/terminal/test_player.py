"""A recorded run, played: what is shown at an instant is what the collector said then."""

import math

import pytest

pytest.importorskip("pyarrow", reason="the extra 'ledger' is not installed")

from scenes import NOON, text_of

from batchscope import RequestTracker, SchedulerMetricsCollector
from batchscope.cli.demo_engine import DISTURBANCES, SLO, demo_options, demo_workload, limits_of
from batchscope.configuration import MetricsConfiguration
from batchscope.errors import DecodeError
from batchscope.ledger import open_run
from batchscope.simulator import Simulator, VirtualClock
from batchscope.terminal.frame import frame
from batchscope.terminal.player import Player, Playing, is_run

SECONDS = 60


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with a run of the demo, and the collector's own snapshots at each second."""
    root = tmp_path_factory.mktemp("runs")
    clock, snapshots = VirtualClock(), []
    with SchedulerMetricsCollector(
        MetricsConfiguration(slo=SLO), limits=limits_of(demo_options()), clock=clock
    ) as collector:
        collector.record_to(root)
        simulator = Simulator(
            demo_workload(10_000),
            RequestTracker(collector),
            options=demo_options(),
            disturbances=DISTURBANCES,
            clock=clock,
        )
        for second in range(SECONDS + 1):
            simulator.run(should_stop=lambda end=second: clock() >= end)
            snapshots.append((clock(), collector.get_snapshot()))
        collector.record_error("CUDA out of memory")
    return root, snapshots


@pytest.mark.parametrize("second", [20, 59])
def test_at_an_instant_all_that_was_counted_then_is_shown(recorded, second):
    root, snapshots = recorded
    at, live = snapshots[second]
    player = Player(open_run(root))
    player.go_to(at, lambda *_: None)
    played = player.snapshot()
    assert played.totals.iterations == live.totals.iterations
    assert played.totals.requests_by_reason == live.totals.requests_by_reason
    assert played.totals.generation_tokens == live.totals.generation_tokens
    assert played.totals.slo_requests == live.totals.slo_requests
    assert played.totals.preemptions == live.totals.preemptions
    for name in ("busy_seconds_by_limiter", "lost_slot_seconds_by_limiter"):
        assert getattr(played.totals, name) == pytest.approx(getattr(live.totals, name))
    assert played.iteration_stats.time_weighted_utilization == pytest.approx(
        live.iteration_stats.time_weighted_utilization
    )
    assert played.iteration_stats.limiter_reported_ratio == live.iteration_stats.limiter_reported_ratio
    assert (played.gauges.requests_running, played.gauges.requests_waiting) == (
        live.gauges.requests_running, live.gauges.requests_waiting,
    )  # fmt: skip
    for name in ("time_to_first_token", "total_time", "time_per_output_token", "queue_time"):
        own, told = (getattr(one.request_stats, name) for one in (played, live))
        assert (own.count, own.p50, own.p99) == pytest.approx((told.count, told.p50, told.p99))
    own, told = (one.request_stats.inter_token_latency for one in (played, live))
    assert told.count * 0.9 <= own.count <= told.count  # those of unfinished requests have spans only once they end
    assert own.p50 == pytest.approx(told.p50, rel=0.1)
    player.close()


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def playing(recorded):
    clock = Clock()
    one = Playing(open_run(recorded[0]), clock=clock, wall_clock=lambda: NOON, cpu_clock=lambda: 0.0)
    one.clock = clock
    one.start()
    yield one
    one.close()


def wait(playing, seconds):
    playing.clock.now += seconds
    playing.update()


def position(playing):
    return playing._player.at - playing._player.recorded.begin


def screen(playing, width=120):
    return "\n".join(text_of(line) for line in frame(playing.scene(), playing.viewing, width, 40).lines)


def test_where_counting_began_anew_the_played_run_does_so_too_and_says_so(tmp_path):
    clock = VirtualClock()
    with SchedulerMetricsCollector(limits=limits_of(demo_options()), clock=clock) as collector:
        collector.record_to(tmp_path)
        simulator = Simulator(
            demo_workload(10_000), RequestTracker(collector), options=demo_options(), clock=clock, seed=0
        )
        for second in (10, 20):
            simulator.run(should_stop=lambda end=second: clock() >= end)
            if second == 10:
                collector.reset()
        live = collector.get_snapshot()
    session = Playing(open_run(tmp_path))
    session._go(clock())
    told = session.engines[0].last.snapshot
    assert (told.generation, live.generation) == (1, 1)
    assert told.totals.iterations == live.totals.iterations
    assert told.totals.busy_seconds == pytest.approx(live.totals.busy_seconds)
    assert told.elapsed_seconds == pytest.approx(live.elapsed_seconds, abs=0.2)
    before = session._player.recorded.begin + 9.0
    session._go(before)
    session._go(before + 2.0)
    assert session.scene().engines[0].state == "restarted"
    cells = session.engines[0].shown(before).cells
    assert all(cell.tokens_per_second >= 0 for cell in cells)
    session.close()


def test_it_plays_by_the_clock_pauses_and_goes_as_fast_as_it_is_told(playing):
    wait(playing, 5.0)
    assert position(playing) == pytest.approx(6.0)
    assert "playing 0:00:06 of 0:01:" in screen(playing)
    playing.press("p")
    wait(playing, 5.0)
    assert position(playing) == pytest.approx(6.0)
    assert "paused 0:00:06" in screen(playing)
    playing.press("space")
    playing.press("plus", "+")
    wait(playing, 5.0)
    assert position(playing) == pytest.approx(16.0)
    assert "2x" in screen(playing)
    for _ in range(20):
        playing.press("minus", "-")
    assert playing.speed == 0.25


def figures(text):
    """The latencies: they are of the engine's own last minute."""
    return [line[:66] for line in text.splitlines() if line.startswith(("TTFT", "TPOT", "ITL", "e2e", "queue"))]


def test_one_seeks_forth_and_back_and_sees_the_same_at_the_same_place(playing):
    playing.press("p")
    playing.press("right")
    playing.press("right")
    there = screen(playing)
    assert position(playing) == pytest.approx(21.0)
    playing.press("end")
    assert screen(playing) != there
    playing.press("home")
    assert position(playing) == 0.0
    wait(playing, 1.0)
    playing._go(playing._player.recorded.begin + 21.0)
    assert figures(screen(playing)) == figures(there)


def test_at_its_end_it_stands_and_nobody_is_told_that_it_is_idle(playing):
    wait(playing, 1000.0)
    assert not playing.plays
    words = screen(playing)
    assert "paused" in words
    assert "Idle" not in words
    assert "Batch " in words.splitlines()[0]
    assert not math.isnan(playing.scene().engines[0].figures.attainment[0])


def test_what_is_no_run_is_said_so(tmp_path, recorded):
    assert not is_run(tmp_path)
    assert is_run(recorded[0])
    with pytest.raises(DecodeError, match="no run"):
        open_run(tmp_path)
