"""The process itself: resident memory and CPU time, from the system, without a package."""

from __future__ import annotations

import os
from pathlib import Path

from batchscope.records import ResourceSample
from batchscope.resources.device import Result

_STATM = Path("/proc/self/statm")
_MEMORY = "resident_memory_bytes"


class Process:
    """Reads this process; where there is no /proc, memory is not known and a fact says so.

    The second number of statm is the resident set in pages: https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html
    """

    def __init__(self, statm: Path = _STATM) -> None:
        self._statm = statm

    def sample(self, _now: float) -> Result:
        """Memory, and CPU seconds (user and system, without children) since the process began."""
        times = os.times()
        samples = [ResourceSample("process", "", "cpu_seconds", times.user + times.system, "seconds")]
        try:
            pages = int(self._statm.read_text().split()[1])
        except (OSError, ValueError, IndexError) as error:
            return Result(samples, {f"process.{_MEMORY}": f"not known: {error}"})
        resident = pages * os.sysconf("SC_PAGE_SIZE")
        return Result([*samples, ResourceSample("process", "", _MEMORY, resident, "bytes")], {})

    def close(self) -> None:
        """Nothing is held."""
