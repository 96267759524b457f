"""The target table: what each row is measured by, and its limit."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from harness.contender import GAPS, PROMETHEUS, REQUEST
from harness.document import Target, judged
from harness.ours import FLOOR, GAPS_ARRAY, GAPS_LIST, GAPS_PAIR, RECORD, THREADS, WRITER
from harness.reading import ReadTimes, Tail
from harness.rounds import Times
from harness.tracking import SLOTS, TRACKING

Relation = Literal[">=", "<="]
REFERENCES = {group: f"{group}: {PROMETHEUS}" for group in (REQUEST, GAPS)}
MILLISECOND, MICROSECOND = 1e6, 1e3


class Ratio(NamedTuple):
    """How many times ``key`` goes into ``of``, both of the same run."""

    what: str
    of: str
    key: str
    relation: Relation
    limit: float


WARM = (
    Ratio("finished request, writer(): cheaper", REFERENCES[REQUEST], f"{REQUEST}: {WRITER}", ">=", 15),
    Ratio("finished request, writer(): of the floor", f"{REQUEST}: {WRITER}", f"{REQUEST}: {FLOOR}", "<=", 8),
    Ratio("finished request, record_request_completion: cheaper", REFERENCES[REQUEST], f"{REQUEST}: {RECORD}", ">=", 8),
    Ratio("256 gaps, list: cheaper", REFERENCES[GAPS], f"{GAPS}: {GAPS_LIST}", ">=", 40),
    Ratio("256 gaps, ndarray: cheaper", REFERENCES[GAPS], f"{GAPS}: {GAPS_ARRAY}", ">=", 70),
    Ratio("256 gaps, (gap, count): cheaper", REFERENCES[GAPS], f"{GAPS}: {GAPS_PAIR}", ">=", 500),
    Ratio("4 threads: of one thread's time", f"{REQUEST}: {THREADS}", f"{REQUEST}: {WRITER}", "<=", 1.3),
)
COLD = (
    Ratio("finished request, writer(), cold: cheaper", REFERENCES[REQUEST], f"{REQUEST}: {WRITER}", ">=", 4),
    Ratio("finished request, record_request_completion, cold: cheaper", REFERENCES[REQUEST], f"{REQUEST}: {RECORD}",
          ">=", 4),
)  # fmt: skip
TOKEN_NANOSECONDS = 30.0


def of_ratio(ratio: Ratio, times: Mapping[str, Times]) -> Target:
    whole, part = times.get(ratio.of), times.get(ratio.key)
    if whole is None or part is None:
        return judged(ratio.what, ratio.relation, ratio.limit, "x", None)
    median = statistics.median(part.ratios(whole))
    return judged(ratio.what, ratio.relation, ratio.limit, "x", whole.best / part.best, median)


def of_tracker(times: Mapping[str, Times]) -> list[Target]:
    return [
        judged(
            f"{contender.key}, a token", "<=", TOKEN_NANOSECONDS, "ns",
            times[contender.key].best / SLOTS, times[contender.key].median / SLOTS,
        )
        for contender in TRACKING
    ]  # fmt: skip


def of_reading(read: ReadTimes) -> list[Target]:
    rows = (
        ("snapshot, full default buffers", 2.0, read.snapshot),
        ("text exposition of the whole catalogue", 0.3, read.exposition),
        ("read_totals() and text exposition", 0.3, read.scrape),
    )
    return [
        judged(what, "<=", limit, "ms", None, note="no exporter yet")
        if times is None
        else judged(what, "<=", limit, "ms", times.best / MILLISECOND, times.median / MILLISECOND)
        for what, limit, times in rows
    ]


def of_tails(tails: Mapping[str, Tail], control: Tail) -> list[Target]:
    """The note says what else happened: how often the reader read, and what an empty call took meanwhile."""
    return [
        judged(
            f"a record's p99.9 at 10 snapshots/s, {name}", "<=", 10.0, "us", tail.p999,
            note=f"maximum {tail.longest:,.0f} us, {tail.reads} snapshots; an empty call {control.p999:.3g} us",
        )
        for name, tail in tails.items()
    ]  # fmt: skip


def all_targets(
    warm: Mapping[str, Times], cold: Mapping[str, Times], read: ReadTimes, tails: Mapping[str, Tail], control: Tail
) -> list[Target]:
    """Every row but memory, which has its own benchmark."""
    return [
        *ratios(WARM[:3], warm), *ratios(COLD, cold), *ratios(WARM[3:6], warm), *of_tracker(warm),
        *of_tails(tails, control), *of_reading(read), *ratios(WARM[6:], warm),
    ]  # fmt: skip


def ratios(rows: Sequence[Ratio], times: Mapping[str, Times]) -> list[Target]:
    return [of_ratio(row, times) for row in rows]
