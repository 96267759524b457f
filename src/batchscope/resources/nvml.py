"""NVIDIA GPUs through NVML, by the binding nvidia-ml-py (extra ``gpu``), which is imported when first sampled.

What each call gives, and its errors: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from batchscope.errors import MissingExtraError
from batchscope.resources.device import ENERGY, NOT_SUPPORTED, POWER, BrokenError, Device, Extent, Fault, Reading
from batchscope.resources.gpus import Found

_FOR_GOOD = {3: NOT_SUPPORTED, 4: "no permission", 13: "the driver's NVML lacks this function", 26: "deprecated"}
_OF_DEVICE = {2: "handle no longer valid", 15: "GPU is lost", 16: "GPU needs a reset", 28: "GPU not found"}
_OF_LIBRARY = {1: "NVML was shut down", 9: "driver not loaded", 18: "driver and library versions differ"}
_MEANINGS = ((Extent.QUANTITY, _FOR_GOOD), (Extent.DEVICE, _OF_DEVICE), (Extent.LIBRARY, _OF_LIBRARY))
_NO_LIBRARY = 12
_NOT_THIS_WAY = (3, 13, 25)
"""Return codes of NVML (nvml.h, ``nvmlReturn_t``)."""

_REASONS = {
    "sw_power_cap": 0x4, "hw_slowdown": 0x8, "sync_boost": 0x10, "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40, "hw_power_brake_slowdown": 0x80,
}  # fmt: skip
"""Bits of the clocks' event reasons that mean held down: an idle GPU (1) and a clock somebody set (2, 0x100) do not."""


def _first(nvml: Any, names: tuple[str, ...], *arguments: Any) -> Any:
    """The first of several functions for the same thing that binding, driver and GPU all have."""
    *preferred, last = names
    for name in preferred:
        try:
            return getattr(nvml, name)(*arguments)
        except AttributeError:
            continue
        except nvml.NVMLError as error:
            if error.value not in _NOT_THIS_WAY:
                raise
    return getattr(nvml, last)(*arguments)


def _memory(nvml: Any, handle: Any) -> dict[str, float]:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return {"memory_used_bytes": float(memory.used), "memory_total_bytes": float(memory.total)}


def _temperature(nvml: Any, handle: Any) -> dict[str, float]:
    names = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
    return {"temperature_celsius": float(_first(nvml, names, handle, nvml.NVML_TEMPERATURE_GPU))}


def _throttling(nvml: Any, handle: Any) -> dict[str, float]:
    names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    bits = _first(nvml, names, handle)
    found = {f"throttle_{name}": float(bool(bits & bit)) for name, bit in _REASONS.items()}
    return {"throttled": max(found.values()), **found}


def _scaled(name: str, factor: float, read: Callable[[Any, Any], float]) -> Reading:
    return Reading((name,), lambda nvml, handle: {name: read(nvml, handle) * factor})


READINGS = (
    _scaled("utilization_ratio", 0.01, lambda nvml, handle: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
    Reading(("memory_used_bytes", "memory_total_bytes"), _memory),
    _scaled(POWER, 1e-3, lambda nvml, handle: nvml.nvmlDeviceGetPowerUsage(handle)),
    _scaled(ENERGY, 1e-3, lambda nvml, handle: nvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
    Reading(("temperature_celsius",), _temperature),
    _scaled("sm_clock_hertz", 1e6, lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
    Reading(("throttled", *(f"throttle_{name}" for name in _REASONS)), _throttling),
)
"""NVML counts milliwatts, millijoules since the driver was loaded, MHz and percent."""


class Nvml:
    """NVML as ``Gpus`` needs it. It counts its users: closing it leaves it to others in the process."""

    name = "nvml"
    readings = READINGS
    module: Any = None

    def open(self) -> Found:
        """All GPUs, in the order of their PCI bus ids."""
        try:
            import pynvml  # noqa: PLC0415  (the module of nvidia-ml-py)
        except ImportError:
            raise BrokenError(Fault(Extent.NEVER, str(MissingExtraError("sampling NVIDIA GPUs", "gpu")))) from None
        self.module = pynvml
        pynvml.nvmlInit()
        facts: dict[str, str] = {}
        try:
            devices = [self._device(index, facts) for index in range(pynvml.nvmlDeviceGetCount())]
        except Exception:
            self.close()  # what began is ended, or NVML's count of its users would never fall
            raise
        return Found(devices, facts)

    def _device(self, index: int, facts: dict[str, str]) -> Device | None:
        nvml = self.module
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            device = Device(str(index), str(nvml.nvmlDeviceGetUUID(handle)), handle)
            device.about = {"name": str(nvml.nvmlDeviceGetName(handle)), "uuid": device.identity}
        except nvml.NVMLError as error:
            fault = self.understood(error)
            if fault.extent is Extent.LIBRARY:
                raise
            facts[f"gpu.{index}"] = fault.text
            return None
        device.slices = self._slices(handle)
        if device.slices:
            device.about["mig"] = f"{len(device.slices)} slices: figures are of the whole GPU"
        return device

    def _slices(self, handle: Any) -> tuple[str, ...]:
        """UUIDs of MIG devices; most GPUs cannot be sliced, and say so by an error."""
        nvml = self.module
        try:
            places = nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if nvml.nvmlDeviceGetMigMode(handle)[0] else 0
        except nvml.NVMLError:
            return ()
        found = []
        for place in range(places):
            try:
                found.append(str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place))))
            except nvml.NVMLError:  # a place without a slice
                continue
        return tuple(found)

    def handle(self, device: Device) -> Any:
        """By UUID: indices may have moved."""
        return self.module.nvmlDeviceGetHandleByUUID(device.identity)

    def understood(self, error: Exception) -> Fault:
        """By NVML's return code; what the binding itself raises concerns one reading."""
        code = getattr(error, "value", None)
        if code == _NO_LIBRARY:
            return Fault(Extent.NEVER, "libnvidia-ml.so.1 not found: no NVIDIA driver here")
        for extent, texts in _MEANINGS:
            if code in texts:
                return Fault(extent, texts[code])
        return Fault(Extent.ONCE, str(error) or repr(error))

    def close(self) -> None:
        """Let NVML go."""
        with contextlib.suppress(self.module.NVMLError):  # it is shut down already, or beyond help
            self.module.nvmlShutdown()
