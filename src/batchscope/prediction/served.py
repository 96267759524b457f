"""Many settings simulated, on several cores where there are enough of them to pay: who is served in time by each."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.pool import Pool
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from batchscope.configuration import SloTargets
from batchscope.prediction.attainment import judged
from batchscope.prediction.figures import RequestInstants
from batchscope.prediction.observed import Observed
from batchscope.simulator import LinearCostModel, SchedulerOptions
from batchscope.simulator.instants import Instants, simulate_instants

Slo = Mapping[str, SloTargets]
Task = tuple[SchedulerOptions, LinearCostModel, int]
"""Settings, what an iteration costs, and how many of the run's requests, its first ones."""
TAIL = 99
IN_PROCESS_BELOW = 100_000
"""Requests to simulate, all settings together: fewer are done before other processes have started."""


class Served(msgspec.Struct, frozen=True):
    """Of one simulation: who was served in time, until when it went on, evictions, p99 of TTFT and TPOT in seconds.

    ``met_matched``: the same by targets in the replay's own measure (see ``matched``).
    """

    met: npt.NDArray[np.bool_]
    met_matched: npt.NDArray[np.bool_]
    seconds: float
    preemptions: int
    p99_time_to_first_token: float
    p99_time_per_output_token: float

    @property
    def goodput(self) -> float:
        """Requests served in time, a second until the last one has ended."""
        return float(self.met.sum()) / self.seconds if self.seconds > 0 else 0.0

    @property
    def by_matched(self) -> Served:
        """Served in time by the matched targets alone."""
        return msgspec.structs.replace(self, met=self.met_matched)


def mean_goodput(served: Sequence[Served]) -> float:
    """Over the constants of its simulations."""
    return float(np.mean([one.goodput for one in served]))


def served_by(
    observed: Observed, slo: Slo, matched: Slo, options: SchedulerOptions, cost: LinearCostModel, requests: int
) -> Served:
    """The first ``requests`` of a run under ``options``; ``matched``: other targets, which they are held to besides."""
    workload = observed.workload[:requests]
    found = simulate_instants(workload, options, cost, follow_gaps=with_gaps(slo))
    instants = instants_of(observed, found)
    latencies = instants.latencies()
    met, met_matched = (
        judged(workload, instants, targets, observed.gone).near[: len(workload)] <= 1 for targets in (slo, matched)
    )
    return Served(
        met,
        met_matched,
        float(np.nanmax(found.last_token, initial=0.0)),
        int(found.preemptions.sum()),
        *(_tail(latencies[name]) for name in ("time_to_first_token", "time_per_output_token")),
    )


def _tail(values: npt.NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(np.percentile(known, TAIL)) if len(known) else float("nan")


def with_gaps(slo: Slo) -> bool:
    """Whether a target is about the time between two tokens, which has to be followed."""
    return any(targets.max_emission_gap is not None for targets in slo.values())


def instants_of(observed: Observed, found: Instants) -> RequestInstants:
    """What the first requests of the run met in a simulation."""
    recorded, count = observed.instants, len(found.last_token)
    return RequestInstants(
        recorded.arrived[:count], found.first_scheduled, found.first_token, found.last_token,
        recorded.output_tokens[:count], found.max_emission_gap,
    )  # fmt: skip


_given: tuple[Observed, Slo, Slo] | None = None
"""In a process of the pool: the run and the targets, sent once."""


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started in it hear no Ctrl-C: it ends the one that asked, which ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _give(observed: Observed, slo: Slo, matched: Slo) -> None:
    global _given  # noqa: PLW0603  (a process of a pool has nowhere else to keep what it was started with)
    _given = observed, slo, matched


def _served_of_given(task: Task) -> Served:
    assert _given is not None  # noqa: S101  (the pool's initializer ran)
    return served_by(*_given, *task)


class Simulations:
    """Simulations, each done once. ``tell`` hears after each how many of those asked for together are done, and of.

    ``matched``: other targets that everybody is held to besides.
    """

    def __init__(
        self,
        observed: Observed,
        slo: Slo,
        workers: int,
        tell: Callable[[int, int], None],
        *,
        matched: Slo | None = None,
    ) -> None:
        self._given = observed, slo, slo if matched is None else matched
        self._workers = min(workers, os.cpu_count() or 1)
        self._pool: Pool | None = None
        self._known: dict[Task, Served] = {}
        self._tell = tell

    @property
    def count(self) -> int:
        """How many were run."""
        return len(self._known)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()

    def __call__(self, tasks: Iterable[Task]) -> list[Served]:
        asked = list(tasks)
        new = [task for task in dict.fromkeys(asked) if task not in self._known]
        for done, (task, served) in enumerate(zip(new, self._results(new), strict=True), start=1):
            self._known[task] = served
            self._tell(done, len(new))
        return [self._known[task] for task in asked]

    def _results(self, tasks: list[Task]) -> Iterable[Served]:
        if self._workers > 1 and self._pool is None and sum(task[2] for task in tasks) >= IN_PROCESS_BELOW:
            with _deaf_to_interrupts():
                self._pool = multiprocessing.get_context("spawn").Pool(self._workers, _give, self._given)
        if self._pool is None:
            return (served_by(*self._given, *task) for task in tasks)
        return self._pool.imap(_served_of_given, tasks)
