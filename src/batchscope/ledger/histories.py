"""What the tables of a run say of its requests' lives: loaded once, asked for parts or phases of any of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa

from batchscope.ledger.cutting import TOLERANCE, Cutting
from batchscope.ledger.instants import INSTANTS, request_instants
from batchscope.ledger.iteration_lines import Ints, Lines, Ticks, numbers
from batchscope.ledger.prefill_cost import PrefillCost, prefill_cost
from batchscope.ledger.request_parts import HELD, OTHERS, Column, Cut, Part, Pieces, Spans
from batchscope.recording.packing import MAX_ID
from batchscope.text import readable

_BLOCK = 1 << 16
"""Requests that are cut at once: memory does not grow with the run beyond its columns."""
_NONE: Ints = np.empty(0, dtype=np.int64)
_NO_SPANS = Spans(_NONE, _NONE, _NONE, _NONE, np.empty(0, dtype=np.bool_))


def recorded_id(request_id: str) -> str:
    """An id as the ledger keeps it: its first 256 characters, lone surrogates spelled out."""
    return readable(request_id[:MAX_ID])


class Histories:
    """What a run's tables say of its requests' lives. ``spans`` None or empty: nobody says who took part in what."""

    def __init__(self, requests: pa.Table, iterations: pa.Table, spans: pa.Table | None) -> None:
        self.requests = requests
        known, self.from_durations = request_instants(requests)
        bounds = [numbers(iterations, name) for name in ("started_at", "finished_at")]
        self.ticks = Ticks.spanning(*known.values(), *bounds)
        begun = float(np.nanmin(bounds[0])) if np.isfinite(bounds[0]).any() else np.nan
        late = bool((known["first_scheduled_at"] < begun - TOLERANCE).any())
        self.lines = Lines(iterations, self.ticks, begins_late=late)
        self.cost: PrefillCost | None = prefill_cost(iterations, self.lines)
        tokens = numbers(iterations, "prefill_tokens")[self.lines.rows]
        self.without_prefill_tokens = int(np.count_nonzero(np.isnan(tokens)))
        """Iterations that do not say how many tokens of prompts they computed."""
        self.columns = (
            *(Column(part, limiter) for part in HELD for limiter in self.lines.limiters),
            *(Column(part) for part in OTHERS),
        )
        self.number = np.nan_to_num(numbers(requests, "request"), nan=-1).astype(np.int64)
        self.told: Ints = np.flatnonzero(np.isfinite(known["arrived_at"]) & np.isfinite(known["finished_at"]))
        """The requests whose life is known: rows of ``requests``."""
        self.instants = {name: self.ticks.of(column) for name, column in known.items()}
        self.longest_gap = self.ticks.lasting(numbers(requests, "max_emission_gap"))
        self.preempted = numbers(requests, "preemptions") > 0
        self.was_scheduled, self.emitted = (np.isfinite(known[name]) for name in INSTANTS[1:3])
        self.has_spans = spans is not None and len(spans) > 0
        self.spans = self._sorted(spans) if spans is not None and len(spans) else _NO_SPANS

    def cut(self, rows: Ints, *, gaps: bool = False) -> Iterator[Cut]:
        """These requests (some of ``told``), in blocks, by number."""
        rows = rows[np.argsort(self.number[rows], kind="stable")]
        for begin in range(0, len(rows), _BLOCK):
            yield Cutting(self, rows[begin : begin + _BLOCK]).cut(gaps=gaps)

    def phases(self, rows: Ints) -> Iterator[Pieces]:
        """These requests (some of ``told``) as phases, in blocks, by number."""
        rows = rows[np.argsort(self.number[rows], kind="stable")]
        for begin in range(0, len(rows), _BLOCK):
            yield Cutting(self, rows[begin : begin + _BLOCK]).pieces()

    def _sorted(self, spans: pa.Table) -> Spans:
        lines = self.lines
        first, count, request = (
            spans.column(name).to_numpy().astype(np.int64) for name in ("first_iteration", "iterations", "request")
        )
        place, until = (
            lines.ordinal.searchsorted(first),
            lines.ordinal.searchsorted(first + count - 1, side="right") - 1,
        )
        known = np.flatnonzero(place <= until)  # of the others all iterations are missing
        place, until, request = place[known], until[known], request[known]
        tokens = np.nan_to_num(numbers(spans, "tokens"))[known].astype(np.int64)
        evicted = numbers(spans, "evicted")[known] > 0
        order = np.lexsort((until, lines.starts[place], request))
        return Spans(request[order], place[order], until[order], tokens[order], evicted[order])

    @cached_property
    def decoding(self) -> dict[Part, Ints]:
        """Summed up from the first iteration on: what somebody who decodes in each spends on what."""
        lines = self.lines
        stretched = self.stretched(lines.own, np.arange(len(lines)))
        parts = {
            Part.DECODE: lines.own - stretched,
            Part.STRETCHED: stretched,
            Part.BETWEEN: np.where(lines.lost, 0, lines.idle),
            Part.UNKNOWN: np.where(lines.lost, lines.idle, 0),
        }
        return {part: np.concatenate(([0], np.cumsum(column))) for part, column in parts.items()}

    def stretched(self, ticks: Ints, places: Ints) -> Ints:
        """What other requests' prefill took of so much time in these iterations."""
        if self.cost is None:
            return np.zeros_like(ticks)
        return np.rint(ticks * self.cost.share[places]).astype(np.int64)

    @property
    def splits_phases(self) -> bool:
        """Whether others' prefill can be told apart in a decode phase that no span says more of: on one rank only."""
        return self.cost is not None and len(self.lines.first) == 1

    def stretched_until(self, instants: Ints) -> Ints:
        """Up to these instants of the only line: what others' prefill took of the time of somebody who always ran."""
        lines, summed = self.lines, self.decoding[Part.STRETCHED]
        place = lines.ends.searchsorted(instants)
        ran = np.minimum(place, len(lines) - 1)
        into = np.clip(instants - (lines.ends[ran] - lines.own[ran]), 0, lines.own[ran])
        return summed[place] + np.where(place < len(lines), self.stretched(into, ran), 0)

    @cached_property
    def longest_within(self) -> tuple[Ints, Ints]:
        """Of each span the longest time from one end of its iterations to the next, and the place of the later one.

        By the longest of every 2^k in a row: a span's is the greater of two that overlap. -1 where it has one only.
        """
        steps = np.append(np.diff(self.lines.ends), 0)
        at = np.arange(1, len(steps) + 1)
        length, place = np.full(len(self.spans.first), -1, dtype=np.int64), np.zeros(len(self.spans.first), np.int64)
        several = np.flatnonzero(self.spans.last > self.spans.first)
        low, count = self.spans.first[several], (self.spans.last - self.spans.first)[several]
        level = np.frexp(count)[1].astype(np.int64) - 1  # the greatest power of two that is not more
        for power in range(int(level.max(initial=-1)) + 1):
            if power:
                half = 1 << (power - 1)
                later = steps[half:] > steps[:-half]
                at = np.where(later, at[half:], at[:-half])
                steps = np.where(later, steps[half:], steps[:-half])
            mine = np.flatnonzero(level == power)
            left, right = low[mine], low[mine] + count[mine] - (1 << power)
            chosen = np.where(steps[right] > steps[left], right, left)
            length[several[mine]], place[several[mine]] = steps[chosen], at[chosen]
        return length, place
