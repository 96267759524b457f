"""Installs llama.cpp into an environment of its own and runs serve.py there: `python engine_tests/llamacpp/run.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from environment import run_in

STEPS = (("xllamacpp==2026.10.11549", "gguf>=0.18,<1", "numpy"),)

if __name__ == "__main__":
    sys.exit(run_in("llamacpp", STEPS, Path(__file__).with_name("serve.py"), seconds=300))
