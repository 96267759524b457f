"""Do the intervals hold the truth: of fitted constants, of predictions, of capacity? On made-up engines, each its own.

They differ in constants (by a factor of two to either side), in how their steps vary (2 to 10 %), lengths, burstiness,
load, places, token budget, KV cache and policy; nothing in the package was chosen on them.

* Constants: the engine's own, per constant, from iterations and from requests alone.
* Predictions (another number of places, or another rate, from requests alone): the mean of each latency that the engine
  has under these settings, with the same arrivals and steps that vary anew.
* Capacity (from requests alone): the rate that the engine itself holds with five times as many requests, others of the
  same kind.

Each in at least 90 % of the engines (95 % is what they promise), less twice the error of a share of so few.
`--engines 200` for more of them. Exit code 1 where one falls short. `make proofs`: below five minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/prediction"))

from recorded_engines import recorded

from batchscope.configuration import SloTargets
from batchscope.prediction import NotEnoughError, Observed, fit, what_if
from batchscope.prediction.attainment import backlog_growth, nearness
from batchscope.prediction.capacity import Traffic, capacity, traffic_of
from batchscope.prediction.figures import LATENCIES, RequestInstants, figures_of
from batchscope.prediction.model import CONSTANTS, cost_of
from batchscope.prediction.whatif import faster, with_settings
from batchscope.simulator import Lengths, RequestSpec, SchedulerOptions, SyntheticWorkload
from batchscope.simulator.instants import simulate_instants

LEAST = 0.90
POLICIES = ("vllm", "sglang", "sarathi")
MANY = 5
TARGET = 0.9


class Engine:
    """One of the family; ``seed`` decides all of it."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng([2026, seed])
        self.seed = seed
        self.cost = cost_of(np.exp(np.log([12e-3, 60e-6, 150e-6, 100e-9]) + random.uniform(-0.7, 0.7, 4)))
        self.jitter = float(random.uniform(0.02, 0.1))
        places = int(random.choice([8, 16, 24, 48]))
        self.options = SchedulerOptions(
            policy=POLICIES[seed % len(POLICIES)],
            max_running_requests=places,
            max_scheduled_tokens=int(random.choice([512, 1024, 2048])),
            kv_cache_blocks=int(random.choice([700, 1500, 6000])),
            hash_block_tokens=16,
        )
        prompt, output = float(random.uniform(150, 900)), float(random.uniform(30, 120))
        step = self.cost.iteration_time(0, places // 2, int(places / 2 * (prompt + output / 2)))
        alone = 1.3 * output * step / (places / 2) + 1.3 * prompt * self.cost.per_prefill_token
        self._load = float(random.uniform(0.5, 1.1)) / alone
        self._kind = {
            "burstiness": float(random.uniform(0.7, 1.5)),
            "prompt": Lengths(prompt, float(random.uniform(0.4, 0.9)), 2500),
            "output": Lengths(output, float(random.uniform(0.4, 0.9)), 500),
        }
        self.places = max(2, int(places * random.choice([0.5, 0.75, 1.5])))
        self.rate_scale = float(random.choice([0.7, 1.2]))
        self.tightness = random.uniform(0.8, 2.0, 2)

    def workload(self, requests: int, seed: int) -> SyntheticWorkload:
        return SyntheticWorkload(requests=requests, rate=self._load, seed=seed, **self._kind)

    def serve(self, workload: tuple[RequestSpec, ...], seed: int, **changed: object) -> Observed:
        asked = {"cost": self.cost, "options": self.options, "jitter": self.jitter, **changed}
        return recorded(seed=seed, workload=workload, **asked)


def inside(value: float, low: float, high: float) -> bool:
    return bool(low <= value <= high)


def constants(engine: Engine, run: Observed) -> dict[str, bool]:
    found = {}
    for depth, of in (("iterations", run), ("requests", replace(run, iterations=None))):
        model = fit(of)
        for name in CONSTANTS:
            constant = model.constants[name]
            found[f"{depth}: {name}"] = inside(getattr(engine.cost, name), constant.low, constant.high)
    return found


def predictions(engine: Engine, run: Observed) -> dict[str, bool]:
    """Of other places, and of another rate."""
    model = fit(run)
    found = {}
    for what, settings, rate in (
        ("places", {"max_running_requests": engine.places}, 1.0),
        ("rate", {}, engine.rate_scale),
    ):
        told = what_if(run, model, settings, rate_scale=rate).predicted.figures
        asked = tuple(faster(run.workload, rate))
        options = with_settings(engine.options, settings)
        really = engine.serve(asked, engine.seed + 1000, options=options, iterations=False)
        was = figures_of(really.instants, ~np.isnan(really.instants.last_token))
        for name in LATENCIES:
            found[f"{what}: {name}"] = inside(was[name].mean, told[name].low, told[name].high)
    return found


def rates(engine: Engine, run: Observed) -> dict[str, bool]:
    """Of the capacity, with targets near what the run had."""
    ttft, tpot = (
        float(np.nanpercentile(run.instants.latencies()[name], 80)) * factor
        for name, factor in zip(("time_to_first_token", "time_per_output_token"), engine.tightness, strict=True)
    )
    slo = {"default": SloTargets(time_to_first_token=max(ttft, 0.3), time_per_output_token=tpot)}
    found = capacity(traffic_of(run, fit(run)), slo, target=TARGET)
    truth = held_rate(engine, MANY * len(run.workload), slo, found.rate)
    return {} if math.isnan(found.low + found.high) else {"rate": inside(truth, found.low, found.high)}


def held_rate(engine: Engine, requests: int, slo: dict[str, SloTargets], start: float) -> float:
    """The highest rate that holds, by bisection to 1 % of its own; requests a second."""
    many = tuple(engine.workload(requests, engine.seed + 5000))
    traffic = Traffic("truth", many, engine.options, engine.cost)
    good, bad = 0.0, math.inf
    scale = start / traffic.rate
    while bad > 1.01 * good:
        workload = faster(many, scale)
        found = simulate_instants(workload, engine.options, engine.cost)
        arrived, tokens = np.array([[spec.arrival, spec.output_tokens] for spec in workload]).T
        instants = RequestInstants(arrived, found.first_scheduled, found.first_token, found.last_token, tokens)
        in_time = float((nearness(workload, instants, slo) <= 1).mean())
        holds = in_time >= TARGET and not backlog_growth(arrived, found.last_token).certain
        good, bad = (scale, bad) if holds else (good, scale)
        scale = 1.3 * good if bad == math.inf else bad / 1.3 if not good else math.sqrt(good * bad)
    return good * traffic.rate


PARTS = {"constants": (constants, 200, 60), "predictions": (predictions, 250, 30), "capacity": (rates, 250, 20)}
"""What is asked, of an engine with how many requests recorded, of how many engines unless told otherwise."""


def tried(task: tuple[str, int]) -> tuple[str, int, dict[str, bool], float]:
    part, seed = task
    ask, requests, _ = PARTS[part]
    engine = Engine(seed)
    started = time.process_time()
    try:
        run = engine.serve(tuple(engine.workload(requests, seed)), seed, iterations=part == "constants")
        return part, seed, ask(engine, run), time.process_time() - started
    except NotEnoughError:
        return part, seed, {}, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--engines", type=int, help="of each part")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    started, failures = time.monotonic(), []
    held: dict[tuple[str, str], list[bool]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    tasks = [
        (part, seed)
        for part in options.parts
        for seed in range(options.first, options.first + (options.engines or PARTS[part][2]))
    ]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for part, _, found, took in pool.imap(tried, tasks, chunksize=2):
            seconds[part] += took
            for what, holds in found.items():
                held[part, what].append(holds)
    for (part, what), of in held.items():
        share, few = float(np.mean(of)), 2 * math.sqrt(LEAST * (1 - LEAST) / len(of))
        right = share >= LEAST - few
        print(f"  {'ok  ' if right else 'MISS'} {part}, {what}: {share:.1%} of {len(of)}", flush=True)
        if not right:
            failures.append(f"{part}, {what}: {share:.1%} of {len(of)}")
    of_processor = ", ".join(f"{part} {took:.0f} s" for part, took in seconds.items())
    print(f"{time.monotonic() - started:.0f} s; of a processor: {of_processor}")
    if failures:
        raise SystemExit("error: " + "; ".join(failures))


if __name__ == "__main__":
    main()
