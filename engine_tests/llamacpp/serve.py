"""llama.cpp, served for real and watched from outside: batchscope's counts against the responses' own.

Runs in the environment that run.py makes. Exit code 0, or 1 if a check failed; a line a check.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xllamacpp
from tiny_model import CONTEXT, FIRST_WORD, LAST_WORD, write_model

SLOTS = 4
REQUESTS = 36
SECONDS = 120
"""Until a request, or a command, is given up."""
INTERVAL = 1
LOG_LINES = 50
failures: list[str] = []


def check(what: str, holds: object, found: object = "") -> None:
    """One line; a failure is remembered."""
    print(f"{'ok  ' if holds else 'FAIL'} llama.cpp: {what}{f': {found}' if found != '' else ''}", flush=True)
    if not holds:
        failures.append(what)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server(model: Path) -> tuple[xllamacpp.Server, str]:
    """Four slots on loopback; the server runs until it is let go."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.n_parallel = SLOTS
    parameters.n_ctx = CONTEXT
    parameters.cpuparams.n_threads = 1  # more wait for each other by spinning: for seconds, where others compute too
    parameters.cont_batching = True
    parameters.warmup = False
    parameters.endpoint_metrics = True
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = free_port()
    running = xllamacpp.Server(parameters)
    address = running.listening_address
    return running, address if address.startswith("http") else f"http://{address}"


def complete(url: str, prompt: list[int], tokens: int, *, reuse: bool) -> dict[str, Any]:
    body = {"prompt": prompt, "n_predict": tokens, "ignore_eos": True, "temperature": 0, "cache_prompt": reuse}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/completion", json.dumps(body).encode(), headers)  # noqa: S310  (ours)
    with urllib.request.urlopen(request, timeout=SECONDS) as response:  # noqa: S310
        return json.load(response)


def load(url: str, seed: int) -> list[dict[str, Any]]:
    """A few dozen requests at once; every third one asks again for a prompt that may be in the cache."""
    ask = asker(url, seed)
    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(ask, range(REQUESTS)))


def asker(url: str, seed: int) -> Callable[[int], dict[str, Any]]:
    """Sends the request of a number, of random lengths."""
    choice = random.Random(seed)
    common = [choice.randint(FIRST_WORD, LAST_WORD) for _ in range(150)]

    def ask(index: int) -> dict[str, Any]:
        reuse = index % 3 == 0
        prompt = (
            common if reuse else [choice.randint(FIRST_WORD, LAST_WORD) for _ in range(choice.choice([10, 60, 200]))]
        )
        return complete(url, prompt, choice.choice([16, 64, 128]), reuse=reuse)

    return ask


def batchscope(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "batchscope", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> tuple[int, Any]:
    output, _ = process.communicate(timeout=SECONDS)
    return process.returncode, json.loads(output.splitlines()[-1])


def look_of(watching: subprocess.Popen[str]) -> Any:
    """What its next line says of the target's page; None where the page was not read."""
    return json.loads(watching.stdout.readline())["targets"][0]["scraped"]


def check_names(url: str) -> None:
    code, report = finished(batchscope("check", url, "--json"))
    check(
        "check ends with 0 and recognises the engine", code == 0 and report["engine"] == "llama.cpp", report["version"]
    )
    check("check knows every name of this build", report["unknown_names"] == [], report["unknown_names"])
    check("check says why there are no latencies", "distributions" in report["not_given"]["time_to_first_token"])


def check_counts(url: str) -> None:
    """A look a second: from the first to one after the last response lies a known number of tokens."""
    watching = batchscope("watch", url, "--interval", INTERVAL, "--json")
    looks = [look_of(watching)]
    with ThreadPoolExecutor(1) as beside:
        answered = beside.submit(load, url, seed=1)
        while not answered.done():
            looks.append(look_of(watching))
    responses = answered.result()
    looks += [look_of(watching), look_of(watching)]  # the first of the two may have begun before the last response
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=SECONDS)
    check("every look reads the page", all(look is not None for look in looks), f"{len(looks)} looks")
    first, second = looks[0], looks[-1]
    expected = {
        "generation_tokens": sum(response["tokens_predicted"] for response in responses),
        "prompt_tokens_computed": sum(response["timings"]["prompt_n"] for response in responses),
        "prompt_tokens_cached": sum(response["timings"]["cache_n"] for response in responses),
    }
    check("watch that is interrupted ends with 130", watching.returncode == 130, watching.returncode)
    check(f"the first look says that it is since the start, the others that they are not ({REQUESTS} requests between)",
          [look["window"]["since_start"] for look in looks] == [True] + [False] * (len(looks) - 1))  # fmt: skip
    for name, number in expected.items():
        gained = second["snapshot"]["totals"][name] - first["snapshot"]["totals"][name]
        check(f"{name} equal the responses' own", gained == number, f"{gained} = {number}")
    check("the cache was used", expected["prompt_tokens_cached"] > 0, expected["prompt_tokens_cached"])
    windows = [(look["snapshot"], look["window"]["seconds"]) for look in looks[1:]]
    shown = sum(snapshot["request_stats"]["tokens_per_second"] * seconds for snapshot, seconds in windows)
    check("tokens a second x seconds are those tokens", abs(shown - expected["generation_tokens"]) < 1e-6 * shown)
    batches = [snapshot["iteration_stats"]["average_requests_per_iteration"] for snapshot, _ in windows]
    batches = [batch for batch in batches if batch is not None]  # else nothing ran in that second
    check(f"the average batch is within 1..{SLOTS}", batches and 1 <= min(batches) <= max(batches) <= SLOTS, batches)
    gauges = second["snapshot"]["gauges"]
    check("nothing runs or waits afterwards", gauges["requests_running"] == gauges["requests_waiting"] == 0)


def check_load_and_a_dead_target(url: str) -> None:
    """A look while all slots are busy, beside a target that is not there."""
    stop, ask = threading.Event(), asker(url, seed=2)

    def keep_busy(index: int) -> None:
        while not stop.is_set():
            ask(index)

    with ThreadPoolExecutor(REQUESTS) as pool:  # each asks again at once: more wait than there are slots, at any moment
        busy = [pool.submit(keep_busy, index) for index in range(REQUESTS)]
        try:
            code, document = finished(batchscope("watch", url, f"http://127.0.0.1:{free_port()}", "--once", "--json"))
        finally:
            stop.set()
    for future in busy:
        future.result()
    here, dead = document["targets"]
    check("under load the page is read", not here["error"], here["error"])
    gauges = here["scraped"]["snapshot"]["gauges"]
    check(f"under load 1..{SLOTS} slots are busy", 1 <= gauges["requests_running"] <= SLOTS, gauges["requests_running"])
    check("under load requests wait for a slot", gauges["requests_waiting"] > 0, gauges["requests_waiting"])
    check("the dead target is down, since when, and why", dead["state"] == "down" and dead["since"] and dead["error"])
    check("the rest goes on", code == 0 and here["state"] == "live" and document["fleet"] is not None)


@contextmanager
def server_log(path: Path) -> Iterator[None]:
    """What the server says on stderr goes to ``path``; shown if a check fails."""
    sys.stderr.flush()
    ours = os.dup(2)
    with path.open("wb") as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(ours, 2)
        os.close(ours)
        if failures or sys.exc_info()[0]:
            print(*path.read_text(errors="replace").splitlines()[-LOG_LINES:], sep="\n", file=sys.stderr)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, server_log(Path(folder, "server.log")):
        model = Path(folder, "tiny.gguf")
        write_model(model)
        running, url = server(model)
        print(f"llama.cpp serves at {url}", flush=True)
        check_names(url)
        check_counts(url)
        check_load_and_a_dead_target(url)
        del running
    print(f"llama.cpp: {len(failures)} checks failed" if failures else "llama.cpp: all checks hold", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
