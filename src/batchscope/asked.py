"""The environment variables that ask for a recorded run: of plug-ins, and wherever a program attaches to an engine.

An engine that serves people is never failed by them: a wrong value is told in one line, and the rest goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

RECORD = "BATCHSCOPE_RECORD"
LEVEL, DAYS, GIB = f"{RECORD}_LEVEL", f"{RECORD}_DAYS", f"{RECORD}_GIB"


class AskedRecord(NamedTuple):
    """Where to record, and what is kept there; as ``SchedulerMetricsCollector.record_to`` takes it."""

    root: str
    level: str = "default"
    keep_seconds: float | None = None
    keep_bytes: int | None = None


def read_record(environment: Mapping[str, str], complain: Callable[[str], object]) -> AskedRecord | None:
    """What the variables ask for; None: nothing. A wrong value is told to ``complain`` and left out."""
    root = environment.get(RECORD, "").strip()
    if not root:
        return None
    level = environment.get(LEVEL, "").strip().lower() or "default"
    if level not in {"default", "lean"}:
        complain(f"{LEVEL} = {level!r}: expected default or lean; recording at level default")
        level = "default"
    days, gib = (_amount(environment, name, complain) for name in (DAYS, GIB))
    return AskedRecord(
        root, level, None if days is None else days * 86_400, None if gib is None else int(gib * 2**30)
    )  # fmt: skip


def record_as_asked(
    collector: Any,
    asked: AskedRecord | None,
    complain: Callable[[str], object],
    configuration: Mapping[str, Any] | None = None,
) -> Any:
    """Record ``collector``'s run where that is asked for, and it is not recorded yet; the recording, or None.

    Whatever goes wrong is told to ``complain``.
    """
    if asked is None or not hasattr(collector, "record_to") or collector.recordings:
        return None
    options = asked._asdict()
    try:
        return collector.record_to(options.pop("root"), **options, configuration=configuration)
    except Exception as error:  # noqa: BLE001  (the engine goes on, whatever it is)
        complain(f"not recording a run to {RECORD} = {asked.root!r}: {error}")
        return None


def _amount(environment: Mapping[str, str], name: str, complain: Callable[[str], object]) -> float | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e6:
        complain(f"{name} = {text!r}: expected a number > 0; runs are kept")
        return None
    return value
