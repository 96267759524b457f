"""All GPUs of one vendor: opened, sampled, given up one by one or all together, tried again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from batchscope.records import ResourceSample
from batchscope.resources.device import Attempts, BrokenError, Device, Extent, Fault, Reading, Result

_MOST_DIGITS = 9  # of an index: int() refuses thousands


class Found(NamedTuple):
    """The devices by index (None where one does not answer), and facts about them."""

    devices: list[Device | None]
    facts: dict[str, str]


class Vendor(Protocol):
    """A vendor's library. Its methods may raise anything; ``understood`` gives the meaning."""

    name: str
    module: Any

    @property
    def readings(self) -> Sequence[Reading]:
        """The calls to make for each GPU."""

    def open(self) -> Found:
        """Import and begin; BrokenError with ``NEVER`` where it is no use to try again."""

    def handle(self, device: Device) -> Any:
        """The handle of a device that was lost and may be back."""

    def understood(self, error: Exception) -> Fault:
        """What an exception means."""

    def close(self) -> None:
        """Let the library go."""


class Gpus:
    """The GPUs of ``vendor``, or those of them that ``wanted`` names (as CUDA_VISIBLE_DEVICES would).

    Nothing raises: an error is a fact. A GPU that is lost, and a library that fails as a whole, are tried again,
    seldom and not for ever. Not thread-safe.
    """

    def __init__(self, vendor: Vendor, wanted: str | None = None) -> None:
        self._vendor = vendor
        self._wanted = wanted
        self._opened = False
        self._devices: list[Device] = []
        self._attempts = Attempts()
        self._facts: dict[str, str] = {}

    @property
    def found(self) -> bool:
        """Whether it has GPUs to sample."""
        return self._opened and bool(self._devices)

    def sample(self, now: float) -> Result:
        """All that can be read now; time is an argument."""
        samples: list[ResourceSample] = []
        try:
            if not self._opened and self._attempts.due(now):
                self._open()
            if self._opened:
                for device in self._devices:
                    samples += self._sampled(device, now)
                self._attempts.succeeded(now)
        except Exception as error:  # noqa: BLE001  (whatever a binding raises, it is said and the process goes on)
            self._broken(self._fault(error), now)
        facts = dict(self._facts)
        for device in self._devices:
            facts |= device.facts()
        return Result(samples, facts)

    def close(self) -> None:
        """Let the library go."""
        if self._opened:
            self._opened = False
            with contextlib.suppress(Exception):  # a library that fails to close is of no more interest
                self._vendor.close()

    def _open(self) -> None:
        found = self._vendor.open()
        self._opened = True
        self._facts = dict(found.facts)
        devices = found.devices
        if self._wanted is not None:
            chosen = visible(self._wanted, [() if device is None else device.names for device in devices])
            devices = [devices[position] for position in chosen.positions]
            if chosen.fault:
                self._facts["gpu.visible"] = chosen.fault
        self._devices = [device for device in devices if device is not None]
        if not found.devices:
            self._facts[self._vendor.name] = "no GPU"

    def _sampled(self, device: Device, now: float) -> list[ResourceSample]:
        """The readings of one GPU; none while it is lost."""
        if not device.attempts.due(now):
            return []
        vendor = self._vendor
        try:
            if device.fault:
                device.handle = vendor.handle(device)
            samples = device.sample(vendor.module, vendor.readings, vendor.understood, now)
        except Exception as error:
            fault = self._fault(error)
            if fault.extent in (Extent.LIBRARY, Extent.NEVER):
                raise
            device.attempts.failed(now)
            device.fault = _with_end(fault.text, device.attempts)
            return []
        device.fault = ""
        device.attempts.succeeded(now)
        return samples

    def _fault(self, error: Exception) -> Fault:
        return error.fault if isinstance(error, BrokenError) else self._vendor.understood(error)

    def _broken(self, fault: Fault, now: float) -> None:
        """The library fails as a whole: close it, and open it anew later."""
        self.close()
        self._devices = []
        self._attempts.failed(now, forever=fault.extent is Extent.NEVER)
        self._facts = {self._vendor.name: _with_end(fault.text, self._attempts)}


def _with_end(text: str, attempts: Attempts) -> str:
    return f"{text}; tried {attempts.made} times, given up" if attempts.given_up and attempts.made > 1 else text


class Visible(NamedTuple):
    """Positions in the list of devices, in the order given, and what was wrong, in words, or nothing."""

    positions: list[int]
    fault: str = ""


def visible(wanted: str, devices: Sequence[Sequence[str]]) -> Visible:
    """The devices that ``wanted`` names: indices, or UUIDs or beginnings of them, separated by commas.

    ``devices`` are the names of each. As CUDA does, it ends at the first entry that names no device: that one and
    all after it are left out. The UUID of a slice (MIG) stands for its GPU.
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
    """
    positions: list[int] = []
    for entry in (part.strip() for part in wanted.split(",")):
        if not entry:
            break
        position = _position(entry, devices)
        if position is None:
            return Visible(positions, f"{entry!r} names no GPU: it and what follows it are left out")
        if position not in positions:
            positions.append(position)
    return Visible(positions)


def _position(entry: str, devices: Sequence[Sequence[str]]) -> int | None:
    if entry.isdecimal():
        return int(entry) if len(entry) <= _MOST_DIGITS and int(entry) < len(devices) else None
    begin = entry.removeprefix("MIG-").split("/")[0] if "/" in entry else entry  # MIG-GPU-<uuid>/3/0: older drivers
    fitting = [position for position, names in enumerate(devices) if any(name.startswith(begin) for name in names)]
    return fitting[0] if len(fitting) == 1 else None
