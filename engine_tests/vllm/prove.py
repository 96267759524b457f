"""Real vLLM under load, with the plug-in: batchscope's figures against vLLM's own. A line a check; exit 0 if all hold.

    python prove.py DIRECTORY [--throughput]

60 streaming requests on loopback, 6 of whose clients go away, with a KV cache small enough to preempt. Then the
same server with the plug-in switched off, with the scheduler subclass, and vLLM inside a program. Needs vLLM 0.32
beside batchscope.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import pyarrow.compute as pc
from checks import Checks
from load import requests, serve_all
from model import write_model
from theirs import Exposed
from throughput import measure

from batchscope import MetricsSnapshot, decode_snapshot
from batchscope.ledger import open_run
from batchscope.ledger.explain import Explainer, Metric
from batchscope.publishing import SnapshotDirectory
from server import BLOCKS, ENVIRONMENT, MAX_RUNNING, MAX_TOKENS, Server, fetch, free_port

REQUESTS, LEAVING = 60, 6
SCHEDULER = "batchscope.plugins.vllm_scheduler.ReportingAsyncScheduler"
OTHER_SCHEDULER = "batchscope.plugins.vllm_scheduler.ReportingOther"
PROGRAM_SECONDS = 400.0  # two engines take three minutes to start on a machine that is busy
STEP_TIME_TOLERANCE = 0.03
"""Of the wall: what comes before the first step and after the last one, tokenising among it, is no iteration's time."""
HISTOGRAMS = {
    "time_to_first_token": "vllm:time_to_first_token_seconds",
    "inter_emission_latency": "vllm:inter_token_latency_seconds",
    "total_time": "vllm:e2e_request_latency_seconds",
    "queue_time": "vllm:request_queue_time_seconds",
    "prefill_time": "vllm:request_prefill_time_seconds",
    "decode_time": "vllm:request_decode_time_seconds",
}
REASONS = {"length": "max_tokens_reached", "stop": "eos_token_reached", "abort": "cancelled", "error": "error"}


def until(ready: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for it, or go on: the checks say what is missing."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not ready() and time.monotonic() < deadline:
        pause.wait(0.2)


def answers(checks: Checks, url: str) -> bool:
    """Whether the plug-in serves at ``url``: one line, and nothing else can be checked where it does not."""
    try:
        fetch(url + "/snapshot")
    except OSError as error:
        checks.holds("the plug-in serves", f"{url}: {error}; is the entry point installed?", good=False)
        return False
    return True


def merged(snapshot: MetricsSnapshot, name: str) -> Any:
    """A histogram of all request classes."""
    first, *rest = (histogram.copy() for histogram in snapshot.histograms[name].values())
    for other in rest:
        first.merge(other)
    return first


def counts(snapshot: MetricsSnapshot) -> tuple[int, ...]:
    """A few that tell a whole snapshot from a part."""
    totals = snapshot.totals
    return totals.requests_received, totals.requests_lost, totals.iterations, totals.generation_tokens


def compare_counts(checks: Checks, ours: MetricsSnapshot, theirs: Exposed) -> None:
    totals = ours.totals
    by_reason = {
        REASONS.get(k, "other"): v for k, v in theirs.by("vllm:request_success_total", "finished_reason").items()
    }
    counted = {reason: float(count) for reason, count in totals.requests_by_reason.items() if count}
    checks.equal("finished requests by reason", counted, by_reason)
    for what, count, name in (
        ("generated tokens", totals.generation_tokens, "vllm:generation_tokens_total"),
        ("tokens of finished requests", totals.generation_tokens_of_requests, "vllm:request_generation_tokens_sum"),
        ("prompt tokens of finished requests", totals.prompt_tokens_computed, "vllm:request_prompt_tokens_sum"),
        ("preemptions", totals.preemptions, "vllm:num_preemptions_total"),
    ):
        checks.equal(what, float(count), theirs.total(name))
    checks.holds("the KV cache was too small", f"{totals.preemptions} preemptions", totals.preemptions > 0)
    checks.equal("requests received", totals.requests_received, REQUESTS)
    checks.equal("requests lost", totals.requests_lost, LEAVING)
    checks.equal("finished and lost", float(totals.requests_lost), REQUESTS - sum(by_reason.values()))
    checks.equal("requests in flight", ours.gauges.requests_in_flight, 0)
    checks.equal("rejected records", dict(totals.rejected_records), {})
    checks.equal("dropped records", totals.dropped_records, 0)
    checks.equal("missing fields", ours.definitions.get("missing"), None)
    limits = (ours.limits.max_running_requests, ours.limits.max_scheduled_tokens, ours.limits.kv_cache_blocks)
    checks.equal("limits", limits, (MAX_RUNNING, MAX_TOKENS, BLOCKS))
    checks.equal(
        "engine", (ours.engine.kind, ours.engine.version, ours.labels), ("vllm", "0.32.0", {"model_name": "tiny"})
    )


def compare_histograms(checks: Checks, ours: MetricsSnapshot, theirs: Exposed) -> None:
    for name, their_name in HISTOGRAMS.items():
        mine, buckets = merged(ours, name), theirs.histogram(their_name)
        same = mine.count == buckets.count and math.isclose(mine.sum, buckets.sum, rel_tol=1e-9)
        detail = f"{mine.count}, {mine.sum:.6f} s" + (
            "" if same else f", expected {buckets.count}, {buckets.sum:.6f} s"
        )
        checks.holds(f"count and sum of {name}", detail, same)
        for q in (0.5, 0.9, 0.95, 0.99):
            low, high = buckets.interval(q)
            value, error = mine.quantile(q), mine.relative_error
            inside = low * (1 - error) <= value <= high * (1 + error)
            checks.holds(f"p{q * 100:g} of {name} in vLLM's bucket", f"{value:.4f} in ({low}, {high}]", inside)
    tpot, theirs_tpot = (
        merged(ours, "time_per_output_token"),
        theirs.histogram("vllm:request_time_per_output_token_seconds"),
    )
    checks.holds(
        "time_per_output_token: vLLM's without the zeros of one-token answers",
        f"{tpot.count} of {theirs_tpot.count:.0f}, {tpot.sum:.6f} s",
        tpot.count < theirs_tpot.count and math.isclose(tpot.sum, theirs_tpot.sum, rel_tol=1e-9),
    )


def compare_run(checks: Checks, ours: MetricsSnapshot, root: Path) -> None:
    """What the plug-in recorded of the server that has ended by now."""
    run = open_run(root)
    requests, iterations = run.requests(), run.iterations()
    checks.equal("run: state and problems", (run.state, run.problems), ("finished", []))
    reasons = Counter(requests.column("reason").to_pylist())
    counted = {str(reason): count for reason, count in ours.totals.requests_by_reason.items() if count}
    checks.equal("run: finished requests by reason", dict(reasons), counted)
    checks.equal("run: iterations", len(iterations), ours.totals.iterations)
    for what, table, column, count in (
        ("tokens of iterations", iterations, "tokens_generated", ours.totals.generation_tokens),
        ("tokens of requests", requests, "tokens_generated", ours.totals.generation_tokens_of_requests),
        ("preemptions", iterations, "preemptions", ours.totals.preemptions),
    ):
        checks.equal(f"run: {what}", pc.sum(table.column(column)).as_py(), count)
    busy = math.fsum(iterations.column("busy_time").to_pylist())
    same = math.isclose(busy, ours.totals.busy_seconds, rel_tol=1e-9)
    checks.holds("run: busy time", f"{busy:.6f} s of {ours.totals.busy_seconds:.6f} s", same)
    checks.equal("run: limits and engine", (run.header.limits, run.header.engine), (ours.limits, ours.engine))
    slo, summary = ours.slo_stats["default"], run.document.summary
    checks.equal("run: its line in batchscope runs", (summary.requests, summary.attainment),
                 (ours.request_stats.total_requests, slo.attainment))  # fmt: skip
    known = run.document.configuration
    sections = (known["cache_config"]["num_gpu_blocks"], known["scheduler_config"]["max_num_seqs"])
    checks.equal("run: blocks and places of the resolved configuration", sections, (BLOCKS, MAX_RUNNING))
    checks.equal("run: paths in its configuration", "/" in json.dumps(known), False)


def compare_explained(checks: Checks, name: str, root: Path, not_recorded: tuple[str, ...]) -> None:
    """Where the recorded requests' time went: a split without a rest, as fine as what was recorded."""
    run = open_run(root)
    explainer, known = Explainer(run), {"complete": 0, "parts": set()}
    for row in run.requests().to_pylist():
        request = explainer.request(f"#{row['request']}").request
        known["complete"] += math.isclose(sum(part.seconds for part in request.parts), row["total_time"], abs_tol=1e-9)
        known["parts"] |= {part.part.value for part in request.parts}
    checks.equal(f"{name}: requests whose parts are the whole", known["complete"], len(run.requests()))
    slowest = explainer.worst(Metric.E2E, 0.1)
    checks.equal(f"{name}: not recorded", slowest.not_recorded, not_recorded)
    shares = {f"{part.part} {part.limiter or ''}".strip(): round(part.share, 3) for part in slowest.slowest.parts}
    checks.holds(f"{name}: the slowest are explained", f"{shares}", slowest.complete)
    wanted = (
        {"queued", "prefill_phase", "decode_phase"} if not_recorded else {"queued", "prefill", "decode", "preempted"}
    )
    checks.holds(f"{name}: parts", f"{sorted(known['parts'])}", wanted <= known["parts"])


def compare_spans(checks: Checks, root: Path, preemptions: int) -> None:
    """Who was in which iteration, as the scheduler told it, against what each request got and each iteration had."""
    run = open_run(root)
    spans, iterations = run.spans().to_pylist(), run.iterations()
    tokens = Counter(run.tokens().column("request").to_pylist())
    wanted = {row["request"]: row["tokens_generated"] for row in run.requests().to_pylist()}
    checks.equal(
        "spans: requests with all their tokens", sum(tokens[one] == wanted[one] for one in wanted), len(wanted)
    )
    present: Counter[int] = Counter()
    for span in spans:
        first = span["first_iteration"]
        present.update(range(first, first + span["iterations"]) if not span["evicted"] else ())
    sizes = dict(zip(*(iterations.column(name).to_pylist() for name in ("iteration", "request_count")), strict=True))
    differ = sum(present[iteration] != size for iteration, size in sizes.items())
    # A request that ended while the next step was scheduled already is in that batch, and no span goes beyond its end.
    checks.holds("spans: iterations with another batch", f"{differ} of {len(sizes)}", differ <= len(wanted))
    checks.equal("spans: evictions", sum(span["evicted"] for span in spans), preemptions)


def switched_on(checks: Checks, home: Path) -> None:
    port, snapshots, runs = free_port(), home / "snapshots", home / "runs"
    for folder in (snapshots, runs):
        shutil.rmtree(folder, ignore_errors=True)
    environment = {
        "BATCHSCOPE_VLLM": "1", "BATCHSCOPE_PORT": str(port), "BATCHSCOPE_SNAPSHOT_DIR": str(snapshots),
        "BATCHSCOPE_SLO": "time_to_first_token=0.5,time_per_output_token=0.05", "BATCHSCOPE_RECORD": str(runs),
    }  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def read() -> MetricsSnapshot:
        return decode_snapshot(fetch(url + "/snapshot?histograms=1"))

    with Server(home, "on", environment) as server:
        if not answers(checks, url):
            return
        serve_all(server.url, requests(REQUESTS))
        until(lambda: read().gauges.requests_in_flight == 0)
        ours, theirs = read(), Exposed(server.metrics())
        own = Exposed(fetch(url + "/metrics"))
        threads = [name for name in server.probe()["threads"] if name.startswith("batchscope")]
        with SnapshotDirectory(snapshots, compact=False) as directory:
            until(lambda: counts(directory.get_snapshot()) == counts(ours), 5.0)
            published = directory.get_snapshot()
    compare_counts(checks, ours, theirs)
    compare_run(checks, ours, runs)
    compare_explained(checks, "without the scheduler that reports", runs, ("spans",))
    compare_histograms(checks, ours, theirs)
    checks.equal("/metrics says lost requests", own.total("batchscope_requests_lost_total"), float(LEAVING))
    checks.equal("the published snapshot's counts", counts(published), counts(ours))
    checks.equal("SLO evaluated for", ours.slo_stats["default"].evaluated, REQUESTS - LEAVING)
    checks.holds("the probe sees the plug-in's threads", ", ".join(threads), bool(threads))


def switched_off(checks: Checks, home: Path) -> None:
    port = free_port()
    with Server(home, "off", {"BATCHSCOPE_PORT": str(port)}) as server:
        serve_all(server.url, requests(8, leaving=False))
        found = server.probe()
        try:
            answer = fetch(f"http://127.0.0.1:{port}/metrics", 2.0)
        except OSError:
            answer = ""
    checks.equal("off: threads", [name for name in found["threads"] if "batchscope" in name], [])
    parts = ("batchscope.engines", "batchscope.server", "batchscope.publishing", "batchscope.plugins.vllm_start")
    loaded = [name for name in found["modules"] if name.startswith(parts)]
    checks.equal("off: parts of batchscope imported", loaded, [])
    checks.equal("off: answer on the port", answer, "")
    clone = str(Path(__file__).resolve().parents[2])  # which may be called batchscope, too
    log = server.log.read_text(errors="replace").replace(clone, "")
    said = [line for line in log.splitlines() if "batchscope" in line.lower()]
    own = [line for line in said if "-> batchscope.plugins.vllm:" not in line]  # vLLM lists what is installed
    checks.equal("off: lines in the log", own, [])


def reporting_scheduler(checks: Checks, home: Path) -> None:
    """The opt-in scheduler subclass: the same answers, and the engine's own word on why admission stopped."""
    port, load = free_port(), requests(REQUESTS, leaving=False)
    url, tokens = f"http://127.0.0.1:{port}", sum(request.tokens for request in load)
    runs = home / "reported-runs"
    shutil.rmtree(runs, ignore_errors=True)
    environment = {"BATCHSCOPE_VLLM": "1", "BATCHSCOPE_PORT": str(port), "BATCHSCOPE_RECORD": str(runs)}
    with Server(home, "scheduler", environment, "--scheduler-cls", SCHEDULER) as server:
        if not answers(checks, url):
            return
        serve_all(server.url, load)
        until(lambda: decode_snapshot(fetch(url + "/snapshot")).gauges.requests_in_flight == 0)
        ours, theirs = decode_snapshot(fetch(url + "/snapshot")), Exposed(server.metrics())
    totals, iterations = ours.totals, ours.iteration_stats
    checks.equal("scheduler: tokens wanted", totals.generation_tokens, tokens)
    checks.equal("scheduler: tokens", float(totals.generation_tokens), theirs.total("vllm:generation_tokens_total"))
    checks.equal("scheduler: share of time whose limiter is reported", iterations.limiter_reported_ratio, 1.0)
    shares = {name: round(share, 3) for name, share in iterations.limited_by.items() if share > 0}
    checks.holds("scheduler: the KV cache is among the limiters", f"{shares}", shares.get("kv_cache", 0) > 0)
    checks.equal("scheduler: unknown limiter", shares.get("unknown"), None)
    prompts = sum(len(request.prompt) for request in load)
    computed = totals.scheduled_prefill_tokens
    detail = f"{computed} for {prompts} of prompts and {totals.preemptions} preemptions"
    checks.holds("scheduler: prefill tokens, recomputed ones included", detail, computed > prompts)
    compare_spans(checks, runs, totals.preemptions)
    compare_explained(checks, "scheduler", runs, ())


def another_scheduler(checks: Checks, home: Path) -> None:
    """Reporting around somebody else's class; requests by priority; the prefix cache's own statistics."""
    port, mark = free_port(), home / "instrumented.mark"
    mark.unlink(missing_ok=True)
    load = [
        request._replace(priority=5 * (number % 3 == 0)) for number, request in enumerate(requests(30, leaving=False))
    ]
    load += load[:10]  # their prompts are in the cache by then
    url = f"http://127.0.0.1:{port}"
    environment = {
        "BATCHSCOPE_VLLM": "1", "BATCHSCOPE_PORT": str(port), "BATCHSCOPE_VLLM_REQUEST_CLASS": "priority",
        "BATCHSCOPE_SLO": "0: e2e_latency=60; 5: e2e_latency=60", "INSTRUMENTED_MARK": str(mark),
        "BATCHSCOPE_VLLM_SCHEDULER": "instrumented.Instrumented", "PYTHONPATH": str(Path(__file__).parent),
    }  # fmt: skip
    options = ("--scheduler-cls", OTHER_SCHEDULER, "--enable-prefix-caching", "--scheduling-policy", "priority")
    with Server(home, "other", environment, *options) as server:
        if not answers(checks, url):
            return
        serve_all(server.url, load)
        until(lambda: decode_snapshot(fetch(url + "/snapshot")).gauges.requests_in_flight == 0)
        ours, theirs = decode_snapshot(fetch(url + "/snapshot")), Exposed(server.metrics())
    totals = ours.totals
    checks.holds("other scheduler: it planned", str(mark), mark.exists())
    checks.equal("other scheduler: limiters reported", ours.iteration_stats.limiter_reported_ratio, 1.0)
    urgent = sum(request.priority == 5 for request in load)
    by_class = {name: stats.evaluated for name, stats in ours.slo_stats.items()}
    checks.equal("other scheduler: requests by priority", by_class, {"0": len(load) - urgent, "5": urgent})
    for what, mine, name in (
        ("looked up in the prefix cache", totals.prefix_cache_queried_tokens, "vllm:prefix_cache_queries_total"),
        ("found in it", totals.prefix_cache_hit_tokens.get("device"), "vllm:prefix_cache_hits_total"),
    ):
        checks.equal(f"other scheduler: tokens {what}", float(mine or 0), theirs.total(name))
    detail = f"{totals.recomputed_tokens} for {totals.preemptions} preemptions"
    good = (totals.recomputed_tokens > 0) == (totals.preemptions > 0)
    checks.holds("other scheduler: recomputed tokens", detail, good)


def program(home: Path, name: str, *arguments: str, **variables: str) -> list[dict[str, Any]]:
    """The lines of JSON that a script beside this one prints; its log is beside those of the servers.

    It and its engines are a session of their own, which ends with it, whatever happens.
    """
    command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), str(home / "model"), *arguments]
    with (home / f"{name}.log").open("a") as log:
        process = subprocess.Popen(
            command, env=os.environ | ENVIRONMENT | variables, stdout=subprocess.PIPE, stderr=log, text=True,
            start_new_session=True,
        )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=PROGRAM_SECONDS)
    except subprocess.TimeoutExpired:
        return []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def step_times(checks: Checks, home: Path) -> None:
    """Busy time against the wall: in one process and in two, plain, with details, with the scheduler that reports."""
    for processes, variables in (("one process", {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}), ("two processes", {})):
        for wanted in ((), ("details",), ("reports",)):
            name = f"step time, {processes}, {wanted[0] if wanted else 'plain'}"
            said = program(home, "step_time", *wanted, **variables)
            if not said:
                checks.holds(name, f"no answer; see {home / 'step_time.log'}", good=False)
                continue
            for what in ("busy", "durations"):
                ratio = said[0][what] / said[0]["wall"]
                detail = f"{said[0][what]:.3f} s of {said[0]['wall']:.3f} s, {ratio:.4f}"
                checks.holds(f"{name}: {what}", detail, 1 - STEP_TIME_TOLERANCE <= ratio <= 1.001)


def embedded(checks: Checks, home: Path) -> None:
    """AsyncLLM with a stat logger, and the offline LLM attached to, in a process of their own."""
    lines = program(home, "embedded")
    for said in lines:
        ours = (said["completed"], said["tokens"], said["version"])
        checks.equal(
            f"embedded: requests and tokens of {said['what']}", ours, (said["requests"], said["wanted"], "0.32.0")
        )
    checks.equal("embedded: engines that answered", len(lines), 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--throughput", action="store_true")
    options = parser.parse_args()
    write_model(options.directory / "model")
    checks = Checks()
    switched_on(checks, options.directory)
    switched_off(checks, options.directory)
    reporting_scheduler(checks, options.directory)
    another_scheduler(checks, options.directory)
    embedded(checks, options.directory)
    step_times(checks, options.directory)
    if options.throughput:
        measure(options.directory)
    print(f"vllm: {checks.failures} checks do not hold" if checks.failures else "vllm: all checks hold")
    return 1 if checks.failures else 0


if __name__ == "__main__":
    sys.exit(main())
