"""Made-up engines that are asked for advice, and what a setting of theirs is worth."""

from __future__ import annotations

import numpy as np
from recorded_engines import TRUTH

from batchscope.configuration import SloTargets
from batchscope.prediction import FittedModel, Observed, RequestInstants
from batchscope.prediction.attainment import nearness
from batchscope.prediction.model import CONSTANTS, Range, constants_of
from batchscope.prediction.served import instants_of
from batchscope.simulator import Lengths, LinearCostModel, SchedulerOptions, SyntheticWorkload
from batchscope.simulator.instants import simulate_instants

EXPECTED_OVER = 4


def made_up(seed: int, requests: int = 120) -> tuple[Observed, dict[str, SloTargets]]:
    """A run whose places, budget, cache, load and targets are drawn: some are served well, some badly."""
    random = np.random.default_rng(seed)
    rate = float(random.uniform(2, 9))
    workload = tuple(
        SyntheticWorkload(
            requests=requests, rate=rate, seed=seed,
            prompt=Lengths(float(random.uniform(200, 900)), 0.8, 4000), output=Lengths(100, 0.7, 600),
        )
    )  # fmt: skip
    options = SchedulerOptions(
        policy=str(random.choice(["vllm", "sglang", "sarathi"])),
        max_running_requests=int(random.choice([8, 16, 32, 64, 128])),
        max_scheduled_tokens=int(random.choice([512, 1024, 2048])),
        kv_cache_blocks=int(random.integers(600, 4000)),
    )
    found = simulate_instants(workload, options, TRUTH)
    tokens = np.array([spec.output_tokens for spec in workload], float)
    arrived = np.array([spec.arrival for spec in workload])
    instants = RequestInstants(arrived, found.first_scheduled, found.first_token, found.last_token, tokens)
    slo = SloTargets(
        time_to_first_token=float(random.uniform(2, 30)),
        time_per_output_token=float(random.uniform(0.04, 0.12)),
        max_emission_gap=float(random.uniform(1, 5)) if seed % 2 else None,
    )
    run = Observed(name=f"engine {seed}", engine="", workload=workload, instants=instants, options=options)
    return run, {"default": slo}


def model_of(observed: Observed, seed: int, cost: LinearCostModel = TRUTH, doubt: float = 0.02) -> FittedModel:
    """A model that knows the constants, each within ``doubt``."""
    found = simulate_instants(observed.workload, observed.options, cost)
    point = np.array([getattr(cost, name) for name in CONSTANTS])
    draws = point * np.exp(doubt * np.random.default_rng(seed).standard_normal((200, len(point))))
    return FittedModel(
        run=observed.name, engine=observed.engine, depth="requests", requests=len(observed.workload), until=1.0,
        constants=constants_of(point, draws, np.array(found.work)), options=observed.options, assumed=(), error=0.0,
        seen=Range(found.largest_batch, found.largest_context, found.largest_chunk), draws=draws.tolist(),
    )  # fmt: skip


def expected_goodput(
    observed: Observed, model: FittedModel, slo: dict[str, SloTargets], options: SchedulerOptions
) -> float:
    """Requests served in time a second, over the constants that fit."""
    goodput = []
    for cost in [model.cost, *model.drawn_costs[:EXPECTED_OVER]]:
        found = simulate_instants(observed.workload, options, cost, follow_gaps=True)
        met = nearness(observed.workload, instants_of(observed, found), slo) <= 1
        goodput.append(float(met.sum() / np.nanmax(found.last_token)))
    return float(np.mean(goodput))
