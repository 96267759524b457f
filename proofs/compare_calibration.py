"""Is `batchscope compare` calibrated: how often it calls equal engines different, and finds a slower one.

Runs of the simulator at 0.5, 0.8 and 0.95 of what it can serve, 200 seeds each, whose steps drift by 1 % and jitter
by 2 %: the same requests twice (A/A, paired), other requests of the same kind (A/A, not paired), the same requests
with steps 3 % slower; three runs against three. Exit code 1 where a bound does not hold. `make proofs`: minutes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/ledger"))

from independent_bootstrap import calls_different
from simulated_runs import NoisyCost, serve, workload

from batchscope.ledger.comparison.compare import Settings, compare_measured
from batchscope.ledger.comparison.document import Verdict

LOADS = (0.5, 0.8, 0.95)
DRIFT = {"drift": 0.01, "jitter": 0.02}
REQUESTS = 1000
SLOWER = 1.03
MOST_FALSE, LEAST_FOUND, LEAST_FALSE_OF_INDEPENDENT = 0.07, 0.90, 0.25
STEPS = ("step_time_same_work", "mean_step_time", "mean_tpot")


def run(load: float, seed: int, number: int, factor: float = 1.0):
    """The ``number``-th run of a workload; its noise is its own."""
    cost = NoisyCost(factor, seed=1000 * seed + number, **DRIFT)
    return serve(workload(load, seed, REQUESTS), cost, name=f"{load} {seed} {number}")


def verdicts(a: list, b: list) -> Counter:
    """Whether anything differs, whether a step does, and how many figures have which verdict."""
    comparison = compare_measured(a, b, Settings())
    differing = {figure.figure for figure in comparison.figures if figure.verdict is Verdict.DIFFERS}
    kinds = Counter(figure.verdict.value for figure in comparison.figures)
    return Counter({"pairs": 1, "any": bool(differing), "step": bool(differing.intersection(STEPS)), **kinds})


def six_seeds(task: tuple[float, int]) -> tuple[float, dict[str, Counter]]:
    """All comparisons of six seeds in a row."""
    load, first = task
    found = {
        name: Counter()
        for name in ("A/A paired", "A/A not paired", "3 % slower", "A/A repeats", "slower repeats", "independent")
    }
    runs, again, slower = [], [], []
    for seed in range(first, first + 6):
        runs.append(run(load, seed, 0))
        slower.append(run(load, seed, 2, SLOWER))
        again.append(run(load, seed, 1))
        found["A/A paired"] += verdicts([runs[-1]], [again[-1]])
        found["3 % slower"] += verdicts([runs[-1]], [slower[-1]])
    for seed, (a, b) in enumerate(zip(runs, runs[1:] + runs[:1], strict=True)):
        found["A/A not paired"] += verdicts([a], [b])
        found["independent"] += Counter({"pairs": 1, "any": calls_different(a, b, seed=seed)})
    found["A/A repeats"] += verdicts(runs[:3], runs[3:])
    found["A/A repeats"] += verdicts(runs[:3], again[:3])
    found["slower repeats"] += verdicts(runs[:3], slower[:3])
    return load, found


def wrong(load: float, name: str, counts: Counter) -> str:
    """What does not hold, else nothing."""
    share = {key: counts[key] / counts["pairs"] for key in ("any", "step")}
    few = 2 * (MOST_FALSE * (1 - MOST_FALSE) / counts["pairs"]) ** 0.5 if name == "A/A repeats" else 0.0
    if name.startswith("A/A") and share["any"] > MOST_FALSE + few:  # of repeats there are a third as many
        return f"more than {MOST_FALSE:.0%} false verdicts"
    if name in {"3 % slower", "slower repeats"} and share["step"] < LEAST_FOUND:
        return f"found in less than {LEAST_FOUND:.0%}"
    if name == "independent" and load > LOADS[0] and share["any"] < LEAST_FALSE_OF_INDEPENDENT:
        return "the negative control passes: these pairs prove nothing"
    return ""


def main() -> int:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    began = time.monotonic()
    tasks = [(load, first) for first in range(options.first, options.first + options.seeds, 6) for load in LOADS]
    totals: dict[tuple[float, str], Counter] = {}
    with multiprocessing.Pool(options.processes) as pool:
        for load, found in pool.imap_unordered(six_seeds, tasks):
            for name, counts in found.items():
                totals.setdefault((load, name), Counter()).update(counts)
    failures = 0
    print(
        f"{'load':>5} {'comparison':<16}{'pairs':>6}{'differs':>9}{'a step':>8}   figures: differ, same, inconclusive"
    )
    for (load, name), counts in sorted(totals.items()):
        problem = wrong(load, name, counts)
        failures += bool(problem)
        figures = ", ".join(f"{counts[verdict.value] / counts['pairs']:.1f}" for verdict in Verdict)
        shares = f"{counts['any'] / counts['pairs']:>9.1%}{counts['step'] / counts['pairs']:>8.1%}"
        print(f"{load:>5} {name:<16}{counts['pairs']:>6}{shares}   {figures}   {problem}")
    print(f"{len(tasks) * 6:,} seeds in {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    sys.exit(main())
