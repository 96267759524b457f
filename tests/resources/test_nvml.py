"""NVML: the real binding on a stub of the library; every error is a fact, and the rest goes on."""

from ctypes.util import find_library

import pytest

SAMPLE = """
run = Run()
snapshot = run.sample()
tell(last=last(snapshot), facts=snapshot.resource_facts)
"""
FACTS = {"gpu.0.name": "Stub 0", "gpu.0.uuid": "GPU-00000000-stub"}
REASONS = (
    "sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown",
)  # fmt: skip


def test_every_quantity_comes_in_its_unit(on_stub):
    found = on_stub(SAMPLE, REASONS=0x1 | 0x4)
    newer = hasattr(pytest.importorskip("pynvml"), "nvmlDeviceGetTemperatureV")  # then the stub's newer function: 63
    assert found["last"] == {
        "gpu.0.utilization_ratio": 0.75,
        "gpu.0.memory_used_bytes": 20e9,
        "gpu.0.memory_total_bytes": 80e9,
        "gpu.0.power_watts": 350.5,
        "gpu.0.energy_joules": 0.0,
        "gpu.0.temperature_celsius": 63.0 if newer else 41.0,
        "gpu.0.sm_clock_hertz": 1.98e9,
        "gpu.0.throttled": 1.0,
        **{f"gpu.0.throttle_{reason}": float(reason == "sw_power_cap") for reason in REASONS},
    }
    assert found["facts"] == FACTS


@pytest.mark.parametrize("reasons", [0x0, 0x1, 0x2, 0x100, 0x103])
def test_an_idle_gpu_and_a_clock_that_somebody_set_are_not_throttled(on_stub, reasons):
    found = on_stub(SAMPLE, REASONS=reasons)["last"]
    assert {value for name, value in found.items() if "throttle" in name} == {0.0}


def test_two_gpus_are_told_apart(on_stub):
    program = """
run = Run()
run.sample()
snapshot = run.sample(ENERGY_0=5_002_000, ENERGY_1=5_007_500, POWER_1=1000)
gpus = {found.device: found.identity for found in snapshot.resource_stats.values()}
tell(last=last(snapshot), gpus=gpus, energy=snapshot.energy_stats.joules_by_gpu)
"""
    found = on_stub(program, GPUS=2)
    assert found["gpus"] == {"0": "GPU-00000000-stub", "1": "GPU-10000000-stub"}
    assert (found["last"]["gpu.0.power_watts"], found["last"]["gpu.1.power_watts"]) == (350.5, 1.0)
    assert (found["last"]["gpu.0.energy_joules"], found["last"]["gpu.1.energy_joules"]) == (2.0, 7.5)
    assert found["energy"] == {"GPU-00000000-stub": 2.0, "GPU-10000000-stub": 7.5}


def test_energy_over_the_tokens_of_the_same_span_is_joules_per_token(on_stub):
    program = """
run = Run()
run.tokens(1000)
run.sample(ENERGY=7_000_000)
run.tokens(50)
run.sample(ENERGY=7_200_000)
run.tokens(9999)
energy = run.collector.get_snapshot().energy_stats
tell(joules=energy.joules, tokens=energy.tokens_of_iterations, ratio=energy.joules_per_token)
"""
    assert on_stub(program) == {"joules": 200.0, "tokens": 50, "ratio": 4.0}


@pytest.mark.skipif(find_library("nvidia-ml") is not None, reason="this machine has NVIDIA's driver")
def test_no_library_is_a_fact(on_stub):
    found = on_stub(SAMPLE, driver=None)
    assert found["last"] == {}
    assert found["facts"]["nvml"] == "libnvidia-ml.so.1 not found: no NVIDIA driver here"


def test_no_gpu_is_a_fact(on_stub):
    assert on_stub(SAMPLE, GPUS=0)["facts"]["nvml"] == "no GPU"


@pytest.mark.parametrize(
    ("code", "text"), [(3, "not supported"), (4, "no permission"), (13, "the driver's NVML lacks this function")]
)
def test_a_quantity_that_the_gpu_does_not_have_is_a_fact_and_the_rest_comes(on_stub, code, text):
    found = on_stub(SAMPLE, nvmlDeviceGetPowerUsage=code)
    assert found["facts"] == {**FACTS, "gpu.0.power_watts": text}
    assert "gpu.0.power_watts" not in found["last"]
    assert found["last"]["gpu.0.utilization_ratio"] == 0.75


def test_an_old_driver_is_read_by_its_own_functions_and_energy_is_integrated(on_stub):
    program = """
run = Run()
run.sample(POWER=100_000)
run.sample(2.0, POWER=300_000)
long = last(run.sample(11.0, POWER=300_000))
snapshot = run.sample(1.0)
tell(last=last(snapshot), long=long, facts=snapshot.resource_facts)
"""
    found = on_stub(program, driver="OLD", REASONS=0x40)
    assert found["last"]["gpu.0.temperature_celsius"] == 41.0
    assert found["last"]["gpu.0.throttle_hw_thermal_slowdown"] == 1.0
    assert found["long"]["gpu.0.energy_joules"] == 400.0  # 2 s at 200 W; what 11 s without a reading used, nobody knows
    assert found["last"]["gpu.0.energy_joules"] == 700.0
    assert found["facts"]["gpu.0.energy_joules"] == "integrated from power_watts: the driver counts no energy"


def test_a_timeout_is_a_fact_until_it_is_over(on_stub):
    program = """
run = Run()
bad = run.sample(nvmlDeviceGetUtilizationRates=10)
good = run.sample(nvmlDeviceGetUtilizationRates=0)
tell(bad=bad.resource_facts, good=good.resource_facts, last=last(good))
"""
    found = on_stub(program)
    assert found["bad"] == {**FACTS, "gpu.0.utilization_ratio": "Timeout"}
    assert found["good"] == FACTS
    assert found["last"]["gpu.0.utilization_ratio"] == 0.75


def test_an_error_code_that_nobody_knows_is_told_in_the_librarys_words(on_stub):
    assert "stub" in on_stub(SAMPLE, nvmlDeviceGetPowerUsage=777)["facts"]["gpu.0.power_watts"]


LOST = """
run = Run()
run.sample()
facts, ages = [], []
for seconds, code in [(1, 15), (1, 15), (5, 15), (9, 0), (1, 0), (1, 0)]:
    snapshot = run.sample(seconds, nvmlDeviceGetUtilizationRates_1=code)
    facts.append(snapshot.resource_facts.get("gpu.1", ""))
    ages.append([snapshot.resource_stats[f"gpu.{gpu}.power_watts"].last_sampled_seconds_ago for gpu in (0, 1)])
tell(facts=facts, ages=ages)
"""


def test_a_gpu_lost_in_mid_run_is_a_fact_the_other_goes_on_and_it_is_tried_again(on_stub):
    found = on_stub(LOST, GPUS=2)
    lost = "GPU is lost"
    assert found["facts"] == [lost, lost, lost, lost, "", ""]
    assert found["ages"] == [[0, 1], [0, 2], [0, 7], [0, 16], [0, 0], [0, 0]]


def test_a_lost_gpu_is_given_up_after_seven_attempts(on_stub):
    program = """
run = Run()
for _ in range(10):
    snapshot = run.sample(1000, nvmlDeviceGetMemoryInfo=15)
fact = snapshot.resource_facts["gpu.0"]
tell(fact=fact, after=run.sample(100_000, nvmlDeviceGetMemoryInfo=0).resource_facts["gpu.0"])
"""
    assert on_stub(program) == dict.fromkeys(("fact", "after"), "GPU is lost; tried 7 times, given up")


def test_a_library_that_somebody_shut_down_is_opened_again(on_stub):
    program = """
import pynvml
run = Run()
run.sample()
pynvml.nvmlShutdown()
down = run.sample()
soon = run.sample()
again = run.sample(5)
tell(down=down.resource_facts, soon=soon.resource_facts, again=again.resource_facts,
     ago=again.resource_stats["gpu.0.power_watts"].last_sampled_seconds_ago)
"""
    found = on_stub(program)
    assert found["down"] == found["soon"] == {"nvml": "NVML was shut down", "amdsmi": found["down"]["amdsmi"]}
    assert found["again"] == FACTS
    assert found["ago"] == 0


@pytest.mark.parametrize(
    ("code", "text"), [(9, "driver not loaded"), (18, "driver and library versions differ"), (999, "Unknown Error")]
)
def test_a_driver_that_does_not_start_is_tried_seven_times_and_then_given_up(on_stub, code, text):
    program = """
run = Run()
facts = [run.sample(1000).resource_facts["nvml"] for _ in range(9)]
import os; os.environ["STUB_nvmlInitWithFlags"] = "0"
tell(facts=facts, after=last(run.sample(100_000)))
"""
    found = on_stub(program, nvmlInitWithFlags=code)
    assert found["facts"] == [text] * 6 + [f"{text}; tried 7 times, given up"] * 3
    assert found["after"] == {}


def test_a_gpu_that_does_not_answer_at_the_start_is_a_fact(on_stub):
    found = on_stub(SAMPLE, GPUS=2, nvmlDeviceGetHandleByIndex_v2_1=4)
    assert found["facts"] == {**FACTS, "gpu.1": "no permission"}
    assert found["last"]["gpu.0.power_watts"] == 350.5


def test_the_package_missing_is_a_fact_that_says_what_to_install(on_stub):
    found = on_stub("import sys; sys.modules['pynvml'] = None\n" + SAMPLE)
    assert found["last"] == {}
    assert "pip install 'batchscope[gpu]'" in found["facts"]["nvml"]


@pytest.mark.parametrize(
    ("wanted", "gpus"),
    [("1", {"1"}), ("1,0", {"0", "1"}), ("GPU-2", {"2"}), ("", set()), ("-1", set()), ("0,9,1", {"0"})],
)
def test_only_the_gpus_asked_for_are_sampled(on_stub, wanted, gpus):
    program = f"""
snapshot = Run(visible_devices={wanted!r}).sample()
tell(gpus=sorted({{found.device for found in snapshot.resource_stats.values()}}), facts=snapshot.resource_facts)
"""
    found = on_stub(program, GPUS=3)
    assert set(found["gpus"]) == gpus
    assert ("gpu.visible" in found["facts"]) == (wanted in {"-1", "0,9,1"})


def test_a_slice_stands_for_its_gpu(on_stub):
    program = """
snapshot = Run(visible_devices="MIG-12000000").sample(nvmlDeviceGetUtilizationRates=3)
tell(gpus=sorted({found.device for found in snapshot.resource_stats.values()}), facts=snapshot.resource_facts)
"""
    found = on_stub(program, GPUS=2, MIG_1=1)
    assert found["gpus"] == ["1"]
    assert found["facts"]["gpu.1.mig"] == "1 slices: figures are of the whole GPU"
    assert found["facts"]["gpu.1.utilization_ratio"] == "not supported"


def test_closing_it_leaves_nvml_to_other_users(on_stub):
    program = """
import pynvml
pynvml.nvmlInit()
run = Run()
run.sample()
run.sampler.close()
others = pynvml.nvmlDeviceGetCount()
pynvml.nvmlShutdown()
try:
    pynvml.nvmlDeviceGetCount()
except pynvml.NVMLError as error:
    tell(others=others, ours=error.value)
"""
    assert on_stub(program) == {"others": 1, "ours": 1}
