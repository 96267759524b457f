"""Every real engine in turn, each in an environment of its own: ``make engines``, or ``run.py vllm llamacpp``.

Ends with a line an engine. Exit code 1 if one failed; an engine that cannot be installed here is skipped by name.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SKIPPED = 77
_MOST_SECONDS = 3600
SAID = {0: "passed", SKIPPED: "SKIPPED (its lines above say why)"}


def main(names: list[str]) -> int:
    known = sorted(path.parent.name for path in HERE.glob("*/run.py"))
    unknown = set(names) - set(known)
    if unknown:
        print(f"no such engine: {', '.join(sorted(unknown))}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    outcomes = {}
    for name in names or known:
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        try:
            command = [sys.executable, str(HERE / name / "run.py")]
            code = subprocess.run(command, check=False, timeout=_MOST_SECONDS).returncode
        except subprocess.TimeoutExpired:
            code = 1
        outcomes[name] = code
        print(f"== {name}: {SAID.get(code, f'FAILED, exit code {code}')}, {time.monotonic() - start:.0f} s", flush=True)
    summary = (f"{name} {SAID.get(code, 'FAILED').split(' (')[0]}" for name, code in outcomes.items())
    print("\nengines: " + "; ".join(summary))
    return 1 if any(code not in SAID for code in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
