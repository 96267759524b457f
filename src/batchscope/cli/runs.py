"""``batchscope runs DIR``: the recorded runs of a folder, a line each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchscope.cli import stdout
from batchscope.cli.options import AsJson


def runs(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Where runs were recorded, or one of them.")],
    as_json: AsJson = False,
) -> int:
    """List recorded runs: engine, when, how long, how many requests, latencies, share that met the SLO.

    Percentiles are of completed requests, within 0.07 %: no row is read. A run whose process was killed is interrupted.
    """
    from batchscope.ledger.listing import list_runs  # noqa: PLC0415  (an extra)
    from batchscope.views.runs import view  # noqa: PLC0415

    listing = list_runs(root)
    stdout.write(listing.to_json() + b"\n" if as_json else view(listing).encode())
    return 0
