"""The sampler: a thread that reports and never hurts."""

import os
import sys
import threading

import pytest

from batchscope import SchedulerMetricsCollector
from batchscope.errors import ConfigurationError
from batchscope.resources import ResourceSampler
from batchscope.resources.device import Extent, Fault, Reading, Result
from batchscope.resources.gpus import Found, Gpus


class Heard:
    """Takes what a sampler reports."""

    def __init__(self):
        self.reports = []
        self.event = threading.Event()

    def record_resources(self, samples, *, facts=None, interval=10.0):
        self.reports.append((list(samples), facts, interval))
        self.event.set()


def test_the_thread_reports_at_its_interval_and_ends_with_a_last_report():
    heard = Heard()
    with ResourceSampler(heard, interval=0.01, gpus=False) as sampler:
        assert heard.event.wait(10)
    assert not sampler.running
    count = len(heard.reports)
    samples, facts, interval = heard.reports[-1]
    assert {found.quantity for found in samples} >= {"cpu_seconds"}
    assert (facts, interval) == ({}, 0.01)
    sampler.close()
    assert len(heard.reports) == count


def test_a_machine_without_gpus_and_libraries_is_told_as_facts(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    collector = SchedulerMetricsCollector()
    with ResourceSampler(collector, interval=3600) as sampler:
        sampler.sample(0.0)
        snapshot = collector.get_snapshot()
    assert snapshot.resource_facts.keys() == {"nvml", "amdsmi"}
    assert {found.resource for found in snapshot.resource_stats.values()} == {"process"}


def test_nothing_chosen_samples_nothing():
    heard = Heard()
    with ResourceSampler(heard, interval=3600, gpus=False, process=False) as sampler:
        assert sampler.sample(0.0) == ([], {})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_no_sampler_and_leaves_the_parents_alone():
    heard = Heard()
    with ResourceSampler(heard, interval=3600, gpus=False) as sampler, sampler._lock:
        child = os.fork()
        if child == 0:
            sampler.close()
            os._exit(0 if sampler.sample(0.0) == ([], {}) and not sampler.running else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert len(heard.reports) == 1


def test_a_fact_that_no_longer_holds_is_ended(monkeypatch):
    heard = Heard()
    with ResourceSampler(heard, interval=3600, gpus=False) as sampler:
        monkeypatch.setattr(sampler, "_read", lambda now: Result([], {"a": "x", "b": "y"}))
        sampler.sample(0.0)
        monkeypatch.setattr(sampler, "_read", lambda now: Result([], {"b": "y"}))
        sampler.sample(1.0)
        sampler.sample(2.0)
    assert [facts for _, facts, _ in heard.reports[:3]] == [{"a": "x", "b": "y"}, {"b": "y", "a": ""}, {"b": "y"}]


@pytest.mark.parametrize("interval", [0, -1, float("nan"), "1"])
def test_an_interval_that_is_none_is_refused(interval):
    with pytest.raises(ConfigurationError, match="interval"):
        ResourceSampler(Heard(), interval=interval, gpus=False)


class Vendor:
    """A library of which everything fails that is told to."""

    name, module = "vendor", None

    def __init__(self, failing=None):
        self.failing = failing

    @property
    def readings(self):
        return (Reading(("power_watts",), lambda module, handle: self.broken),)

    def open(self):
        if self.failing:
            raise self.failing
        return Found([], {})

    def understood(self, error):
        return Fault(Extent.ONCE, repr(error))


def test_whatever_a_binding_raises_is_a_fact():
    gpus = Gpus(Vendor(TypeError("foreign")))
    assert gpus.sample(0.0) == ([], {"vendor": "TypeError('foreign')"})
    assert not gpus.found


def test_closing_what_was_never_opened_does_nothing():
    Gpus(Vendor()).close()
