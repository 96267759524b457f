"""One look at everything, printed: as text, as JSON, or as nothing but the answer of an exit code."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable

import msgspec
from rich.console import Console
from rich.text import Text

from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.terminal.engine import Shown
from batchscope.terminal.frame import Scene, page, sentence
from batchscope.terminal.lines import Line
from batchscope.terminal.session import Session
from batchscope.terminal.styles import Colors, style_of
from batchscope.views.verdict import State

SCHEMA = "batchscope.top/1"
REACHED, NOT_REACHED, UNWELL = 0, 1, 3
_PATIENCE = 0.05
_MERGE_SECONDS = 5.0
_ONE_LOOK = "of one look: what is of no other time is since start"
OBJECTIVE = 0.99
"""The share of requests that is to meet its SLO, unless somebody says otherwise."""


class EngineDocument(msgspec.Struct, frozen=True, kw_only=True):
    """An engine as it was seen: ``sentence`` is the verdict, ``evidence`` its figures by the path of their field.

    ``snapshot`` has what it told, without histograms; null where it never answered, then ``error`` says why.
    """

    name: str
    address: str
    state: str
    age_seconds: float
    sentence: str
    evidence: dict[str, float] = {}
    error: str = ""
    notes: list[str] = []
    snapshot: MetricsSnapshot | None = None


class TopDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A look at all engines; ``merged`` is there where they are several and could be merged."""

    time: dt.datetime
    engines: list[EngineDocument]
    merged: EngineDocument | None = None
    schema: str = SCHEMA

    def to_json(self) -> bytes:
        """One JSON document (UTF-8), ``nan`` as null."""
        return msgspec.json.encode(self)


def look(session: Session, seconds: float, sleep: Callable[[float], None] = time.sleep) -> Scene:
    """The first look at every engine, or what there is after ``seconds``; then all merged, where they are several."""
    end = time.monotonic() + seconds
    while True:
        session.update()
        if session.answered or time.monotonic() > end:
            break
        sleep(_PATIENCE)
    end = time.monotonic() + _MERGE_SECONDS
    while session.merging and time.monotonic() < end:
        sleep(_PATIENCE)
        session.update()
    scene = session.scene()
    seen = any(one.figures is not None for one in scene.told)
    return scene._replace(notes=[*scene.notes, _ONE_LOOK]) if seen else scene


def lines_of(scene: Scene, session: Session, width: int, *, ascii_only: bool) -> list[Line]:
    """What is printed of it."""
    return page(scene, session.viewing, width, ascii_only=ascii_only)


def printed(lines: list[Line], console: Console, colors: Colors) -> bytes:
    """The lines in the console's encoding; in colours where it is a terminal that has some."""
    if not console.is_terminal:
        text = "".join("".join(part for part, _ in line).rstrip() + "\n" for line in lines)
        return text.encode(console.encoding, errors="replace")
    with console.capture() as captured:
        for line in lines:
            console.print(Text.assemble(*((text, style_of(role, colors)) for text, role in line)), soft_wrap=True)
    return captured.get().encode(console.encoding, errors="replace")


def document(scene: Scene) -> TopDocument:
    """The same as JSON has it."""
    whole = scene.told_merged
    return TopDocument(
        time=scene.clock,
        engines=[_document(one) for one in scene.told],
        merged=None if whole is None else _document(whole),
    )


def _document(one: Shown) -> EngineDocument:
    told, figures = one.told, one.figures
    return EngineDocument(
        name=one.name,
        address=one.address,
        state=str(one.state),
        age_seconds=one.age,
        sentence=sentence([], one),
        evidence={} if told is None else {".".join(field): value for field, value in told.evidence},
        error=one.error,
        notes=[] if figures is None else list(figures.notes),
        snapshot=None if figures is None else figures.snapshot,
    )


def exit_code(scene: Scene, objective: float = OBJECTIVE) -> int:
    """1: one did not answer; 3: one is stalled, or a class surely misses ``objective``: so says its 95 % range."""
    if any(one.figures is None or not one.fresh for one in scene.told):
        return NOT_REACHED
    return UNWELL if any(_unwell(one, objective) for one in scene.told) else REACHED


def _unwell(one: Shown, objective: float) -> bool:
    if one.state == State.STALLED:
        return True
    classes = one.figures.whole.slo if one.figures is not None else []
    return any(not math.isnan(slo.attainment) and slo.attainment_range[1] < objective for slo in classes)
