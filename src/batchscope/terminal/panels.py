"""The panels of one engine, each as lines of styled text: a question, and what the figures answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from batchscope.records import BatchLimiter
from batchscope.scraping.table import Quantity
from batchscope.statistics.summaries import EMPTY, ResourceStatistics
from batchscope.terminal.engine import Cell, Figures, Shown
from batchscope.terminal.lines import Cells, Line, Styled, cell_len, cut, fitted, row
from batchscope.terminal.styles import LIMITER
from batchscope.text import shown as safe
from batchscope.views.board import Board, Held, Latency, Percentile, Slo, of_summary
from batchscope.views.numbers import (
    MISSING,
    amount,
    bar,
    columns,
    count,
    duration,
    per_second,
    percent,
    percent_range,
    sparkline,
    whole_seconds,
)
from batchscope.views.palette import LIMITERS, NEWER
from batchscope.views.samples import MAX, shown_percentiles
from batchscope.views.verdict import STALE_INTERVALS
from batchscope.views.watch import interval_text
from batchscope.views.words import limiter_name, missed_by, origin, short_name, trouble

LABEL = 9
"""Cells of a panel's name, at the left."""
GAP = "/"
"""In a band: there was no answer."""
_ROWS = (
    Quantity.TIME_TO_FIRST_TOKEN, Quantity.TIME_PER_OUTPUT_TOKEN, Quantity.INTER_TOKEN_LATENCY, Quantity.TOTAL_TIME,
    Quantity.QUEUE_TIME,
)  # fmt: skip
_PERCENTILES = ("p50", "p95", "p99")
_LONGEST_NAME = 60
_UNTOLD = "its page does not tell"
_GPU = ("utilization_ratio", "memory_used_bytes", "memory_total_bytes", "power_watts", "temperature_celsius")


class Drawn(NamedTuple):
    """What a panel is drawn from: the engine, its figures, how a figure looks (live or old) and in which letters."""

    engine: Shown
    figures: Figures
    ascii_only: bool = False

    @property
    def value(self) -> str:
        """The role of figures."""
        return "value" if self.engine.fresh else "old"


def items(drawn: Drawn, name: str, parts: Sequence[tuple[str, str]], width: int, most: int = 2) -> list[Line]:
    """A panel of words: figure and what it is, beside each other, and on the next line what has no room."""
    lines: list[Line] = []
    line: Line = []
    room = width - LABEL
    for figure, words in parts:
        spans: Line = [(figure, drawn.value), (f" {words}" if figure and words else words, "")]
        taken = sum(cell_len(text) for text, _ in spans)
        if line and taken + 3 > room:
            lines.append(line)
            line, room = [], width - LABEL
        if line:
            spans.insert(0, ("   ", ""))
            taken += 3
        line += spans
        room -= taken
    lines.append(line)
    return _labelled(name, lines[:most], width)


def _labelled(name: str, lines: Sequence[Line], width: int) -> list[Line]:
    return [
        fitted([(f"{name if not place else '':<{LABEL}}", "title" if not place else ""), *line], width)
        for place, line in enumerate(lines)
    ]


# The batch: how full, and what held it, second by second.


def batch(drawn: Drawn, width: int, legend: int = 2) -> list[Line]:
    """How full it is, a letter a second for what held it, and what each limiter took and cost."""
    now, whole = drawn.figures.now, drawn.figures.whole
    places = f" of {count(whole.batch.places)}" if whole.batch.places else ""
    parts = [
        (f"{count(whole.batch.running)}{places}", "running"),
        (count(whole.waiting.now), f"waiting{_oldest(whole)}"),
    ]
    if whole.waiting.deferred:
        parts.append((count(whole.waiting.deferred), "deferred"))
    if not math.isnan(now.batch.busy_ratio):
        parts.append((percent(now.batch.busy_ratio), "of the time busy"))
    lines = items(drawn, "Batch", parts, width, 1)
    cells = width - LABEL
    banded = bool(drawn.engine.cells) and drawn.figures.scraped is None
    if banded:
        lines.append(_full(drawn, cells, width))
        lines += _labelled("held by", [band(drawn.engine, cells)], width)
    return lines + _labelled("" if banded else "held by", _legend(drawn, now, cells)[:legend], width)


def _oldest(board: Board) -> str:
    oldest = board.waiting.oldest_seconds
    return "" if math.isnan(oldest) or not board.waiting.now else f", the oldest for {duration(oldest)}"


def _full(drawn: Drawn, cells: int, width: int) -> Line:
    values = [math.nan if cell is None else cell.full for cell in seconds(drawn.engine, cells)]
    known = [min(max(value, 0.0), 1.0) if not math.isnan(value) else 0.0 for value in values]
    return fitted([(f"{'full':<{LABEL}}", ""), (sparkline(known, 1.0, ascii_only=drawn.ascii_only), "")], width)


def seconds(engine: Shown, number: int, step: float = 1.0) -> list[Cell | None]:
    """The cell of each of the last ``number`` seconds (or steps); None where there was none, or no answer in time.

    A cell over an outage tells of no second of it; one over a time in which nothing new was told does.
    """
    longest = STALE_INTERVALS * engine.interval
    found: list[Cell | None] = []
    place = len(engine.cells) - 1
    for back in range(number):
        at = engine.at - (back + 0.5) * step
        while place >= 0 and engine.cells[place].begin > at:
            place -= 1
        cell = engine.cells[place] if place >= 0 and at <= engine.cells[place].end else None
        found.append(None if cell is None or cell.unanswered > longest else cell)
    return found[::-1]


def letter(cell: Cell | None) -> Styled:
    """What held it then: a capital where the scheduler said so, small where it is inferred; nothing where it idled."""
    if cell is None:
        return GAP, ""
    if not cell.limiter:
        return " ", ""
    mark = LIMITERS.get(cell.limiter, NEWER)
    return mark.lettered(cell.reported), f"{LIMITER}{cell.limiter}"


def band(engine: Shown, number: int, step: float = 1.0) -> Line:
    """A letter a second, the last one now; hatched where no answer came, blank before the first look."""
    begin = engine.cells[0].begin if engine.cells else engine.at
    line: Line = []
    for place, cell in enumerate(_live(engine, seconds(engine, number, step), step)):
        at = engine.at - (number - place - 0.5) * step
        text, role = (" ", "") if at < begin else letter(cell)
        if line and line[-1][1] == role:
            line[-1] = (line[-1][0] + text, role)
        else:
            line.append((text, role))
    return line


def _live(engine: Shown, found: list[Cell | None], step: float) -> list[Cell | None]:
    """The second that a look is still to come for is like the last that was told."""
    told = [*found]
    if engine.fresh and engine.cells:
        missing = min(len(told), math.ceil((engine.at - engine.cells[-1].end) / step))
        for back in range(1, missing + 1):
            told[-back] = told[-back] or engine.cells[-1]
    return told


def _legend(drawn: Drawn, board: Board, width: int) -> list[Line]:
    """The share and the cost of each limiter, in the window."""
    held = board.held
    if not held:
        scraped = drawn.figures.scraped is not None
        return [[(f"{_UNTOLD} what holds the batch" if scraped else "no iteration yet", "")]]
    lines: list[Line] = [[]]
    room = width
    for one in held:
        spans = _named(drawn, one)
        taken = sum(cell_len(text) for text, _ in spans) + 3
        if taken > room and lines[-1]:
            lines.append([])
            room = width
        lines[-1] += [("   ", "")] * bool(lines[-1]) + spans
        room -= taken
    who = origin(board.reported_ratio).removesuffix(" by the scheduler")
    tail = f"   of busy time, {_over(drawn)}; {who}"
    if room >= cell_len(tail):
        lines[-1].append((tail, ""))
    else:
        lines.append([(tail.strip(), "")])
    return lines


def _named(drawn: Drawn, one: Held) -> Line:
    mark = LIMITERS.get(one.limiter, NEWER)
    lost = one.lost_slot_seconds
    idle = one.limiter in {BatchLimiter.DEMAND, BatchLimiter.UNKNOWN}
    cost = "" if math.isnan(lost) or idle else f", {amount(lost)} slot-s lost"
    name = limiter_name(safe(one.limiter, _LONGEST_NAME))
    sign = mark.lettered(drawn.figures.now.reported_ratio)
    return [(sign, f"{LIMITER}{one.limiter}"), (f" {name} ", ""), (percent(one.share), drawn.value), (cost, "")]


def _over(drawn: Drawn) -> str:
    """Which time the figures are of."""
    recent = drawn.figures.recent
    if recent is not None and drawn.figures.scraped is None:
        return f"last {whole_seconds(recent.elapsed_seconds)}"
    seconds_ = drawn.figures.whole.over.seconds
    since = drawn.figures.whole.over.since_start
    return "since start" if since or math.isnan(seconds_) else f"last {whole_seconds(seconds_)}"


# Latencies.


def latency(drawn: Drawn, width: int) -> list[Line]:
    """Each with the count of its own observations and the time that they are of, where there is room for that."""
    head = ("n", *_PERCENTILES, "over")
    widths = _widths(width)
    title = row([Cells("Latency", LABEL, "title", right=False), *map(Cells, head, widths)])
    return [fitted(title, width), *(fitted(_latency(drawn, *one, widths), width) for one in latencies(drawn.figures))]


def _widths(width: int) -> tuple[int, ...]:
    """Of the columns: ``max 160..240 ms`` has room from 78 cells on; below 66 the last one is left out."""
    number, over = 9, (7,) if width >= 66 else ()
    room = min(width - 1, 77) - LABEL - number - sum(over) - 4 - len(over)
    each = room // 3
    return number, each, each, room - 2 * each, *over


def latencies(figures: Figures) -> Iterator[tuple[str, Latency]]:
    """Of the last minute; of all of it where nothing was observed in that. The gap of engines that tell no tokens."""
    for quantity in _ROWS:
        names = [quantity]
        if quantity is Quantity.INTER_TOKEN_LATENCY:
            names.append(Quantity.INTER_EMISSION_LATENCY)
        found = [one for name in names for one in _either(figures, name) if one.count]
        if found:
            yield short_name(found[0].quantity), found[0]
        else:
            yield short_name(quantity), figures.whole.latencies.get(quantity) or of_summary(quantity, EMPTY)


def _either(figures: Figures, quantity: str) -> Iterator[Latency]:
    for board in (figures.now, figures.whole):
        if quantity in board.latencies:
            yield board.latencies[quantity]


def _latency(drawn: Drawn, name: str, one: Latency, widths: Sequence[int]) -> Line:
    told = dict(shown_percentiles(one, _PERCENTILES))
    texts = []
    for percentile, wide in zip(_PERCENTILES, widths[1:], strict=False):
        found, word = told.pop(percentile, None), ""
        if found is None and MAX in told:
            found, word = told.pop(MAX), "max "
        texts.append(MISSING if found is None else _within(wide, word, found))
    over = whole_seconds(one.span_seconds) if one.count else MISSING
    number = MISSING if not one.count and _untold(drawn.figures, one.quantity) else count(one.count)
    figures = zip((number, *texts, over), widths, ("", *[drawn.value] * 3, ""), strict=False)
    return row([Cells(name, LABEL, right=False), *(Cells(text, wide, role) for text, wide, role in figures)])


def _within(wide: int, word: str, found: Percentile) -> str:
    """The figure; of an interval that has no room in so many cells the upper end."""
    text = word + figure(found.value, found.interval)
    if len(text) <= wide or not math.isnan(found.value):
        return text
    upper = interval_text((0.0, found.interval[1])).replace(" ", "", 1)
    return f"{word.strip()}{upper}"


def figure(value: float, interval: tuple[float, float]) -> str:
    return interval_text(interval) if math.isnan(value) else duration(value)


# What comes out, and what it takes.


def throughput(drawn: Drawn, width: int) -> list[Line]:
    """Requests and tokens a second."""
    now = drawn.figures.now
    recent = drawn.figures.recent is not None and drawn.figures.scraped is None
    rates = now.throughput if recent else drawn.figures.whole.recent
    parts = [(f"{per_second(rates.requests)}/s", "requests"), (f"{per_second(rates.output_tokens)}/s", "output tokens")]
    if not math.isnan(rates.prompt_tokens):
        cached = "" if math.isnan(rates.cached_ratio) else f", {percent(rates.cached_ratio)} cached"
        parts.append((f"{per_second(rates.prompt_tokens)}/s", f"prompt tokens{cached}"))
    return items(drawn, "Through", parts, width)


_CHARTS: dict[str, Callable[[Cell], float | None]] = {
    "running": lambda cell: cell.running,
    "waiting": lambda cell: cell.waiting,
    "tokens": lambda cell: cell.tokens_per_second,
}


def chart(drawn: Drawn, name: str, width: int, height: int) -> list[Line]:
    """A quantity over the past minutes, a second a column, ``height`` lines with its title; none where it is not known.

    Running ones up to the places there are, all else up to the highest seen.
    """
    cells = width - LABEL
    found = [cell and _CHARTS[name](cell) for cell in seconds(drawn.engine, cells)]
    values = [math.nan if value is None else float(value) for value in found]
    known = [value for value in values if math.isfinite(value)]
    if not any(known) or height < 2:
        return []
    places = drawn.figures.whole.batch.places
    top = float(places) if name == "running" and places else max(known)
    unit = {"tokens": "output tokens a second"}.get(name, f"requests {name}")
    title = f"{unit}, a second a column; the top is {amount(top)}, the highest {amount(max(known))}"
    rows = columns(values, top, height - 1, ascii_only=drawn.ascii_only)
    return [fitted([(f"{name:<{LABEL}}", "title"), (title, "")], width),
            *(fitted([(" " * LABEL, ""), (text, "")], width) for text in rows)]  # fmt: skip


def kv_cache(drawn: Drawn, width: int) -> list[Line]:
    """How full the KV cache is, and what that cost."""
    now, whole = drawn.figures.now.kv_cache, drawn.figures.whole.kv_cache
    low, high = whole.lowest, whole.highest
    parts = [(f"{percent(low)}..{percent(high)}" if low < high else percent(high), "used")]
    if width >= 70 and math.isfinite(high):
        cells = bar(min(max(high, 0.0), 1.0), 20, ascii_only=drawn.ascii_only)
        parts.insert(0, (f"{cells:<20}", ""))
    preemptions = MISSING if _untold(drawn.figures, Quantity.PREEMPTIONS) else count(now.preemptions)
    over = _over(drawn) if drawn.figures.scraped is None else "since start"
    parts.append((preemptions, f"preemptions, {over}"))
    again = drawn.figures.snapshot.totals.recomputed_tokens
    if again:
        parts.append((count(again), "tokens computed again"))
    return items(drawn, "KV cache", parts, width)


def slo(drawn: Drawn, width: int, most: int = 3) -> list[Line]:
    """Who is served in time: a line a class, the worst first, each with its interval and n."""
    rows = _rated(drawn.figures)
    if not rows:
        none = "none is set: MetricsConfiguration(slo=SloTargets(...))"
        return items(drawn, "SLO", [("", none if drawn.figures.scraped is None else _UNTOLD)], width)
    lines = [_slo(drawn, one, over, width - LABEL) for one, over in rows[:most]]
    if len(rows) > most:
        lines[-1].append((f"   and {len(rows) - most:,} more", ""))
    return _labelled("SLO", lines, width)


def _rated(figures: Figures) -> list[tuple[Slo, str]]:
    """Each class of the last minute; since the start where nobody finished in it."""
    recent = {} if figures.recent is None else {one.request_class: one for one in figures.now.slo if one.evaluated}
    rows = [(recent.get(one.request_class, one), one.request_class in recent) for one in figures.whole.slo]
    rows.sort(key=lambda pair: pair[0].attainment if not math.isnan(pair[0].attainment) else 2.0)
    return [(one, "" if now or figures.recent is None else ", since start") for one, now in rows]


def _slo(drawn: Drawn, one: Slo, over: str, width: int) -> Line:
    name = cut(safe(one.request_class, _LONGEST_NAME), 14)
    line: Line = [(f"{name} ", ""), (f" {percent(one.attainment)} ", _grade(one.attainment, drawn))]
    low, high = one.attainment_range
    between = "" if math.isnan(low) else f" [{percent_range(low, high)}]"
    line.append((f"{between}, n={count(one.evaluated)}{over}", ""))
    extra = []
    if not math.isnan(one.recent_goodput):
        extra.append(f"   goodput {per_second(one.recent_goodput)}/s")
    if one.missed_by:
        extra.append(f"   missed by {', '.join(safe(words, _LONGEST_NAME) for words in missed_by(one)[:3])}")
    targets = " ".join(f"{short_name(safe(name, 30))}<={duration(value)}" for name, value in one.targets.items())
    extra.append(f"   ({targets})" * bool(targets))
    for text in extra:
        if sum(cell_len(part) for part, _ in line) + cell_len(text) <= width:
            line.append((text, ""))
    return line


def _grade(attainment: float, drawn: Drawn) -> str:
    if math.isnan(attainment) or not drawn.engine.fresh:
        return drawn.value
    return "good" if attainment >= 0.99 else "warning" if attainment >= 0.9 else "bad"


def errors(drawn: Drawn, width: int, most: int = 2) -> list[Line]:
    """What should be 0 and is not."""
    scraped = drawn.figures.scraped is not None
    found = [] if scraped else [(trouble(one), "") for one in drawn.figures.whole.troubles]
    found += [(safe(note), "") for note in (*drawn.figures.notes, *drawn.figures.whole.notes)]
    nothing = _UNTOLD if scraped else "none"
    return items(drawn, "Errors", found or [("", nothing)], width, most)


def _untold(figures: Figures, quantity: str) -> bool:
    """Whether its page has no such number: then 0 is none."""
    return figures.scraped is not None and quantity in figures.scraped.not_given


def gpus(drawn: Drawn, width: int, most: int = 2) -> list[Line]:
    """The GPUs that the engine's process samples; nothing where it samples none."""
    devices: dict[str, dict[str, ResourceStatistics]] = {}
    for one in drawn.figures.snapshot.resource_stats.values():
        if one.resource == "gpu":
            devices.setdefault(one.device, {})[one.quantity] = one
    lines = [
        [(f"{safe(name, 12)} ", ""), ("  ".join(_gpu(quantities)), drawn.value)]
        for name, quantities in sorted(devices.items())[:most]
    ]
    if len(devices) > most:
        lines[-1].append((f"   and {len(devices) - most} more", ""))
    return _labelled("GPU", lines, width)


def _gpu(quantities: dict[str, ResourceStatistics]) -> Iterator[str]:
    last = {name: quantities[name].last for name in _GPU if name in quantities}
    busy, used, total, watts, celsius = (last.get(name, math.nan) for name in _GPU)
    if not math.isnan(busy):
        yield f"{percent(busy)} busy"
    if not math.isnan(used):
        of = "" if math.isnan(total) else f" of {total / 2**30:,.1f}"
        yield f"{used / 2**30:,.1f}{of} GiB"
    if not math.isnan(watts):
        yield f"{watts:,.0f} W"
    if not math.isnan(celsius):
        yield f"{celsius:.0f} C"
