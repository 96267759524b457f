"""The sampler: a thread that reads GPUs and the process, and reports them to a collector."""

from __future__ import annotations

import threading
import time

from batchscope.background import Closing, Periodic, forked
from batchscope.clock import Clock
from batchscope.records import ResourceMetrics, ResourceSample
from batchscope.resources.amd import AmdSmi
from batchscope.resources.device import Result
from batchscope.resources.gpus import Gpus
from batchscope.resources.nvml import Nvml
from batchscope.resources.process import Process


class ResourceSampler(Closing):
    """Samples every GPU and this process each ``interval`` seconds in a daemon thread, until ``close()``.

    NVIDIA's GPUs by NVML (extra ``gpu``), else AMD's by amdsmi where it is installed. Without a GPU, a library or
    a right, it says so in the snapshot's ``resource_facts`` and samples the rest: it never raises and never holds
    up the engine. ``visible_devices`` restricts it to some GPUs, in the form of CUDA_VISIBLE_DEVICES: give it
    ``os.environ.get("CUDA_VISIBLE_DEVICES")`` where several engines share a machine. A forked child has no
    sampler: make one there. ConfigurationError for an interval that is not > 0.
    """

    def __init__(
        self,
        collector: ResourceMetrics,
        *,
        interval: float = 1.0,
        gpus: bool = True,
        process: bool = True,
        visible_devices: str | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._collector = collector
        self._clock = clock
        self._nvidia = Gpus(Nvml(), visible_devices) if gpus else None
        self._amd = Gpus(AmdSmi(), visible_devices) if gpus else None
        self._process = Process() if process else None
        self._said: set[str] = set()
        self._lock = threading.Lock()  # two threads that sample at once would report facts out of order
        self._closed = False
        self._periodic = Periodic(self._work, interval, "batchscope-resources").start()
        forked(self)

    def _work(self) -> None:
        self.sample(self._clock())

    def sample(self, now: float) -> Result:
        """Sample at once, at the instant ``now``, and report it; what was reported. Nothing after ``close()``."""
        if self._closed:
            return Result([], {})
        with self._lock:
            result = self._read(now)
            ended = dict.fromkeys(self._said - result.facts.keys(), "")
            self._said = set(result.facts)
            facts = result.facts | ended
            self._collector.record_resources(result.samples, facts=facts, interval=self._periodic.interval)
        return result

    def _read(self, now: float) -> Result:
        samples: list[ResourceSample] = []
        facts: dict[str, str] = {}
        for source in self._sources(now):
            samples += source.samples
            facts |= source.facts
        return Result(samples, facts)

    def _sources(self, now: float) -> list[Result]:
        results = []
        if self._nvidia is not None and not (self._amd and self._amd.found):
            results.append(self._nvidia.sample(now))
        if self._amd is not None and not (self._nvidia and self._nvidia.found):  # both would number their GPUs alike
            results.append(self._amd.sample(now))
        if self._process is not None:
            results.append(self._process.sample(now))
        return results

    @property
    def running(self) -> bool:
        """Whether its thread lives."""
        return self._periodic.running

    def close(self) -> None:
        """End the thread after a last sample; one that hangs in the driver is left to itself. May be repeated.

        In a forked child it does nothing: the driver's library is the parent's.
        """
        if not self._periodic.close() or self._closed:
            return
        with self._lock:
            self._closed = True
            for gpus in (self._nvidia, self._amd):
                if gpus is not None:
                    gpus.close()

    def _after_fork(self) -> None:
        """In the child: off."""
        self._closed = True
