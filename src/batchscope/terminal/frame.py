"""A whole screen as lines: the verdict first, then panels by priority, as many as there is room for.

Designed for 80x24, not shrunk to it: the verdict, the batch with its band, latencies, then throughput, KV cache, SLO,
errors and GPUs, and of a fleet its engines, the worst first. From 120 columns on panels stand in two columns. What is
drawn is a ``Scene``; nothing here knows a terminal.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from typing import NamedTuple

from batchscope.terminal import panels
from batchscope.terminal.engine import Shown
from batchscope.terminal.fleet import MERGED, first_token, ranked, states
from batchscope.terminal.lines import Cells, Line, beside, cell_len, cut, cut_inside, fitted, row, width_of, wrapped
from batchscope.terminal.panels import GAP, Drawn
from batchscope.text import shown as safe
from batchscope.views.board import Latency
from batchscope.views.numbers import MISSING, amount, count, per_second, percent, whole_seconds
from batchscope.views.palette import LIMITERS, STATES
from batchscope.views.samples import MAX, shown_percentiles
from batchscope.views.words import limiter_name

LEAST_WIDTH, LEAST_HEIGHT = 60, 12
_ENOUGH = 20
_VERDICT_LINES = 5
_TALLEST = 70
TWO_COLUMNS = 120
_LONGEST_NAME = 300
_STATE = 11
_RULE = {
    "worst": "worst first (gone, stalled, SLO missed, lost slot-seconds)", "name": "by name",
    "waiting": "most waiting first", "tokens": "most tokens a second first", "TTFT": "slowest first token first",
    "KV": "fullest KV cache first",
}  # fmt: skip


class Viewing(NamedTuple):
    """What whoever looks has chosen. ``selected``: an engine's address; ``typing``: the filter is being typed."""

    selected: str = ""
    detail: bool = False
    sort: str = "worst"
    wanted: str = ""
    typing: bool = False
    help: bool = False


class Scene(NamedTuple):
    """What there is to draw.

    ``engines`` and ``merged`` are as they were at the pause, where there is one; ``told`` is always of now. ``cost``:
    of a core, what this view takes; ``player``: where a run that is played stands.
    """

    engines: Sequence[Shown]
    merged: Shown | None
    told: Sequence[Shown]
    told_merged: Shown | None
    clock: dt.datetime
    interval: float
    cost: float = math.nan
    paused_at: dt.datetime | None = None
    label: str = ""
    player: str = ""
    notes: Sequence[str] = ()


class Frame(NamedTuple):
    """Lines as wide as the screen, as many as it has; ``rows``: which engine a line is of."""

    lines: list[Line]
    rows: dict[int, str]


def frame(scene: Scene, viewing: Viewing, width: int, height: int, *, ascii_only: bool = False) -> Frame:
    """The screen."""
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        return _small(width, height)
    several = len(scene.engines) != 1
    head = _head(scene, viewing, width, ascii_only=ascii_only)
    foot = _foot(scene, viewing, width, several=several)
    room = height - len(head) - len(foot)
    rows: dict[int, str] = {}
    if viewing.help:
        body = _help(width)
    elif several and not viewing.detail:
        body, rows = _fleet(scene, viewing, width, room, ascii_only=ascii_only)
    else:
        body = _detail(_chosen(scene.engines, scene.merged, viewing), width, room, ascii_only=ascii_only)
    body = [fitted(line, width) for line in body[:room]]
    body += [fitted([], width)] * (room - len(body))
    lines = [fitted(line, width) for line in (*head, *body, *foot)]
    return Frame(lines, {len(head) + place: address for place, address in rows.items()})


def page(scene: Scene, viewing: Viewing, width: int, *, ascii_only: bool = False) -> list[Line]:
    """All there is to say, in as many lines as that takes: what is printed, without keys and without a terminal."""
    width = max(width, LEAST_WIDTH)
    lines = _head(scene, viewing, width, ascii_only=ascii_only)
    if len(scene.engines) != 1 and not viewing.detail:
        lines += _fleet(scene, viewing, width, 3 + len(scene.engines), ascii_only=ascii_only)[0]
    else:
        lines += _detail(_chosen(scene.engines, scene.merged, viewing), width, _ENOUGH, ascii_only=ascii_only)
    return [fitted(line, width) for line in lines]


def _small(width: int, height: int) -> Frame:
    words = f"batchscope top needs {LEAST_WIDTH}x{LEAST_HEIGHT}; this is {width}x{height}"
    lines: list[Line] = [[(cut(words, width), "")]]
    lines += [[] for _ in range(height - 1)]
    return Frame([fitted(line, width) for line in lines[:height]], {})


def _chosen(engines: Sequence[Shown], merged: Shown | None, viewing: Viewing) -> Shown | None:
    """The one that is selected, or all together, or the only one."""
    if len(engines) == 1:
        return engines[0]
    found = [one for one in engines if one.address == viewing.selected]
    return found[0] if found else merged


# The first lines: how it stands.


def _head(scene: Scene, viewing: Viewing, width: int, *, ascii_only: bool) -> list[Line]:
    several = len(scene.told) != 1
    fleet = several and not viewing.detail
    one = scene.told_merged if fleet else _chosen(scene.told, scene.told_merged, viewing)
    state = _worst(scene.told) if fleet else (one.state if one else "down")
    number = sum(str(each.state) == state for each in scene.told) if fleet else 0
    words = sentence(scene.told if fleet else [], one)
    lines = _verdict(state, words, width, number, ascii_only=ascii_only)
    lines.append(_title(scene, one, width, several=several))
    lines += [[(cut(f" {safe(note)}", width), "")] for note in scene.notes[:2]]
    if scene.paused_at is not None:
        behind = whole_seconds((scene.clock - scene.paused_at).total_seconds())
        at = f"{scene.paused_at:%H:%M:%S}"
        banner = f" PAUSED at {at}, {behind} behind. "
        lines.append([(banner, "warning"), (" The lines above are live; p goes on.", "")])
    elif one is not None and not one.fresh and one.figures is not None:
        banner = f" NOT LIVE: everything below is {whole_seconds(one.age)} old. "
        lines.append([(banner, "bad"), (f" {safe(one.error)}", "")])
    return lines


def _worst(engines: Sequence[Shown]) -> str:
    """The state of a fleet is that of the engine that is worst off."""
    order = ("down", "gone", "stalled", "stale", "unknown", "restarted", "starting", "live", "idle")
    found = {str(one.state) for one in engines}
    return next((state for state in order if state in found), "down")


def sentence(engines: Sequence[Shown], one: Shown | None) -> str:
    """The verdict in its own words; of a fleet (``engines``) first how many are in which state."""
    told = None if one is None else one.told
    begin = f"{states(engines)}. " if engines else ""
    if told is not None:
        return begin + told.sentence
    if one is None:
        together = _together(engines)
        errors = [f"{each.name}: {each.error}" for each in engines if each.error][:1]
        known = "run" in together
        return begin + (f"{together['run']} running, {together['wait']} waiting." if known else safe("".join(errors)))
    return begin + safe(f"No figures yet from {one.address}: {one.error}" if one.error else f"Asking {one.address} ...")


def _verdict(state: str, words: str, width: int, number: int, *, ascii_only: bool) -> list[Line]:
    """``number``: of a fleet, how many are in that state."""
    mark = STATES[state]
    badge = f" {mark.ascii if ascii_only else mark.sign} {f'{number} ' if number else ''}{state.upper()} "
    first = width - cell_len(badge) - 1
    lines = wrapped(words, first, _VERDICT_LINES)
    begin = [[(badge, mark.tone.name), (f" {lines[0]}", "value")]]
    return [*begin, *([(" " * (cell_len(badge) + 1), ""), (line, "value")] for line in lines[1:])]


def _title(scene: Scene, one: Shown | None, width: int, *, several: bool) -> Line:
    name = safe(one.address if one else f"{len(scene.engines)} engines", _LONGEST_NAME)
    if several and one is scene.told_merged:
        name = f"{len(scene.engines)} engines"
    parts = [("batchscope top ", "title")]
    if scene.label:
        parts.append((f" {scene.label} ", "warning"))
    clock = f"{scene.clock:%H:%M:%S %Z}".strip()
    about = _identity(one)
    right = f" {scene.player or clock}"
    room = width - sum(cell_len(text) for text, _ in parts) - cell_len(right) - 1
    return [*fitted([*parts, (cut(f" {name}{about}", room), "")], width - cell_len(right)), (right, "")]


def _identity(one: Shown | None) -> str:
    if one is None or one.figures is None:
        return ""
    snapshot = one.figures.snapshot
    engine = f"{snapshot.engine.kind} {snapshot.engine.version}".strip()
    labels = [f"{name}={value}" for name, value in list(snapshot.labels.items())[:4]]
    merged = [f"{len(snapshot.merged_from)} processes"] if len(snapshot.merged_from) > 1 and one.name != MERGED else []
    return "".join(f"  {safe(text, 60)}" for text in (engine, *labels, *merged) if text)


# One engine.


def _detail(one: Shown | None, width: int, room: int, *, ascii_only: bool) -> list[Line]:
    if one is None or one.figures is None:
        return []
    drawn = Drawn(one, one.figures, ascii_only)
    if width >= TWO_COLUMNS:
        return _columns(drawn, width, room)
    spare = room - 17
    lines = [
        *panels.batch(drawn, width, 2 if spare >= 0 else 1),
        *panels.latency(drawn, width),
        *panels.throughput(drawn, width)[: 1 if spare < 3 else 2],
        *panels.kv_cache(drawn, width)[: 1 if spare < 3 else 2],
        *panels.slo(drawn, width, 2 if spare < 3 else 6),
        *panels.errors(drawn, width, 1 if spare < 3 else 3),
        *panels.gpus(drawn, width, 1 if spare < 3 else 8),
    ]
    return [*lines, *_charts(drawn, width, min(room, _TALLEST) - len(lines))]


def _columns(drawn: Drawn, width: int, room: int) -> list[Line]:
    """The band over the whole width; below it latencies at the left, all else at the right."""
    top = panels.batch(drawn, width, 2)
    left_width = 66 if width < 160 else 74
    right_width = width - left_width - 2
    left = panels.latency(drawn, left_width)
    right = [
        *panels.throughput(drawn, right_width), *panels.kv_cache(drawn, right_width),
        *panels.slo(drawn, right_width, 8), *panels.errors(drawn, right_width, 4), *panels.gpus(drawn, right_width, 8),
    ]  # fmt: skip
    lines = [*top, [], *beside(left, right, left_width)][:room]
    return [*lines, *_charts(drawn, width, room - len(lines))]


def _charts(drawn: Drawn, width: int, room: int) -> list[Line]:
    """What there is room for: the past minutes of the batch, of those who wait, of tokens."""
    each = (room - 1) // 3
    if each < 4:
        return panels.chart(drawn, "tokens", width, room - 1) if room >= 4 else []
    return [line for name in ("running", "waiting", "tokens") for line in panels.chart(drawn, name, width, each)]


# A fleet.


class _Column(NamedTuple):
    title: str
    width: int
    least: int


_COLUMNS = (
    _Column("full", 7, 0), _Column("run", 6, 0), _Column("wait", 6, 0), _Column("TTFT p99", 11, 0),
    _Column("SLO", 7, 0), _Column("tok/s", 8, 100), _Column("KV", 7, 120), _Column("lost slot-s", 11, 120),
    _Column("req/s", 7, 160), _Column("e2e p99", 11, 160),
)  # fmt: skip
"""Of a fleet's table, and from which width of the screen on each is there."""


def _fleet(
    scene: Scene, viewing: Viewing, width: int, room: int, *, ascii_only: bool
) -> tuple[list[Line], dict[int, str]]:
    found = ranked(scene.engines, viewing.sort, viewing.wanted)
    columns = [column for column in _COLUMNS if width >= column.least]
    strip = 10 if width < 100 else 16 if width < 160 else 30
    name = width - _STATE - strip - sum(column.width + 1 for column in columns) - 2
    about = 3 if room >= 20 else 0
    most = max(1, room - 3 - about)
    first = _scrolled(found, viewing.selected, most)
    kept = found[first : first + most]
    where = f", from {first + 1:,} on" if first else ""
    head = f"{len(kept):,} of {len(scene.engines):,} shown{where}, {_RULE[viewing.sort]}"
    if viewing.wanted:
        head += f"; {len(found):,} match /{safe(viewing.wanted, 40)}"
    titles = row([
        Cells("state", _STATE, "title", right=False), Cells("engine", name, "title", right=False),
        *(Cells(column.title, column.width, "title") for column in columns),
        Cells("held by", strip, "title", right=False),
    ])  # fmt: skip
    lines = [[(cut(f" {head}", width), "")], titles]
    lines.append(_row(scene.merged, scene.engines, len(scene.engines), columns, name, strip, ascii_only=ascii_only))
    rows = {}
    for one in kept:
        line = _row(one, (), 0, columns, name, strip, ascii_only=ascii_only)
        if one.address == viewing.selected:
            line = [(text, f"{role}+select" if role else "select") for text, role in fitted(line, width)]
        rows[len(lines)] = one.address
        lines.append(line)
    chosen = next((one for one in found if one.address == viewing.selected), None)
    if about and chosen is not None:
        lines += [[]] * (room - about - len(lines))
        words = wrapped(f"{safe(chosen.name, 60)}: {sentence([], chosen)}", width - 1, about)
        lines += [[(f" {text}", "")] for text in words]
    return lines, rows


def _scrolled(found: Sequence[Shown], selected: str, most: int) -> int:
    place = next((place for place, one in enumerate(found) if one.address == selected), 0)
    return max(0, min(place - most // 2, len(found) - most))


def _together(engines: Sequence[Shown]) -> dict[str, str]:
    """What adds up of engines that are not merged: of those that answer and tell it."""
    found = [one.figures.whole for one in engines if one.figures is not None and one.fresh]
    if not found:
        return {}
    return {
        "run": count(sum(one.batch.running or 0 for one in found)),
        "wait": count(sum(one.waiting.now or 0 for one in found)),
        "tok/s": per_second(sum(rate for one in found if not math.isnan(rate := one.recent.output_tokens))),
        "req/s": per_second(sum(rate for one in found if not math.isnan(rate := one.recent.requests))),
    }


def _row(
    one: Shown | None,
    engines: Sequence[Shown],
    whole: int,
    columns: Sequence[_Column],
    name: int,
    strip: int,
    *,
    ascii_only: bool,
) -> Line:
    if one is None:
        figures, whole_name = _together(engines), f"all {whole}, not merged"
        return row([
            Cells("", _STATE), Cells(whole_name, name, right=False),
            *(Cells(figures.get(column.title, MISSING), column.width, "value") for column in columns),
        ])  # fmt: skip
    mark = STATES[str(one.state)]
    sign = mark.ascii if ascii_only else mark.sign
    called = f"all {whole}" if whole else cut_inside(safe(one.name, _LONGEST_NAME), name)
    role = "value" if one.fresh else "old"
    figures = _figures(one)
    line = row([
        Cells(f"{sign} {one.state}", _STATE, _state_role(one), right=False), Cells(called, name, right=False),
        *(Cells(figures.get(column.title, MISSING), column.width, role) for column in columns),
    ])  # fmt: skip
    return [*line, (" ", ""), *panels.band(one, strip, one.interval)]


def _state_role(one: Shown) -> str:
    return "" if str(one.state) in {"live", "idle"} else STATES[str(one.state)].tone.name


def _figures(one: Shown) -> dict[str, str]:
    """A row's figures, by the title of their column."""
    if one.figures is None:
        return {}
    now, whole = one.figures.now, one.figures.whole
    attainment, _ = one.figures.attainment
    return {
        "full": percent(now.batch.full_by_time),
        "run": count(whole.batch.running),
        "wait": count(whole.waiting.now),
        "TTFT p99": _tail(first_token(one)),
        "e2e p99": _tail(now.latencies.get("total_time")),
        "SLO": percent(attainment),
        "tok/s": per_second(whole.recent.output_tokens),
        "req/s": per_second(whole.recent.requests),
        "KV": percent(whole.kv_cache.highest),
        "lost slot-s": amount(one.figures.lost_slot_seconds),
    }


def _tail(latency: Latency | None) -> str:
    """The p99, or the maximum of too few, called so."""
    told = shown_percentiles(latency, ("p99",)) if latency is not None else []
    if not told:
        return MISSING
    found, figure = told[0]
    return ("max " if found == MAX else "") + panels.figure(figure.value, figure.interval)


# The last line, and help.


def _foot(scene: Scene, viewing: Viewing, width: int, *, several: bool) -> list[Line]:
    if viewing.typing:
        return [[("/", "key"), (f"{safe(viewing.wanted, width)}_", ""), ("   Enter keeps it, Esc drops it", "")]]
    keys = [("q", "quit"), ("?", "keys"), ("p", "go on" if scene.paused_at else "pause"), ("w", _window(scene))]
    if several and not viewing.detail:
        keys[2:2] = [("s", viewing.sort), ("/", "filter"), ("Enter", "open")]
    elif several:
        keys[2:2] = [("Esc", "back")]
    if scene.player:
        keys[3:3] = [("<- ->", "seek")]
    line: Line = []
    for key, words in keys:
        line += [(" ", ""), (key, "key"), (f" {words} ", "")]
    room = width - width_of(line) - 1
    every = f"every {scene.interval:g} s"
    known = not math.isnan(scene.cost)
    costs = [f"this view: {percent(scene.cost)} of a core, {every}", f"{percent(scene.cost)} of a core, {every}",
             f"{percent(scene.cost)} core"] if known else [every]  # fmt: skip
    right = next((text for text in costs if len(text) < room), "")
    return [[*line, (f"{right:>{room}} ", "")]] if right else [line]


def _window(scene: Scene) -> str:
    return f"{_seconds(scene):g} s"


def _seconds(scene: Scene) -> float:
    return next((one.window for one in scene.engines), 60.0)


_KEYS = (
    ("q, Ctrl+C", "quit"), ("?", "these keys"), ("Up Down PgUp PgDn Home End", "select an engine; so does the mouse"),
    ("Enter / Esc", "open the selected engine / back to all"), ("s", "sort by: worst, name, waiting, tokens, TTFT, KV"),
    ("/", "filter by name, address or state"), ("w", "the last 60 s or the last 300 s"),
    ("p, Space", "pause the view; verdict and history go on"),
    ("Left Right + -", "seek in a recorded run; faster, slower"),
    ("Ctrl+L / Ctrl+Z", "draw anew / stop; fg comes back"),
)  # fmt: skip


def _help(width: int) -> list[Line]:
    lines: list[Line] = [[("Keys", "title")]]
    for key, words in _KEYS:
        lines.append(row([Cells(f"  {key}", 30, "value", right=False), Cells(words, width - 32, right=False)]))
    lines += [[], [("held by", "title"), ("   a letter a second; CAPITAL: the scheduler said so, small: inferred", "")]]
    line: Line = [("  ", "")]
    for limiter, mark in LIMITERS.items():
        spans = [(mark.letter, f"limiter:{limiter}"), (f" {limiter_name(limiter)}  ", "")]
        if width_of(line) + width_of(spans) > width:
            lines.append(line)
            line = [("  ", "")]
        line += spans
    lines += [line, [(f"  {GAP} no answer    blank: nothing ran", "")]]
    about = "   TTFT and queue are of every request, the others of completed ones"
    lines.append([("Latency", "title"), (about[: width - 7], "")])
    lines.append([("max", "title"), ("       p95 needs 20 observations, p99 100; else the maximum, called so", "")])
    return lines
