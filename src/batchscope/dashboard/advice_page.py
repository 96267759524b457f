"""Advice as one HTML file: what limits now, what to set, what that gains and costs, and everything that was tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from html import escape

from batchscope.configuration import SloTargets
from batchscope.dashboard.drawing import Axis, Drawing, axis_over, figure, key
from batchscope.dashboard.html_file import footer, header, html_file, note, panel, row, table, tile, tiles
from batchscope.prediction.advise import FLAGS, VERDICTS, Advice, Tried, flags_of_engine, what_gets_worse
from batchscope.prediction.observed import setting_in_words
from batchscope.text import shown
from batchscope.views import palette
from batchscope.views.numbers import MISSING, change, count, duration, per_second, percent, percent_range, signed
from batchscope.views.words import limiter_name, short_name, targets_in_words

ABOVE = 1.15
"""Times the highest goodput: where its axis ends."""
TAILS = {"p99_time_to_first_token": "TTFT p99", "p99_time_per_output_token": "TPOT p99"}
_TARGET_OF = {"p99_time_to_first_token": "time_to_first_token", "p99_time_per_output_token": "time_per_output_token"}
UNKNOWABLE = (
    "Other hardware, another model, another parallelism, quantization: the constants are of this engine as it ran.",
    "Routing: one replica is simulated; a fleet's balancer decides who meets whom.",
    "What did not happen: users who left because it was slow, longer answers by a longer limit, other prompts.",
    "Steps in the cost of an iteration (a batch beyond the captured CUDA graphs, padded sizes): they are smeared.",
    "What lies outside of the iterations: network, tokenizer, an API server at its limit.",
    "Tomorrow's traffic: these are the requests of one recorded run, and of its rate.",
)
"""What a simulation of a recorded run cannot know (docs/how-to/what-if.md)."""


def advice_page(advice: Advice, run: str, engine: str, slo: Mapping[str, SloTargets]) -> str:
    """The document; names in it are others', and are shown as text."""
    whose = f"{shown(run)}, {shown(engine) or 'an unnamed engine'}"
    return html_file(f"batchscope: advice for {shown(run)}", _body(advice, whose, shown(engine), slo))


def _body(advice: Advice, whose: str, engine: str, slo: Mapping[str, SloTargets]) -> Iterable[str]:
    about = f"{count(advice.requests)} requests, each within {targets_in_words(slo)}"
    simulated = f"{count(advice.simulations)} simulations"
    yield header(whose, f"{VERDICTS[advice.verdict]}: {advice.why}", f"{about}; {simulated}")
    yield tiles(*_tiles(advice))
    yield panel("What to set", _about_setting(advice), _setting(advice, engine), "panel few")
    yield panel("What limits the batch", "share of busy time, simulated", _limiters(advice), "panel few")
    yield '<section class="charts" aria-label="What is traded for what">\n'
    for name in TAILS:
        yield _trade_off(advice, name, slo)
    yield _over_places(advice)
    yield "</section>\n"
    yield panel("Now and then", _worse(advice), _sides(advice), "panel few")
    if len(advice.now.by_class) > 1:
        yield panel(
            "By request class", "each request held to the targets of its own class", _classes(advice), "panel few"
        )
    yield panel("Everything that was tried", _about_tried(advice), [_tried(advice, advice.tried)])
    yield panel("How far to trust it", _replay(advice), _doubts(advice))
    yield footer()


def _tiles(advice: Advice) -> Iterable[str]:
    now, best = advice.now, advice.best
    between = f"95 % interval {signed(advice.gain_low)} .. {signed(advice.gain_high)}"
    limiter, share = max(now.limited_by.items(), key=lambda pair: pair[1], default=("", math.nan))
    yield tile("Limits now", limiter_name(limiter) if limiter else MISSING, f"{percent(share)} of busy time")
    yield tile(
        "Gain in goodput", signed(advice.gain), "now nobody is served in time" if math.isinf(advice.gain) else between
    )
    yield tile(
        "Goodput",
        f"{per_second(best.goodput)}/s",
        f"in time a second; now {per_second(now.goodput)}/s",
    )
    in_time = percent_range(best.attainment.low, best.attainment.high)
    yield tile("Served in time", percent(best.attainment.value), f"95 % {in_time}; now {percent(now.attainment.value)}")
    yield tile(
        "Error of the replay", _error(advice), "goodput of the recorded settings, simulated over recorded, less 1"
    )


def _error(advice: Advice) -> str:
    return signed(advice.replay_error)


def _about_setting(advice: Advice) -> str:
    if advice.verdict == "change":
        return "start the engine so, record, and ask again"
    if advice.verdict == "undecided":
        return "the best that was found: no ground to change anything yet"
    return "as they are; the best that was tried beside them"


def _setting(advice: Advice, engine: str) -> Iterable[str]:
    names = list(FLAGS)
    rows = []
    for name, now in advice.now.settings.items():
        mine = [FLAGS[each].get(name, MISSING) for each in names]
        best = advice.best.settings[name]
        label = f"<strong>{escape(name)}</strong>" if best != now else escape(name)
        rows.append(row(label, setting_in_words(now), setting_in_words(best), *mine))
    yield table(["setting", "now", "best", *(f"{name} calls it" for name in names)], rows)
    if advice.verdict == "change":
        yield from (note(f"{name}: {typed}") for name, typed in flags_of_engine(advice, engine).items())


def _limiters(advice: Advice) -> Iterable[str]:
    names = sorted(
        {*advice.now.limited_by, *advice.best.limited_by}, key=lambda name: -advice.now.limited_by.get(name, 0)
    )
    rows = []
    for name in names:
        mark = palette.LIMITERS.get(name, palette.NEWER)
        label = (
            f'<span class="swatch" style="--c:{mark.color}"></span>'
            f'<span class="letter">{escape(mark.letter)}</span> {escape(limiter_name(name))}'
        )
        rows.append(row(label, *(percent(side.limited_by.get(name, 0.0)) for side in (advice.now, advice.best))))
    yield table(["held by", "now", "best"], rows)


# The charts


def _trade_off(advice: Advice, name: str, slo: Mapping[str, SloTargets]) -> str:
    """Goodput over the tail of a latency: a mark a setting that was simulated on the whole run."""
    whole = [each for each in _whole(advice) if not math.isnan(getattr(each, name))]
    limits = {limit for each in slo.values() if (limit := each.declared.get(_TARGET_OF[name])) is not None}
    x = axis_over(f"{TAILS[name]} (a step is a ratio)", duration, [getattr(each, name) for each in whole], log=True)
    drawing = Drawing(x, _goodput(advice))
    drawing.region(advice.alike_low, advice.alike_high)
    for limit in limits:
        drawing.level(limit, vertical=True)
    for each in sorted(whole, key=lambda each: _kind(advice, each) in {"now", "best"}):
        drawing.mark(getattr(each, name), each.goodput, _kind(advice, each), _at(each))
    legend = [key("now", "as recorded"), key("best", "the best"), key("alike", "cannot be told from the best"),
              key("other", "other settings"), key("region", "inside the best one's interval"),
              *([key("level", "target")] if limits else [])]  # fmt: skip
    return figure(
        name, f"Goodput over {TAILS[name]}", "requests served in time a second; up and to the left is better", drawing,
        "".join(legend), _in_words(advice, name), _tried(advice, whole),
    )  # fmt: skip


def _over_places(advice: Advice) -> str:
    points = [(float(places), goodput) for places, goodput in advice.curve.items()]
    x = axis_over(
        "places in the batch (max_running_requests; a step is a ratio)",
        _whole_number,
        [at for at, _ in points],
        log=True,
    )
    drawing = Drawing(x, _goodput(advice))
    drawing.region(advice.alike_low, advice.alike_high)
    drawing.line(points)
    for kind, side in (("now", advice.now), ("best", advice.best)):
        places = side.settings["max_running_requests"]
        drawing.mark(float(places), advice.curve.get(places, math.nan), kind, f"{places} places")
    rows = [row(count(int(places)), f"{per_second(goodput)}/s") for places, goodput in points]
    best = max(points, key=lambda point: point[1], default=(math.nan, math.nan))
    return figure(
        "places", "Goodput over places", "the best that was tried with so many", drawing,
        "".join([key("now", "as many as recorded"), key("best", "as many as the best"),
                 key("region", "inside the best one's interval")]),
        f"highest, {per_second(best[1])}/s, with {_whole_number(best[0])}", table(["places", "goodput"], rows),
    )  # fmt: skip


def _whole_number(value: float) -> str:
    return MISSING if math.isnan(value) else count(round(value))


def _goodput(advice: Advice) -> Axis:
    """Over what the settings gave: the interval may reach far beyond that, and is cut there."""
    most = max(each.goodput for each in _whole(advice))
    return axis_over("goodput", lambda value: f"{per_second(value)}/s", [most * ABOVE])


def _whole(advice: Advice) -> list[Tried]:
    return [each for each in advice.tried if each.requests == advice.requests]


def _kind(advice: Advice, each: Tried) -> str:
    if each.settings == advice.best.settings:
        return "now" if each.settings == advice.now.settings else "best"
    if each.settings == advice.now.settings:
        return "now"
    return "alike" if each.alike else "other"


def _at(each: Tried) -> str:
    settings = ", ".join(f"{name} {setting_in_words(value)}" for name, value in each.settings.items())
    tails = ", ".join(f"{title} {duration(getattr(each, name))}" for name, title in TAILS.items())
    return f"{settings}: goodput {per_second(each.goodput)}/s, {tails}"


def _in_words(advice: Advice, name: str) -> str:
    sides = {"as recorded": advice.now.settings, "the best": advice.best.settings}
    told = [
        f"{side} {per_second(each.goodput)}/s at {duration(getattr(each, name))}"
        for side, settings in sides.items()
        for each in _whole(advice)
        if each.settings == settings
    ]
    return "; ".join(told)


# The tables


def _tried(advice: Advice, settings: Iterable[Tried]) -> str:
    """A row a setting; those that are the same in all of them are said once, under "What to set"."""
    varied = [name for name, now in advice.now.settings.items() if any(e.settings[name] != now for e in advice.tried)]
    names = varied or ["max_running_requests"]
    rows = [
        row(
            escape(setting_in_words(each.settings[names[0]])),
            *(setting_in_words(each.settings[name]) for name in names[1:]),
            f"{per_second(each.goodput)}/s", *(duration(getattr(each, name)) for name in TAILS),
            f"{each.preemptions:,.0f}", count(each.requests), words=_marks(advice, each),
        )
        for each in settings
    ]  # fmt: skip
    return table([*names, "goodput", *TAILS.values(), "preemptions", "on requests", "which is"], rows)


def _marks(advice: Advice, each: Tried) -> str:
    sides = (("now", advice.now), ("best", advice.best))
    marks = [word for word, side in sides if each.settings == side.settings]
    return ", ".join([*marks, *(["inside the interval"] if each.alike else [])])


def _about_tried(advice: Advice) -> str:
    fewer = len(advice.tried) - len(_whole(advice))
    left = f"; {count(fewer)} were left behind on the run's first requests" if fewer else ""
    means = "means over constants that fit as well, over more of them for the last few"
    return f"{count(len(advice.tried))} settings, the highest first{left}; {means}"


def _worse(advice: Advice) -> str:
    if advice.best.settings == advice.now.settings:
        return "simulated under the recorded settings"
    return f"what gets worse: {worse_in_words(advice)}"


def worse_in_words(advice: Advice) -> str:
    """What the best setting costs, in a line."""
    found = [
        f"{statistic} {short_name(name)} {change(after, before)}"
        for (statistic, name), (before, after) in what_gets_worse(advice).items()
    ]
    if advice.best.preemptions > advice.now.preemptions:
        found.append(f"preemptions {count(advice.now.preemptions)} to {count(advice.best.preemptions)}")
    return ", ".join(found) or "nothing that is measured here"


def _sides(advice: Advice) -> Iterable[str]:
    worse = what_gets_worse(advice)
    sides = (advice.now, advice.best)
    rows = []
    for name in advice.now.figures:
        for statistic in ("mean", "p99"):
            before, after = (getattr(side.figures[name], statistic) for side in sides)
            mark = "worse" if (statistic, name) in worse else ""
            label = f'<span class="{mark}">{escape(short_name(name))} {statistic}</span>'
            rows.append(row(label, duration(before), duration(after), change(after, before), words=mark))
    rows.append(row("preemptions", *(count(side.preemptions) for side in sides), "", words=""))
    yield table(["simulated", "now", "best", "change", "which is"], rows)


def _classes(advice: Advice) -> Iterable[str]:
    rows = []
    for name, now in advice.now.by_class.items():
        sides = [now, advice.best.by_class[name]]
        each = [f"{percent(side.value)} ({percent_range(side.low, side.high)})" for side in sides]
        rows.append(row(escape(shown(name, 60)), count(now.requests), *each))
    yield table(["class", "n", "in time now", "in time with the best"], rows)


def _replay(advice: Advice) -> str:
    if math.isnan(advice.replay_error):
        return "the run did not keep what a target asks for: how far the replay is off is not known"
    off = advice.replay_off
    worst = (
        f"; the worst figure of a target, {short_name(off.latency)} {off.statistic}, by {signed(off.value)}"
        if off is not None
        else ""
    )
    return f"replayed under the recorded settings, goodput is off by {signed(advice.replay_error)}{worst}"


def _doubts(advice: Advice) -> Iterable[str]:
    parts: list[tuple[str, Callable[[], Iterable[str]]]] = [
        ("Extrapolated: the run has never shown", lambda: advice.extrapolated),
        ("Assumed, and left out", lambda: advice.notes),
        ("What this cannot know", lambda: UNKNOWABLE),
    ]
    for title, lines in parts:
        items = "".join(f"<li>{escape(shown(line))}</li>" for line in lines())
        if items:
            yield f"<h3>{escape(title)}</h3><ul class=known>{items}</ul>"
