"""The command as users run it: a process of its own, with its exit code and its two streams."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

COMMAND = (sys.executable, "-m", "batchscope")
AZURE = Path(__file__).resolve().parents[3] / "shared" / "traces" / "azure_llm_2023_conv.csv"
needs_azure = pytest.mark.skipif(not AZURE.exists(), reason=f"the real trace {AZURE} is not there")

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROWS = (
    "2023-11-16 18:15:46.6805900,374,44\n",
    "2023-11-16 18:15:50.9951690,396,109\n",
    "2023-11-16 18:15:51.2225670,879,55\n",
)


class Run(NamedTuple):
    code: int
    output: str
    errors: str


def environment():
    """Ours, without what would change how the terminal is seen."""
    unwanted = {"FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "_BATCHSCOPE_COMPLETE"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**kept, "PYTHONIOENCODING": "utf-8"}


def batchscope(*arguments, **changes):
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        check=False,
        capture_output=True,
        encoding="utf-8",
        env={**environment(), **changes},
        timeout=120,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def refused(run, *parts):
    """Whether it ended as a user's mistake should: one clear line, code 2, nothing on stdout."""
    last = run.errors.splitlines()[-1]
    errors = [line for line in run.errors.splitlines() if not line.startswith("note: ")]
    assert run.code == 2, run
    assert run.output == ""
    assert errors == [last], run.errors
    assert last.startswith("error: ")
    assert "Traceback" not in run.errors
    for part in parts:
        assert part in last
    return True
