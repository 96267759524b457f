"""``batchscope serve``: the endpoint in front of other processes' snapshots, or of a replay to try it."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import typer

from batchscope import MetricsConfiguration, RequestTracker, SchedulerLimits, SchedulerMetricsCollector, SloTargets
from batchscope.cli import INTERRUPTED
from batchscope.cli.demo import demo_plan
from batchscope.cli.demo_engine import demo_options
from batchscope.cli.options import CommandError, Record
from batchscope.cli.simulation import note, recorded
from batchscope.cli.simulation import serve as serve_plan
from batchscope.errors import MissingExtraError
from batchscope.server import DEFAULT_PORT
from batchscope.server import serve as serve_source
from batchscope.server.health import STALL_SECONDS
from batchscope.simulator import SchedulerOptions, Simulator, VirtualClock, open_trace
from batchscope.statistics.cumulative import StateSource

if TYPE_CHECKING:
    from batchscope.server.running import ServerHandle

_ENDLESS = 10**9
LOOK_SECONDS = 1.0
"""How often a directory is looked at, scraped or not: what is read and tidied between scrapes delays none."""


_KNOBS = ("max_running_requests", "max_scheduled_tokens", "kv_cache_blocks")
_ReplayCount = Annotated[
    int | None, typer.Option(metavar="N", help="Of the replay, as in batchscope replay.", show_default=False)
]
_ReplaySeconds = Annotated[
    float | None, typer.Option(metavar="S", help="Of the replay, as in batchscope replay.", show_default=False)
]


class _Endpoint(NamedTuple):
    """Where and how to serve."""

    host: str
    port: int
    token_file: Path | None
    tls_certificate: Path | None
    tls_key: Path | None
    vllm_names: bool
    stall_seconds: float
    labels: dict[str, str] | None
    allowed_hosts: list[str] | None


class _Replay(NamedTuple):
    """What a replay is served with; None: as the simulator has it."""

    speed: float | None = None
    limit: int | None = None
    rate_scale: float | None = None
    max_running_requests: int | None = None
    max_scheduled_tokens: int | None = None
    kv_cache_blocks: int | None = None
    slo_ttft: float | None = None
    slo_tpot: float | None = None
    slo_e2e: float | None = None

    @property
    def given(self) -> dict[str, float]:
        """What was said."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def serve(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[DIRECTORY]",
            help="Where processes publish their snapshots.",
            show_default=False,
        ),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--replay", metavar="TRACE", help="Serve a simulated engine that replays a trace.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Serve the demo's simulated engine, in real time.")] = False,
    speed: Annotated[
        float | None,
        typer.Option(metavar="X", help="Of the replay: 10 = ten times as fast as it happened.", show_default="1"),
    ] = None,
    limit: _ReplayCount = None,
    rate_scale: Annotated[
        float | None, typer.Option(metavar="X", help="Of the replay, as in batchscope replay.", show_default=False)
    ] = None,
    max_running_requests: _ReplayCount = None,
    max_scheduled_tokens: _ReplayCount = None,
    kv_cache_blocks: _ReplayCount = None,
    slo_ttft: _ReplaySeconds = None,
    slo_tpot: _ReplaySeconds = None,
    slo_e2e: _ReplaySeconds = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 = everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Port; 0 = any free one.")] = DEFAULT_PORT,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the bearer token to ask for; else the variable BATCHSCOPE_TOKEN."),
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM: serve https with it.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM: its key, where it is apart.")] = None,
    vllm_names: Annotated[
        bool, typer.Option("--vllm-names", help="Also under the metric names that vLLM uses.")
    ] = False,
    stall_seconds: Annotated[
        float, typer.Option(metavar="S", help="/healthz: work and no iteration for longer is a stall.")
    ] = STALL_SECONDS,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of every series of the sum; default: what all processes agree on."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name to answer to; default: localhost, or any beyond loopback."),
    ] = None,
    record: Record = None,
) -> int:
    """Serve /metrics, /snapshot, /healthz and a page for browsers over HTTP until Ctrl-C.

    In front of the processes that publish into DIRECTORY (SnapshotPublisher), added up; or of a replay.
    """
    endpoint = _Endpoint(
        host, port, token_file, tls_certificate, tls_key, vllm_names, stall_seconds, _labels(label or []),
        allowed_host or None,
    )  # fmt: skip
    told = _Replay(
        speed,
        limit,
        rate_scale,
        max_running_requests,
        max_scheduled_tokens,
        kv_cache_blocks,
        slo_ttft,
        slo_tpot,
        slo_e2e,
    )
    if (source is not None) + (trace is not None) + demo > 1:
        raise CommandError("serve: expected a DIRECTORY to serve, or --replay TRACE, or --demo: one of them")
    if trace is None and told.given:
        name, value = next(iter(told.given.items()))
        raise CommandError(f"--{name.replace('_', '-')} {value:g}: expected --replay TRACE beside it")
    if source is None and trace is None and not demo:
        raise CommandError("serve: expected a DIRECTORY to serve, or --replay TRACE, or --demo")
    if source is None and label:
        raise CommandError("--label: expected a DIRECTORY beside it")
    if source is not None and record is not None:
        raise CommandError(
            f"--record {record}: a DIRECTORY has sums, not requests: expected --replay TRACE or --demo beside it; an"
            " engine records itself: collector.record_to(), or BATCHSCOPE_RECORD for a plug-in"
        )
    with suppress(KeyboardInterrupt):
        if demo:
            _serve_demo(endpoint, record)
        elif trace is not None:
            _serve_replay(trace, told, endpoint, record)
        elif source is not None:
            _serve_processes(source, endpoint)
    return INTERRUPTED


def _labels(given: list[str]) -> dict[str, str] | None:
    """What --label said; None if nothing."""
    for one in given:
        if not one.partition("=")[1]:
            raise CommandError(f"--label {one}: expected NAME=VALUE")
    return {one.partition("=")[0]: one.partition("=")[2] for one in given} or None


def _serve_processes(place: str, endpoint: _Endpoint) -> None:
    from batchscope.publishing import SnapshotDirectory  # noqa: PLC0415  (needed here only)

    if not place:
        raise CommandError(f"serve {place!r}: expected a path")
    if Path(place).is_file():
        raise CommandError(f"serve {place}: is a file, expected a directory; to serve a trace: --replay {place}")
    new = not Path(place).exists()
    reader = SnapshotDirectory(place, labels=endpoint.labels, interval=LOOK_SECONDS)
    if new or not any(Path(place).iterdir()):
        made = "did not exist: it was made, and" if new else "is there and"
        note(f"{place} {made} is empty; figures come with the first process that publishes there")
    with reader, _serving(reader, place, endpoint):
        threading.Event().wait()


def _serve_replay(trace: Path, told: _Replay, endpoint: _Endpoint, record: Path | None) -> None:
    knobs: dict[str, Any] = {name: value for name, value in told.given.items() if name in _KNOBS}
    options = SchedulerOptions(**knobs)
    slo = SloTargets(time_to_first_token=told.slo_ttft, time_per_output_token=told.slo_tpot, e2e_latency=told.slo_e2e)
    configuration = MetricsConfiguration(slo=slo if slo.declared else None)
    clock, speed = VirtualClock(), 1.0 if told.speed is None else told.speed
    limits = SchedulerLimits(
        max_running_requests=options.max_running_requests,
        max_scheduled_tokens=options.max_scheduled_tokens,
        kv_cache_blocks=options.kv_cache_blocks,
        kv_block_size=options.block_size,
    )
    workload = open_trace(trace, limit=told.limit, rate_scale=1.0 if told.rate_scale is None else told.rate_scale)
    labels = {"model_name": "replay"}
    with (
        SchedulerMetricsCollector(configuration, limits=limits, labels=labels, clock=clock) as collector,
        recorded(collector, record, options),
    ):
        simulator = Simulator(workload, RequestTracker(collector), options=options, clock=clock, speed=speed)
        with _serving(collector, f"{trace.name}{_pace(speed)}", endpoint):
            if not simulator.run().interrupted:
                note("the replay is over: its last figures stay until Ctrl-C")
                threading.Event().wait()


def _serve_demo(endpoint: _Endpoint, record: Path | None) -> None:
    """The demo's engine, without end."""
    plan = demo_plan(demo_options(), requests=_ENDLESS, speed=1.0, record=record)
    live_plan = msgspec.structs.replace(plan, labels={"demo": "true"})
    serve_plan(live_plan, partial(_serving, name="the demo", endpoint=endpoint))


def _pace(speed: float) -> str:
    """What a second is, where there are two kinds of them."""
    if speed == 1:
        return ""
    return (
        f" at {speed:g} times its pace: durations and the rates of /snapshot are in seconds of the trace,"
        f" rates that Prometheus takes in yours ({speed:g} times as high)"
    )


def _serving(source: StateSource, name: str, endpoint: _Endpoint) -> ServerHandle:
    arguments = endpoint._asdict()
    del arguments["labels"]
    try:
        handle = serve_source(source, **arguments)
    except MissingExtraError as error:
        raise MissingExtraError("batchscope serve", error.extra) from error
    note(f"{handle.url}/metrics serves {name}, {handle.url}/ shows it in a browser; Ctrl-C ends it")
    return handle
