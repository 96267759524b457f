"""Installs transformers into an environment of its own and runs serve.py and whatif.py there."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from environment import LEDGER, ROOT, SKIPPED, run_in

STEPS = (("torch==2.13.0", "transformers==5.23.0", "accelerate"), LEDGER)

HERE = Path(__file__).resolve().parent
FILES = ROOT / "build" / "engines" / "transformers-files"


def main() -> int:
    served = run_in("transformers", STEPS, HERE / "serve.py", seconds=300)
    if served == SKIPPED:
        return served
    return max(served, run_in("transformers", STEPS, HERE / "whatif.py", str(FILES), seconds=1200))


if __name__ == "__main__":
    sys.exit(main())
