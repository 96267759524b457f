"""A real NVIDIA GPU through batchscope's sampler, beside nvidia-smi: ``engine_tests/gpu/compare.py [--seconds S]``.

Not part of ``make engines``: it needs a GPU, its driver, nvidia-smi and the extra ``gpu``. Each of our readings stands
between two of nvidia-smi and must lie within them, give or take what such a quantity moves in that time. Exit code: 0
all agree, 1 some do not, 3 nothing can be compared here.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import time

from batchscope import SchedulerMetricsCollector
from batchscope.resources import ResourceSampler

UNDECIDED = 3
MIB = 2**20
# Our quantity; nvidia-smi's fields (added up) and their unit; how far apart two readings may be: ratio, in our unit.
QUANTITIES = (
    ("utilization_ratio", ("utilization.gpu",), 0.01, 0.0, 0.25),
    ("memory_used_bytes", ("memory.used", "memory.reserved"), MIB, 0.02, 64 * MIB),
    ("memory_total_bytes", ("memory.total",), MIB, 0.01, 0.0),
    ("power_watts", ("power.draw",), 1.0, 0.15, 10.0),
    ("temperature_celsius", ("temperature.gpu",), 1.0, 0.0, 3.0),
    ("sm_clock_hertz", ("clocks.sm",), 1e6, 0.1, 100e6),
)
FIELDS = ("index", "uuid", "name", *(field for _, fields, *_ in QUANTITIES for field in fields))


def nvidia_smi() -> dict[str, dict[str, str]]:
    """UUID -> field -> what it says."""
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    rows = (dict(zip(FIELDS, (cell.strip() for cell in line.split(",")), strict=True)) for line in output.splitlines())
    return {row["uuid"]: row for row in rows}


def number(row: dict[str, str], fields: tuple[str, ...], unit: float) -> float:
    """The sum of the fields in our unit; ``nan`` where nvidia-smi has none ([N/A])."""
    try:
        return unit * sum(float(row[field]) for field in fields)
    except ValueError:
        return math.nan


def compare(seconds: float) -> int:
    collector = SchedulerMetricsCollector()
    wrong = compared = 0
    with ResourceSampler(collector, interval=60.0, process=False) as sampler:
        end = time.monotonic() + seconds
        while True:
            before = nvidia_smi()
            sampler.sample(time.monotonic())
            stats = collector.get_snapshot().resource_stats
            after = nvidia_smi()
            found = [one for one in stats.values() if one.resource == "gpu" and one.identity in before.keys() & after]
            if not found:
                break
            for one in found:
                outcome = agrees(one.quantity, one.last, before[one.identity], after[one.identity])
                if outcome is not None:
                    compared, wrong = compared + 1, wrong + (not outcome)
            if time.monotonic() >= end:
                break
            time.sleep(1.0)
        energy = {name: one.last for name, one in stats.items() if one.quantity == "energy_joules"}
    for uuid, row in before.items():
        print(f"{row['index']} {row['name']} {uuid}")
    print(f"energy since the first sample: {energy}")
    print(f"facts: {collector.get_snapshot().resource_facts}")
    if not compared:
        print("nothing to compare: the sampler found no GPU that nvidia-smi shows", file=sys.stderr)
        return UNDECIDED
    print(f"{compared} readings compared, {wrong} of them apart")
    return 1 if wrong else 0


def agrees(quantity: str, ours: float, before: dict[str, str], after: dict[str, str]) -> bool | None:
    """Whether our reading lies between nvidia-smi's; None where one of the three is not known."""
    row = next((row for row in QUANTITIES if row[0] == quantity), None)
    if row is None:
        return None
    _, fields, unit, ratio, most = row
    theirs = sorted((number(before, fields, unit), number(after, fields, unit)))
    if any(map(math.isnan, (ours, *theirs))):
        return None
    slack = max(ratio * theirs[1], most)
    good = theirs[0] - slack <= ours <= theirs[1] + slack
    print(f"{'   ' if good else '!! '}{quantity:20} ours {ours:.6g}, nvidia-smi {theirs[0]:.6g}..{theirs[1]:.6g}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to compare; run a load meanwhile")
    arguments = parser.parse_args()
    if shutil.which("nvidia-smi") is None:
        print("no nvidia-smi here: nothing to compare with (it comes with NVIDIA's driver)", file=sys.stderr)
        return UNDECIDED
    try:
        return compare(arguments.seconds)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"nvidia-smi cannot be asked: {error}", file=sys.stderr)
        return UNDECIDED


if __name__ == "__main__":
    sys.exit(main())
