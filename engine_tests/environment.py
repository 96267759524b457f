"""An engine's own virtual environment under build/engines/, with batchscope in it; made once, used again.

Where a package cannot be had, that is said by name and the engine is skipped with exit code 77, never silently.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SKIPPED = 77
ROOT = Path(__file__).resolve().parents[1]
_PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet", "install")
_INSTALL_SECONDS = 1200


LEDGER = ("pyarrow>=20,<27",)
"""What recording a run needs, as the extra ``ledger`` has it."""


class Unavailable(Exception):  # noqa: N818  (not an error of the program)
    """A package that cannot be installed here; the text says which and what pip said."""


def environment(name: str, *steps: Sequence[str]) -> Path:
    """The environment's python, with each step's arguments of ``pip install`` done; Unavailable if one fails."""
    folder = ROOT / "build" / "engines" / name
    python, ready = folder / "bin" / "python", folder / ".ready"
    wanted = repr(steps)
    if not (ready.exists() and ready.read_text() == wanted):
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], name)
        for step in (*steps, ("-e", str(ROOT))):
            print(f"{name}: pip install {' '.join(step)}", flush=True)
            _run([str(python), *_PIP, *step], name)
        ready.write_text(wanted)
    return python


def _run(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
        raise Unavailable(f"{name}: {' '.join(command[-3:])} failed: {'; '.join(said) or done.stderr[-500:]}")


def run_in(name: str, steps: Sequence[Sequence[str]], script: Path, *arguments: str, seconds: float) -> int:
    """Run ``script`` in the environment ``name``: its exit code, or 77 where the engine cannot be installed."""
    try:
        python = environment(name, *steps)
    except Unavailable as reason:
        print(f"SKIPPED {reason}")
        return SKIPPED
    try:
        return subprocess.run([str(python), str(script), *arguments], check=False, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        print(f"{name}: not done after {seconds} s")
        return 1
