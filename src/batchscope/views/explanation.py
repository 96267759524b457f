"""Why it was slow, as people read it: one sentence, then every part of the time, then what the record does not say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from batchscope.configuration import SchedulerLimits
from batchscope.ledger.explanation import (
    ComparedPart,
    ExplainedRequest,
    Explanation,
    Metric,
    Slowest,
    Stretch,
    TimePart,
)
from batchscope.ledger.request_parts import HELD, Part
from batchscope.records import BatchLimiter
from batchscope.text import shown
from batchscope.views import palette
from batchscope.views.numbers import MISSING, bar, count, counted, duration, percent
from batchscope.views.words import holder, limiter_name, origin, setting_of

_PART = {
    Part.QUEUED: "queued",
    Part.STOOD_STILL: "placed, in no batch",
    Part.PREEMPTED: "preempted",
    Part.ARRIVING: "iteration it arrived in",
    Part.PREFILL: "own prefill",
    Part.RECOMPUTED: "computed again",
    Part.DECODE: "decoding",
    Part.STRETCHED: "others' prefill",
    Part.BETWEEN: "nothing ran",
    Part.PREFILL_PHASE: "prefill phase, not split",
    Part.DECODE_PHASE: "decode phase",
    Part.AFTER: "after its last token",
    Part.UNKNOWN: "unknown",
}
"""Rows of the tables; what they are, docs/how-to/explain.md says."""
_SPENT = {
    Part.QUEUED: "queued",
    Part.STOOD_STILL: "holding a place but in no batch",
    Part.PREEMPTED: "preempted, waiting to come back",
    Part.ARRIVING: "waiting for the end of the iteration it arrived in",
    Part.PREFILL: "in its own prefill",
    Part.RECOMPUTED: "computing again what a preemption had lost",
    Part.DECODE: "decoding",
    Part.STRETCHED: "decoding beside other requests' prefill, as modelled",
    Part.BETWEEN: "between iterations, while nothing ran",
    Part.PREFILL_PHASE: "between being scheduled and its first token",
    Part.DECODE_PHASE: "between its first and its last token",
    Part.AFTER: "after its last token",
    Part.UNKNOWN: "where the record does not say",
}
"""Ends the sentence "it spent 71 % of it ..."."""
METRIC = {Metric.TTFT: "TTFT", Metric.TPOT: "TPOT", Metric.E2E: "e2e latency", Metric.GAP: "longest gap"}
_WORTH_NAMING = 0.2
_WORTH_LISTING = 0.02
_BAR = 16


def sentence(explanation: Explanation) -> str:
    """What it comes down to."""
    if explanation.request is not None:
        return _of_request(explanation.request)
    return _of_slowest(explanation.slowest) if explanation.slowest is not None else ""


def settings(explanation: Explanation) -> list[str]:
    """The settings behind what the sentence names, with their present values."""
    groups = _named(explanation)
    limiters = dict.fromkeys(str(part.limiter) for group in groups for part in group.listed)
    return [setting for limiter in limiters if (setting := setting_of(limiter, explanation.limits))]


def _of_request(request: ExplainedRequest) -> str:
    if not request.parts:
        return f"It took {duration(request.total_time)}, which is no time to explain."
    told = [f"{percent(group.share)} {group.spent}" for group in _largest(request)]
    return f"Of its {duration(request.total_time)} from arrival to end it spent {'; '.join(told)}."


def _of_slowest(slowest: Slowest) -> str:
    of = slowest.requests + slowest.others
    share = "request" if slowest.share * of < 1 else _share(slowest.share)  # less than a request is one
    who = f"The slowest {share} of {METRIC[slowest.metric]}" if slowest.others else "All requests"
    told = [f"{percent(group.share)} of it {group.spent}{group.beside}" for group in _slower_by(slowest)]
    return f"{who} ({count(slowest.requests)} of {count(of)} requests) spent {'; '.join(told)}."


class _Group(NamedTuple):
    """One part of the time, whoever held it. ``excess``: seconds of its mean more than the others'."""

    part: Part
    share: float
    others: float | None
    excess: float
    listed: tuple[TimePart | ComparedPart, ...]
    """Who held it for a while worth telling, the longest first; nobody where it is no time that is held."""

    @property
    def spent(self) -> str:
        """``queued, held by the token budget 54.0 % and the KV cache 44.6 %``."""
        told = [_held_by(part.limiter) for part in self.listed]
        if len(told) > 1:
            told = [f"{name} {percent(part.share)}" for name, part in zip(told, self.listed, strict=True)]
        return _SPENT[self.part] + (f", held by {_listed(told)}" if told else "")

    @property
    def beside(self) -> str:
        """`` (the others 90.1 %: 58.6 % and 25.6 %)``."""
        if self.others is None:
            return ""
        theirs = [percent(_others(part) or 0.0) for part in self.listed]
        return f" (the others {percent(self.others)}{': ' + _listed(theirs) if len(theirs) > 1 else ''})"


def _grouped(parts: Sequence[TimePart | ComparedPart]) -> list[_Group]:
    """In the order of their first."""
    groups: dict[Part, list[TimePart | ComparedPart]] = {}
    for part in parts:
        groups.setdefault(part.part, []).append(part)
    return [_group(name, of) for name, of in groups.items()]


def _group(name: Part, of: list[TimePart | ComparedPart]) -> _Group:
    listed = [part for part in of if part.limiter is not None and part.share >= _WORTH_LISTING]
    return _Group(
        part=name,
        share=sum(part.share for part in of),
        others=None if _others(of[0]) is None else sum(_others(part) or 0.0 for part in of),
        excess=sum(part.mean - (part.mean_of_others or 0.0) for part in of if isinstance(part, ComparedPart)),
        listed=tuple(sorted(listed, key=lambda part: -part.share)),
    )


def _named(explanation: Explanation) -> list[_Group]:
    if explanation.request is not None:
        return _largest(explanation.request)
    return _slower_by(explanation.slowest) if explanation.slowest is not None else []


def _largest(request: ExplainedRequest) -> list[_Group]:
    """The largest part of its time, and up to two others that are worth naming."""
    groups = sorted(_grouped(request.parts), key=lambda group: -group.share)[:3]
    return [group for group in groups if group.share >= _WORTH_NAMING] or groups[:1]


def _slower_by(slowest: Slowest) -> list[_Group]:
    """What makes them slower: what makes most of it, and whatever else makes a fifth as much."""
    groups = sorted(_grouped(slowest.parts), key=lambda group: -group.excess)[:3]
    return groups[:1] + [group for group in groups[1:] if group.excess >= _WORTH_NAMING * groups[0].excess > 0]


def _others(part: TimePart | ComparedPart) -> float | None:
    return part.share_of_others if isinstance(part, ComparedPart) else None


def _held_by(limiter: str | None) -> str:
    if limiter == BatchLimiter.DEMAND:
        return "nothing that the scheduler names (demand)"
    if limiter in {None, BatchLimiter.UNKNOWN}:
        return "what nobody said"
    nothing_set = SchedulerLimits()
    name = str(limiter)
    return f"the {shown(limiter_name(name))}" if setting_of(name, nothing_set) else shown(holder(name, nothing_set))


def part_name(part: Part, limiter: str | None, *, modelled: bool = False) -> str:
    """A row's name: ``queued, held by KV cache``."""
    name = _PART[part] if limiter is None else f"{_PART[part]}: {shown(limiter_name(limiter), 40)}"
    return f"{name} (modelled)" if modelled else name


def _listed(told: list[str]) -> str:
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


class ExplanationView:
    """Renders with rich."""

    def __init__(self, explanation: Explanation) -> None:
        self._explanation = explanation

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        explanation, ascii_only = self._explanation, options.ascii_only
        yield Text(sentence(explanation), "bold")
        if behind := settings(explanation):
            yield Text(f"behind it: {'; '.join(behind)}")
        if explanation.request is not None:
            yield from _request(explanation.request, ascii_only=ascii_only)
        if explanation.slowest is not None:
            yield from _slowest(explanation.slowest, ascii_only=ascii_only)
        for note in _notes(explanation):
            yield Text(f"note: {shown(note, 2000)}", "dim")


def _request(request: ExplainedRequest, *, ascii_only: bool) -> Iterator[Text | Table]:
    when = _when(request.arrived_time, "UTC")
    yield Text(
        f"\n{shown(request.request_id, 80)} (#{request.request}): class {shown(request.request_class, 40)}, "
        f"{shown(request.reason, 40)}; arrived {_instant(request.arrived)} into the run{when}"
    )
    figures = [
        f"TTFT {_seconds(request.time_to_first_token)}", f"TPOT {_seconds(request.time_per_output_token)}",
        f"longest gap {_seconds(request.max_emission_gap)}", f"e2e {duration(request.total_time)}",
        f"{count(request.prompt_tokens)} prompt tokens ({count(request.cached_tokens)} cached)",
        f"{count(request.tokens_generated)} output tokens", counted(request.preemptions, "preemption"),
    ]  # fmt: skip
    yield Text(", ".join(figures))
    table = _table("where the time went", "time", "of e2e", "", "before the first token")
    for part in request.parts:
        first = duration(part.before_first_token) if part.before_first_token else ""
        table.add_row(
            *_row(part), duration(part.seconds), percent(part.share), _bar(part, part.share, ascii_only), first
        )
    to_first = sum(part.before_first_token for part in request.parts)
    table.add_row("all of it", duration(request.total_time), "100.0 %", "", duration(to_first))
    yield table


def _slowest(slowest: Slowest, *, ascii_only: bool) -> Iterator[Text | Table]:
    name = METRIC[slowest.metric]
    per = " an output token" if slowest.metric is Metric.TPOT else ""
    others = f"; the others' mean {_seconds(slowest.mean_of_others)}" if slowest.others else ""
    yield Text(f"\n{name} from {duration(slowest.threshold)} on, mean {duration(slowest.mean)}{others}")
    table = _table(f"where their {name} went", "of theirs", "", "of others'", f"mean{per}", "others' mean")
    for part in slowest.parts:
        table.add_row(
            *_row(part), percent(part.share), _bar(part, part.share, ascii_only),
            MISSING if part.share_of_others is None else percent(part.share_of_others),
            duration(part.mean), _seconds(part.mean_of_others),
        )  # fmt: skip
    yield table
    for stretch in slowest.stretches:
        yield Text(_stretch(stretch, slowest.requests))
    if slowest.stretches_in_all > len(slowest.stretches):
        rest = slowest.stretches_in_all - len(slowest.stretches)
        yield Text(f"and {counted(rest, 'other time')}, with no more of them each")
    worst = _table("the worst", name, "largest part", "")
    for one in slowest.worst:
        worst.add_row(
            f"{shown(one.request_id, 60)} (#{one.request})", duration(one.value),
            part_name(one.part, one.limiter), percent(one.part_share),
        )  # fmt: skip
    yield worst


def _stretch(stretch: Stretch, of: int) -> str:
    """A time they shared."""
    when = _when(stretch.begin_time, "UTC on")
    together = "" if stretch.requests == 1 else (
        f", at most {count(stretch.most_at_once)} at once, from {_instant(stretch.busiest)} on"
    )  # fmt: skip
    which = "" if stretch.first_iteration is None else (
        f"; iterations {stretch.first_iteration:,}..{stretch.last_iteration:,}"
        if stretch.iterations > 1 else f"; iteration {stretch.first_iteration:,}"
    )  # fmt: skip
    return (
        f"{count(stretch.requests)} of {count(of)} lie in {_instant(stretch.begin)} .. {_instant(stretch.end)} "
        f"of the run{when}{together}{which}"
    )


def _when(time: dt.datetime | None, zone: str) -> str:
    return "" if time is None else f" ({time:%Y-%m-%d %H:%M:%S} {zone})"


def _row(part: TimePart | ComparedPart) -> tuple[Text]:
    color = palette.LIMITERS[part.limiter].color if part.limiter in palette.LIMITERS and part.part in HELD else ""
    return (Text(part_name(part.part, part.limiter, modelled=part.modelled), color),)


def _bar(part: TimePart | ComparedPart, share: float, ascii_only: bool) -> Text:
    color = palette.LIMITERS[part.limiter].color if part.limiter in palette.LIMITERS else palette.BATCH
    return Text(bar(share, _BAR, ascii_only=ascii_only) if share >= 0.005 else "", color)


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style=palette.NAME)
    for place, head in enumerate(heads):
        text = not place or head in {"", "largest part"}
        table.add_column(
            head, justify="left" if text else "right", min_width=_BAR if head == "" and place > 1 else None
        )
    return table


def _notes(explanation: Explanation) -> Iterator[str]:
    yield from explanation.notes
    model = explanation.cost_model
    if model is not None and any(part.part is Part.STRETCHED for part in _parts(explanation)):
        yield (
            "modelled: an iteration's time by its prefill and decode tokens and its context, fitted to "
            f"{count(model.iterations)} iterations of this run; median error {percent(model.median_error)}. "
            "The rest follows from instants"
        )
    if explanation.reported_ratio is not None and any(part.limiter for part in _parts(explanation)):
        yield f"what held it: {origin(explanation.reported_ratio)}"


def _parts(explanation: Explanation) -> tuple[TimePart | ComparedPart, ...]:
    if explanation.request is not None:
        return explanation.request.parts
    return explanation.slowest.parts if explanation.slowest is not None else ()


def _seconds(value: float | None) -> str:
    return MISSING if value is None else duration(value)


def _instant(seconds: float) -> str:
    """Seconds since the run began: what --from and --to take."""
    return f"{seconds:,.1f} s"
