"""A workload, a virtual clock, and trackers that hear the same events: one is told what limited, one is not.

A third one reports to the recording double, whose checks are then run on engines nobody here wrote.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from batchscope import (
    BatchLimiter,
    CompletionReason,
    MetricsSnapshot,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
)
from batchscope.testing import RecordingMetrics, missing_figures, violations


class Clock:
    """Seconds that pass only when a fake model says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def cost(tokens: int, requests: int, context: int = 0) -> float:
    """Seconds of an iteration: any plausible model will do, it only weights the iterations."""
    return 0.012 + 3e-5 * tokens + 2e-4 * requests + 2e-8 * context


EOS = 2
INFERRED = 1
"""Which of the trackers is not told what limited."""


def next_token(number: int, length: int) -> int:
    """What the fake model says next: the end, three times in a thousand; whoever else is in the batch."""
    drawn = hash((number, length))  # of integers: the same in every process
    return EOS if drawn % 1000 < 3 else 10 + drawn % 30_000


class Arrival(NamedTuple):
    """A request to come; ``family`` is the prefix it shares with others, 0 none."""

    number: int
    at: float
    prompt: int
    output: int
    family: int = 0

    def tokens(self, shared: int = 512) -> list[int]:
        """Token ids: those of a family begin with the same ones."""
        chance = random.Random(self.number)
        own = [chance.randrange(10, 30_000) for _ in range(self.prompt)]
        common = min(shared, self.prompt - 1) if self.family else 0
        begin = random.Random(-self.family)
        return [begin.randrange(10, 30_000) for _ in range(common)] + own[common:]


def arrivals(
    count: int,
    rate: float,
    prompt: tuple[int, int],
    output: tuple[int, int],
    *,
    seed: int = 1,
    families: int = 0,
    burst: float = 1.0,
) -> list[Arrival]:
    """``count`` requests, ``rate`` a second; with ``burst`` > 1 they come in bunches of that mean size."""
    chance, at, out = random.Random(seed), 0.0, []
    for number in range(count):
        if chance.random() < 1 / burst:
            at += chance.expovariate(rate / burst)
        family = chance.randrange(families + 1) if families else 0
        out.append(Arrival(number, at, chance.randint(*prompt), chance.randint(*output), family))
    return out


class Outcome(NamedTuple):
    """One workload on one engine: the two snapshots, and what the limits were."""

    engine: str
    workload: str
    limits: SchedulerLimits
    reported: MetricsSnapshot
    inferred: MetricsSnapshot
    confused: dict[tuple[BatchLimiter, BatchLimiter], float]
    """(inferred, reported), where they differ -> share of the time of iterations."""
    contradictions: list[str]

    def shares(self) -> dict[BatchLimiter, tuple[float, float]]:
        """Inferred and reported share of busy time of each limiter that occurs."""
        inferred, reported = self.inferred.iteration_stats.limited_by, self.reported.iteration_stats.limited_by
        pairs = {limiter: (inferred.get(limiter, 0.0), reported.get(limiter, 0.0)) for limiter in BatchLimiter}
        return {limiter: pair for limiter, pair in pairs.items() if max(pair) >= 0.0005}


class Told:
    """What a glue calls: each call goes to both trackers, ``limited_by`` to the first only."""

    def __init__(self, limits: SchedulerLimits, clock: Clock) -> None:
        self.limits = limits
        self._collectors = [SchedulerMetricsCollector(limits=limits, clock=clock) for _ in range(2)]
        self._double = RecordingMetrics(limits)
        self._trackers = [RequestTracker(metrics, clock=clock) for metrics in (*self._collectors, self._double)]
        self._slots: dict[int, list[int]] = {}

    def arrived(self, number: int, prompt: int, at: float, rank: int | None = None) -> None:
        said = {"prompt_tokens": prompt, "at": at, "rank": rank}
        self._slots[number] = [tracker.arrived(number, **said) for tracker in self._trackers]

    def stopped(self, limiter: BatchLimiter, rank: int | None = None) -> None:
        """Why admission stopped: what the second collector has to infer."""
        for place, tracker in enumerate(self._trackers):
            if place != INFERRED:
                tracker.stopped(limiter, rank=rank)

    def forming(self, numbers: Sequence[int], preempted: Sequence[int] = (), **fields: Any) -> list[Any]:
        """A batch was formed; what is returned is for ``iteration``."""
        return [
            tracker.forming(
                [self._slots[number][place] for number in numbers],
                preempted=[self._slots[number][place] for number in preempted],
                **fields,
            )
            for place, tracker in enumerate(self._trackers)
        ]

    def iteration(self, formed: list[Any], tokens: Sequence[int], **fields: Any) -> None:
        for tracker, batch in zip(self._trackers, formed, strict=True):
            tracker.iteration(batch, tokens, **fields)

    def finished(self, number: int, reason: CompletionReason, at: float, **fields: Any) -> None:
        for tracker, slot in zip(self._trackers, self._slots.pop(number), strict=True):
            tracker.finished(slot, reason, at=at, **fields)

    def outcome(self, engine: str, workload: str) -> Outcome:
        """The figures, after a check that every event was taken."""
        reported, inferred = (collector.get_snapshot() for collector in self._collectors)
        for snapshot in (reported, inferred):
            wrong = snapshot.totals.rejected_records, snapshot.gauges.requests_in_flight
            if any(wrong):
                raise SystemExit(f"{engine}, {workload}: rejected {wrong[0]}, still in flight {wrong[1]}")
        if reported.iteration_stats.limiter_reported_ratio < 1 - 1e-9:
            raise SystemExit(f"{engine}, {workload}: some iterations without a reported limiter")
        contradictions = violations(self._double, drained=True) + missing_figures(self._double)
        return Outcome(engine, workload, self.limits, reported, inferred, self._confused(), contradictions)

    def _confused(self) -> dict[tuple[BatchLimiter, BatchLimiter], float]:
        told, guessed = (collector.iteration_samples() for collector in self._collectors)
        spent: Counter[tuple[BatchLimiter, BatchLimiter]] = Counter()
        for true, guess in zip(told, guessed, strict=True):
            spent[guess.limited_by, true.limited_by] += true.processing_time
        total = sum(spent.values())
        return {pair: seconds / total for pair, seconds in spent.most_common() if pair[0] is not pair[1]}


def bare_package(name: str, folder: Path) -> ModuleType:
    """A package whose own ``__init__`` is not run (it would load models); its modules are imported as they are."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there: clone the engine into the folder that --clones names")
    module = ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module
    return module


def stand_in(name: str, **contents: Any) -> ModuleType:
    """A module in place of one that a scheduler's file only imports for names; any other name in it is ``object``."""
    module = ModuleType(name)
    module.__dict__.update(contents)
    module.__getattr__ = lambda _: object  # type: ignore[method-assign]
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)
    return module
