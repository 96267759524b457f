"""Ctrl-C while the program loads: exit code 130 and no traceback, at whichever import it comes."""

import subprocess
import sys

import pytest
from command_line import environment

PROGRAM = """
import os, runpy, signal, sys

class Interrupting:
    '''Ctrl-C when the n-th module is looked for after the command's own first one.'''
    left = int(sys.argv.pop(1))

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if "batchscope.cli" in sys.modules:
            cls.left -= 1
            if cls.left == 0:
                os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting)
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("batchscope", run_name="__main__", alter_sys=True)
"""
BEFORE_MAIN = """
import runpy, sys
before = set(sys.modules)
sys.argv[1:] = ["--version"]
import batchscope.cli
print(*sorted(set(sys.modules) - before))
"""


def interrupted(place, *arguments):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(place), *arguments],
        capture_output=True, encoding="utf-8", env=environment(), timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("place", [1, 2, 3, 5, 9, 17, 40, 90, 140, 190, 240, 290, 340, 390, 440, 490, 540, 560, 5000])
def test_ctrl_c_at_any_import_ends_with_130_and_no_traceback(place):
    run = interrupted(place, "check", "http://127.0.0.1:1")
    assert run.stdout == ""
    if run.returncode == 2:  # all was loaded before, or who imported it takes the interruption for a missing module
        assert run.stderr.startswith("error: http://127.0.0.1:1/metrics")
    else:
        assert (run.returncode, run.stderr.strip()) == (130, "")


def test_nothing_slow_is_imported_before_the_command_can_catch_it():
    """What comes earlier is the interpreter's own start."""
    run = subprocess.run([sys.executable, "-c", BEFORE_MAIN], capture_output=True, text=True, check=True, timeout=60)
    names = [name for name in run.stdout.split() if name.startswith("batchscope")]
    assert names == ["batchscope", "batchscope.cli"]
    assert len(run.stdout.split()) <= 4, run.stdout
