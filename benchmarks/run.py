"""All benchmarks, one after the other: recording, memory, replay, simulation, accuracy, ledger.

    python benchmarks/run.py [--quick] [--json DIR]

The whole run takes a few minutes on 2 cores, --quick under one. Each benchmark is a process of its own, as when it
is run alone. --json DIR writes a file each, from which benchmarks/report.py fills docs/performance.md. A target that
is missed is shown, and is no error; a benchmark that cannot run is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS = ("recording", "memory", "replay", "simulation", "accuracy", "ledger")


def command(name: str, folder: Path | None, *, quick: bool) -> list[str]:
    """One benchmark's command line."""
    line = [sys.executable, str(HERE / f"{name}.py")]
    if quick:
        line.append("--quick")
    if folder:
        line += ["--json", str(folder / f"{name}.json")]
    return line


def run(name: str, folder: Path | None, *, quick: bool) -> int:
    """Its exit code; 130, as shells say it, where the user interrupts."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        return subprocess.run(command(name, folder, quick=quick), check=False).returncode
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and records: a look, not a result")
    parser.add_argument("--json", type=Path, metavar="DIR", help="write recording.json, memory.json, ... there")
    chosen = parser.parse_args()
    started = time.monotonic()
    failed = [name for name in BENCHMARKS if run(name, chosen.json, quick=chosen.quick)]
    print(f"\n{len(BENCHMARKS) - len(failed)} of {len(BENCHMARKS)} benchmarks in {time.monotonic() - started:.0f} s")
    if failed:
        raise SystemExit(f"error: {', '.join(failed)} did not finish; what went wrong is above")


if __name__ == "__main__":
    main()
