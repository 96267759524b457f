"""Is the capacity that a bisection finds the one that 200 simulations find? On 20 made-up workloads, within 3 %.

Workloads differ in burstiness, lengths, places, KV cache, policy, targets, and in the share that has to be in time.
The truth is the highest of 200 rates that holds: 80 lie evenly (by their logarithm) between a 64th and 16 times the one
at which the engine would be busy all the time with batches as recorded, 120 between the highest of these that holds and
the next. Whether one holds is counted here anew.

Exit code 1 where one is farther off, or took more than 25 simulations. `make proofs`: below a minute on two cores.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/prediction"))

from recorded_engines import TRUTH

from batchscope.configuration import SloTargets
from batchscope.prediction.attainment import TOLERATED_GROWTH, backlog_growth
from batchscope.prediction.capacity import MOST_SIMULATIONS, Traffic, capacity
from batchscope.simulator import Lengths, SchedulerOptions, SyntheticWorkload
from batchscope.simulator.instants import simulate_instants

WORKLOADS, WITHIN = 20, 0.03
COARSE, FINE = 80, 120
LEAST, MOST = 1 / 64, 16
POLICIES = ("vllm", "sglang", "sarathi", "prefill-first")


def drawn(seed: int) -> tuple[Traffic, SloTargets, float]:
    """A workload with its engine, targets and the share that has to meet them."""
    random = np.random.default_rng(seed)
    workload = SyntheticWorkload(
        requests=140,
        rate=float(np.exp(random.uniform(-2, 2))),
        burstiness=float(random.uniform(0.5, 2.5)),
        prompt=Lengths(float(random.uniform(200, 800)), 0.8, 3000),
        output=Lengths(float(random.uniform(20, 70)), 0.7, 250),
        seed=seed,
    )
    places = int(random.choice([4, 8, 16, 32, 64]))
    options = SchedulerOptions(
        policy=POLICIES[seed % len(POLICIES)],
        max_running_requests=places,
        max_scheduled_tokens=int(random.choice([512, 1024, 2048])),
        kv_cache_blocks=int(random.choice([400, 1000, 4000])),
        hash_block_tokens=16,
    )
    slo = SloTargets(
        time_to_first_token=float(random.uniform(0.5, 5)),
        time_per_output_token=float(random.uniform(0.05, 0.2)),
        e2e_latency=float(random.uniform(8, 40)) if seed % 3 == 0 else None,
    )
    return Traffic(f"workload {seed}", tuple(workload), options, TRUTH), slo, float(random.choice([0.8, 0.9, 0.95]))


def holds(traffic: Traffic, slo: SloTargets, target: float, scale: float) -> bool:
    """Whether enough requests are in time at this rate, and the backlog does not grow."""
    workload = [replace(spec, arrival=spec.arrival / scale) for spec in traffic.workload]
    found = simulate_instants(workload, traffic.options, traffic.cost)
    arrived, tokens = np.array([[spec.arrival, spec.output_tokens] for spec in workload]).T
    in_time = found.first_token - arrived <= slo.time_to_first_token
    in_time &= (found.last_token - found.first_token) <= slo.time_per_output_token * np.maximum(tokens - 1, 0)
    if slo.e2e_latency is not None:
        in_time &= found.last_token - arrived <= slo.e2e_latency
    return in_time.mean() >= target and backlog_growth(arrived, found.last_token).low <= TOLERATED_GROWTH


def tried(seed: int) -> tuple[int, float, float, int, str]:
    """Of one workload: the truth, what was found, in how many simulations, and what fails beyond it."""
    traffic, slo, target = drawn(seed)
    alone = simulate_instants(traffic.workload, traffic.options, traffic.cost)
    busy = traffic.seconds / sum(alone.busy_seconds.values())
    coarse = busy * np.geomspace(LEAST, MOST, COARSE)
    highest = max((scale for scale in coarse if holds(traffic, slo, target, scale)), default=np.nan)
    fine = np.geomspace(highest, highest * coarse[1] / coarse[0], FINE + 2)[1:-1]
    truth = max((scale for scale in fine if holds(traffic, slo, target, scale)), default=highest)
    found = capacity(traffic, {"default": slo}, target=target)
    return seed, truth * traffic.rate, found.rate, len(found.points), found.edge


def main() -> None:
    """All workloads, on all cores."""
    started, failures = time.monotonic(), []
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for seed, truth, found, simulations, edge in pool.imap(tried, range(WORKLOADS)):
            error = found / truth - 1
            right = abs(error) <= WITHIN and simulations <= MOST_SIMULATIONS
            told = f"{truth:.3f}/s by {COARSE + FINE} simulations, {found:.3f}/s by {simulations}: {100 * error:+.2f} %"
            print(f"  {'ok  ' if right else 'MISS'} workload {seed}: {told} (edge: {edge})", flush=True)
            if not right:
                failures.append(f"workload {seed}: {100 * error:+.2f} %, {simulations} simulations")
    print(f"{time.monotonic() - started:.0f} s")
    if failures:
        raise SystemExit("error: " + "; ".join(failures))


if __name__ == "__main__":
    main()
