"""``batchscope report RUN|FILE|URL``: the report of a recorded run, or of an engine's own snapshot."""

from __future__ import annotations

import datetime as dt
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import typer

from batchscope.cli import stdout
from batchscope.cli.options import CommandError, Json, Svg, check_html, check_svg, write_svg
from batchscope.cli.scraping import MaxMib, Timeout, TokenFile, limits_of
from batchscope.cli.simulation import note
from batchscope.errors import DecodeError
from batchscope.scraping.fetch import Fetcher, MetricsUrl, ScrapeError, ScrapeLimits, metrics_url, wait_for
from batchscope.statistics.snapshot import SCHEMA, MetricsSnapshot, decode_snapshot
from batchscope.tokens import find_token
from batchscope.views.rendering import for_stdout
from batchscope.views.report import Report

NOTHING_RECORDED = 3
LARGEST = 64 * 2**20
"""Bytes of a document: thousands of times what one has."""
_ENDPOINT = (
    "expected batchscope's own endpoint (serve(collector), batchscope serve); "
    "of an engine's own page batchscope watch URL --once shows what there is"
)


def report(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE|URL",
            help="A recorded run's folder, or one that holds a run; a snapshot as JSON, JSON lines, - for stdin; "
            "or the address of batchscope's endpoint.",
            show_default=False,
        ),
    ],
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Of JSON lines: the last snapshot up to then, 2026-11-28T18:00 say; UTC unless it says otherwise.",
            show_default="the last",
        ),
    ] = None,
    first: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            help="Of a run: from then on; seconds from its start, or 2026-11-28T18:00:30 (UTC unless it says).",
            show_default="its start",
        ),
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Of a run: up to then.", show_default="its end")
    ] = None,
    as_json: Json = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of a run: write the report as one HTML file with charts; no text then."),
    ] = None,
    svg: Svg = None,
    timeout: Timeout = 5.0,
    max_mib: MaxMib = 16.0,
    token_file: TokenFile = None,
) -> int:
    """Show a recorded run, or a collector's snapshot: requests, latencies, batch, what held it, SLO.

    A run has figures of its steady part, too.

    Exit code: 0; 2 = wrong use, or no snapshot to be had; 3 = nothing was recorded in it yet.
    """
    if as_json and (html is not None or svg is not None):
        raise CommandError("--json and --html or --svg: expected one of them")
    if _is_run(source):
        return _of_run(Path(source), at, html, svg, first, last, as_json=as_json)
    for option, given in (("--from", first), ("--to", last), ("--html", html)):
        if given is not None:
            raise CommandError(f"{option}: expected a recorded run, and {source} is none; --at chooses a snapshot")
    until = None if at is None else _instant(at)
    check_svg(svg, None if source == "-" else Path(source))
    limits = limits_of(timeout, max_mib)
    if _is_address(source):
        if until is not None:
            raise CommandError("--at: expected JSON lines; an endpoint has its present snapshot only")
        snapshot = _fetched(source, limits, find_token(token_file=token_file))
    else:
        with _opened(source) as stream:
            snapshot = _chosen(stream, source, until)
    shown = Report(snapshot)
    if svg is not None:
        write_svg(shown, svg)
    stdout.write(snapshot.to_json() + b"\n" if as_json else for_stdout(shown))
    if _is_empty(snapshot):
        note("nothing was recorded in this snapshot yet")
        return NOTHING_RECORDED
    return 0


def _is_run(source: str) -> bool:
    """A run's folder, or one of runs: of other folders it is said what they may be."""
    path = Path(source)
    try:
        return path.is_dir() and any((one / "run.json").is_file() for one in (path, *path.iterdir()))
    except OSError:
        return False


def _of_run(
    path: Path,
    at: str | None,
    html: Path | None,
    svg: Path | None,
    first: str | None,
    last: str | None,
    *,
    as_json: bool,
) -> int:
    from batchscope.cli.run_report import Wanted, report_run  # noqa: PLC0415  (an extra)

    if at is not None:
        raise CommandError("--at: expected JSON lines; of a run --from and --to choose a part")
    if html is not None and svg is not None:
        raise CommandError("--html and --svg: expected one of them")
    check_html(html)
    check_svg(svg)
    return report_run(path, Wanted(as_json, html, svg, first, last))


def _instant(text: str) -> dt.datetime:
    try:
        instant = dt.datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"--at {text}: expected a time as 2026-11-28T18:00 or 2026-11-28T18:00:30+01:00") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=dt.UTC)


def _is_address(source: str) -> bool:
    """A URL, or HOST:PORT where no file is called so."""
    return "://" in source or (re.fullmatch(r"[^/]+:\d+(/.*)?", source) is not None and not Path(source).exists())


def _fetched(address: str, limits: ScrapeLimits, token: bytes | None) -> MetricsSnapshot:
    url = _snapshot_url(address)
    try:
        document = wait_for(Fetcher(limits, token).get(url))
    except ScrapeError as error:
        raise CommandError(str(error)) from None
    try:
        return decode_snapshot(document)
    except DecodeError as error:
        raise CommandError(f"{url.text}: {error}; {_ENDPOINT}") from None


def _snapshot_url(address: str) -> MetricsUrl:
    """``/snapshot`` beside the metrics page that ``address`` means."""
    url = metrics_url(address)
    path = re.sub(r"/metrics$", "/snapshot", url.path)
    return url._replace(path=path, text=url.text.removesuffix(url.path) + path, hint=_ENDPOINT)


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        if sys.stdin is None:
            raise CommandError("-: stdin is closed, expected a snapshot there")
        yield sys.stdin.buffer
        return
    path = Path(source)
    if path.is_dir():
        raise CommandError(
            f"{source}: is a directory without a recorded run (run.json), expected a run or a file; "
            "batchscope serve DIRECTORY merges what processes publish in one"
        )
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise CommandError(
            f"{source}: cannot be read: {error.strerror or error}; "
            "expected a recorded run's folder, or a file with a snapshot's JSON"
        ) from None


class _Stamp(msgspec.Struct):
    """What is read of each line."""

    schema: str
    snapshot_time: Annotated[dt.datetime, msgspec.Meta(tz=True)]


_STAMP = msgspec.json.Decoder(_Stamp)


def _stamp(line: bytes) -> dt.datetime | None:
    """When the line's snapshot was taken; None for what is no line with a snapshot."""
    try:
        stamp = _STAMP.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return stamp.snapshot_time if stamp.schema == SCHEMA else None


def _chosen(stream: BinaryIO, name: str, until: dt.datetime | None) -> MetricsSnapshot:
    """The last line's snapshot up to ``until``; where no line is one, that of the whole text."""
    chosen, first, torn, text = b"", None, 0, bytearray()
    while line := stream.readline(LARGEST + 1):
        time = _stamp(line)
        if time is None:
            torn += bool(line.strip())
            text += line if first is None else b""
        else:
            first = first or time
            chosen = line if until is None or time <= until else chosen
        if max(len(line), len(text)) > LARGEST:
            raise CommandError(f"{name}: has {LARGEST >> 20} MiB and no end of a snapshot: expected its JSON")
    if first is None:
        return _of_text(bytes(text), name, until)
    if torn:
        note(f"{name}: {torn:,} {'line is' if torn == 1 else 'lines are'} no snapshot, and left out")
    if not chosen:
        raise _too_early(name, first)
    return _decoded(chosen, name)


def _of_text(text: bytes, name: str, until: dt.datetime | None) -> MetricsSnapshot:
    if not text.strip():
        raise CommandError(f"{name}: is empty, expected a snapshot's JSON")
    snapshot = _decoded(text, name)
    if until is not None and snapshot.snapshot_time > until:
        raise _too_early(name, snapshot.snapshot_time)
    return snapshot


def _decoded(text: bytes, name: str) -> MetricsSnapshot:
    try:
        return decode_snapshot(text)
    except DecodeError as error:
        raise CommandError(f"{name}: {error}") from None


def _too_early(name: str, first: dt.datetime) -> CommandError:
    return CommandError(f"--at is before the first snapshot of {name}: expected {first.isoformat()} or later")


def _is_empty(snapshot: MetricsSnapshot) -> bool:
    totals = snapshot.totals
    counted = (totals.requests_received, snapshot.request_stats.total_requests, totals.iterations, totals.batches)
    return not any(counted) and not totals.errors_by_type
