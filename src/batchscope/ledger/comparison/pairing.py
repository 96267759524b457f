"""Is the workload of two runs the same: then requests are paired, and what it does to both of them falls out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchscope.ledger.comparison.measured import Measured
from batchscope.rows import RequestColumn

R = RequestColumn
Whole = npt.NDArray[np.int64]

MOST_OTHER = 0.05
"""The share of pairs that may have another prompt length, and still be the same workload."""


class Pairs(NamedTuple):
    """``a[i]`` and ``b[i]`` are the same request; ``how`` is ``id``, ``order`` or ``no``. ``notes`` for people."""

    how: str
    a: Whole
    b: Whole
    notes: list[str]

    @property
    def shared(self) -> bool:
        """Whether there are pairs."""
        return self.how != "no"


def pair(a: Measured, b: Measured) -> Pairs:
    """Pairs by id; by the order of arrival where ids are made up anew in each run but lengths and arrivals agree."""
    left, right = _by_id(a.ids, b.ids)
    if len(left) and _same_requests(a, b, left, right):
        return Pairs("id", left, right, _remarks(a, b, left, right))
    if len(left) < len(a.ids) / 2 and (ordered := _by_order(a, b)) is not None:
        return Pairs("order", *ordered, ["ids differ, lengths and arrivals agree: paired in order of arrival"])
    nothing = np.empty(0, np.int64)
    if not len(left):
        return Pairs("no", nothing, nothing, ["no request id is in both: the workloads differ, nothing is paired"])
    note = f"{len(left):,} ids are in both, but their prompts differ: the workloads differ, nothing is paired"
    return Pairs("no", nothing, nothing, [note])


def _by_id(a: npt.NDArray[np.object_], b: npt.NDArray[np.object_]) -> tuple[Whole, Whole]:
    """Where the ids that come once in each are."""
    where = [_unique(ids) for ids in (a, b)]
    common = [name for name in where[0] if name in where[1]]
    return tuple(np.array([places[name] for name in common], np.int64) for places in where)  # type: ignore[return-value]


def _unique(ids: npt.NDArray[np.object_]) -> dict[str, int]:
    found: dict[str, int] = {}
    twice = set()
    for index, name in enumerate(ids):
        if name in found:
            twice.add(name)
        found[name] = index
    return {name: index for name, index in found.items() if name not in twice and name is not None}


def _same_requests(a: Measured, b: Measured, left: Whole, right: Whole) -> bool:
    prompts = a.rows[left, R.PROMPT_TOKENS], b.rows[right, R.PROMPT_TOKENS]
    known = ~np.isnan(prompts[0] + prompts[1])
    if known.mean() > 1 / 2 and len(np.unique(prompts[0][known])) > 1:
        return bool((prompts[0] != prompts[1])[known].mean() <= MOST_OTHER)
    return _arrivals_agree(a, b, left, right)


def _arrivals_agree(a: Measured, b: Measured, left: Whole, right: Whole) -> bool:
    """Within a gap between arrivals, half of the pairs at least; where there are none, nothing speaks against it."""
    arrived = a.rows[left, R.ARRIVED_AT], b.rows[right, R.ARRIVED_AT]
    if np.isnan(arrived[0]).any() or np.isnan(arrived[1]).any():
        return True
    gap = max(a.span, b.span) / max(len(left), 1)
    return bool(np.median(np.abs(arrived[0] - arrived[1])) <= gap)


def _by_order(a: Measured, b: Measured) -> tuple[Whole, Whole] | None:
    if len(a.ids) != len(b.ids) or not (a.has_arrivals and b.has_arrivals):
        return None
    left, right = (np.argsort(run.rows[:, R.ARRIVED_AT], kind="stable") for run in (a, b))
    prompts = a.rows[left, R.PROMPT_TOKENS], b.rows[right, R.PROMPT_TOKENS]
    alike = (prompts[0] == prompts[1]).mean() >= 1 - MOST_OTHER
    return (left, right) if alike and _arrivals_agree(a, b, left, right) else None


def _remarks(a: Measured, b: Measured, left: Whole, right: Whole) -> list[str]:
    notes = []
    for run, used, other in ((a, left, b), (b, right, a)):
        if lost := len(run.ids) - len(used):
            notes.append(f"{lost:,} of {len(run.ids):,} requests of {run.name} are not in {other.name}, and left out")
    if other_class := int(np.count_nonzero(a.classes[left] != b.classes[right])):
        notes.append(f"{other_class:,} of {len(left):,} pairs are of another request class: judged by other targets")
    outputs = a.rows[left, R.TOKENS_GENERATED], b.rows[right, R.TOKENS_GENERATED]
    other_length = int(np.count_nonzero(outputs[0] != outputs[1]))
    if other_length:
        notes.append(f"{other_length:,} of {len(left):,} pairs have answers of another length: part of the difference")
    return notes
