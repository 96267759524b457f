"""What the plug-in costs a server under load: CPU time a token with it and without, and its own share of all CPU time.

    python throughput.py DIRECTORY [--pairs N]

Two servers side by side, loaded in turn with the same requests. A pair is a round on each, the order changes from
pair to pair; there are pairs until the 95 % interval of their ratio is narrower than 1 %, at most N (48). CPU time
rather than tokens a second: it hardly depends on what else the machine does. Then a third server, whose calls of the
plug-in and whose threads of it are timed: what they used, of the server's CPU time and of the whole engine's.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
from load import requests, serve_all
from model import write_model

from server import Server, free_port

FEWEST, MOST, REQUESTS = 8, 48, 48
WIDTH = 0.01


class Round(NamedTuple):
    """Tokens a second as a client sees them; CPU microseconds a token of the server and of all."""

    rate: float
    cpu: float
    all_cpu: float


class Interval(NamedTuple):
    """A ratio and its 95 % interval."""

    middle: float
    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low


def interval(ratios: Sequence[float]) -> Interval:
    """Of the pairs' geometric mean, by Student's t: pairs are independent, their logarithms about normal."""
    logs = [math.log(ratio) for ratio in ratios]
    mean, spread = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    away = _quantile(len(logs) - 1) * spread
    return Interval(math.exp(mean), math.exp(mean - away), math.exp(mean + away))


def _quantile(freedom: int) -> float:
    """Student's t at 97.5 %, within 0.2 % from 7 degrees of freedom on (Cornish-Fisher)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def serve(server: Server, seed: int) -> Round:
    """One round: all requests at once."""
    made = requests(REQUESTS, seed, leaving=False)
    tokens = sum(request.tokens for request in made)
    cpu, all_cpu, start = server.cpu_seconds(), server.all_cpu_seconds(), time.perf_counter()
    serve_all(server.url, made, apart=0.0)
    seconds = time.perf_counter() - start
    used, all_used = server.cpu_seconds() - cpu, server.all_cpu_seconds() - all_cpu
    return Round(tokens / seconds, used / tokens * 1e6, all_used / tokens * 1e6)


def switched_on() -> dict[str, str]:
    return {"BATCHSCOPE_VLLM": "1", "BATCHSCOPE_PORT": str(free_port())}


def pairs_of(on: Server, off: Server, most: int) -> list[tuple[Round, Round]]:
    """Until the interval of the CPU time a token is narrow enough."""
    for server in (on, off):
        serve(server, 0)
    pairs: list[tuple[Round, Round]] = []
    while len(pairs) < most:
        number = len(pairs) + 1
        done = {server.url: serve(server, number) for server in ((on, off) if number % 2 else (off, on))}
        pairs.append((done[on.url], done[off.url]))
        if number >= FEWEST and interval([one.cpu / other.cpu for one, other in pairs]).width < WIDTH:
            break
    return pairs


def own_share(home: Path) -> None:
    """Calls and threads of the plug-in, timed in a server of their own: timing costs as well."""
    with Server(home, "share", switched_on() | {"PROBE_TIMES_CALLS": "1"}) as server:
        serve(server, 0)
        before, cpu, all_cpu = server.probe(), server.cpu_seconds(), server.all_cpu_seconds()
        for seed in range(1, 5):
            serve(server, seed)
        after = server.probe()
        cpu, all_cpu = server.cpu_seconds() - cpu, server.all_cpu_seconds() - all_cpu
    calls = after["call_seconds"] - before["call_seconds"]
    threads = {
        name: seconds - before["thread_seconds"].get(name, 0.0)
        for name, seconds in after["thread_seconds"].items()
        if name.startswith("batchscope")
    }
    count, own = after["calls"] - before["calls"], calls + sum(threads.values())
    by_thread = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in sorted(threads.items()))
    print(f"    vllm: {count} calls {calls * 1e3:.1f} ms ({calls / max(count, 1) * 1e6:.1f} us each); {by_thread}")
    print(
        f"    vllm: the plug-in's CPU time is {own / cpu:.2%} of the server's process,"
        f" {own / all_cpu:.2%} of server and engine core together"
    )


def measure(home: Path, most: int = MOST) -> None:
    """Print ratios with / without and their 95 % intervals, then the plug-in's share."""
    with Server(home, "rate-on", switched_on()) as on, Server(home, "rate-off", {}) as off:
        pairs = pairs_of(on, off, most)
    for what, of in (
        ("CPU us of the server a token", lambda one: one.cpu),
        ("CPU us of server and engine core a token", lambda one: one.all_cpu),
        ("tokens a second", lambda one: one.rate),
    ):
        _show(what, [(of(one), of(other)) for one, other in pairs])
    own_share(home)


def _show(what: str, pairs: Sequence[tuple[float, float]]) -> None:
    found = interval([with_it / without for with_it, without in pairs])
    print(
        f"    vllm: {what}: {statistics.median(one for one, _ in pairs):.1f} with the plug-in,"
        f" {statistics.median(one for _, one in pairs):.1f} without; ratio of {len(pairs)} pairs {found.middle:.4f},"
        f" 95 % interval {found.low:.4f} to {found.high:.4f}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--pairs", type=int, default=MOST, help="at most so many (default: %(default)s)")
    options = parser.parse_args()
    write_model(options.directory / "model")
    measure(options.directory, options.pairs)
