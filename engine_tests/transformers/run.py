"""Installs transformers into an environment of its own and runs serve.py there."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from environment import LEDGER, run_in

STEPS = (("torch==2.13.0", "transformers==5.23.0", "accelerate"), LEDGER)

if __name__ == "__main__":
    sys.exit(run_in("transformers", STEPS, Path(__file__).with_name("serve.py"), seconds=300))
