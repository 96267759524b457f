"""``batchscope demo``: a built-in workload with two kinds of users, who want different things."""

from __future__ import annotations

from typing import Annotated

import typer

from batchscope.cli import INTERRUPTED
from batchscope.cli.demo_engine import BLOCKS, DISTURBANCES, PLACES, SLO, TOKENS, demo_options, demo_workload
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
from batchscope.cli.top import show_demo


def demo(
    requests: Annotated[int, typer.Option(metavar="N", help="How many requests.")] = 3000,
    max_running_requests: MaxRunningRequests = PLACES,
    max_scheduled_tokens: MaxScheduledTokens = TOKENS,
    kv_cache_blocks: KvCacheBlocks = BLOCKS,
    speed: Speed = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Another seed, another workload.")] = 0,
    as_json: Json = False,
    svg: Svg = None,
    live: Annotated[
        bool, typer.Option("--top", help="Watch it live in the terminal, in real time and for ever.")
    ] = False,
) -> int:
    """Serve a built-in workload: bursts of interactive and batch requests on one engine, and report.

    Nothing else is needed, no GPU and no engine: the embedded scheduler runs in simulated time.
    """
    options = demo_options(max_running_requests, max_scheduled_tokens, kv_cache_blocks)
    if live:
        return show_demo(options, seed)
    check_svg(svg)
    plan = Plan(
        title="the demo: interactive and batch requests, in bursts",
        workload=demo_workload(requests, seed),
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
