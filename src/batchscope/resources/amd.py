"""AMD GPUs through AMD SMI, by its binding amdsmi, which comes with ROCm; imported when first sampled.

What each call gives: https://rocm.docs.amd.com/projects/amdsmi/en/latest/reference/amdsmi-py-api.html
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from batchscope.resources.device import ENERGY, NOT_SUPPORTED, POWER, BrokenError, Device, Extent, Fault, Reading
from batchscope.resources.gpus import Found

_FOR_GOOD = {2: NOT_SUPPORTED, 3: "not yet implemented", 10: "no permission"}
_OF_DEVICE = {31: "GPU not found"}
_OF_LIBRARY = {32: "AMD SMI was shut down", 34: "driver not loaded"}
_MEANINGS = ((Extent.QUANTITY, _FOR_GOOD), (Extent.DEVICE, _OF_DEVICE), (Extent.LIBRARY, _OF_LIBRARY))
"""Codes of ``amdsmi_status_t`` (amdsmi.h)."""
_NO_VALUE = 0xFFFF
"""What the library stands for no power: all bits, of 16 or 32."""


def _number(value: Any, limit: float = math.inf) -> float:
    """``value`` as a number; the binding writes ``N/A`` for what is not known."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and value < limit
    return float(value) if known else math.nan


def _power(smi: Any, handle: Any) -> float:
    """Watts: a field each for all, for new and for older GPUs; those that do not apply hold no value, or 0."""
    found = smi.amdsmi_get_power_info(handle)
    names = ("socket_power", "current_socket_power", "average_socket_power")
    known = [watts for name in names if not math.isnan(watts := _number(found.get(name), _NO_VALUE))]
    return next((watts for watts in known if watts), known[0] if known else math.nan)


def _energy(smi: Any, handle: Any) -> float:
    """Joules: a count of ticks of so many microjoules."""
    found = smi.amdsmi_get_energy_count(handle)
    ticks = found.get("energy_accumulator", found.get("power"))
    return _number(ticks) * _number(found.get("counter_resolution")) * 1e-6


def _temperature(smi: Any, handle: Any) -> float:
    current = smi.AmdSmiTemperatureMetric.CURRENT
    return _number(smi.amdsmi_get_temp_metric(handle, smi.AmdSmiTemperatureType.HOTSPOT, current))


def _clock(smi: Any, handle: Any) -> float:
    found = smi.amdsmi_get_clock_info(handle, smi.AmdSmiClkType.GFX)
    return _number(found.get("clk", found.get("cur_clk"))) * 1e6


def _memory(function: str) -> Callable[[Any, Any], float]:
    return lambda smi, handle: _number(getattr(smi, function)(handle, smi.AmdSmiMemoryType.VRAM))


def _reading(name: str, read: Callable[[Any, Any], float]) -> Reading:
    return Reading((name,), lambda smi, handle: {name: read(smi, handle)})


READINGS = (
    _reading("utilization_ratio", lambda smi, gpu: _number(smi.amdsmi_get_gpu_activity(gpu).get("gfx_activity")) / 100),
    _reading("memory_used_bytes", _memory("amdsmi_get_gpu_memory_usage")),
    _reading("memory_total_bytes", _memory("amdsmi_get_gpu_memory_total")),
    _reading(POWER, _power),
    _reading(ENERGY, _energy),
    _reading("temperature_celsius", _temperature),
    _reading("sm_clock_hertz", _clock),
)
"""AMD SMI counts percent, bytes, watts, degrees and MHz. Throttle reasons differ by chip and are left out."""


class AmdSmi:
    """AMD SMI as ``Gpus`` needs it."""

    name = "amdsmi"
    readings = READINGS
    module: Any = None

    def open(self) -> Found:
        """All GPUs. Importing the binding without its library raises KeyError (amdsmi 7.0), or OSError."""
        try:
            import amdsmi  # noqa: PLC0415
        except ModuleNotFoundError:
            raise BrokenError(Fault(Extent.NEVER, "amdsmi is not installed (it comes with ROCm)")) from None
        except Exception as error:
            text = f"amdsmi cannot be imported: {type(error).__name__}: {error}"
            raise BrokenError(Fault(Extent.NEVER, text)) from error
        self.module = amdsmi
        amdsmi.amdsmi_init()
        handles = amdsmi.amdsmi_get_processor_handles()
        return Found([self._device(index, handle) for index, handle in enumerate(handles)], {})

    def _device(self, index: int, handle: Any) -> Device:
        device = Device(str(index), "", handle)
        try:
            device.identity = str(self.module.amdsmi_get_gpu_device_uuid(handle))
        except self.module.AmdSmiException as error:
            device.about["uuid"] = self.understood(error).text
        else:
            device.about["uuid"] = device.identity
        return device

    def handle(self, device: Device) -> Any:
        """By index: the library has no other way that all versions share."""
        return self.module.amdsmi_get_processor_handles()[int(device.label)]

    def understood(self, error: Exception) -> Fault:
        """By the library's status code; anything else concerns one reading."""
        code = getattr(error, "err_code", None)
        for extent, texts in _MEANINGS:
            if code in texts:
                return Fault(extent, texts[code])
        return Fault(Extent.ONCE, " ".join(str(error).split()) or repr(error))

    def close(self) -> None:
        """Let the library go."""
        self.module.amdsmi_shut_down()
