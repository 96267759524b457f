"""Endpoints for the page's tests and pictures: a history of a given engine, at a time that stands still, or a command."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request

import msgspec

from batchscope import MetricsConfiguration, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.cli.demo_engine import DISTURBANCES, SLO, demo_options, demo_workload, limits_of
from batchscope.dashboard.recorder import Recorder
from batchscope.exporters.prometheus import Exposition
from batchscope.server.app import Endpoints, make_app
from batchscope.server.guard import ConnectionLimits
from batchscope.server.health import STALL_SECONDS
from batchscope.server.running import start
from batchscope.simulator import Simulator, VirtualClock

WALL = 1_764_345_600.0  # 2025-11-28 16:00:00 UTC, when nothing else is said
WAIT = 30.0


def engine(clock):
    """The demo's collector and its simulator."""
    options = demo_options()
    collector = SchedulerMetricsCollector(
        MetricsConfiguration(slo=SLO), limits=limits_of(options), clock=clock, labels={"model_name": "demo"}
    )
    simulator = Simulator(
        demo_workload(100_000),
        RequestTracker(collector),
        options=options,
        clock=clock,
        disturbances=DISTURBANCES,
        seed=0,
    )
    return collector, simulator


def frozen(seconds, *, wall=WALL, gap=(), busy=True, before_end=()):
    """(collector, recorder) after ``seconds`` of the demo; seconds in ``gap`` were not sampled. Time stands still."""
    clock = VirtualClock()
    collector, simulator = engine(clock)
    recorder = Recorder(collector, clock=clock, wall=lambda: wall)
    recorder.sample()
    for second in range(1, seconds + 1):
        if busy:
            simulator.run(should_stop=lambda until=second: clock() >= until)
        clock.advance_to(second)
        if second == seconds:
            for record in before_end:
                record(collector)
        if second not in gap:
            recorder.sample()
    recorder.start = lambda: None  # no second passes
    return collector, recorder


@contextlib.contextmanager
def serving(collector, recorder, token=None):
    """The URL of an endpoint for them."""
    endpoints = Endpoints(
        collector, Exposition(), stall_seconds=STALL_SECONDS, max_age=0.05, clock=time.monotonic, recorder=recorder
    )
    app = make_app(endpoints.routes(), token, page=True)
    handle = start(
        app, "127.0.0.1", 0, certificate=None, key=None, limits=ConnectionLimits(), hosts=None,
        protected=token is not None,
    )  # fmt: skip
    try:
        yield handle.url
    finally:
        handle.close()
        recorder.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def command(port, *arguments):
    """A process of ``batchscope serve --demo`` on ``port``, once it answers."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BATCHSCOPE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "batchscope", "serve", "--demo", "--port", str(port), *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1):
                break
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


class ManyEngines:
    """A source of ``number`` engines whose snapshots are given: what a directory of processes is, without its files."""

    closed = False

    def __init__(self, number, looks=1):
        self._chances = [random.Random(rank) for rank in range(number)]
        self._engines = []
        for rank in range(number):
            clock = VirtualClock()
            collector = SchedulerMetricsCollector(
                MetricsConfiguration(slo=SLO), clock=clock, labels={"model_name": "demo", "rank": str(rank)},
                limits=SchedulerLimits(max_running_requests=64, max_scheduled_tokens=1024),
            )  # fmt: skip
            self._engines.append((collector, clock))
        for look in range(looks):
            self.go_on(look)

    def go_on(self, look):
        """A second of work of all but those that are gone."""
        for rank, (collector, clock) in enumerate(self._engines):
            if look == 0 or rank % 50 != 7:
                work(collector, clock, self._chances[rank])
        found = [collector.get_snapshot() for collector, _ in self._engines]
        self.parts = [msgspec.structs.replace(one, instance_id=f"{rank:032x}") for rank, one in enumerate(found)]
        self.merged = type(self.parts[0]).merge(*self.parts)

    def get_snapshot(self):
        return self.merged

    def read_totals(self):
        from batchscope.statistics.cumulative import cumulative_of

        return cumulative_of(self.merged)

    def snapshots(self):
        return [(snapshot, rank % 50 != 7) for rank, snapshot in enumerate(self.parts)]


def work(collector, clock, chance):
    """Some iterations and requests."""
    from batchscope import CompletionReason, IterationResult, RequestResult

    start, held = clock(), chance.choice(["token_budget", "kv_cache", "demand", "demand"])
    for number in range(8):
        clock.advance_to(start + 0.2 * (number + 1))
        collector.record_iteration(
            IterationResult(
                number, chance.randrange(1, 65), 30, 1, 0.2, started_at=start + 0.2 * number, finished_at=start + 0.2 * (number + 1),
                running_requests=40, waiting_requests=chance.randrange(9), scheduled_tokens=500,
                limited_by=held, inter_token_latencies=[0.03] * 30,
            )
        )  # fmt: skip
        first = chance.lognormvariate(-0.5, 1)
        collector.record_request_completion(
            RequestResult(
                f"{start}-{number}", 20, CompletionReason.EOS_TOKEN_REACHED, first + 1, time_to_first_token=first,
                queue_time=first / 2, decode_time=1.0, total_time=first + 1, request_class="interactive",
            )
        )  # fmt: skip
