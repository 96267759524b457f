"""Targets in the replay's own measure: within them are as many of its requests as really were within the given ones.

A replay whose times to first token are a third too short has more requests within 3 s than there were; within 2 s it
has as many. So 2 s there stand for 3 s here, and an answer that holds by only one of the two measures is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from batchscope.configuration import SloTargets
from batchscope.prediction.attainment import measured, targets_class
from batchscope.prediction.figures import RequestInstants
from batchscope.simulator import RequestSpec

Floats = npt.NDArray[np.float64]

FEWEST = 20
"""Requests that both tell of: fewer say nothing of how far off a replay is."""
EXTREME = 0.01
"""Where all were in time, or nobody, the latencies of the last or first hundredth are compared."""


class Matched(msgspec.Struct, frozen=True):
    """A target of a request class: recorded, a ``share`` of its requests was within ``limit``; replayed, ``matched``.

    Both in seconds. Of too few requests ``share`` is ``nan`` and ``matched`` the limit.
    """

    request_class: str
    target: str
    limit: float
    share: float
    matched: float

    @property
    def off(self) -> float:
        """Replayed over recorded, less 1."""
        return self.matched / self.limit - 1


def matched_targets(
    workload: Sequence[RequestSpec],
    recorded: RequestInstants,
    replayed: RequestInstants,
    slo: Mapping[str, SloTargets],
) -> list[Matched]:
    """Each target that was recorded; ``recorded`` and ``replayed`` are aligned with ``workload``."""
    classes = np.array([targets_class(spec.request_class, slo) for spec in workload])
    was, again = measured(recorded), measured(replayed)
    return [
        Matched(name, target, limit, *_matched(was[target][of], again[target][of], limit))
        for name, targets in slo.items()
        for of in [classes == name]
        for target, limit in targets.declared.items()
        if target in was and target in again
    ]


def in_its_measure(slo: Mapping[str, SloTargets], found: Iterable[Matched]) -> dict[str, SloTargets]:
    """``slo`` with the matched limits; a target that was not recorded stays."""
    limits: dict[str, dict[str, float]] = {}
    for each in found:
        limits.setdefault(each.request_class, {})[each.target] = each.matched
    return {name: msgspec.structs.replace(targets, **limits.get(name, {})) for name, targets in slo.items()}


def _matched(was: Floats, again: Floats, limit: float) -> tuple[float, float]:
    known = ~np.isnan(was + again)
    if np.count_nonzero(known) < FEWEST:
        return math.nan, limit
    share = float((was[known] <= limit).mean())
    there, here = (float(np.quantile(of[known], np.clip(share, EXTREME, 1 - EXTREME))) for of in (was, again))
    return share, limit * here / there if there > 0 and here > 0 else limit
