"""``import batchscope`` is light: an engine pays for numpy and msgspec, which it has already."""

import subprocess
import sys

PROGRAM = """
import sys, sysconfig
from pathlib import Path
import msgspec, numpy  # and whatever these import themselves
before = set(sys.modules)
from batchscope import *
outside = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")]
found = set()
for name in set(sys.modules) - before:
    file = getattr(sys.modules[name], "__file__", None)
    if file and any(Path(file).resolve().is_relative_to(folder) for folder in outside):
        found.add(name.split(".")[0])
print(" ".join(sorted(found - {"batchscope"})))
print(" ".join(sorted(set(sys.modules) - before)))
"""


def test_importing_it_imports_no_other_package_than_numpy_and_msgspec():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    packages, modules = run.stdout.splitlines()
    assert set(packages.split()) <= {"msgspec", "numpy"}
    for module in (
        "rich",
        "typer",
        "prometheus_client",
        "batchscope.cli",
        "batchscope.views",
        "batchscope.simulator",
        "asyncio",
    ):
        assert module not in modules.split()


def test_importing_it_starts_no_thread_and_says_nothing():
    program = "from batchscope import *; import threading; assert threading.active_count() == 1"
    run = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
