"""A capacity as one HTML file: attainment over rate with its intervals, where it ends, and what to know of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from batchscope.dashboard.drawing import Axis, Drawing, axis_over, figure, key
from batchscope.dashboard.html_file import footer, header, html_file, panel, row, table, tile, tiles
from batchscope.prediction.capacity import Capacity, RatePoint
from batchscope.text import shown
from batchscope.views.numbers import MISSING, count, per_second, percent, percent_range
from batchscope.views.words import limiter_name, targets_in_words


def capacity_page(found: Capacity, headline: str, sentences: Sequence[str]) -> str:
    """The document; ``headline`` and ``sentences``: the answer in words, as the command prints it."""
    return html_file(f"batchscope: capacity of {shown(found.name)}", _body(found, headline, sentences))


def _body(found: Capacity, headline: str, sentences: Sequence[str]) -> Iterable[str]:
    about = f"{percent(found.target)} of {count(found.requests)} requests within {targets_in_words(found.slo)}"
    yield header(shown(found.name), shown(headline), f"{about}, no growing backlog")
    yield tiles(*_tiles(found))
    yield f'<section class="charts" aria-label="Over rate">\n{_attainment(found)}{_growth(found)}</section>\n'
    yield panel("What limits the batch there", "share of busy time", [_limiters(found)], "panel few")
    yield panel("Every rate that was tried", "the same requests, closer together or further apart", [_points(found)])
    lines = [*sentences, *(f"extrapolated: {each}" for each in found.extrapolated), *found.notes]
    items = "".join(f"<li>{escape(shown(line))}</li>" for line in lines)
    yield panel("What to know of it", "", [f"<ul class=known>{items}</ul>"])
    yield footer()


def _tiles(found: Capacity) -> Iterable[str]:
    between = " .. ".join("?" if math.isnan(each) else f"{per_second(each)}/s" for each in (found.low, found.high))
    highest = MISSING if math.isnan(found.rate) else f"{per_second(found.rate)}/s"
    yield tile("Capacity", highest, f"95 % interval {between}" if found.found else "no rate holds")
    scale = MISSING if math.isnan(found.rate) else f"{found.rate_scale:.3g}"
    yield tile("Times the recorded rate", scale, f"recorded: {per_second(found.recorded_rate)}/s")
    if found.recorded is not None:
        recorded = found.recorded
        yield tile("In time as recorded", percent(recorded.value), f"95 % {percent_range(recorded.low, recorded.high)}")
    yield tile("Given up", count(found.given_up), "requests that have missed at every rate")


def _rate_axis(found: Capacity) -> Axis:
    title = "requests a second (a step is a ratio)"
    return axis_over(title, lambda rate: f"{per_second(rate)}/s", [each.rate for each in found.points], log=True)


def _attainment(found: Capacity) -> str:
    drawing = Drawing(_rate_axis(found), Axis("in time", percent, 0.0, 1.04))
    drawing.level(found.target)
    drawing.line([(each.rate, each.attainment.value) for each in found.points])
    for each in found.points:
        drawing.between(each.rate, each.attainment.low, each.attainment.high)
        drawing.mark(each.rate, each.attainment.value, _kind(found, each), _at(each))
    return figure(
        "attainment", "Attainment over rate", "share that meets all of its targets; bars: 95 %", drawing,
        _legend("the share that is asked for"), _in_words(found), _points(found),
    )  # fmt: skip


def _growth(found: Capacity) -> str:
    """Cut at nobody leaving: 1."""
    known = [each for each in found.points if not math.isnan(each.growth.value)]
    low = min([-0.1, *(each.growth.value for each in known)])
    drawing = Drawing(_rate_axis(found), Axis("stays", percent, low, 1.04))
    drawing.line([(each.rate, each.growth.value) for each in known])
    for each in known:
        drawing.between(each.rate, max(low, each.growth.low), min(1.04, each.growth.high))
        drawing.mark(each.rate, each.growth.value, _kind(found, each), _at(each))
    told = ", ".join(f"{per_second(each.rate)}/s {percent(each.growth.value)}" for each in known)
    return figure(
        "growth", "Backlog over rate", "share of the requests that come which stay; bars: 95 %", drawing,
        _legend(), told, _points(found),
    )  # fmt: skip


def _legend(*level: str) -> str:
    entries = [("best", "the capacity"), ("alike", "holds"), ("other", "fails"), *(("level", name) for name in level)]
    return "".join(key(kind, name) for kind, name in entries)


def _kind(found: Capacity, each: RatePoint) -> str:
    return "best" if each.rate_scale == found.rate_scale else "alike" if each.holds else "other"


def _at(each: RatePoint) -> str:
    between = percent_range(each.attainment.low, each.attainment.high)
    return f"{per_second(each.rate)}/s: {percent(each.attainment.value)} in time ({between})"


def _in_words(found: Capacity) -> str:
    if not found.found:
        return "no rate holds"
    return f"{percent(found.target)} are in time up to {per_second(found.rate)}/s"


def _limiters(found: Capacity) -> str:
    shares = sorted(found.limited_by.items(), key=lambda pair: -pair[1])
    return table(["held by", "share"], [row(escape(limiter_name(name)), percent(share)) for name, share in shares])


def _points(found: Capacity) -> str:
    classes = list(found.points[0].by_class) if len(found.points[0].by_class) > 1 else []
    rows = [
        row(
            f"{per_second(each.rate)}/s", f"{each.rate_scale:.3f}", percent(each.attainment.value),
            percent_range(each.attainment.low, each.attainment.high),
            *(percent(each.by_class[name].value) for name in classes), f"{100 * each.growth.value:+.1f} %",
            words="capacity" if _kind(found, each) == "best" else "" if each.holds else "fails",
        )
        for each in found.points
    ]  # fmt: skip
    names = [shown(name, 30) for name in classes]
    return table(["rate", "times", "in time", "95 % interval", *names, "backlog grows", "which is"], rows)
