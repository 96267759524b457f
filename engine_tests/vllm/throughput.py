"""What the plug-in costs a server under load: two servers side by side, loaded in turn with the same requests."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from load import requests, serve_all

from server import Server, free_port

ROUNDS, REQUESTS = 12, 48


class Round(NamedTuple):
    """Tokens a second as a client sees them; CPU microseconds of the server's process (its event loop) a token."""

    rate: float
    cpu: float


def serve(server: Server, seed: int) -> Round:
    """One round: all requests at once."""
    made = requests(REQUESTS, seed, leaving=False)
    tokens = sum(request.tokens for request in made)
    cpu, start = server.cpu_seconds(), time.perf_counter()
    serve_all(server.url, made, apart=0.0)
    return Round(tokens / (time.perf_counter() - start), (server.cpu_seconds() - cpu) / tokens * 1e6)


def measure(home: Path) -> None:
    """Print medians, and the ratio with / without of each pair in short; the order changes from round to round."""
    environment = {"BATCHSCOPE_VLLM": "1", "BATCHSCOPE_PORT": str(free_port())}
    with Server(home, "rate-on", environment) as on, Server(home, "rate-off", {}) as off:
        for server in (on, off):
            serve(server, 0)
        pairs = []
        for number in range(1, ROUNDS + 1):
            done = {server.url: serve(server, number) for server in ((on, off) if number % 2 else (off, on))}
            pairs.append((done[on.url], done[off.url]))
    _show("tokens a second", [(one.rate, other.rate) for one, other in pairs])
    _show("CPU us of the server a token", [(one.cpu, other.cpu) for one, other in pairs])


def _show(what: str, pairs: Sequence[tuple[float, float]]) -> None:
    ratios = sorted(with_it / without for with_it, without in pairs)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"    vllm: {what}: {statistics.median(one for one, _ in pairs):.1f} with the plug-in,"
        f" {statistics.median(one for _, one in pairs):.1f} without; ratio of {len(pairs)} pairs: median {middle:.3f},"
        f" quartiles {low:.3f} to {high:.3f}"
    )
