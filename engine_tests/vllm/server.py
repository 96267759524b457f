"""vLLM's HTTP server as a process of ours, on loopback, with a KV cache that is too small for its batch."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_SECONDS = 180.0
MAX_RUNNING, MAX_TOKENS, BLOCKS, MAX_LENGTH = 16, 256, 64, 2000
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def fetch(url: str, seconds: float = 10.0) -> str:
    """The text behind a loopback URL."""
    with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310  (our own loopback URLs)
        return str(answer.read().decode())


def _cpu_seconds(process: int) -> float:
    """To the nanosecond: the clock of another process's CPU time, as clock_getcpuclockid(3) makes its id."""
    return time.clock_gettime((~process << 3) | 2)


class Server:
    """Started on entering, ended on leaving, whatever happens between. ``environment`` switches the plug-in."""

    def __init__(self, home: Path, name: str, environment: dict[str, str], *arguments: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = home / f"{name}.log"
        self._answer = home / f"{name}.probe"
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("BATCHSCOPE_")}
        self._environment |= ENVIRONMENT | environment
        self._command = [
            sys.executable, str(Path(__file__).with_name("probe.py")), str(self._answer),
            "--model", str(home / "model"), "--served-model-name", "tiny", "--load-format", "dummy",
            "--dtype", "bfloat16", "--enforce-eager", "--max-model-len", str(MAX_LENGTH),
            "--max-num-seqs", str(MAX_RUNNING), "--max-num-batched-tokens", str(MAX_TOKENS),
            "--num-gpu-blocks-override", str(BLOCKS), "--block-size", "32", "--no-enable-prefix-caching",
            "--host", "127.0.0.1", "--port", self.url.rsplit(":", 1)[1], *arguments,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"the server ended at once; see {self.log}")
            try:
                fetch(self.url + "/health", 2.0)
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
            else:
                return
        raise RuntimeError(f"the server did not answer within {START_SECONDS:.0f} s; see {self.log}")

    def _end(self) -> None:
        """End the server and the processes it started: they are one session of their own."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the engine core, should it have outlived the server

    def cpu_seconds(self) -> float:
        """CPU time of the server's process so far: not that of the engine core, which is another one."""
        return math.nan if self._process is None else _cpu_seconds(self._process.pid)

    def all_cpu_seconds(self) -> float:
        """CPU time of all processes of the server: the engine core and its workers are of its session."""
        if self._process is None:
            return math.nan
        total = 0.0
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):  # gone meanwhile, or no process
                if os.getsid(int(entry.name)) == self._process.pid:
                    total += _cpu_seconds(int(entry.name))
        return total

    def metrics(self) -> str:
        """Its own Prometheus text."""
        return fetch(self.url + "/metrics")

    def probe(self) -> dict[str, Any]:
        """Threads, and modules of batchscope, in the server's process."""
        self._answer.unlink(missing_ok=True)
        self._answer.with_name(self._answer.name + ".ask").touch()
        deadline = time.monotonic() + 20
        while not self._answer.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("the server's process does not answer the probe")
            time.sleep(0.1)
        found: dict[str, Any] = json.loads(self._answer.read_text())
        return found
