"""Schedulers nobody here wrote, measured from outside: the inferred limiter beside the one their conditions say.

    git clone https://github.com/microsoft/vidur    # and GeeeekExplorer/nano-vllm, sgl-project/mini-sglang
    python engine_tests/foreign/compare.py --clones DIR      # or: make foreign CLONES=DIR

Each workload runs once, in virtual time, with the engine's own files as they are and a fake model. The glue asks the
conditions of the engine's own ``break``s again and reports what they say; a second collector hears the same events
without it and infers. Ends with 1 if a share differs by more than 0.05 of busy time and the case is not one of
``KNOWN``, 2 where a clone is missing; without --clones it is skipped (77).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)  # one of the files here has the name of an engine

from foreign import harness, mini_sglang, nano_vllm, vidur

from batchscope import BatchLimiter

SKIPPED = 77
ALLOWED = 0.05
ENGINES = {"vidur": vidur, "nano-vllm": nano_vllm, "mini-sglang": mini_sglang}
SHOWN = [BatchLimiter(name) for name in ("request_slots", "token_budget", "kv_cache", "policy", "demand")]
KNOWN = {
    "vidur: sarathi": "two limits hold at once, and it asks for places and room before the budget",
    "vidur: lightllm": "it admits in every 11th iteration only; a delay looks like a refusal",
}
"""What a workload's name begins with -> why it cannot be inferred; docs/how-to/instrument-your-engine.md says so."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clones", help="the folder with the engines' clones: " + ", ".join(ENGINES))
    parser.add_argument("--table", action="store_true", help="end with the table of the documentation")
    parser.add_argument("--only", choices=ENGINES, help="this engine only")
    asked = parser.parse_args(arguments)
    if not asked.clones:
        print("SKIPPED foreign: --clones DIR says where the engines' clones are")
        return SKIPPED
    engines = [engine for name, engine in ENGINES.items() if asked.only in (None, name)]
    try:
        outcomes = [outcome for engine in engines for outcome in engine.run(Path(asked.clones))]
    except FileNotFoundError as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    failed = [outcome for outcome in outcomes if not _shown(outcome)]
    if asked.table:
        print("\n".join(["", *map(_row, outcomes)]))
    print(f"\n{len(failed)} beyond {ALLOWED} and not a documented case, or in contradiction with themselves")
    return 1 if failed else 0


def _shown(outcome: harness.Outcome) -> bool:
    """Print a workload's table; whether it is near enough, or a case that the documentation names."""
    shares = outcome.shares()
    worst = max(abs(inferred - reported) for inferred, reported in shares.values())
    name, busy = f"{outcome.engine}: {outcome.workload}", outcome.reported.totals.busy_seconds
    known = next((why for begin, why in KNOWN.items() if name.startswith(begin)), "")
    verdict = "" if worst <= ALLOWED else f"  BEYOND {ALLOWED}" + (f", known: {known}" if known else "")
    print(f"\n{name} ({busy:.0f} s busy, largest difference {worst:.3f}){verdict}")
    print("  " + "".join(f"{limiter:>15}" for limiter in shares))
    for name, place in (("inferred", 0), ("reported", 1)):
        print(f"  {name:<8}" + "".join(f"{pair[place]:>15.3f}" for pair in shares.values())[8:])
    confused = [
        f"{guess} for {true} {share:.3f}" for (guess, true), share in outcome.confused.items() if share >= 0.005
    ]
    print(f"  inferred {', '.join(confused)}" if confused else "  no iteration of any weight was inferred wrongly")
    for sentence in outcome.contradictions[:5]:
        print(f"  CONTRADICTS: {sentence}")
    return not outcome.contradictions and (worst <= ALLOWED or bool(known))


def _row(outcome: harness.Outcome) -> str:
    """A line of the documentation's table: inferred / reported of each limiter, and the largest difference."""
    shares = outcome.shares()
    worst = max(abs(inferred - reported) for inferred, reported in shares.values())
    told = ("{:.2f} / {:.2f}".format(*shares[limiter]) if limiter in shares else "" for limiter in SHOWN)
    return f"| {outcome.engine}: {outcome.workload} | {' | '.join(told)} | {worst:.3f} |"


if __name__ == "__main__":
    sys.exit(main())
