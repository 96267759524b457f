"""``batchscope check URL``: which numbers an engine's metrics page can give, and which it cannot."""

from __future__ import annotations

from typing import Annotated

import typer

from batchscope.cli import stdout
from batchscope.cli.options import AsJson, CommandError
from batchscope.cli.scraping import MaxMib, Timeout, TokenFile, limits_of
from batchscope.scraping.check import CheckReport, check_report
from batchscope.scraping.fetch import Fetcher, ScrapeError, metrics_url, wait_for
from batchscope.scraping.watcher import UnknownEngineError, look
from batchscope.tokens import find_token
from batchscope.views.check import view
from batchscope.views.rendering import for_stdout

INCOMPLETE = 1


def check(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="An engine's metrics page; /metrics is added to a bare address.")
    ],
    timeout: Timeout = 5.0,
    max_mib: MaxMib = 16.0,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> int:
    """Say which numbers an engine's metrics page gives, which it cannot, and which names are not known.

    Exit code: 0 = an engine that is known, with its key numbers; 1 = the page is there, but is no known engine's or
    lacks key numbers; 2 = wrong use, or no page to be had.
    """
    page = metrics_url(url)
    fetcher = Fetcher(limits_of(timeout, max_mib), find_token(token_file=token_file))
    try:
        report = check_report(page, wait_for(look(page, fetcher)))
    except UnknownEngineError as error:
        report = CheckReport(url=page.text, error=str(error), unknown_names=error.names)
    except ScrapeError as error:
        raise CommandError(str(error)) from None
    stdout.write(report.to_json() + b"\n" if as_json else for_stdout(view(report)))
    return 0 if report.complete else INCOMPLETE
