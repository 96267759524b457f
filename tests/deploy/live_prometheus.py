"""A real Prometheus of the test's own, on loopback, and three simulated engines that it scrapes."""

import json
import math
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from batchscope import MetricsConfiguration, RequestTracker, SchedulerLimits, SchedulerMetricsCollector, SloTargets
from batchscope.records import EngineInfo
from batchscope.server import serve
from batchscope.simulator import (
    Disturbances,
    Lengths,
    RequestClass,
    SchedulerOptions,
    Simulator,
    SyntheticWorkload,
    VirtualClock,
)
from batchscope.testing import RecordingMetrics

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
SLO = {
    "interactive": SloTargets(time_to_first_token=1.0, time_per_output_token=0.1),
    "batch": SloTargets(e2e_latency=60.0),
}
SLICES, PATIENCE = 6, 60.0
LIMITS = SchedulerLimits(max_running_requests=24, max_scheduled_tokens=1024, kv_cache_blocks=420)


def wait_until(holds, what):
    """Poll; a deadline, no sleep."""
    pause, end = threading.Event(), time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, f"not within {PATIENCE} s: {what}"
        pause.wait(0.1)
    return found


class Engine:
    """A minute of a simulated engine's records, told to a collector slice by slice."""

    def __init__(self, seed):
        recorded, clock = RecordingMetrics(LIMITS), VirtualClock()
        workload = SyntheticWorkload(
            requests=240, rate=4.0, burstiness=2.0, seed=seed,
            prompt=Lengths(median=400, sigma=0.8, cap=4000), output=Lengths(median=40, sigma=0.7, cap=300),
            classes=(RequestClass("interactive", share=3), RequestClass("batch", share=1)),
        )  # fmt: skip
        options = SchedulerOptions(max_running_requests=24, max_scheduled_tokens=1024, kv_cache_blocks=420)
        disturbances = Disturbances(cancel_probability=0.05)
        Simulator(workload, RequestTracker(recorded), options=options, disturbances=disturbances, clock=clock).run()
        self.requests, self.iterations, self.batches = recorded.requests, recorded.iterations, recorded.batches
        self.now = 0.0
        self.collector = SchedulerMetricsCollector(
            MetricsConfiguration(slo=SLO), limits=LIMITS, labels={"model_name": "m", "rank": str(seed)},
            clock=lambda: self.now,
        )  # fmt: skip
        self.collector.engine = EngineInfo("simulator", "1")
        self.server = serve(self.collector, port=0)

    def tell(self, number):
        """The ``number``-th of SLICES."""

        def part(records):
            return records[len(records) * number // SLICES : len(records) * (number + 1) // SLICES]

        for iteration in part(self.iterations):
            self.collector.record_iteration(iteration)
            self.now = max(self.now, iteration.finished_at)
        for request in part(self.requests):
            self.now = max(self.now, request.finished_at)
            self.collector.record_request_completion(request)

    def first_tokens(self, request_class=None):
        """TTFT of every request that had a token, of one class or all."""
        found = [
            request.first_token_at - request.arrived_at
            for request in self.requests
            if request_class in (None, request.request_class)
        ]
        return [value for value in found if not math.isnan(value)]


class Prometheus:
    """Debian's, native histograms or not; scrapes every second."""

    def __init__(self, folder, targets, *, native):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for rules in ("batchscope.rules.yml", "batchscope.alerts.yml"):
            shutil.copy(RULES / rules, folder)
        configuration = (RULES / "prometheus.yml").read_text().replace("15s", "1s")
        configuration = configuration.replace('"127.0.0.1:9464"', ", ".join(f'"{target}"' for target in targets))
        (folder / "prometheus.yml").write_text(configuration)
        command = [
            shutil.which("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn",
        ]  # fmt: skip
        if native:
            command.append("--enable-feature=native-histograms")
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=folder)
        wait_until(self._ready, "Prometheus ready")

    def _ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def query(self, expression):
        """The instant vector: a list of (labels, value)."""
        where = f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(where, timeout=10) as answer:
            document = json.load(answer)
        assert document["status"] == "success", document
        found = document["data"]["result"]
        return [(one["metric"], float(one["value"][1])) for one in found if "value" in one]

    def value(self, expression):
        """The only value, nan without one."""
        found = self.query(expression)
        return found[0][1] if len(found) == 1 else math.nan

    def targets(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/targets", timeout=10) as answer:
            return json.load(answer)["data"]["activeTargets"]

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()
