"""Why records are refused: every value of ``rejected_records{reason}``, and how they are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import repeat
from typing import Self

DROPPED = "dropped"
"""Counted beside the reasons, never shown as one: a record for which there was no room."""
SKIPPED_FILE = "snapshot_file_"
"""Begins the reasons for which a publication of another process was not used."""


class RejectReason(StrEnum):
    """A value of the label ``reason``: which ``fault`` it counts, and what was ``expected`` instead."""

    fault: str
    expected: str

    def __new__(cls, value: str, fault: str = "", expected: str = "") -> Self:
        """A string with two explanations; ``RejectReason("negative")`` finds the one of this value."""
        reason = str.__new__(cls, value)
        reason._value_ = value
        reason.fault, reason.expected = fault, expected
        return reason

    WRONG_TYPE = "wrong_type", "a value of a wrong type; lists of unequal length", "what the method's docstring says"
    NEGATIVE = "negative", "a value below 0", "values >= 0: durations are seconds, counts whole numbers"
    INFINITE = "infinite", "an infinite value", "finite numbers"
    NOT_A_NUMBER = "not_a_number", "a value that is required is missing", "a number: it is required here"
    NOT_WHOLE = "not_whole", "a count with a fraction", "whole numbers"
    TOO_LARGE = (
        "too_large",
        "a value above 2^53, where whole numbers are no longer exact; a rank or tokens of a slot beyond their bound",
        "values up to 2**53, ranks below 65536, fewer than 2**31 tokens of one slot",
    )
    OUT_OF_ORDER = (
        "out_of_order",
        "instants of one request or iteration that go backwards",
        "instants in order, seconds of one clock: the collector's, time.monotonic unless clock= was given",
    )
    NOT_A_RATIO = (
        "not_a_ratio",
        "a kv_cache_usage above 1.01",
        "a ratio 0..1, blocks held / usable blocks, not a percentage",
    )
    MORE_THAN_SCHEDULED = (
        "more_than_scheduled",
        "prefill_tokens above scheduled_tokens, of which they are a part",
        "scheduled_tokens to be all tokens of the iteration, those of prefill among them",
    )
    STALE_SLOT = (
        "stale_slot",
        "the slot of a request that is gone",
        "a slot from arrived() whose request has not been reported as finished or lost",
    )
    TOLD_TWICE = (
        "told_twice",
        "a batch of forming() that was reported before",
        "each batch that forming() returned in one iteration() only",
    )
    NOT_TOLD = (
        "not_told",
        "a batch of forming() in whose place an iteration was reported with slots",
        "what forming() returned in the place of the slots",
    )
    DUPLICATE_REQUEST = (
        "duplicate_request",
        "a request id that is in flight already",
        "an id that is not in flight; finish or lose the request before it arrives again",
    )
    DUPLICATE_SLOT = (
        "duplicate_slot",
        "a slot twice in one iteration",
        "each slot once an iteration: in slots if it took part, in preempted if it was evicted",
    )
    NOT_RUNNING = (
        "not_running",
        "a request that no iteration took in is evicted, or completes",
        "a request that an iteration took in before it is evicted, or completes",
    )
    INTERRUPTED = (
        "interrupted",
        "a drain was ended (Ctrl-C) after it had taken the record and before it had counted it",
        "that nothing ends a drain",
    )
    UNSET_INSTANT = (
        "unset_instant",
        "an interval of vLLM's that begins or ends at an instant which it never set",
        "intervals no longer than batchscope has been listening",
    )
    INTEGRATION_FAILED = (
        "integration_failed",
        "a call of an engine that was not understood at all",
        "a version of the engine that batchscope knows; the log has the first failure",
    )
    NOT_A_RESOURCE_SAMPLE = (
        "not_a_resource_sample",
        "a resource sample of a wrong type, without a quantity, or with texts of more than 200 characters",
        "ResourceSample objects with a number each",
    )
    TOO_MANY_RESOURCES = (
        "too_many_resources",
        "a resource sample or fact beyond the 512 series or 256 facts that are kept",
        "fewer devices or quantities for one collector",
    )


def added_up(tallies: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """All of them, by reason."""
    found: dict[str, int] = {}
    for tally in tallies:
        for reason, count in tally.items():
            found[reason] = found.get(reason, 0) + count
    return found


class Tally(Counter[str]):
    """Counts of what was not taken, by reason. One thread adds, others read.

    ``counts[x] = counts.get(x, 0) + 1`` loses what a nested call of the same thread adds in its middle; a ``Counter``
    adds in one step of C. Its keys are plain strings: they are shown.
    """

    def add(self, reason: str, count: int = 1) -> None:
        """Count ``reason``, ``count`` times."""
        self.update(repeat(str(reason), count))
