"""``batchscope replay TRACE|RUN``: a real workload, or that of a recorded run, through the embedded scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from batchscope.checks import LARGEST, check_positive, check_whole
from batchscope.cli import INTERRUPTED
from batchscope.cli.options import (
    DEFAULTS,
    BlockSize,
    CommandError,
    Json,
    KvCacheBlocks,
    MaxRunningRequests,
    MaxScheduledTokens,
    MaxSequence,
    Policy,
    Record,
    SloE2e,
    SloTpot,
    SloTtft,
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
    context: typer.Context,
    trace: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE|RUN",
            help="Azure or BurstGPT CSV, or Mooncake JSONL, plain or .gz, by its columns; or a recorded run's folder.",
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
    slo_ttft: SloTtft = None,
    slo_tpot: SloTpot = None,
    slo_e2e: SloE2e = None,
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
    """Replay a trace, or what a recorded run served, through the embedded scheduler, and report how it went.

    Time is simulated, a default run does not wait: an iteration takes what it takes Qwen-2-7B on one A30. A recorded
    run is served under the limits that it was recorded with, but for those given here; fit and whatif know its costs.
    """
    slo = SloTargets(time_to_first_token=slo_ttft, time_per_output_token=slo_tpot, e2e_latency=slo_e2e)
    if trace.is_dir():
        check_svg(svg)
        if skip_bad_rows:
            raise CommandError(f"--skip-bad-rows: {trace} is a run, expected a trace")
        plan = _of_run(trace, _given(context), limit, rate_scale, slo if slo.declared else None)
        result, report = serve(msgspec.structs.replace(plan, seed=seed, speed=speed, record=record))
        show(report, as_json=as_json, svg=svg)
        return INTERRUPTED if result.interrupted else 0
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


_SETTING_OF = {"watermark": "watermark_ratio", "max_sequence": "max_sequence_tokens"}
_SETTINGS = (
    "max_running_requests", "max_scheduled_tokens", "kv_cache_blocks", "block_size", "watermark", "max_sequence",
    "policy",
)  # fmt: skip


def _given(context: typer.Context) -> dict[str, Any]:
    """The settings that were typed: a recorded run has its own instead of our defaults."""
    typed = (name for name in _SETTINGS if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE")
    return {_SETTING_OF.get(name, name): context.params[name] for name in typed}


def _of_run(path: Path, settings: dict[str, Any], limit: int | None, rate_scale: float, slo: SloTargets | None) -> Plan:
    """What a recorded run served, when, and under which limits; its targets, too, where none are given."""
    from batchscope.ledger import open_run  # noqa: PLC0415  (an extra)
    from batchscope.prediction.recorded import observed_run, priorities_of  # noqa: PLC0415

    check_positive("rate_scale", rate_scale, "a factor")
    if limit is not None:
        check_whole("limit", limit, 1, LARGEST, ", or None for all of it")
    run = open_run(path)
    observed = observed_run(run, **settings)
    if not observed.workload:
        raise CommandError(f"{path}: no request in it says when it came and got its tokens: there is nothing to replay")
    for assumed in observed.assumed:
        note(assumed)
    if observed.left_out:
        note(f"{observed.left_out:,} requests got no token, or do not say when, and are left out")
    workload = [msgspec.structs.replace(spec, arrival=spec.arrival / rate_scale) for spec in observed.workload[:limit]]
    return Plan(
        title=f"{observed.name} (recorded run)",
        workload=workload,
        options=observed.options,
        slo=slo or observed.slo or None,
        total=len(workload),
        priorities=priorities_of(run),
    )


def _requests(trace: Trace, limit: int | None) -> int | None:
    """About how many there are, where that is cheap to know: the bar's end. How much a packed file holds is not."""
    if trace.path.stat().st_size > LARGEST_COUNTED or is_packed(trace.path):
        return limit
    lines = sum(1 for _ in read_lines(trace.path)) - (trace.format != "mooncake")
    return lines if limit is None else min(limit, lines)
