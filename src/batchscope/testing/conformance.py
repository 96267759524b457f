"""Whether what an integration reported can be true: the identities of the glossary, applied to its records."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.testing import iterations, missing, requests, snapshots, together, trackers
from batchscope.testing.double import RecordingMetrics

_SHOWN = 20


class ConformanceWarning(UserWarning):
    """What was reported does not contradict itself, but a figure cannot be had from it."""


class ConformanceError(AssertionError):
    """What was reported contradicts itself; ``violations`` has all of it, the message the first 20."""

    def __init__(self, found: list[str]) -> None:
        more = f"\n  ... and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        contradictions = "1 contradiction" if len(found) == 1 else f"{len(found)} contradictions"
        super().__init__(f"{contradictions}:\n  " + "\n  ".join(found[:_SHOWN]) + more)
        self.violations = found


def violations(reported: RecordingMetrics | MetricsSnapshot, *, drained: bool = False) -> list[str]:
    """Every contradiction, a sentence each (of what a tracker was told, a sentence a kind); none: an empty list.

    ``drained``: every request has left, so that totals of iterations and of requests must agree, too.
    """
    return list(_found(reported, drained=drained))


def assert_conforms(reported: RecordingMetrics | MetricsSnapshot, *, drained: bool = False) -> None:
    """Raise ``ConformanceError`` if anything contradicts; warn of every figure there cannot be."""
    found = violations(reported, drained=drained)
    if found:
        raise ConformanceError(found)
    for sentence in missing_figures(reported):
        warnings.warn(sentence, ConformanceWarning, stacklevel=2)


def missing_figures(reported: RecordingMetrics | MetricsSnapshot) -> list[str]:
    """What was reported is consistent, but leaves figures empty or guessed: "no figure for ...: say ...", each."""
    return list(missing.of_snapshot(reported) if isinstance(reported, MetricsSnapshot) else missing.of_double(reported))


def _found(reported: RecordingMetrics | MetricsSnapshot, *, drained: bool) -> Iterator[str]:
    if isinstance(reported, MetricsSnapshot):
        yield from snapshots.check(reported, drained=drained)
        return
    yield from requests.check(reported.requests)
    yield from iterations.check(reported.iterations, reported.limits)
    for place, batch in enumerate(reported.batches):
        if not (math.isnan(batch.utilization) or 0 <= batch.utilization <= 1):
            yield f"batch record {place}: utilization {batch.utilization}: expected 0..1, or nan without a limit"
    yield from trackers.check(reported, drained=drained)
    if drained:
        yield from together.check(reported.iterations, reported.requests)
