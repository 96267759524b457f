"""``batchscope demo``: a built-in workload with two kinds of users, who want different things."""

from __future__ import annotations

from typing import Annotated

import typer

from batchscope.cli import INTERRUPTED
from batchscope.cli.options import (
    Json,
    KvCacheBlocks,
    MaxRunningRequests,
    MaxScheduledTokens,
    Speed,
    Svg,
    check_svg,
)
from batchscope.cli.simulation import Plan, serve, show
from batchscope.configuration import SloTargets
from batchscope.simulator import Disturbances, Lengths, RequestClass, SchedulerOptions, SyntheticWorkload

SLO = {
    "interactive": SloTargets(time_to_first_token=2.0, time_per_output_token=0.12),
    "batch": SloTargets(e2e_latency=120.0),
}
CLASSES = (RequestClass("interactive", share=3, priority=1), RequestClass("batch", share=1))
DISTURBANCES = Disturbances(cancel_probability=0.02, timeout_probability=0.02, timeout_seconds=20.0)
RATE = 3.0
BURSTINESS = 3.0


def demo(
    requests: Annotated[int, typer.Option(metavar="N", help="How many requests.")] = 3000,
    max_running_requests: MaxRunningRequests = 64,
    max_scheduled_tokens: MaxScheduledTokens = 1024,
    kv_cache_blocks: KvCacheBlocks = 5500,
    speed: Speed = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Another seed, another workload.")] = 0,
    as_json: Json = False,
    svg: Svg = None,
) -> int:
    """Serve a built-in workload: bursts of interactive and batch requests on one engine, and report.

    Nothing else is needed, no GPU and no engine: the embedded scheduler runs in simulated time.
    """
    options = SchedulerOptions(
        max_running_requests=max_running_requests,
        max_scheduled_tokens=max_scheduled_tokens,
        kv_cache_blocks=kv_cache_blocks,
    )
    check_svg(svg)
    workload = SyntheticWorkload(
        requests=requests,
        rate=RATE,
        burstiness=BURSTINESS,
        prompt=Lengths(median=700, sigma=1.0, cap=8000),
        output=Lengths(median=160, sigma=0.9, cap=1500),
        classes=CLASSES,
        seed=seed,
    )
    plan = Plan(
        title="the demo: interactive and batch requests, in bursts",
        workload=workload,
        options=options,
        slo=SLO,
        disturbances=DISTURBANCES,
        total=requests,
        seed=seed,
        speed=speed,
    )
    result, report = serve(plan)
    show(report, as_json=as_json, svg=svg)
    return INTERRUPTED if result.interrupted else 0
