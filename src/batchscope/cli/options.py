"""The options that commands share, and the way from a setting's name to its option's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from batchscope.configuration import DEFAULT_CLASS, SloTargets, parse_slo
from batchscope.errors import BatchscopeError, ConfigurationError
from batchscope.simulator import SchedulerOptions
from batchscope.simulator.policies import POLICIES
from batchscope.views.rendering import picture

DEFAULTS = SchedulerOptions()

OPTION_OF = {
    "max_running_requests": "--max-running-requests",
    "max_scheduled_tokens": "--max-scheduled-tokens",
    "kv_cache_blocks": "--kv-cache-blocks",
    "block_size": "--block-size",
    "watermark_ratio": "--watermark",
    "max_sequence_tokens": "--max-sequence",
    "policy": "--policy",
    "set": "--set",
    "until": "--until",
    "from": "--from",
    "time_to_first_token": "--slo-ttft",
    "time_per_output_token": "--slo-tpot",
    "e2e_latency": "--slo-e2e",
    "max_emission_gap": "--slo-gap",
    "slo": "--slo",
    "vary": "--vary",
    "try_policy": "--try-policy",
    "most_kv_cache_blocks": "--most-kv-cache-blocks",
    "kv_blocks_per_token": "--kv-blocks-per-token",
    "rate_scale": "--rate-scale",
    "attainment": "--attainment",
    "fail_if": "--fail-if",
    "margin": "--margin",
    "to": "--to",
    "limit": "--limit",
    "requests": "--requests",
    "speed": "--speed",
    "host": "--host",
    "port": "--port",
    "token_file": "--token-file",
    "tls_certificate": "--tls-certificate",
    "tls_key": "--tls-key",
    "stall_seconds": "--stall-seconds",
    "root": "--record",
    "directory": "serve",
    "labels": "--label",
    "allowed_hosts": "--allowed-host",
}
"""Setting -> option of the command line."""


class CommandError(BatchscopeError):
    """What was asked for cannot be done; the message is what the user reads."""


def in_terms_of_options(error: ConfigurationError) -> str:
    """The error's message with the names that were typed: options, not fields."""
    allowed = error.allowed.replace("(max_running_requests:", f"({OPTION_OF['max_running_requests']}:")
    allowed = re.sub(r",? or None.*|None for as fast as possible, or ", "", allowed)
    for field, option in OPTION_OF.items():
        if option.startswith("--tls"):
            allowed = re.sub(rf"\b{field}\b", option, allowed)
    return f"{OPTION_OF.get(error.field, error.field)} {_shown(error.value)}: expected {allowed}"


def _shown(value: object) -> str:
    """The value as it was typed; in quotes where nothing else of it could be seen."""
    text = str(value)
    return text if text.strip() else repr(text)


SloTtft = Annotated[float | None, typer.Option(metavar="S", help="Target: seconds to the first token.")]
SloTpot = Annotated[float | None, typer.Option(metavar="S", help="Target: seconds an output token, a request's mean.")]
SloE2e = Annotated[float | None, typer.Option(metavar="S", help="Target: seconds from arrival to the end.")]
SloGap = Annotated[
    float | None, typer.Option(metavar="S", help="Target: seconds between any two tokens; no stall beyond.")
]
SloByClass = Annotated[
    str | None,
    typer.Option(
        "--slo",
        metavar="TEXT",
        help="Targets by request class: 'interactive: time_to_first_token=2; batch: e2e_latency=60'.",
        show_default="those of the run",
    ),
]
MaxRunningRequests = Annotated[int, typer.Option("--max-running-requests", metavar="N", help="Places in the batch.")]
MaxScheduledTokens = Annotated[
    int,
    typer.Option(
        "--max-scheduled-tokens",
        metavar="N",
        help="Token budget of an iteration; at least --max-running-requests.",
    ),
]
KvCacheBlocks = Annotated[
    int, typer.Option("--kv-cache-blocks", metavar="N", help="KV-cache blocks of --block-size tokens.")
]
BlockSize = Annotated[int, typer.Option("--block-size", metavar="N", help="Tokens of a KV-cache block.")]
Watermark = Annotated[
    float,
    typer.Option(
        "--watermark", metavar="X", help="Share of the blocks that an admission leaves free (sarathi, prefill-first)."
    ),
]
MaxSequence = Annotated[
    int | None,
    typer.Option(
        "--max-sequence", metavar="N", help="Tokens of prompt and answer together; a longer answer is cut.",
        show_default="no bound",
    ),
]  # fmt: skip
Policy = Annotated[
    str, typer.Option("--policy", metavar="NAME", help=f"Whose scheduling rules: {', '.join(POLICIES)}.")
]
Speed = Annotated[
    float | None,
    typer.Option(
        "--speed", metavar="X", help="1 = in real time, 10 = ten times as fast; default: as fast as possible."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the snapshot as one JSON document, nothing else.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, nothing else.")]
Svg = Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Also write the report as a picture.")]
Html = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Also write it as one HTML file with charts and every figure.")
]
Record = Annotated[
    Path | None,
    typer.Option(
        "--record", metavar="DIR", help="Also keep every request and iteration, in a folder of its own in DIR."
    ),
]


def targets_given(all_alike: SloTargets, by_class: str | None) -> dict[str, SloTargets]:
    """By request class, what the options say; empty where they say nothing."""
    if by_class is None:
        return {DEFAULT_CLASS: all_alike} if all_alike.declared else {}
    if all_alike.declared:
        raise CommandError("--slo and --slo-ttft, --slo-tpot, --slo-e2e or --slo-gap: expected one of them")
    try:
        found = parse_slo(by_class, "slo")
    except ConfigurationError as error:
        if error.field == "slo":
            raise
        raise CommandError(f"--slo {error.field}={error.value}: expected seconds > 0") from None
    return {DEFAULT_CLASS: found} if isinstance(found, SloTargets) else found


def targets_asked(
    given: Mapping[str, SloTargets], recorded: Mapping[str, SloTargets], source: Path
) -> dict[str, SloTargets]:
    """What the options say, else what ``source`` was recorded with; CommandError where neither says any."""
    targets = dict(given or recorded)
    if not any(each.declared for each in targets.values()):
        raise CommandError(f"{source}: says no targets, expected --slo-ttft, --slo-tpot, --slo-e2e, --slo-gap or --slo")
    return targets


def check_block_size(block_size: int) -> None:
    """A trace's prefix hashes stand for 512 tokens each: blocks of the cache have to divide them."""
    if block_size > 0 and DEFAULTS.hash_block_tokens % block_size:
        raise ConfigurationError("block_size", block_size, f"a divisor of {DEFAULTS.hash_block_tokens}")


def check_svg(path: Path | None, source: Path | None = None) -> None:
    """Refuse at once what could not be written after a long run, or what would overwrite the trace."""
    if path is None:
        return
    if path.is_dir():
        raise CommandError(f"--svg {path}: is a directory, expected a file to write")
    if not path.absolute().parent.is_dir():
        raise CommandError(f"--svg {path}: there is no directory {path.parent}, expected an existing one")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise CommandError(f"--svg {path}: is the trace itself, expected another file")
    if path.suffix.lower() not in {"", ".svg"}:
        raise CommandError(f"--svg {path}: SVG is what is written, expected a name that ends in .svg")


def write_svg(content: RenderableType, path: Path) -> None:
    """``content`` as a picture; ``CommandError`` where it cannot be written."""
    try:
        path.write_text(picture(content), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"--svg {path}: cannot be written: {error.strerror or error}") from None


def check_html(path: Path | None) -> None:
    """Refuse at once what could not be written."""
    if path is None:
        return
    if path.is_dir():
        raise CommandError(f"--html {path}: is a directory, expected a file to write")
    if not path.absolute().parent.is_dir():
        raise CommandError(f"--html {path}: there is no directory {path.parent}, expected an existing one")


def write_html(page: str, path: Path) -> str:
    """``page`` as a file; what to tell of it. ``CommandError`` where it cannot be written."""
    content = page.encode()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CommandError(f"--html {path}: cannot be written: {error.strerror or error}") from None
    return f"{path}: {len(content) / 1000:,.0f} kB, needs no network"
