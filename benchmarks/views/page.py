"""What the page costs: the recording thread, the server with 0, 1 and 10 viewers, the page, an hour of memory.

    python benchmarks/views/page.py [--quick] [--json FILE]

A thread records a request and an iteration with 32 gaps every 2 ms, behind ``serve``; viewers in another process
ask ``/history`` once a second each, by cursor, as the page does. The server's cost is all of the process's CPU time but
the recording thread's own, less that without an endpoint. The page runs in Debian's Chromium (none: left out): script
of a tick with 600 cells in view, by its own clock, and its heap in the middle and at the end. An hour of the server's
history is simulated: 3,600 samples and answers. Targets: p50 and p99.9 of the recording thread as without an endpoint,
1 % of a core for the first viewer, 0.2 % for each more, 30 ms a tick, memory flat.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from batchscope import IterationResult, MetricsConfiguration, SchedulerLimits, SchedulerMetricsCollector, SloTargets
from batchscope.dashboard.document import Cursor, cursor_of, wanted_of
from batchscope.dashboard.recorder import Recorder
from batchscope.records import CompletionReason, RequestResult
from batchscope.server import serve

PAUSE = 0.002
VIEWERS = (None, 0, 1, 10)  # None: no endpoint at all
TARGETS = {"first_viewer": 0.01, "further_viewer": 0.002, "tick_ms": 30.0}


def collector(clock=time.monotonic):
    slo = {"interactive": SloTargets(time_to_first_token=1.0, time_per_output_token=0.05)}
    limits = SchedulerLimits(max_running_requests=64, max_scheduled_tokens=2048, kv_cache_blocks=5000)
    few = {f"max_{kind}_samples": 1000 for kind in ("request", "iteration", "batch")}  # full long before half an hour
    return SchedulerMetricsCollector(MetricsConfiguration(slo=slo, **few), limits=limits, clock=clock)


def record(into, number, now):
    """A request and an iteration, as an engine reports them."""
    gaps, first = [0.02 + number % 7 / 1e3] * 32, 0.2 + number % 50 / 100
    into.record_iteration(
        IterationResult(
            number, 32, 32, 1, PAUSE, started_at=now - PAUSE, finished_at=now, running_requests=32, waiting_requests=3,
            scheduled_tokens=500, kv_cache_usage=0.5, limited_by="token_budget", inter_token_latencies=gaps,
        )
    )  # fmt: skip
    into.record_request_completion(
        RequestResult(
            number, 100, CompletionReason.EOS_TOKEN_REACHED, 2.0, queue_time=0.1, time_to_first_token=first,
            decode_time=2.0, total_time=2.5, request_class="interactive",
        )
    )  # fmt: skip


class Recording:
    """A thread that records; how long each turn took, and its own CPU time."""

    def __init__(self, into, seconds):
        self.took, self.cpu = [], 0.0
        self._into, self._seconds = into, seconds
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        cpu, end, number = time.thread_time(), time.monotonic() + self._seconds, 0
        while (now := time.monotonic()) < end:
            began = time.perf_counter()
            record(self._into, number, now)
            self.took.append(time.perf_counter() - began)
            number += 1
            time.sleep(PAUSE)
        self.cpu = time.thread_time() - cpu


def viewer(url, seconds, phase):
    """Asks as the page does."""
    parts, cursor = urlsplit(url), ""
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    time.sleep(phase)
    end = time.monotonic() + seconds - phase
    while time.monotonic() < end:
        connection.request("GET", f"/history?seconds=1&last=360&since={cursor}", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.getheader("content-encoding") == "gzip":
            body = gzip.decompress(body)
        cursor = json.loads(body)["cursor"]
        time.sleep(1.0)


def view(url, number, seconds):
    """``number`` viewers, in this process, for ``seconds``."""
    threads = [threading.Thread(target=viewer, args=(url, seconds, place / max(number, 1))) for place in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def round_of(viewers, seconds):
    """(p50, p99.9 of a recording turn in us, CPU of the process beside the recording, as a share of a core)."""
    with collector() as into:
        recording = Recording(into, seconds)
        handle = None if viewers is None else serve(into, port=0)
        asking = None
        if viewers:
            command = [sys.executable, __file__, "--view", handle.url, str(viewers), str(seconds)]
            asking = subprocess.Popen(command)
        time.sleep(1.0)
        cpu, began = time.process_time(), time.monotonic()
        recording.thread.start()
        recording.thread.join()
        used = (time.process_time() - cpu - recording.cpu) / (time.monotonic() - began)
        if asking is not None:
            asking.wait()
        if handle is not None:
            handle.close()
    took = 1e6 * np.array(recording.took)
    return float(np.percentile(took, 50)), float(np.percentile(took, 99.9)), used


def hour(samples):
    """Bytes that the history of an hour adds, from the half of it to its end, and ms an answer."""
    now = [1000.0]
    into = collector(lambda: now[0])
    recorder = Recorder(into, clock=lambda: now[0], wall=lambda: 1.7e9 + now[0])
    cursor, sizes, took = Cursor(), [], []
    tracemalloc.start()
    for at in range(samples):
        for place in range(3):
            record(into, at * 3 + place, now[0] + place / 3)
        now[0] += 1.0
        recorder.sample()
        if at % 10 == 0:
            began = time.perf_counter()
            answer = recorder.answer(recorder.present(), cursor, wanted_of("1", "600"))
            took.append(time.perf_counter() - began)
            cursor = cursor_of(json.loads(answer)["cursor"])
        if at in {samples // 2, samples - 1}:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return {
        "growth_bytes": sizes[1] - sizes[0],
        "history_bytes": recorder.history.nbytes,
        "answer_ms": 1e3 * float(np.median(took)),
    }


def page(ticks):
    """Scripting of a tick in ms with 600 cells in view, and the heap in MB at half of ``ticks`` and at their end."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "browser_tests"))
    from playwright.sync_api import sync_playwright

    from conftest import CHROMIUM, FLAGS
    from served import WALL, frozen, serving

    if not Path(CHROMIUM).exists():
        return None
    into, recorder = frozen(620)
    with sync_playwright() as playwright, serving(into, recorder) as url:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        tab.goto(f"{url}/#window=600")
        tab.locator("#charts figure").first.wait_for()
        session = tab.context.new_cdp_session(tab)
        session.send("Performance.enable")
        heap, took = [], []
        for half in range(2):
            for tick in range(ticks // 2):
                recorder.history.take(into.read_totals(), 621.0 + half * (ticks // 2) + tick, WALL)
                tab.wait_for_timeout(1000)
                took.append(float(tab.inner_text("#cost").split("this page ")[1].split(" ms")[0]))
            session.send("HeapProfiler.collectGarbage")
            metrics = session.send("Performance.getMetrics")["metrics"]
            heap.append(next(one["value"] for one in metrics if one["name"] == "JSHeapUsedSize") / 1e6)
        browser.close()
    return {"tick_ms": float(np.median(took)), "worst_ms": max(took), "heap_mb": heap}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer seconds: a look, not a result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--view", nargs=3, metavar=("URL", "N", "SECONDS"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.view:
        url, number, seconds = chosen.view
        view(url, int(number), float(seconds))
        return
    seconds, rounds = (8.0, 1) if chosen.quick else (30.0, 3)
    found = {viewers: [] for viewers in VIEWERS}
    for _ in range(rounds):
        for viewers in VIEWERS:
            found[viewers].append(round_of(viewers, seconds))
    middle = {
        viewers: [float(np.median(column)) for column in zip(*rows, strict=True)] for viewers, rows in found.items()
    }
    base = middle[None][2]
    for viewers, (p50, p999, used) in middle.items():
        name = "no endpoint" if viewers is None else f"{viewers} viewers"
        beside = f"beside it {100 * (used - base):6.2f} % of a core"
        print(f"{name:12} a turn p50 {p50:7.1f} us, p99.9 {p999:8.1f} us; {beside}")
    first = middle[1][2] - base
    further = (middle[10][2] - middle[1][2]) / 9
    print(f"the first viewer {100 * first:.2f} % (target 1 %), each more {100 * further:.3f} % (target 0.2 %)")
    memory = hour(360 if chosen.quick else 3600)
    size = memory["history_bytes"] / 2**20
    print(f"an hour: {memory['growth_bytes']:,} bytes more in its second half; history {size:.2f} MiB")
    browser = page(20 if chosen.quick else 120)
    if browser:
        print(
            f"the page: {browser['tick_ms']:.0f} ms of script a tick, {browser['worst_ms']:.0f} at worst (target 30);"
            f" heap {browser['heap_mb'][0]:.1f} MB, later {browser['heap_mb'][1]:.1f} MB"
        )
    if chosen.json:
        figures = {str(viewers): row for viewers, row in middle.items()}
        chosen.json.write_text(json.dumps({"viewers": figures, "hour": memory, "page": browser, "targets": TARGETS}))


if __name__ == "__main__":
    main()
