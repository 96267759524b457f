"""AMD SMI: a stand-in for its binding; without the library the import itself fails, and that is a fact."""

import sys
from types import SimpleNamespace

import pytest

from batchscope.resources.amd import AmdSmi
from batchscope.resources.gpus import Gpus


class AmdSmiException(Exception):
    def __init__(self, code):
        super().__init__(f"status {code}")
        self.err_code = code


def binding(**functions):
    """What amdsmi 7.0 gives, two GPUs."""
    usual = {
        "amdsmi_init": lambda: None,
        "amdsmi_shut_down": lambda: None,
        "amdsmi_get_processor_handles": lambda: ["first", "second"],
        "amdsmi_get_gpu_device_uuid": lambda gpu: f"uuid-of-{gpu}",
        "amdsmi_get_gpu_activity": lambda gpu: {"gfx_activity": 70, "umc_activity": 1, "mm_activity": "N/A"},
        "amdsmi_get_gpu_memory_usage": lambda gpu, kind: {"VRAM": 5 * 10**9}[kind],
        "amdsmi_get_gpu_memory_total": lambda gpu, kind: {"VRAM": 192 * 10**9}[kind],
        "amdsmi_get_power_info": lambda gpu: {
            "socket_power": 500, "current_socket_power": 501, "average_socket_power": "N/A",
        },
        "amdsmi_get_energy_count": lambda gpu: {
            "energy_accumulator": 10**9, "counter_resolution": 15.3, "timestamp": 1,
        },
        "amdsmi_get_temp_metric": lambda gpu, sensor, metric: {("HOTSPOT", "CURRENT"): 64}[sensor, metric],
        "amdsmi_get_clock_info": lambda gpu, clock: {"GFX": {"clk": 2100}}[clock],
    }  # fmt: skip
    return SimpleNamespace(
        AmdSmiException=AmdSmiException,
        AmdSmiMemoryType=SimpleNamespace(VRAM="VRAM"),
        AmdSmiTemperatureType=SimpleNamespace(HOTSPOT="HOTSPOT"),
        AmdSmiTemperatureMetric=SimpleNamespace(CURRENT="CURRENT"),
        AmdSmiClkType=SimpleNamespace(GFX="GFX"),
        **(usual | functions),
    )


@pytest.fixture
def sampled(monkeypatch):
    def sample(*, wanted=None, **functions):
        monkeypatch.setitem(sys.modules, "amdsmi", binding(**functions))
        gpus = Gpus(AmdSmi(), wanted)
        result = gpus.sample(0.0)
        gpus.close()
        return result

    return sample


def test_every_quantity_comes_in_its_unit(sampled):
    result = sampled()
    values = {found.quantity: found.value for found in result.samples if found.device == "1"}
    assert values.pop("energy_joules") == pytest.approx(15_300)
    assert values == {
        "utilization_ratio": 0.7, "memory_used_bytes": 5e9, "memory_total_bytes": 192e9, "power_watts": 500.0,
        "temperature_celsius": 64.0, "sm_clock_hertz": 2.1e9,
    }  # fmt: skip
    assert {found.identity for found in result.samples} == {"uuid-of-first", "uuid-of-second"}
    assert result.facts == {"gpu.0.uuid": "uuid-of-first", "gpu.1.uuid": "uuid-of-second"}


@pytest.mark.parametrize(
    ("power", "watts"),
    [({"socket_power": 0xFFFFFFFF, "current_socket_power": 0xFFFF, "average_socket_power": 300}, 300),
     ({"socket_power": 0, "current_socket_power": 0, "average_socket_power": 250}, 250),
     ({"average_socket_power": 200}, 200), ({"socket_power": 0}, 0)],
)  # fmt: skip
def test_power_is_the_first_field_that_holds_one(sampled, power, watts):
    samples = sampled(amdsmi_get_power_info=lambda gpu: power).samples
    assert {found.value for found in samples if found.quantity == "power_watts"} == {watts}


def test_what_the_library_does_not_know_is_a_fact(sampled):
    result = sampled(amdsmi_get_gpu_activity=lambda gpu: {"gfx_activity": "N/A"})
    assert result.facts["gpu.0.utilization_ratio"] == "no value"
    assert "utilization_ratio" not in {found.quantity for found in result.samples}


def test_an_older_binding_names_the_energy_counter_power(sampled):
    result = sampled(amdsmi_get_energy_count=lambda gpu: {"power": 2_000_000, "counter_resolution": 1.0})
    assert {found.value for found in result.samples if found.quantity == "energy_joules"} == {2.0}


@pytest.mark.parametrize(("code", "text"), [(2, "not supported"), (10, "no permission"), (8, "status 8")])
def test_an_error_of_one_quantity_leaves_the_others(sampled, code, text):
    def refuse(gpu, kind):
        raise AmdSmiException(code)

    result = sampled(amdsmi_get_clock_info=refuse)
    assert (result.facts["gpu.0.sm_clock_hertz"], len(result.samples)) == (text, 12)


def test_a_driver_that_is_not_loaded_is_a_fact(sampled):
    def fail():
        raise AmdSmiException(34)

    result = sampled(amdsmi_init=fail)
    assert result == ([], {"amdsmi": "driver not loaded"})


def test_only_the_gpus_asked_for_are_sampled(sampled):
    assert {found.device for found in sampled(wanted="1").samples} == {"1"}


@pytest.mark.parametrize(
    ("raising", "said"),
    [("KeyError('libamd_smi.so')", "KeyError: 'libamd_smi.so'"), ("OSError('no such file')", "no such file")],
)
def test_the_binding_without_its_library_is_a_fact(monkeypatch, tmp_path, raising, said):
    (tmp_path / "amdsmi.py").write_text(f"raise {raising}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
    gpus = Gpus(AmdSmi())
    for now in (0.0, 1e9):  # and it is not tried again
        samples, facts = gpus.sample(now)
        assert samples == []
        assert said in facts["amdsmi"]


def test_no_binding_is_a_fact(monkeypatch):
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert "not installed" in Gpus(AmdSmi()).sample(0.0).facts["amdsmi"]
