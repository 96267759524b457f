"""``batchscope import FILE... --to RUN``: what others recorded, as a run of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchscope.cli.simulation import note
from batchscope.text import shown


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="The files of one run, recognised by their content, plain or .gz.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path,
        typer.Option("--to", metavar="RUN", help="The run's folder; it must not be there yet.", show_default=False),
    ],
    max_running_requests: Annotated[
        int | None, typer.Option(metavar="N", help="Places in the engine's batch.", show_default=False)
    ] = None,
    max_scheduled_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Its token budget of an iteration.", show_default=False)
    ] = None,
    kv_cache_blocks: Annotated[
        int | None, typer.Option(metavar="N", help="Its KV-cache blocks.", show_default=False)
    ] = None,
    kv_block_size: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of a block.", show_default=False)
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="P", help="Its rules of admission: vllm, sglang, sarathi, ...", show_default=False),
    ] = None,
) -> int:
    """Make a run of the files of Dynamo (forward passes), vllm bench serve, vLLM's request logs or vidur.

    Whatever the files do not say stays unmeasured, and is named. Limits given here hold over those found.
    """
    from batchscope.importing import Given, import_run  # noqa: PLC0415  (the ledger is an extra)

    given = Given(
        max_running_requests=max_running_requests,
        max_scheduled_tokens=max_scheduled_tokens,
        kv_cache_blocks=kv_cache_blocks,
        kv_block_size=kv_block_size,
        policy=policy,
    )
    done = import_run(files, to, given)
    rows = ", ".join(f"{count:,} {table}" for table, count in done.rows.items() if count) or "nothing"
    typer.echo(f"{shown(to)}: {rows}, from {done.format}")
    for missing in done.missing:
        note(f"not in these files: {missing}")
    for remark in done.notes:
        note(remark)
    for reason, count in done.rejected.items():
        note(f"records that cannot be true, left out: {count:,} ({reason})")
    return 0
