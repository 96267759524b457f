"""The slowest requests of a run beside the others: where their time went, and when they were slow together."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from batchscope.ledger.explanation import ComparedPart, Metric, Slow, Slowest, Stretch
from batchscope.ledger.histories import Histories
from batchscope.ledger.instants import instant_to_time, undated
from batchscope.ledger.iteration_lines import Floats, Ints, Mask, numbers
from batchscope.ledger.request_parts import Column, Cut, Part
from batchscope.sinks import RunHeader

WORST_SHOWN = 10
STRETCHES_SHOWN = 3


class Facts(NamedTuple):
    """A run, loaded."""

    histories: Histories
    header: RunHeader
    began: float
    reported: float | None

    def since(self, ticks: Ints) -> Floats:
        """Instants in seconds since the run began."""
        return self.histories.ticks.seconds(ticks) + (self.histories.ticks.origin - self.began)

    def time(self, since_began: float) -> dt.datetime | None:
        """The clock on the wall by then; None where nobody knows: simulated time, or an import without a date."""
        return None if undated(self.header) else instant_to_time(self.header, self.began + since_began)


def is_modelled(histories: Histories, column: Column) -> bool:
    """Whether a part is a model's, and there is one."""
    if column.part is Part.DECODE_PHASE:
        return histories.splits_phases
    return column.modelled and histories.cost is not None


class _Sums:
    """Parts of the metric's time, summed over some requests; ``weight``: what a mean is taken over."""

    def __init__(self, columns: int) -> None:
        self.parts = np.zeros(columns, dtype=np.float64)
        self.weight = 0.0

    def add(self, seconds: Floats, weights: Floats) -> None:
        """Rows of parts."""
        self.parts += seconds.sum(axis=0)
        self.weight += float(weights.sum())

    @property
    def shares(self) -> Floats:
        """Of all of it."""
        return self.parts / max(float(self.parts.sum()), 1e-300)

    @property
    def means(self) -> Floats:
        """Seconds of each part."""
        return self.parts / max(self.weight, 1e-300)


def slowest_of(facts: Facts, metric: Metric, values: Floats, among: Ints, share: float) -> Slowest:
    """The slowest of ``among`` beside the others."""
    histories = facts.histories
    size = max(1, math.ceil(share * len(among) - 1e-9))
    ranked = among[np.argsort(-values[among], kind="stable")]
    slow = np.zeros(len(values), dtype=np.bool_)
    slow[ranked[:size]] = True
    tokens = np.maximum(numbers(histories.requests, "tokens_generated") - 1, 1)
    mine, others = _Sums(len(histories.columns)), _Sums(len(histories.columns))
    top: dict[int, tuple[int, float]] = {}
    windows: list[tuple[Floats, Floats]] = []
    for cut in histories.cut(among, gaps=metric is Metric.GAP):
        seconds = histories.ticks.seconds(_window(histories, metric, cut))
        weights = tokens[cut.rows] if metric is Metric.TPOT else np.ones(len(cut.rows))
        of_slow = slow[cut.rows]
        mine.add(seconds[of_slow], weights[of_slow])
        others.add(seconds[~of_slow], weights[~of_slow])
        windows.append(_bounds(facts, metric, cut, of_slow))
        wanted = np.flatnonzero(np.isin(cut.rows, ranked[:WORST_SHOWN]))
        for place in wanted.tolist():
            largest = int(seconds[place].argmax())
            top[int(cut.rows[place])] = largest, float(seconds[place, largest] / max(seconds[place].sum(), 1e-300))
    begins, ends = (np.concatenate(column) for column in zip(*windows, strict=True))
    stretches, in_all = _stretches(facts, begins, ends)
    return Slowest(
        metric=metric,
        share=share,
        requests=size,
        others=len(among) - size,
        threshold=float(values[ranked[size - 1]]),
        mean=float(values[ranked[:size]].mean()),
        mean_of_others=float(values[ranked[size:]].mean()) if size < len(among) else None,
        parts=tuple(_compared(histories, mine, others)),
        stretches=tuple(stretches),
        stretches_in_all=in_all,
        worst=tuple(_worst(histories, values, ranked[: min(size, WORST_SHOWN)].tolist(), top)),
    )


def _window(histories: Histories, metric: Metric, cut: Cut) -> Ints:
    """The parts that make up the metric."""
    if metric is Metric.TTFT:
        return cut.before
    if metric is Metric.E2E:
        return cut.before + cut.after
    if metric is Metric.GAP and cut.gap is not None:
        return cut.gap
    decoding = cut.after.copy()
    decoding[:, [column.part is Part.AFTER for column in histories.columns]] = 0
    return decoding


def _bounds(facts: Facts, metric: Metric, cut: Cut, chosen: Mask) -> tuple[Floats, Floats]:
    """When the metric's time of the chosen requests began and ended, since the run began."""
    histories, rows = facts.histories, cut.rows[chosen]
    if metric is Metric.GAP and cut.gap_within is not None:
        begins, ends = (column[chosen] for column in cut.gap_within)
    else:
        names = {
            Metric.TTFT: ("arrived_at", "first_token_at"),
            Metric.TPOT: ("first_token_at", "last_token_at"),
        }.get(metric, ("arrived_at", "finished_at"))
        begins, ends = (histories.instants[name][rows] for name in names)
    return facts.since(begins), facts.since(ends)


def _compared(histories: Histories, mine: _Sums, others: _Sums) -> Iterable[ComparedPart]:
    """The parts that occur, what makes the slow ones slower first."""
    alone = not others.weight
    excess = mine.means if alone else mine.means - others.means
    for place in np.argsort(-excess, kind="stable").tolist():
        column = histories.columns[place]
        if mine.parts[place] or others.parts[place]:
            yield ComparedPart(
                part=column.part,
                limiter=column.limiter,
                modelled=is_modelled(histories, column),
                share=float(mine.shares[place]),
                share_of_others=None if alone else float(others.shares[place]),
                mean=float(mine.means[place]),
                mean_of_others=None if alone else float(others.means[place]),
            )


def _worst(
    histories: Histories, values: Floats, rows: Sequence[int], top: dict[int, tuple[int, float]]
) -> Iterable[Slow]:
    ids = histories.requests.column("request_id")
    for row in rows:
        place, share = top[row]
        column = histories.columns[place]
        yield Slow(
            request=int(histories.number[row]),
            request_id=ids[row].as_py() or "",
            value=float(values[row]),
            part=column.part,
            limiter=column.limiter,
            part_share=share,
        )


def _stretches(facts: Facts, begins: Floats, ends: Floats) -> tuple[list[Stretch], int]:
    """Times in which these windows overlap without a break: those with the most requests, and how many there are."""
    order = np.argsort(begins, kind="stable")
    begins, ends = begins[order], ends[order]
    reach = np.maximum.accumulate(ends)
    firsts = np.flatnonzero(np.append(True, begins[1:] > reach[:-1]))
    counts = np.diff(np.append(firsts, len(begins)))
    largest = np.argsort(-counts, kind="stable")[:STRETCHES_SHOWN]
    parts = [slice(first, first + count) for first, count in zip(firsts[largest], counts[largest], strict=True)]
    return [_stretch(facts, begins[part], ends[part]) for part in parts], len(firsts)


def _stretch(facts: Facts, begins: Floats, ends: Floats) -> Stretch:
    begin, end = float(begins.min()), float(ends.max())
    instants = np.concatenate((begins, ends))
    change = np.concatenate((np.ones(len(begins)), -np.ones(len(ends))))
    order = np.lexsort((change, instants))  # at one instant who leaves goes first
    at_once = np.cumsum(change[order])
    busiest = int(at_once.argmax())
    lines = facts.histories.lines
    within = np.flatnonzero((facts.since(lines.starts) < end) & (facts.since(lines.ends) > begin))
    of_one_line = len(set(lines.line[within].tolist())) == 1
    return Stretch(
        begin=begin,
        end=end,
        begin_time=facts.time(begin),
        requests=len(begins),
        most_at_once=int(at_once[busiest]),
        busiest=float(instants[order][busiest]),
        iterations=len(within),
        first_iteration=int(lines.ordinal[within[0]]) if of_one_line else None,
        last_iteration=int(lines.ordinal[within[-1]]) if of_one_line else None,
    )
