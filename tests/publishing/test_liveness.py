"""Which publications count: none twice, and what the archive covers not at all."""

import math

import msgspec
import pytest
from fleet_doubles import Engine

from batchscope.publishing.archive import FORMAT, Archive, ArchiveHeader
from batchscope.publishing.liveness import Members
from batchscope.publishing.merge_fleet import combine, nothing, steady
from batchscope.publishing.publication import Publication, decode, encode


def published(instance, base, sequence, *, final=False):
    snapshot = msgspec.structs.replace(nothing(), instance_id=instance, sequence=sequence)
    return Publication(instance, base, sequence, final, snapshot)


def holding(**silent):
    return Archive(ArchiveHeader(format=FORMAT, silent=silent))


def spans(members):
    return sorted((member.publication.base, member.publication.sequence) for member in members.gone(math.inf))


@pytest.mark.parametrize(
    ("seen", "held", "counted", "overlapping"),
    [
        ([(0, 3), (0, 5)], 0, [(0, 5)], 0),  # the later one has all of the earlier
        ([(0, 3), (3, 5)], 0, [(0, 3), (3, 5)], 0),  # claimed, and what came since
        ([(0, 3), (0, 4), (3, 5)], 0, [(0, 3), (3, 5)], 0),  # written before its process knew
        ([(0, 3), (0, 4), (4, 5)], 0, [(0, 4), (4, 5)], 0),
        ([(0, 3)], 3, [], 0),  # in the archive
        ([(0, 3), (0, 4)], 3, [], 1),  # in part
        ([(0, 3), (3, 4)], 3, [(3, 4)], 0),
        ([(3, 4)], 0, [(3, 4)], 0),  # in an archive that has forgotten it
    ],
)
def test_publications_neither_overlap_each_other_nor_the_archive(seen, held, counted, overlapping):
    members = Members(10.0)
    found = members.update([(published("a", *span), False) for span in seen], holding(a=held), 0.0)
    assert (spans(members), len(found)) == (counted, overlapping)


def test_a_process_is_waited_for_twice_as_long_as_it_said_it_may_be_silent():
    members = Members(2.0)
    quiet = published("a", 0, 1)._replace(quiet_seconds=4.0)
    members.update([(quiet, False), (published("b", 0, 1), False)], Archive(), 0.0)
    assert [snapshot.instance_id for snapshot in members.living(1.9)] == ["a", "b"]
    assert [snapshot.instance_id for snapshot in members.living(7.9)] == ["a"]
    assert members.living(8.0) == []


@pytest.mark.parametrize(("said", "believed"), [(4.0, 4.0), (-1.0, 0.0), (1e300, 3600.0)])
def test_a_publication_says_how_long_its_process_may_be_silent_an_hour_at_most(said, believed):
    assert decode(encode(published("a", 0, 1)._replace(quiet_seconds=said))).quiet_seconds == believed


def test_life_is_a_sequence_that_grows():
    members = Members(10.0)
    for now, sequence in ((0.0, 1), (9.0, 2), (18.0, 2)):
        members.update([(published("a", 0, sequence), False)], Archive(), now)
        assert len(members.living(now)) == 1
    assert len(members.living(19.0)) == 0
    members.update([(published("a", 0, 1), False)], Archive(), 30.0)  # an old listing is no sign of life
    assert len(members.gone(40.0)) == 1


@pytest.mark.parametrize(("final", "claimed"), [(True, False), (False, True)])
def test_the_final_and_the_claimed_are_gone_at_once(final, claimed):
    members = Members(10.0)
    both = published("a", 0, 1, final=final)
    members.update([(both, claimed), (both, False)], Archive(), 0.0)
    assert (members.living(0.0), len(members.gone(0.0))) == ([], 1)


def test_sums_do_not_fall_by_rounding(tmp_path):
    """0.1 + 0.2 + 0.3 is another number than 0.3 + 0.2 + 0.1; a counter that falls is a restart."""
    snapshot = Engine(tmp_path).serve(1).collector.get_snapshot()
    high, low = (0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3)
    assert low < high

    def having(busy):
        limited = {"demand": busy}
        totals = msgspec.structs.replace(snapshot.totals, busy_seconds=busy, busy_seconds_by_limiter=limited)
        histogram = snapshot.histograms["total_time"]["default"].copy()
        histogram.sum = busy
        return msgspec.structs.replace(snapshot, totals=totals, histograms={"total_time": {"default": histogram}})

    found = steady(having(low), having(high))
    assert found.totals.busy_seconds == found.totals.busy_seconds_by_limiter["demand"] == high
    assert found.histograms["total_time"]["default"].sum == high
    assert steady(having(0.5), having(high)).totals.busy_seconds == 0.5  # not rounding
    assert steady(having(high), having(low)).totals.busy_seconds == high


def test_what_cannot_be_merged_is_left_out_alone(tmp_path):
    """A snapshot without its histograms: the others count."""
    good, bad = (Engine(tmp_path).serve(2).collector.get_snapshot() for _ in range(2))
    bad = msgspec.structs.replace(bad, histograms={})
    complaints = []
    found = combine([bad, good], [], lambda *what: complaints.append(what))
    assert found.request_stats.total_requests == 2
    assert {instance for instance, _ in complaints} == {bad.instance_id}
    assert math.isnan(combine([], [], lambda *_: None).window.window_seconds)
