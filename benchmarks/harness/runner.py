"""Timing one contender, in this process or in a child."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from harness.contender import Contender, Prepared

PAUSE = 200e-6
"""Seconds of sleep before each cold call: what an engine does between two records."""
DRAINS, DRAINED_AT_ONCE = 3, 2000
"""Drains, and records in each, to find the share of a cold record: below what makes a writer drain itself."""


def child_environment() -> dict[str, str]:
    """Ours, with this package where a child's Python finds it."""
    here = str(Path(__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


class Runner(Protocol):
    """Times one contender; nanoseconds a call."""

    def warm(self, calls: int) -> float: ...
    def cold(self, calls: int) -> float: ...
    def verify(self) -> None: ...


class Local:
    """In this process."""

    def __init__(self, prepared: Prepared) -> None:
        self._body, self._settle, self._verify = prepared
        self._calls = 0

    def warm(self, calls: int) -> float:
        """In a tight loop, what was put off included."""
        gc.collect()
        self._calls += calls
        body, settle = self._body, self._settle
        start = time.perf_counter_ns()
        body(calls)
        if settle:
            settle()
        return (time.perf_counter_ns() - start) / calls

    def cold(self, calls: int) -> float:
        """Each call after a sleep, alone between two readings of the clock; the median, plus the drain's share."""
        self._calls += calls
        body, clock, sleep, taken = self._body, time.perf_counter_ns, time.sleep, []
        for _ in range(calls):
            sleep(PAUSE)
            start = clock()
            body(1)
            taken.append(clock() - start)
        return statistics.median(taken) + self._drain_share()

    def _drain_share(self) -> float:
        """The best of a few drains: each is one short burst, which a busy machine easily hits."""
        if self._settle is None:
            return 0.0
        self._settle()
        taken = []
        for _ in range(DRAINS):
            self._calls += DRAINED_AT_ONCE
            self._body(DRAINED_AT_ONCE)
            start = time.perf_counter_ns()
            self._settle()
            taken.append(time.perf_counter_ns() - start)
        return min(taken) / DRAINED_AT_ONCE

    def verify(self) -> None:
        if self._verify:
            self._verify(self._calls)


class Child:
    """A process whose prometheus_client is in multiprocess mode: that is decided when it is imported."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="batchscope-bench-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**child_environment(), "PROMETHEUS_MULTIPROC_DIR": self._folder.name},
        )

    def ask(self, action: str, contender: Contender, calls: int) -> float:
        """Have the child do it, wait, and give what it measured. Between questions it sleeps."""
        questions, answers = self._process.stdin, self._process.stdout
        if questions is None or answers is None:  # never: both are pipes
            raise RuntimeError("the child process has no pipes")
        questions.write(json.dumps([action, contender.key, calls]) + "\n")
        questions.flush()
        answer = answers.readline()
        if not answer:
            raise RuntimeError(f"the child process ended while it ran {contender.key!r}; its error is above")
        return float(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._folder.cleanup()


class Remote:
    """In a child process."""

    def __init__(self, child: Child, contender: Contender) -> None:
        self._child, self._contender = child, contender

    def warm(self, calls: int) -> float:
        return self._child.ask("warm", self._contender, calls)

    def cold(self, calls: int) -> float:
        return self._child.ask("cold", self._contender, calls)

    def verify(self) -> None:
        """Nothing it records is put off, so nothing can be missing."""
