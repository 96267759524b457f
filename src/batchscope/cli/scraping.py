"""The options of the commands that read an engine's metrics page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from batchscope.errors import ConfigurationError
from batchscope.scraping.fetch import ScrapeLimits

Timeout = Annotated[float, typer.Option("--timeout", metavar="S", help="Seconds that reading a page may take.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file", metavar="FILE", help="File with a bearer token that the page asks for; else BATCHSCOPE_TOKEN.",
        show_default=False,
    ),
]  # fmt: skip
MaxMib = Annotated[float, typer.Option("--max-mib", metavar="N", help="A page larger than this is cut off.")]


def limits_of(timeout: float, max_mib: float) -> ScrapeLimits:
    """The options as limits; ConfigurationError for one that is out of range."""
    seconds("--timeout", timeout, 600)
    seconds("--max-mib", max_mib, 1024, unit="MiB")
    return ScrapeLimits(timeout_seconds=timeout, max_bytes=math.ceil(max_mib * 2**20))


def seconds(option: str, value: float, most: float, unit: str = "seconds") -> None:
    """ConfigurationError unless ``value`` is more than 0 and at most ``most``."""
    if not 0 < value <= most:
        raise ConfigurationError(option, value, f"{unit} > 0, at most {most:g}")
