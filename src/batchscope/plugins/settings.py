"""The environment variables that switch a plug-in on and say what it does, checked one by one.

A plug-in runs inside an engine that serves people: a wrong value is told in one log line, and the plug-in goes
on without what that variable asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec

from batchscope.asked import AskedRecord, read_record
from batchscope.configuration import SloTargets, parse_slo
from batchscope.errors import ConfigurationError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 9464
_OFF = ("off", "none", "no")
Complain: TypeAlias = Callable[[str], object]
"""Takes one line that says which variable, its value, what is allowed, and what happens instead."""


class Settings(msgspec.Struct, frozen=True):
    """What the variables ask for; ``port`` None: no port of its own."""

    host: str = DEFAULT_HOST
    port: int | None = DEFAULT_PORT
    token_file: Path | None = None
    snapshot_directory: str | None = None
    slo: SloTargets | dict[str, SloTargets] | None = None
    record: AskedRecord | None = None


def read_settings(environment: Mapping[str, str], complain: Complain) -> Settings:
    """The settings; each wrong value is told to ``complain`` and left out. Never raises."""
    directory = environment.get("BATCHSCOPE_SNAPSHOT_DIR", "").strip()
    token_file = environment.get("BATCHSCOPE_TOKEN_FILE", "").strip()
    return Settings(
        host=environment.get("BATCHSCOPE_HOST", "").strip() or DEFAULT_HOST,
        port=_port(environment.get("BATCHSCOPE_PORT", ""), complain, default=None if directory else DEFAULT_PORT),
        token_file=Path(token_file) if token_file else None,
        snapshot_directory=directory or None,
        slo=_slo(environment.get("BATCHSCOPE_SLO", ""), complain),
        record=read_record(environment, complain),
    )


def _port(text: str, complain: Complain, *, default: int | None) -> int | None:
    text = text.strip().lower()
    if not text:
        return default
    if text in _OFF:
        return None
    if text.isdecimal() and len(text) <= 5 and int(text) <= 65535:
        return int(text)
    complain(f"BATCHSCOPE_PORT = {text!r}: expected 0 (any free port) to 65535, or off; no port is opened")
    return None


def _slo(text: str, complain: Complain) -> SloTargets | dict[str, SloTargets] | None:
    if not text.strip():
        return None
    try:
        return parse_slo(text)
    except ConfigurationError as error:
        complain(f"{error}; no SLO is measured")
        return None
