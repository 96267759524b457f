"""``batchscope top``: is the batch full, if not why, and are users served in time, live in a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from batchscope.cli import INTERRUPTED, stdout
from batchscope.cli.demo_engine import running_demo
from batchscope.cli.options import CommandError
from batchscope.cli.scraping import MaxMib, Timeout, TokenFile, limits_of, seconds
from batchscope.collector import SchedulerMetricsCollector
from batchscope.errors import ConfigurationError, MissingExtraError
from batchscope.scraping.fetch import Fetcher, ScrapeLimits, metrics_url
from batchscope.scraping.watcher import MAX_TARGETS
from batchscope.simulator import SchedulerOptions
from batchscope.terminal import once
from batchscope.terminal.player import Playing, is_run, play
from batchscope.terminal.processes import Published
from batchscope.terminal.session import Session
from batchscope.terminal.sources import Endpoint, Local
from batchscope.terminal.styles import colors_of
from batchscope.tokens import find_token

LONGEST_INTERVAL = 3600
FASTEST = 1000.0
ENGINES_A_SECOND = 25
"""So many are asked each second at most, unless somebody says otherwise."""
_GRACE = 1.0
_PATH = ("/", ".", "~")
"""So begins a path, and no address."""


def top(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[URL...|DIRECTORY|RUN]",
            help="Addresses of batchscope's endpoint or of an engine's page; where processes publish; a recorded run.",
            show_default=False,
        ),
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="A simulated engine, in real time.")] = False,
    interval: Annotated[
        float | None,
        typer.Option(metavar="S", help="Seconds between looks at an engine.", show_default="1; of many engines more"),
    ] = None,
    once_only: Annotated[bool, typer.Option("--once", help="One look, printed, then end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --once: as a JSON document, null = not measured.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="One look; exit code 1 = not reachable, 3 = stalled or SLO missed.")
    ] = False,
    objective: Annotated[
        float, typer.Option(metavar="R", help="With --check: the share of requests that is to meet its SLO.")
    ] = once.OBJECTIVE,
    speed: Annotated[float, typer.Option(metavar="X", help="Of a recorded run: 10 = ten times as fast.")] = 1.0,
    timeout: Timeout = 2.0,
    max_mib: MaxMib = 16.0,
    token_file: TokenFile = None,
) -> int:
    """Watch engines live in the terminal: one, or 200 with the worst first.

    The first line is the verdict: how full the batch is, what holds it, what that costs, who is served in time.
    Without a terminal (TERM=dumb, a pipe) the same is printed every interval. Keys: ? shows them. Exit code: 0; with
    --once and --check 1 = an engine did not answer; with --check 3 = one is stalled or misses its SLO; 130 = Ctrl-C.
    """
    if as_json and not (once_only or check):
        raise CommandError("--json: expected --once beside it")
    if not 0 < objective <= 1:
        raise ConfigurationError("--objective", objective, "a share > 0, at most 1")
    if objective != once.OBJECTIVE and not check:
        raise CommandError(f"--objective {objective:g}: expected --check beside it")
    is_played = not demo and targets is not None and len(targets) == 1 and is_run(Path(targets[0]))
    if speed != 1 and not is_played:
        raise CommandError(f"--speed {speed:g}: expected a recorded RUN beside it")
    if targets and is_played:
        run = _played(Path(targets[0]), speed, to_its_end=once_only or check)
        return _once(run, 0.0, objective, as_json=as_json, check=check) if once_only or check else show(run)
    with ExitStack() as held:
        limits, token = limits_of(timeout, max_mib), find_token(token_file=token_file)
        session = _session(targets or [], interval, held, demo=demo, limits=limits, token=token)
        if once_only or check:
            return _once(session, timeout + _GRACE, objective, as_json=as_json, check=check)
        return show(session) if _is_screen() else _every_interval(session, timeout + _GRACE)


def _session(
    targets: Sequence[str],
    interval: float | None,
    held: ExitStack,
    *,
    demo: bool,
    limits: ScrapeLimits,
    token: bytes | None,
) -> Session:
    """What is looked at, how often; ``interval`` None: as often as suits."""
    if interval is not None:
        seconds("--interval", interval, LONGEST_INTERVAL)
    if demo:
        if targets:
            raise CommandError(f"--demo: expected no address beside it, got {targets[0]}")
        return _demo_session(held.enter_context(running_demo()), interval or 1.0)
    directories = [target for target in targets if Path(target).is_dir()]
    if directories and len(targets) > 1:
        raise CommandError(f"top {directories[0]}: expected one directory, or addresses only")
    if directories:
        return Published(Path(directories[0]), interval or 1.0)
    sources = _endpoints(targets, limits, token)
    return Session(sources, interval or max(1.0, len(sources) / ENGINES_A_SECOND))


def _demo_session(collector: SchedulerMetricsCollector, interval: float) -> Session:
    return Session([Local("the demo's engine", collector.get_snapshot)], interval, label="demo")


def _played(path: Path, speed: float, *, to_its_end: bool) -> Playing:
    if not 0 < speed <= FASTEST:
        raise ConfigurationError("--speed", speed, f"a factor > 0, at most {FASTEST:g}")
    if not (to_its_end or _is_screen()):
        raise CommandError(f"top {path}: a recorded run is played on a screen; --once prints how it stood at its end")
    session = play(path, speed=speed)
    if to_its_end:
        session.press("end")
    return session


def show(session: Session) -> int:
    """In the whole terminal, until the user ends it; MissingExtraError without textual."""
    try:
        from batchscope.terminal.app import run  # noqa: PLC0415  (half a second, and an extra)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise MissingExtraError("batchscope top", "terminal") from error
    run(session, colors_of(), ascii_only=_ascii_only())
    return INTERRUPTED if session.interrupted else 0


def show_demo(options: SchedulerOptions, seed: int) -> int:
    """``batchscope demo --top``."""
    with running_demo(options, seed) as collector:
        session = _demo_session(collector, 1.0)
        return show(session) if _is_screen() else _every_interval(session, _GRACE)


def _endpoints(targets: Sequence[str], limits: ScrapeLimits, token: bytes | None) -> list[Endpoint]:
    if not targets:
        raise CommandError("top: expected URL..., a DIRECTORY, a RUN or --demo")
    if len(targets) > MAX_TARGETS:
        raise ConfigurationError("URL", f"({len(targets)} of them)", f"at most {MAX_TARGETS}")
    if missing := [target for target in targets if target.startswith(_PATH) or Path(target).is_file()]:
        raise CommandError(f"top {missing[0]}: is no directory and no recorded run: expected one, or an address")
    urls = [metrics_url(target) for target in targets]
    for place, url in enumerate(urls):
        if url in urls[:place]:
            raise ConfigurationError("URL", url.text, "each engine once")
    fetcher = Fetcher(limits, token)
    return [Endpoint(url, limits, token, fetcher=fetcher) for url in urls]


def _is_screen() -> bool:
    """Whether there is a terminal to draw on and to read keys from."""
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    return os.environ.get("TERM", "") not in {"", "dumb", "unknown"} and all(
        s is not None and s.isatty() for s in streams
    )


def _ascii_only() -> bool:
    """Whether the terminal's encoding has no block characters."""
    encoding = getattr(sys.__stdout__, "encoding", None) or "ascii"
    try:
        "▁█●".encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return True
    return False


def _once(session: Session, patience: float, objective: float, *, as_json: bool, check: bool) -> int:
    with _started(session):
        scene = once.look(session, patience)
    if as_json:
        stdout.write(once.document(scene).to_json() + b"\n")
    else:
        lines = once.lines_of(scene, session, _width(), ascii_only=_ascii_only())
        stdout.write(once.printed(lines, _console(), colors_of()))
    code = once.exit_code(scene, objective)
    return code if check or code == once.NOT_REACHED else once.REACHED


def _every_interval(session: Session, patience: float) -> int:
    """Where there is no screen: one page after the other."""
    try:
        with _started(session):
            scene = once.look(session, patience)
            while True:
                lines = once.lines_of(scene, session, _width(), ascii_only=_ascii_only())
                stdout.write_on(once.printed(lines, _console(), colors_of()) + b"\n")
                time.sleep(session.interval)
                session.update()
                scene = session.scene()
    except stdout.NobodyReadsError:
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED


@contextlib.contextmanager
def _started(session: Session) -> Iterator[None]:
    session.start()
    try:
        yield
    finally:
        session.close()


def _console() -> Console:
    return Console(
        emoji=False, highlight=False, markup=False, color_system="truecolor" if colors_of() == "true" else "auto"
    )


def _width() -> int:
    console = Console()
    return console.width if console.is_terminal else 100
