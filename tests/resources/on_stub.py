"""Run in a process of its own: the real binding on the stub library, loaded first under NVML's own name."""

import ctypes
import json
import os
import sys

LIBRARY = os.environ.get("STUB_LIBRARY")
if LIBRARY:
    ctypes.CDLL(LIBRARY, mode=ctypes.RTLD_GLOBAL)

from batchscope import IterationResult, SchedulerMetricsCollector  # noqa: E402
from batchscope.resources import ResourceSampler  # noqa: E402


class Run:
    """A collector and a sampler under a clock that only ``sample`` moves; its thread never gets its turn."""

    def __init__(self, **options):
        self.now = 1000.0
        self.collector = SchedulerMetricsCollector(clock=lambda: self.now)
        self.sampler = ResourceSampler(self.collector, interval=3600, **({"process": False} | options))

    def sample(self, seconds=1.0, **environment):
        for name, value in environment.items():
            os.environ[f"STUB_{name}"] = str(value)
        self.now += seconds
        self.sampler.sample(self.now)
        return self.collector.get_snapshot()

    def tokens(self, count):
        self.collector.record_iteration(IterationResult(1, 1, count, 0, 0.5))


def last(snapshot):
    return {name: found.last for name, found in snapshot.resource_stats.items()}


def tell(**found):
    sys.stdout.write(json.dumps(found))
