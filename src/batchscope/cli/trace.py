"""``batchscope trace RUN --out FILE``: a recorded run on a time axis, for a trace viewer."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchscope.cli import stdout
from batchscope.cli.explain import UNDECIDED, told
from batchscope.cli.options import CommandError
from batchscope.cli.simulation import note
from batchscope.text import quoted
from batchscope.views.numbers import counted

if TYPE_CHECKING:
    from batchscope.ledger import Run

_STDOUT = Path("-")
FORMATS = ("perfetto", "chrome")
_VIEWERS = {"perfetto": "open it at https://ui.perfetto.dev", "chrome": "open it in chrome://tracing"}


def trace(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A recorded run's folder, or a folder with one run.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="What is written, - for stdout; packed where it ends in .gz.", show_default=False
        ),
    ],
    first: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            help="From then on; seconds from its start, or 2026-11-28T18:00:30 (UTC unless it says).",
            show_default="its start",
        ),
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Until then.", show_default="its end")
    ] = None,
    requests: Annotated[
        list[str] | None,
        typer.Option(
            "--request",
            "--requests",
            metavar="ID",
            help="Only this request, or # and its number; may be given several times.",
        ),
    ] = None,
    max_events: Annotated[
        int, typer.Option(metavar="N", help="At most so many; what is left out is said.")
    ] = 1_000_000,
    form: Annotated[str, typer.Option("--format", metavar="|".join(FORMATS), help="How it is written.")] = FORMATS[0],
) -> int:
    """Write a recorded run as a trace: iterations and what held them by rank, requests in lanes, counters.

    Exit code: 0; 2 = wrong use, or no run to be read; 3 = nothing of the run lies in what was asked for.
    """
    from batchscope.ledger import chrome_trace, open_run, perfetto  # noqa: PLC0415  (an extra; commands load without it)
    from batchscope.ledger.trace import Window  # noqa: PLC0415
    from batchscope.ledger.trace import trace as drawn  # noqa: PLC0415

    if max_events < 1:
        raise CommandError(f"--max-events {max_events}: expected at least 1")
    if form not in FORMATS:
        raise CommandError(f"--format {quoted(form)}: expected one of {', '.join(FORMATS)}")
    if out.is_dir():
        raise CommandError(f"--out {out}: is a directory, expected a file to write")
    only = frozenset(requests) if requests else None
    opened = open_run(run)
    if not told(opened):
        return UNDECIDED
    if out.absolute().parent == opened.path.absolute():
        raise CommandError(f"--out {out}: is in the run's own folder, expected a file elsewhere")
    found = drawn(opened, Window(*_bounds(opened, first, last), only, max_events))
    for left_out in found.left_out:
        note(left_out)
    if not found.events or (only and not found.drawn_requests):
        cut = found.of_events > found.events
        why = f"--max-events {max_events} has no room for" if cut else "nothing of this run lies in"
        note(f"{why} what was asked for: nothing is written")
        return UNDECIDED
    _write(perfetto.encode(found) if form == FORMATS[0] else chrome_trace.encode(found), out)
    size = "" if out == _STDOUT else f", {out.stat().st_size:,} bytes"
    note(f"{out}: {found.events:,} events, {counted(found.drawn_requests, 'request')}{size}; {_VIEWERS[form]}")
    return 0


def _bounds(run: Run, first: str | None, last: str | None) -> tuple[float, float]:
    """Seconds since the run began."""
    from batchscope.cli.instants import instant_of  # noqa: PLC0415  (an extra)
    from batchscope.ledger.instants import began_at  # noqa: PLC0415

    began = began_at(run.headers[0])
    begin = began if first is None else instant_of("--from", first, run.header, began)
    end = float("inf") if last is None else instant_of("--to", last, run.header, began)
    if end <= began:
        raise CommandError(f"--to {last}: expected a time after the run's start")
    if begin >= end:
        raise CommandError(f"--from {first} is not before --to {last}: expected an earlier time")
    return begin - began, end - began


def _write(content: Iterator[bytes], out: Path) -> None:
    if out == _STDOUT:
        with contextlib.suppress(stdout.NobodyReadsError):
            for piece in content:
                stdout.write_on(piece)
        return
    try:
        with _opened(out) as file:
            for piece in content:
                file.write(piece)
    except OSError as error:
        raise CommandError(f"--out {out}: cannot be written: {error.strerror or error}") from None


def _opened(out: Path) -> gzip.GzipFile | BufferedWriter:
    if out.suffix == ".gz":
        return gzip.open(out, "wb", compresslevel=6)
    return out.open("wb")
