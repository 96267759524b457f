"""What the sampler is made of: attempts, energy from power, the choice of GPUs, the process."""

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.resources.device import Attempts, EnergyIntegral
from batchscope.resources.gpus import visible
from batchscope.resources.process import Process

GPUS = [("GPU-aa11", "MIG-77"), ("GPU-aa22",), (), ("GPU-bb33",)]


def test_attempts_wait_longer_each_time_and_end():
    attempts, now, waits = Attempts(), 0.0, []
    assert attempts.due(now)
    while not attempts.given_up:
        attempts.failed(now)
        start = now
        while not attempts.due(now) and now - start < 1000:
            now += 1
        waits.append(now - start)
    assert waits == [5, 10, 20, 40, 80, 160, 1000]
    assert attempts.made == 7


def test_a_minute_of_success_makes_attempts_anew_a_second_does_not():
    attempts = Attempts()
    attempts.failed(0.0)
    for now in (5.0, 6.0):
        attempts.succeeded(now)
    assert attempts.made == 1
    attempts.succeeded(65.0)
    assert attempts.made == 0


def test_a_failure_for_ever_is_the_last():
    attempts = Attempts()
    attempts.failed(0.0, forever=True)
    assert attempts.given_up
    assert not attempts.due(1e12)


@given(st.lists(st.tuples(st.integers(0, 80).map(lambda k: k / 8), st.integers(0, 700)), min_size=1))
def test_energy_is_the_area_under_the_power(steps):
    integral, now, area, before = EnergyIntegral(), 0.0, 0.0, None
    for gap, watts in steps:
        now += gap
        if before is not None:
            area += gap * (watts + before) / 2
        assert integral.add(now, watts) == area
        before = watts


def test_a_long_time_without_a_reading_is_not_counted():
    integral = EnergyIntegral()
    assert [integral.add(now, 100.0) for now in (0.0, 10.0, 20.1, 21.1)] == [0.0, 1000.0, 1000.0, pytest.approx(1100.0)]


@pytest.mark.parametrize(
    ("wanted", "positions", "fault"),
    [
        ("0", [0], ""),
        (" 3 , 1,3", [3, 1], ""),
        ("GPU-aa22,GPU-b", [1, 3], ""),
        ("MIG-77", [0], ""),
        ("MIG-GPU-bb33/3/0", [3], ""),
        ("", [], ""),
        ("NoDevFiles", [], "'NoDevFiles' names no GPU: it and what follows it are left out"),
        ("1,4,0", [1], "'4' names no GPU: it and what follows it are left out"),
        ("GPU-aa", [], "'GPU-aa' names no GPU: it and what follows it are left out"),
        ("\u00b2", [], "'\u00b2' names no GPU: it and what follows it are left out"),
        ("1" * 5000, [], f"{'1' * 5000!r} names no GPU: it and what follows it are left out"),
    ],
)
def test_gpus_are_chosen_as_cuda_does(wanted, positions, fault):
    assert visible(wanted, GPUS) == (positions, fault)


def test_the_process_tells_its_cpu_time():
    before = os.times()
    samples = {found.quantity: found for found in Process().sample(0.0).samples}
    after = os.times()
    assert before.user + before.system <= samples["cpu_seconds"].value <= after.user + after.system
    assert samples["cpu_seconds"].resource == "process"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_the_process_tells_its_memory():
    def resident():
        return {found.quantity: found.value for found in Process().sample(0.0).samples}["resident_memory_bytes"]

    before = resident()
    ballast = bytearray(b"x" * 64 * 2**20)
    assert 48 * 2**20 < resident() - before < 96 * 2**20
    assert len(ballast) == 64 * 2**20


@pytest.mark.parametrize("content", [None, "", "1", "one two"])
def test_a_system_without_statm_is_a_fact(tmp_path, content):
    path = tmp_path / "statm"
    if content is not None:
        path.write_text(content)
    samples, facts = Process(path).sample(0.0)
    assert [found.quantity for found in samples] == ["cpu_seconds"]
    assert facts["process.resident_memory_bytes"].startswith("not known: ")
