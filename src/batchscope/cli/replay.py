"""``batchscope replay TRACE``: a real workload through the embedded scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchscope.cli import INTERRUPTED
from batchscope.cli.options import (
    DEFAULTS,
    BlockSize,
    Json,
    KvCacheBlocks,
    MaxRunningRequests,
    MaxScheduledTokens,
    MaxSequence,
    Policy,
    Record,
    Speed,
    Svg,
    Watermark,
    check_block_size,
    check_svg,
)
from batchscope.cli.simulation import Plan, note, serve, show
from batchscope.configuration import SloTargets
from batchscope.simulator import SchedulerOptions, Trace, open_trace
from batchscope.simulator.trace_lines import is_packed, read_lines

LARGEST_COUNTED = 64 * 2**20
"""Bytes of a trace whose lines are counted beforehand, so that the progress bar knows its end."""


def replay(
    trace: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE",
            help="Azure or BurstGPT CSV, or Mooncake JSONL, plain or .gz; recognised by its columns.",
            show_default=False,
        ),
    ],
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Only the first N requests.", show_default="all")
    ] = None,
    rate_scale: Annotated[float, typer.Option(metavar="X", help="2 = everything arrives twice as fast.")] = 1.0,
    max_running_requests: MaxRunningRequests = DEFAULTS.max_running_requests,
    max_scheduled_tokens: MaxScheduledTokens = DEFAULTS.max_scheduled_tokens,
    kv_cache_blocks: KvCacheBlocks = DEFAULTS.kv_cache_blocks,
    block_size: BlockSize = DEFAULTS.block_size,
    watermark: Watermark = DEFAULTS.watermark_ratio,
    max_sequence: MaxSequence = None,
    policy: Policy = DEFAULTS.policy,
    slo_ttft: Annotated[float | None, typer.Option(metavar="S", help="Target: seconds to the first token.")] = None,
    slo_tpot: Annotated[
        float | None, typer.Option(metavar="S", help="Target: seconds an output token, a request's mean.")
    ] = None,
    slo_e2e: Annotated[float | None, typer.Option(metavar="S", help="Target: seconds from arrival to the end.")] = None,
    speed: Speed = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of what is random in the simulator; a plain replay draws nothing.")
    ] = 0,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Go on behind a broken row, and say how many there were.")
    ] = False,
    as_json: Json = False,
    svg: Svg = None,
    record: Record = None,
) -> int:
    """Replay a trace through the embedded scheduler, and report how it went.

    Time is simulated, a default run does not wait: an iteration takes what it takes Qwen-2-7B on one A30.
    """
    check_block_size(block_size)
    options = SchedulerOptions(
        max_running_requests=max_running_requests,
        max_scheduled_tokens=max_scheduled_tokens,
        kv_cache_blocks=kv_cache_blocks,
        block_size=block_size,
        watermark_ratio=watermark,
        max_sequence_tokens=max_sequence,
        policy=policy,
    )
    slo = SloTargets(time_to_first_token=slo_ttft, time_per_output_token=slo_tpot, e2e_latency=slo_e2e)
    check_svg(svg, trace)
    workload = open_trace(trace, limit=limit, rate_scale=rate_scale, skip_bad_rows=skip_bad_rows)
    plan = Plan(
        title=f"{trace.name} ({workload.format})",
        workload=workload,
        options=options,
        slo=slo if slo.declared else None,
        total=_requests(workload, limit),
        seed=seed,
        speed=speed,
        record=record,
    )
    result, report = serve(plan)
    if workload.skipped_rows:
        note(f"{workload.skipped_rows:,} bad {'row was' if workload.skipped_rows == 1 else 'rows were'} skipped")
    show(report, as_json=as_json, svg=svg)
    return INTERRUPTED if result.interrupted else 0


def _requests(trace: Trace, limit: int | None) -> int | None:
    """About how many there are, where that is cheap to know: the bar's end. How much a packed file holds is not."""
    if trace.path.stat().st_size > LARGEST_COUNTED or is_packed(trace.path):
        return limit
    lines = sum(1 for _ in read_lines(trace.path)) - (trace.format != "mooncake")
    return lines if limit is None else min(limit, lines)
