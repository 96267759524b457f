"""Which GPUs are ours: a list in the form of CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


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
        return int(entry) if int(entry) < len(devices) else None
    begin = entry.removeprefix("MIG-").split("/")[0] if "/" in entry else entry  # MIG-GPU-<uuid>/3/0: older drivers
    fitting = [position for position, names in enumerate(devices) if any(name.startswith(begin) for name in names)]
    return fitting[0] if len(fitting) == 1 else None
