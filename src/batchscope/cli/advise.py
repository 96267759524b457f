"""``batchscope advise RUN --slo-ttft ...``: which settings would serve more of its requests in time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec
import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from batchscope.cli import stdout
from batchscope.cli.fit import Assumed, ModelFile, RunPath, model_of, observed_with, working
from batchscope.cli.options import (
    AsJson,
    Html,
    SloByClass,
    SloE2e,
    SloGap,
    SloTpot,
    SloTtft,
    check_html,
    targets_asked,
    targets_given,
    write_html,
)
from batchscope.cli.simulation import note
from batchscope.cli.whatif import trust_in_words
from batchscope.configuration import SloTargets
from batchscope.prediction.advise import FAR_OFF, VERDICTS, Advice, Outcome, advise, flags, flags_of_engine
from batchscope.prediction.candidates import VARIED, Space
from batchscope.prediction.observed import setting_in_words
from batchscope.text import readable_document, shown
from batchscope.views.numbers import change, count, duration, per_second, percent, percent_range, signed
from batchscope.views.rendering import for_stdout
from batchscope.views.words import limiter_name, short_name, targets_in_words

SCHEMA = "batchscope.advice/1"
EXIT_CODES = {"change": 0, "keep": 1, "undecided": 3}


def advise_command(
    run: RunPath,
    model: ModelFile = None,
    slo_ttft: SloTtft = None,
    slo_tpot: SloTpot = None,
    slo_e2e: SloE2e = None,
    slo_gap: SloGap = None,
    slo: SloByClass = None,
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary",
            metavar="NAME",
            help=f"Search only this: {', '.join(VARIED)}; repeat it for more.",
            show_default="all but policy",
        ),
    ] = [],  # noqa: B006  (typer copies it)
    policies: Annotated[
        list[str], typer.Option("--try-policy", metavar="NAME", help="Also these scheduling rules; repeat it for more.")
    ] = [],  # noqa: B006
    most_kv_cache_blocks: Annotated[
        int | None,
        typer.Option(metavar="N", help="So many KV-cache blocks could be had.", show_default="as many as recorded"),
    ] = None,
    kv_blocks_per_token: Annotated[
        float, typer.Option(metavar="X", help="KV-cache blocks that each token more of the budget costs.")
    ] = 0.0,
    assume: Assumed = [],  # noqa: B006
    as_json: AsJson = False,
    html: Html = None,
) -> int:
    """Find the settings that serve more of the recorded requests in time, or say that none does.

    Without --slo-... the targets of the run hold, class by class. Exit code 0: a better setting is named; 1: change
    nothing; 2: wrong use, a run that tells too little, or targets that nobody can meet; 3: the model is too far off.
    """
    given = targets_given(SloTargets(slo_ttft, slo_tpot, slo_e2e, slo_gap), slo)
    check_html(html)
    tried = list(dict.fromkeys([*(vary or Space().vary), *(["policy"] if policies else [])]))
    space = Space(tuple(tried), most_kv_cache_blocks, kv_blocks_per_token, tuple(policies))
    with working() as stage:
        observed = observed_with(run, assume)
        targets = targets_asked(given, observed.slo, run)
        fitted = model_of(observed, model, stage)
        found = advise(observed, fitted, targets, space=space, workers=os.cpu_count() or 1, on_simulated=stage)
    if html is not None:
        from batchscope.dashboard.advice_page import advice_page  # noqa: PLC0415  (its files are read when it is)

        note(write_html(advice_page(found, observed.name, observed.engine, targets), html))
    told = _document(found) if as_json else for_stdout(_shown(found, observed.name, observed.engine, targets))
    stdout.write(told)
    return EXIT_CODES[found.verdict]


def _document(advice: Advice) -> bytes:
    document = {
        "schema": SCHEMA,
        **msgspec.structs.asdict(advice),
        "curve": [
            {"max_running_requests": places, "goodput": goodput} for places, goodput in advice.curve.items()
        ],
        "flags": flags(advice),
    }  # fmt: skip
    return msgspec.json.encode(readable_document(msgspec.to_builtins(document))) + b"\n"


def _shown(advice: Advice, run: str, engine: str, slo: Mapping[str, SloTargets]) -> Group:
    within = targets_in_words(slo)
    lines = [
        Text(f"{run}: {engine or 'an unnamed engine'}, {advice.requests:,} requests, each within {within}"),
        Text(""),
        Text(f"{VERDICTS[advice.verdict]}: {advice.why}", style="bold"),
        *_better(advice, engine),
        Text(""),
    ]
    marks = [Text(f"extrapolated: {each}", style="yellow") for each in advice.extrapolated]
    notes = [Text(f"note: {each}") for each in advice.notes]
    same = advice.best.settings == advice.now.settings
    return Group(*lines, _sides(advice, same=same), Text(""), *_in_doubt(advice), *marks, *notes)


def _better(advice: Advice, engine: str) -> list[Text]:
    """What to set; only where that is the advice."""
    from batchscope.dashboard.advice_page import worse_in_words  # noqa: PLC0415  (its files are read when it is)

    if advice.verdict != "change":
        return []
    between = f"{signed(advice.gain_low)} .. {signed(advice.gain_high)}"
    lines = [Text(f"gain in goodput: {signed(advice.gain)}, 95 % interval {between}")]
    if math.isinf(advice.gain):
        lines = [Text("now nobody is served in time")]
    lines += [Text(f"  {name} = {value}") for name, value in advice.changed.items()]
    lines += [Text(f"  {name}: {typed}") for name, typed in flags_of_engine(advice, engine).items()]
    return [*lines, Text(f"what gets worse: {worse_in_words(advice)}")]


def _sides(advice: Advice, *, same: bool) -> Table:
    """Now beside the best, where there is another."""
    sides: list[Outcome] = [advice.now] if same else [advice.now, advice.best]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("simulated", "", "now", *([] if same else ["best", "change"])):
        table.add_column(heading, justify="left" if heading in {"simulated", ""} else "right")
    for name in advice.now.settings:
        table.add_row(name, "", *(setting_in_words(side.settings[name]) for side in sides))
    goodput = [side.goodput for side in sides]
    table.add_row("goodput", "", *(f"{per_second(each)}/s" for each in goodput), *_change(goodput))
    table.add_row("served in time", "", *(percent(side.attainment.value) for side in sides))
    table.add_row("", "95 %", *(percent_range(side.attainment.low, side.attainment.high) for side in sides))
    for name in advice.now.by_class if len(advice.now.by_class) > 1 else ():
        table.add_row("", shown(name, 20), *(percent(side.by_class[name].value) for side in sides))
    for cause in sorted({cause for side in sides for cause in side.limited_by}):
        table.add_row("limited by", limiter_name(cause), *(percent(side.limited_by.get(cause, 0.0)) for side in sides))
    for name in advice.now.figures:
        for statistic in ("mean", "p99"):
            values = [getattr(side.figures[name], statistic) for side in sides]
            title = short_name(name) if statistic == "mean" else ""
            table.add_row(title, statistic, *map(duration, values), *_change(values))
    table.add_row("preemptions", "", *(count(side.preemptions) for side in sides))
    return table


def _change(values: list[float]) -> list[str]:
    return [change(values[1], values[0])] if len(values) > 1 else []


def _in_doubt(advice: Advice) -> Iterator[Text]:
    """What goodput is, and how far to trust it."""
    now, best = (duration(side.seconds) for side in (advice.now, advice.best))
    yield Text(
        "goodput: requests served in time, a second from the first arrival to the last end "
        f"({now if advice.best.settings == advice.now.settings else f'{now} now, {best} with the best'}), mean over "
        "constants that fit as well"
    )
    off = (
        "is not known: the run did not keep what a target asks for"
        if math.isnan(advice.replay_error)
        else signed(advice.replay_error)
    )
    yield Text(f"{advice.simulations:,} simulations; error of the replay (goodput under the recorded settings): {off}")
    if advice.replay_off is not None:
        yield Text(trust_in_words(advice.replay_off, "worst figure of a target"))
    for each in advice.matched:
        if abs(each.off) > FAR_OFF:
            limits = f"{duration(each.matched)} as were within {duration(each.limit)} when recorded"
            yield Text(f"replayed, as many are within {short_name(each.target)} {limits} ({signed(each.off)})")
