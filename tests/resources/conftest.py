import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Compiles the stub as libnvidia-ml.so.1; with the flag OLD as an old driver's."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the stub of NVML cannot be made")
    folder = tmp_path_factory.mktemp("nvml")
    paths = {}
    for flag in ("NEW", "OLD"):
        (folder / flag).mkdir()
        paths[flag] = folder / flag / "libnvidia-ml.so.1"
        command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", f"-D{flag}", "-Wl,-soname,libnvidia-ml.so.1"]
        subprocess.run([*command, "-o", str(paths[flag]), str(HERE / "nvml_stub.c")], check=True)
    return paths


@pytest.fixture
def on_stub(compiled):
    """Runs lines of Python on the stub, in a process of their own, and gives what they tell."""
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")

    def run(program, *, driver="NEW", **environment):
        stub = {f"STUB_{name}": str(value) for name, value in environment.items()}
        library = {"STUB_LIBRARY": str(compiled[driver])} if driver else {}
        folders = os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", "from on_stub import *\n" + program],
            env={**os.environ, "PYTHONPATH": folders, **library, **stub},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return run
