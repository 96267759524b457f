"""``batchscope watch URL...``: running engines from outside, by the metrics pages that they already serve."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from batchscope.cli import INTERRUPTED, stdout
from batchscope.cli.scraping import MaxMib, Timeout, TokenFile, limits_of, seconds
from batchscope.errors import ConfigurationError
from batchscope.scraping.documents import WatchDocument
from batchscope.scraping.fetch import metrics_url
from batchscope.scraping.watcher import Watcher
from batchscope.tokens import find_token
from batchscope.views.rendering import for_stdout
from batchscope.views.watch import view

NOBODY_ANSWERED = 1
LONGEST_INTERVAL = 86_400


def watch(
    urls: Annotated[
        list[str],
        typer.Argument(metavar="URL...", help="Engines' metrics pages; /metrics is added to a bare address."),
    ],
    interval: Annotated[float, typer.Option(metavar="S", help="Seconds from one look to the next.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="One look, then end: numbers since the engine started.")] = False,
    rounds: Annotated[
        int | None, typer.Option("--count", metavar="N", help="End after N looks.", show_default="until Ctrl-C")
    ] = None,
    timeout: Timeout = 5.0,
    max_mib: MaxMib = 16.0,
    token_file: TokenFile = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document a look, a line each, as for | jq .fleet.intervals.")
    ] = False,
) -> int:
    """Watch running engines, one or many: vLLM (also under Ray Serve), SGLang, TGI, llama.cpp, TensorRT-LLM, LMDeploy,
    Dynamo, MAX, and batchscope's own endpoints.

    Rates and latencies are of the time between two looks; the first one can only tell numbers since the engine
    started, and says so. A percentile is shown as the interval that the engine's buckets allow. Exit code: 0; 1 when
    nobody answered the last look; 130 after Ctrl-C.
    """
    seconds("--interval", interval, LONGEST_INTERVAL)
    if rounds is not None and rounds < 1:
        raise ConfigurationError("--count", rounds, "a whole number 1..")
    if once and rounds not in {None, 1}:
        raise ConfigurationError("--count", rounds, "no --once beside it")
    watcher = Watcher(
        [metrics_url(url) for url in urls], limits=limits_of(timeout, max_mib), token=find_token(token_file=token_file)
    )
    document = None
    try:
        with _screen(as_json) as show:
            for document in _looks(watcher, interval, 1 if once else rounds):
                show(document)
    except KeyboardInterrupt:
        return INTERRUPTED
    except stdout.NobodyReadsError:
        return 0
    return 0 if document is not None and document.fleet is not None else NOBODY_ANSWERED


def _looks(watcher: Watcher, interval: float, rounds: int | None) -> Iterator[WatchDocument]:
    """A look every ``interval`` seconds, counted from the first: a slow target does not shift the rest."""
    begin, number = time.monotonic(), 0
    pause = threading.Event()
    while True:
        yield watcher.round()
        number += 1
        if number == rounds:
            return
        late = time.monotonic() - begin
        number_due = int(late // interval) + 1
        pause.wait(begin + number_due * interval - time.monotonic())


@contextmanager
def _screen(as_json: bool) -> Iterator[Callable[[WatchDocument], None]]:
    """How a look is shown: in place on a terminal, else one block (or JSON line) after the other."""
    console = Console(emoji=False, highlight=False, markup=False)
    if as_json or not console.is_terminal:
        yield _write_json if as_json else _write_block
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda document: live.update(view(document, console.size.height), refresh=True)


def _write_json(document: WatchDocument) -> None:
    stdout.write_on(document.to_json() + b"\n")


def _write_block(document: WatchDocument) -> None:
    stdout.write_on(for_stdout(view(document)) + b"\n")
