"""A contender: something that records, in a form that can be timed."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

Body = Callable[[int], None]
"""Does its one thing so many times."""

PROMETHEUS = "prometheus_client"
REQUEST, GAPS = "finished request", "256 gaps"
ITERATION, TRACKER = "an iteration with 256 gaps", "tracker, 256 slots"
EDGES = [0.001 * 1.7**k for k in range(20)]
"""20 buckets, 1 ms to 24 s: about as many, and about where, engines have them."""

_generator = np.random.default_rng(20_240_612)
VALUES: list[float] = _generator.lognormal(np.log(0.3), 1.0, 4096).tolist()
GAP_COUNT = 256
GAP_VALUES: list[float] = _generator.lognormal(np.log(0.03), 0.5, GAP_COUNT).tolist()


def values(count: int) -> Iterator[float]:
    """So many seconds, not all alike: a constant would always fall into the same bucket."""
    return itertools.islice(itertools.cycle(VALUES), count)


class Prepared(NamedTuple):
    """A contender ready to run.

    ``settle`` does what recording put off (the drain): it is part of what a record costs. ``verify`` is told
    how often the body ran in all, and raises where not all of that arrived.
    """

    body: Body
    settle: Callable[[], None] | None = None
    verify: Callable[[int], None] | None = None


class Contender(NamedTuple):
    """``calls`` are those of one round; ``module`` must be there, ``package`` is what brings it.

    ``beside`` says which contender its time is compared with; ``own_process`` asks for a child process, in
    which prometheus_client is imported in multiprocess mode.
    """

    group: str
    name: str
    calls: int
    make: Callable[[], Prepared]
    package: str | None = None
    module: str | None = None
    own_process: bool = False

    @property
    def key(self) -> str:
        return f"{self.group}: {self.name}"

    @property
    def present(self) -> bool:
        return self.module is None or is_present(self.module)


def is_present(module: str) -> bool:
    """Whether ``module`` can be imported, without importing it (its parents aside)."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def absent(contenders: Iterable[Contender]) -> dict[str, str]:
    """Who cannot take part, and the package each needs."""
    return {each.key: each.package or each.module or "" for each in contenders if not each.present}
