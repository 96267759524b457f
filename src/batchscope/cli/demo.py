"""``batchscope demo``: a built-in workload with two kinds of users, who want different things."""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from batchscope.cli import INTERRUPTED
from batchscope.cli.demo_engine import BLOCKS, CLASSES, DISTURBANCES, PLACES, SLO, TOKENS, demo_options, demo_workload
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
    Speed,
    Svg,
    Watermark,
    check_block_size,
    check_svg,
)
from batchscope.cli.simulation import Plan, note, serve, show
from batchscope.cli.top import show_demo
from batchscope.server import DEFAULT_PORT
from batchscope.server import serve as serve_source
from batchscope.simulator import SchedulerOptions
from batchscope.statistics.cumulative import StateSource


def demo(
    requests: Annotated[int, typer.Option(metavar="N", help="How many requests.")] = 3000,
    max_running_requests: MaxRunningRequests = PLACES,
    max_scheduled_tokens: MaxScheduledTokens = TOKENS,
    kv_cache_blocks: KvCacheBlocks = BLOCKS,
    block_size: BlockSize = DEFAULTS.block_size,
    watermark: Watermark = DEFAULTS.watermark_ratio,
    max_sequence: MaxSequence = None,
    policy: Policy = DEFAULTS.policy,
    speed: Speed = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Another seed, another workload.")] = 0,
    serve_page: Annotated[
        bool, typer.Option("--serve", help="In real time, with the page for a browser; the report at the end.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="With --serve: open the browser, too.")] = False,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", help="With --serve: where; 0 = any free one.", show_default=str(DEFAULT_PORT)),
    ] = None,
    terminal: Annotated[
        bool, typer.Option("--top", help="Live in the terminal, in real time and for ever; no report.")
    ] = False,
    as_json: Json = False,
    svg: Svg = None,
    record: Record = None,
) -> int:
    """Serve a built-in workload: bursts of interactive and batch requests on one engine, and report.

    Nothing else is needed, no GPU and no engine: the embedded scheduler runs in simulated time.
    """
    check_block_size(block_size)
    options = msgspec.structs.replace(
        demo_options(max_running_requests, max_scheduled_tokens, kv_cache_blocks),
        block_size=block_size,
        watermark_ratio=watermark,
        max_sequence_tokens=max_sequence,
        policy=policy,
    )
    if terminal:
        if record is not None:
            raise CommandError(f"--record {record}: expected no --top beside it")
        return show_demo(options, seed)
    check_svg(svg)
    plan = demo_plan(options, requests=requests, speed=speed, seed=seed, record=record)
    if not serve_page:
        for option, given in (("--open", open_browser), ("--port", port is not None)):
            if given:
                raise CommandError(f"{option}: expected --serve beside it")
        result, report = serve(plan)
    else:
        live = partial(_page, port=DEFAULT_PORT if port is None else port, opened=open_browser)
        result, report = serve(msgspec.structs.replace(plan, speed=speed or 1.0, labels={"demo": "true"}), live)
    show(report, as_json=as_json, svg=svg)
    return INTERRUPTED if result.interrupted else 0


def demo_plan(
    options: SchedulerOptions, *, requests: int, speed: float | None = None, seed: int = 0, record: Path | None = None
) -> Plan:
    """The demo's workload on a scheduler with ``options``."""
    return Plan(
        title="the demo: interactive and batch requests, in bursts",
        workload=demo_workload(requests, seed),
        options=options,
        slo=SLO,
        disturbances=DISTURBANCES,
        total=requests,
        seed=seed,
        speed=speed,
        priorities={each.name: each.priority for each in CLASSES},
        record=record,
    )


@contextmanager
def _page(collector: StateSource, *, port: int, opened: bool) -> Iterator[None]:
    """The endpoint with the page in front of the demo; its address is told."""
    with serve_source(collector, port=port) as handle:
        note(f"look at {handle.url}/ in a browser; Ctrl-C ends it with the report")
        if opened:
            _open_page(handle.url)
        yield


def _open_page(url: str) -> None:
    """In a thread: a browser in the terminal would hold the command up. Says so where there is none."""

    def opened() -> None:
        if not webbrowser.open(url):
            note(f"there is no browser to open here: open {url} yourself")

    threading.Thread(target=opened, name="batchscope-browser", daemon=True).start()
