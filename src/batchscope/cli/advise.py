"""``batchscope advise RUN --slo-ttft ...``: which settings would serve more of its requests in time."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from batchscope.cli import stdout
from batchscope.cli.fit import Assumed, RunPath, parsed_settings
from batchscope.cli.options import SloE2e, SloTpot, SloTtft
from batchscope.cli.whatif import change
from batchscope.configuration import DEFAULT_CLASS, SloTargets
from batchscope.prediction import fit, read_model
from batchscope.prediction.advise import Advice, Outcome, advise
from batchscope.prediction.candidates import VARIED, Space
from batchscope.prediction.observed import NotEnoughError
from batchscope.text import readable_document
from batchscope.views.numbers import count, duration, per_second, percent
from batchscope.views.rendering import for_stdout
from batchscope.views.words import limiter_name, short_name

SCHEMA = "batchscope.advice/1"
EXIT_CODES = {"change": 0, "keep": 1, "undecided": 3}
FLAGS = {
    "vLLM": {
        "max_running_requests": "--max-num-seqs",
        "max_scheduled_tokens": "--max-num-batched-tokens",
        "kv_cache_blocks": "--num-gpu-blocks-override",
    },
    "SGLang": {
        "max_running_requests": "--max-running-requests",
        "max_scheduled_tokens": "--chunked-prefill-size",
        "kv_cache_blocks": "--max-total-tokens",
    },
}
"""In each engine's own words. SGLang counts tokens of its KV cache, not blocks."""
WORSE_BY = 0.01


def advise_command(
    run: RunPath,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What 'batchscope fit' wrote.", show_default="fitted to RUN first"),
    ] = None,
    slo_ttft: SloTtft = None,
    slo_tpot: SloTpot = None,
    slo_e2e: SloE2e = None,
    slo_gap: Annotated[
        float | None, typer.Option(metavar="S", help="Target: seconds between any two tokens; no stall beyond.")
    ] = None,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, nothing else.")] = False,
) -> int:
    """Find the settings that serve more of the recorded requests in time, or say that none does.

    Exit code 0: a better setting is named; 1: change nothing; 3: the model is too far off to tell.
    """
    from batchscope.prediction.recorded import read_observed  # noqa: PLC0415  (needs the extra ledger)

    targets = SloTargets(slo_ttft, slo_tpot, slo_e2e, slo_gap)
    slo = {DEFAULT_CLASS: targets} if targets.declared else _recorded_targets(run)
    tried = list(dict.fromkeys(vary or [*Space().vary, *(["policy"] if policies else [])]))
    space = Space(tuple(tried), most_kv_cache_blocks, kv_blocks_per_token, tuple(policies))
    observed = read_observed(run, **parsed_settings(assume, "--assume"))
    fitted = read_model(model) if model is not None else fit(observed)
    found = advise(observed, fitted, slo, space=space, workers=os.cpu_count() or 1)
    stdout.write(_document(found) if as_json else for_stdout(_shown(found, observed.name, observed.engine, slo)))
    return EXIT_CODES[found.verdict]


def _recorded_targets(run: Path) -> dict[str, SloTargets]:
    """Those that the run was recorded under, of all its requests."""
    from batchscope.ledger import open_run  # noqa: PLC0415

    declared = open_run(run).header.slo
    if len(declared) == 1 and all(targets.declared for targets in declared.values()):
        return {DEFAULT_CLASS: next(iter(declared.values()))}
    raise NotEnoughError(
        f"{run}: no target: expected --slo-ttft, --slo-tpot, --slo-e2e or --slo-gap, in seconds (the run has "
        f"{'targets of several classes' if len(declared) > 1 else 'none of its own'})"
    )


def flags(changed: dict[str, Any], settings: dict[str, Any]) -> dict[str, dict[str, int]]:
    """By engine, its flags and their values for what is ``changed``; a policy is no flag, but another scheduler."""
    found: dict[str, dict[str, int]] = {}
    for engine, names in FLAGS.items():
        values = dict(changed)
        if engine == "SGLang" and "kv_cache_blocks" in values:
            values["kv_cache_blocks"] *= settings["block_size"]
        found[engine] = {flag: values[name] for name, flag in names.items() if name in values}
    return found


def _document(advice: Advice) -> bytes:
    document = {
        "schema": SCHEMA,
        **msgspec.structs.asdict(advice),
        "curve": [
            {"max_running_requests": places, "goodput": goodput} for places, goodput in advice.curve.items()
        ],
        "flags": flags(advice.changed, advice.best.settings),
    }  # fmt: skip
    return msgspec.json.encode(readable_document(msgspec.to_builtins(document))) + b"\n"


def _shown(advice: Advice, run: str, engine: str, slo: dict[str, SloTargets]) -> Group:
    targets = ", ".join(
        f"{short_name(name)} {duration(limit)}" for each in slo.values() for name, limit in each.declared.items()
    )
    lines = [
        Text(f"{run}: {engine or 'an unnamed engine'}, {advice.requests:,} requests, each within {targets}"),
        Text(""),
        Text(f"{_VERDICTS[advice.verdict]}: {advice.why}", style="bold"),
        *_better(advice, engine),
        Text(""),
    ]
    marks = [Text(f"extrapolated: {each}", style="yellow") for each in advice.extrapolated]
    notes = [Text(f"note: {each}") for each in advice.notes]
    same = advice.best.settings == advice.now.settings
    return Group(*lines, _sides(advice, same=same), Text(""), Text(_in_doubt(advice)), *marks, *notes)


_VERDICTS = {"change": "Change the settings", "keep": "Change nothing", "undecided": "Cannot be decided"}


def _better(advice: Advice, engine: str) -> list[Text]:
    """What to set; only where that is the advice."""
    if advice.verdict != "change":
        return []
    lines = [
        Text(f"gain in goodput: {advice.gain:+.1%}, 95 % interval {advice.gain_low:+.1%} .. {advice.gain_high:+.1%}")
    ]
    if math.isinf(advice.gain):
        lines = [Text("now nobody is served in time")]
    lines += [Text(f"  {name} = {value}") for name, value in advice.changed.items()]
    for name, values in flags(advice.changed, advice.best.settings).items():
        ours = engine.lower().startswith(name.lower())
        if values and (ours or not engine.lower().startswith(tuple(each.lower() for each in FLAGS))):
            lines.append(Text(f"  {name}: " + " ".join(f"{flag} {value}" for flag, value in values.items())))
    worse = _what_gets_worse(advice)
    return [*lines, Text(f"what gets worse: {worse or 'nothing that is measured here'}")]


def _what_gets_worse(advice: Advice) -> str:
    found = []
    for name, now in advice.now.figures.items():
        for statistic in ("mean", "p99"):
            before, after = getattr(now, statistic), getattr(advice.best.figures[name], statistic)
            if after > before * (1 + WORSE_BY):
                found.append(f"{statistic} {short_name(name)} {change(after, before)}")
    if advice.best.preemptions > advice.now.preemptions:
        found.append(f"preemptions {advice.now.preemptions:,} to {advice.best.preemptions:,}")
    return ", ".join(found)


def _sides(advice: Advice, *, same: bool) -> Table:
    """Now beside the best, where there is another."""
    sides: list[Outcome] = [advice.now] if same else [advice.now, advice.best]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("simulated", "", "now", *([] if same else ["best", "change"])):
        table.add_column(heading, justify="left" if heading in {"simulated", ""} else "right")
    for name in advice.now.settings:
        table.add_row(name, "", *(str(side.settings[name]) for side in sides))
    goodput = [side.goodput for side in sides]
    table.add_row("goodput", "", *(f"{per_second(each)}/s" for each in goodput), *_change(goodput))
    table.add_row("served in time", "", *(percent(side.attainment.value) for side in sides))
    table.add_row("", "95 %", *(f"{percent(side.attainment.low)} .. {percent(side.attainment.high)}" for side in sides))
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


def _in_doubt(advice: Advice) -> str:
    """How far to trust it."""
    off = (
        "is not known: the run did not keep what a target asks for"
        if math.isnan(advice.replay_error)
        else f"{advice.replay_error:+.1%}"
    )
    return f"{advice.simulations:,} simulations; error of the replay (goodput under the recorded settings): {off}"
