"""The target table: what each row is measured by, and its limit. All are ratios within one run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from harness.contender import GAPS, ITERATION, PROMETHEUS, REQUEST, TRACKER
from harness.document import Target, judged
from harness.listening import LISTENED
from harness.ours import GAPS_ARRAY, GAPS_LIST, GAPS_PAIR, RECORD, THREADS, WRITER
from harness.reading import ReadTimes, Tail
from harness.rounds import Times
from harness.tracking import CHURN, STEADY, TOKENS, tracker_name

Relation = Literal[">=", "<="]
_LOOP = f"{GAPS}: {PROMETHEUS}"
REFERENCES = {REQUEST: f"{REQUEST}: {PROMETHEUS}", GAPS: _LOOP, ITERATION: _LOOP, TRACKER: _LOOP}
"""What each group's figures are compared with; an iteration, too, with a loop of ``observe()`` over its gaps."""


class Ratio(NamedTuple):
    """How many times ``key`` goes into ``of``, both of the same run."""

    what: str
    of: str
    key: str
    relation: Relation
    limit: float


def _cheaper(group: str, name: str, limit: float, mode: str = "") -> Ratio:
    return Ratio(
        f"{group}, {name.removeprefix('batchscope, ')}{mode}: cheaper",
        REFERENCES[group],
        f"{group}: {name}",
        ">=",
        limit,
    )


WARM = (
    _cheaper(REQUEST, WRITER, 15),
    _cheaper(REQUEST, RECORD, 8),
    _cheaper(GAPS, GAPS_LIST, 40),
    _cheaper(GAPS, GAPS_ARRAY, 70),
    _cheaper(GAPS, GAPS_PAIR, 500),
    _cheaper(ITERATION, GAPS_LIST, 35),
    _cheaper(ITERATION, GAPS_ARRAY, 50),
    _cheaper(ITERATION, GAPS_PAIR, 70),
    *(
        _cheaper(TRACKER, tracker_name(kind, as_array=as_array), limit)
        for kind, limit in ((STEADY, 35), (TOKENS, 25), (CHURN, 25))
        for as_array in (False, True)
    ),
    Ratio("4 threads: of one thread's time", f"{REQUEST}: {THREADS}", f"{REQUEST}: {WRITER}", "<=", 1.3),
    Ratio("a sink behind a HandOver: of the time without", f"{REQUEST}: {LISTENED}", f"{REQUEST}: {WRITER}", "<=", 1.5),
)
COLD = (_cheaper(REQUEST, WRITER, 4, ", cold"), _cheaper(REQUEST, RECORD, 4, ", cold"))
MOST_OF_AN_EMPTY_CALL = 2.0
SCRAPES_CHEAPER = 15.0


def of_ratio(ratio: Ratio, times: Mapping[str, Times]) -> Target:
    whole, part = times.get(ratio.of), times.get(ratio.key)
    if whole is None or part is None:
        return judged(ratio.what, ratio.relation, ratio.limit, "x", None)
    median = statistics.median(part.ratios(whole))
    return judged(ratio.what, ratio.relation, ratio.limit, "x", whole.best / part.best, median)


def of_reading(read: ReadTimes) -> Target:
    """A scrape beside ``generate_latest`` of a registry with as many samples."""
    what = "read_totals() and text exposition, beside generate_latest of as many samples: cheaper"
    if read.scrape is None or read.theirs is None:
        return judged(what, ">=", SCRAPES_CHEAPER, "x", None)
    median = statistics.median(read.scrape.ratios(read.theirs))
    return judged(what, ">=", SCRAPES_CHEAPER, "x", read.theirs.best / read.scrape.best, median)


def of_tails(tails: Mapping[str, Tail], controls: Mapping[str, Tail]) -> list[Target]:
    """A record's beside an empty call's, at the same pace, under the same reader."""
    return [
        judged(
            f"{name}, p99.9: of an empty call's", "<=", MOST_OF_AN_EMPTY_CALL, "x",
            tail.p999 / controls[name].p999,
            note=f"{tail.p999:.3g} us, maximum {tail.longest:,.0f} us, {tail.reads} snapshots; "
            f"an empty call {controls[name].p999:.3g} us, maximum {controls[name].longest:,.0f} us",
        )
        for name, tail in tails.items()
    ]  # fmt: skip


def all_targets(
    warm: Mapping[str, Times],
    cold: Mapping[str, Times],
    read: ReadTimes,
    tails: Mapping[str, Tail],
    controls: Mapping[str, Tail],
) -> list[Target]:
    """Every row but memory, which has its own benchmark."""
    return [
        *ratios(WARM[:2], warm), *ratios(COLD, cold), *ratios(WARM[2:], warm), *of_tails(tails, controls),
        of_reading(read),
    ]  # fmt: skip


def ratios(rows: Sequence[Ratio], times: Mapping[str, Times]) -> list[Target]:
    return [of_ratio(row, times) for row in rows]
