"""The reasons for which records are refused: one list, which the pages follow."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope import BatchLimiter, CompletionReason, IterationResult, RequestTracker, SchedulerMetricsCollector
from batchscope.reasons import SKIPPED_FILE, RejectReason, Tally, added_up

GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"


def test_the_glossary_tells_every_reason_once_and_no_other():
    section = (
        GLOSSARY.read_text(encoding="utf-8").partition("\n## Rejected and dropped records\n")[2].partition("\n## ")[0]
    )
    first_cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    told = [name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)]
    assert sorted(told) == sorted([*RejectReason, f"{SKIPPED_FILE}..."])


@pytest.mark.parametrize("reason", RejectReason)
def test_a_reason_is_its_value_and_says_what_was_wrong_and_what_would_be_right(reason):
    assert RejectReason(reason.value) is reason
    assert f"{reason}" == reason.value == reason.name.lower()
    assert reason.fault
    assert reason.expected
    assert reason.fault != reason.expected


def test_reasons_are_shown_as_plain_strings_whoever_counted_them():
    collector = SchedulerMetricsCollector()
    tracker = RequestTracker(collector)
    collector.record_iteration(IterationResult(0, 1, 1, 0, -1.0))  # the checks
    collector.record_iteration(IterationResult("x", 1, 1, 0, 1.0))  # the writer
    tracker.iteration([12345], limited_by=BatchLimiter.DEMAND)  # the derivation
    tracker.finished("x", CompletionReason.ERROR)  # the tracker
    collector.record_resources([object()])
    rejected = collector.get_snapshot().request_stats.rejected_records
    assert rejected == {"negative": 1, "wrong_type": 2, "stale_slot": 1, "not_a_resource_sample": 1}
    assert {type(reason) for reason in rejected} == {str}


def test_a_tally_adds_up_and_has_zero_of_what_never_came():
    tally = Tally()
    tally.add(RejectReason.NEGATIVE, 3)
    tally.add("negative")
    assert (tally["negative"], tally["infinite"], tally.total()) == (4, 0, 4)
    assert list(tally) == ["negative"]


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9))))
def test_tallies_are_added_up_by_reason_and_none_is_changed(tallies):
    before = [dict(tally) for tally in tallies]
    reasons = {reason for tally in tallies for reason in tally}
    assert added_up(tallies) == {reason: sum(tally.get(reason, 0) for tally in tallies) for reason in reasons}
    assert tallies == before
