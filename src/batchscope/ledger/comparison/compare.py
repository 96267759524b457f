"""Runs A against runs B: which statistics hold for as many runs as there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from batchscope.errors import ConfigurationError
from batchscope.ledger.comparison.document import Comparison
from batchscope.ledger.comparison.measured import Measured, measured_run
from batchscope.ledger.comparison.pair import FEWEST_REQUESTS, LARGEST_MARGIN, compare_pair
from batchscope.ledger.comparison.pairing import Pairs, pair
from batchscope.ledger.comparison.repeats import FEWEST, compare_repeats, spread_of
from batchscope.ledger.comparison.same_work import with_expected
from batchscope.ledger.comparison.window import Portion, cut, windows


class Settings(msgspec.Struct, frozen=True):
    """``margin``: up to which relative bound figures are called equivalent. ``seed``: of the resampling.

    ``part``: what of the runs is compared.
    """

    margin: float = LARGEST_MARGIN
    seed: int = 0
    part: Portion = Portion.AUTO

    def __post_init__(self) -> None:
        if not 0 < self.margin <= 1:
            raise ConfigurationError("margin", self.margin, "a share, more than 0 and at most 1")


def compare_runs(a: Sequence[Any], b: Sequence[Any], settings: Settings | None = None) -> Comparison:
    """Opened runs of two sides; ConfigurationError where a run is compared with itself, or has nothing in it."""
    recordings: dict[object, tuple[str, Any]] = {}
    for side, run in (*(("A", run) for run in a), *(("B", run) for run in b)):
        before, other = recordings.setdefault(_recording(run), (side, run))
        if other is not run and before != side:
            raise ConfigurationError("B", str(run.path), "other runs than A's: a run does not differ from itself")
        if other is not run:
            raise ConfigurationError(
                side, str(run.path), f"each run once: it is the same as {other.path}, or a copy, and no repeat of it"
            )
    return compare_measured([measured_run(run) for run in a], [measured_run(run) for run in b], settings or Settings())


def _recording(run: Any) -> object:
    """What tells one recording from another, wherever its files are copied to."""
    if not run.headers or run.document.started_at is None:
        return run.path.resolve()
    return run.headers[0].instance_id, run.document.started_at


def compare_measured(a: Sequence[Measured], b: Sequence[Measured], settings: Settings) -> Comparison:
    """The same of runs whose columns are there already."""
    _check(a, b)
    whole = [*a, *b]
    pairs = pair(a[0], b[0])
    runs, counted = cut(whole, Portion(settings.part), shared=pairs.shared)
    parts = windows(runs, whole)
    runs = with_expected(runs)
    a, b = runs[: len(a)], runs[len(a) :]
    repeats = min(len(a), len(b)) >= FEWEST
    if repeats:
        shared = _shared(a, b)
        in_pairs = bool(shared) and not pair(a[0], a[1]).shared
        figures = compare_repeats(a, b, shared, in_pairs=in_pairs, seed=settings.seed, margin=settings.margin)
        notes = _remarks_on_repeats(a, b, pairs, in_pairs=in_pairs)
    else:
        spread = spread_of((a, b))
        figures = compare_pair(a[0], b[0], pairs, seed=settings.seed, margin=settings.margin, spread=spread)
        notes = [*pairs.notes, *_remarks_on_a_pair(a, b, pairs)]
    notes += _other_settings(a[0], b[0])
    notes += [remark for run in (*a, *b) for remark in run.remarks]
    notes += [f"{run.gaps:,} rows are missing in the record of {run.name}" for run in (*a, *b) if run.gaps]
    return Comparison(
        a=[run.name for run in a],
        b=[run.name for run in b],
        paired=pairs.how,
        pairs=len(pairs.a),
        only_in_a=len(a[0].ids) - len(pairs.a),
        only_in_b=len(b[0].ids) - len(pairs.b),
        method="repeats" if repeats else "pair",
        seed=settings.seed,
        notes=notes,
        figures=figures,
        conditions=[],
        counted=counted,
        windows=parts,
    )


def _other_settings(a: Measured, b: Measured) -> list[str]:
    names = [name for name in a.settings if a.settings[name] != b.settings.get(name)]
    changes = [f"{name} {_said(a.settings[name])} -> {_said(b.settings.get(name))}" for name in names]
    return [f"the engine was set otherwise: {', '.join(changes)}"] if changes else []


def _said(value: object) -> str:
    return "not known" if value in {None, ""} else str(value)


def _check(a: Sequence[Measured], b: Sequence[Measured]) -> None:
    for side, runs in (("A", a), ("B", b)):
        if not runs:
            raise ConfigurationError(side, "nothing", "one run or more on each side of --")
        for run in runs:
            if not len(run.ids) and not len(run.step_at):
                raise ConfigurationError(side, run.name, "a run with requests or iterations in it")


def _shared(a: Sequence[Measured], b: Sequence[Measured]) -> list[Pairs]:
    """How the i-th runs of both sides are paired; nothing unless all of them are."""
    found = [pair(*runs) for runs in zip(a, b, strict=False)]
    return found if len(a) == len(b) and all(pairs.shared for pairs in found) else []


def _remarks_on_repeats(a: Sequence[Measured], b: Sequence[Measured], pairs: Pairs, *, in_pairs: bool) -> list[str]:
    how = "each pair of runs has a workload of its own" if in_pairs else "Welch's interval between the runs"
    notes = [f"{len(a)} runs against {len(b)}: {how}"]
    return notes if in_pairs or pairs.shared else [*notes, *pairs.notes]


def _remarks_on_a_pair(a: Sequence[Measured], b: Sequence[Measured], pairs: Pairs) -> list[str]:
    requests = len(pairs.a) if pairs.shared else min(int(run.counted.sum()) for run in (a[0], b[0]))
    notes = []
    if requests < FEWEST_REQUESTS:
        plural = "request says" if requests == 1 else "requests say"
        notes.append(f"{requests} {plural} nothing of how much they vary: at least {FEWEST_REQUESTS} are needed")
    if len(a) == len(b) == 1:
        notes.append(
            "one run a side: what a repeat would differ by is not known, so differences below a floor say nothing"
        )
    else:
        notes.append(
            f"{len(a)} runs against {len(b)}: the first pair is compared, repeats raise the floor; 3 a side decide"
        )
    return notes
