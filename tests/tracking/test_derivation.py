"""What a drain makes of a tracker's events: rows, gaps and the slot table, however the events are cut into drains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracker_doubles import Tracked

from batchscope import CompletionReason
from batchscope.configuration import SchedulerLimits
from batchscope.rows import GapColumn, Gaps, IterationColumn, RowKind, Rows
from batchscope.tracking.derivation import Derivation
from batchscope.tracking.slots import FIRST_HANDLE, FREE, SlotTable

EOS = CompletionReason.EOS_TOKEN_REACHED


def blocks(tracked: Tracked) -> list:
    """What the tracker gives the collector."""
    ready = tracked.tracker.drain()
    taken = ready[:]
    ready.clear()
    return taken


def gaps_of(found: list, column: GapColumn) -> list[tuple[float, float, int]]:
    return sorted(
        (at, value, count)
        for block in found
        if isinstance(block, Gaps) and block.column is column
        for at, value, count in zip(block.at.tolist(), block.values.tolist(), block.counts.tolist(), strict=True)
    )


def test_without_events_there_is_nothing():
    assert Derivation({None: 0.0}, 0.0, SchedulerLimits()).derive([]) == []
    assert blocks(Tracked()) == []


def test_slots_that_emit_in_two_iterations_running_share_one_gap():
    tracked = Tracked()
    slots = tracked.arrive(*range(5))
    for number in range(3):
        tracked.run(slots, started=float(number), finished=number + 1.0)
    found = blocks(tracked)
    assert gaps_of(found, GapColumn.INTER_TOKEN_LATENCY) == [(2.0, 1.0, 5), (3.0, 1.0, 5)]
    assert gaps_of(found, GapColumn.INTER_EMISSION_LATENCY) == [(2.0, 1.0, 5), (3.0, 1.0, 5)]


def test_a_slot_that_skipped_an_iteration_or_emitted_several_tokens_has_a_gap_of_its_own():
    tracked = Tracked()
    a, b = tracked.arrive("a", "b")
    tracked.run([a, b], started=0.0, finished=1.0)
    tracked.run([a], [4], started=1.0, finished=2.0)
    tracked.run([a, b], started=2.0, finished=4.0)
    found = blocks(tracked)
    assert gaps_of(found, GapColumn.INTER_TOKEN_LATENCY) == [(2.0, 0.25, 4), (4.0, 2.0, 1), (4.0, 3.0, 1)]
    assert gaps_of(found, GapColumn.INTER_EMISSION_LATENCY) == [(2.0, 1.0, 1), (4.0, 2.0, 1), (4.0, 3.0, 1)]


def test_a_prefill_chunk_is_no_emission():
    tracked = Tracked()
    (slot,) = tracked.arrive("a")
    tracked.run([slot], [0], started=0.0, finished=1.0)
    tracked.run([slot], [0], started=1.0, finished=2.0)
    found = blocks(tracked)
    assert not [block for block in found if isinstance(block, Gaps)]
    table = tracked.tracker._derivation.table
    assert np.isnan(table.first_token_at[table.rows(np.array([slot]))]).all()


def test_an_iteration_gives_an_iteration_and_a_batch_row():
    tracked = Tracked(places=4)
    tracked.run(tracked.arrive("a", "b"), started=0.0, finished=1.0)
    kinds = [block.kind for block in blocks(tracked) if isinstance(block, Rows)]
    assert kinds.count(RowKind.ITERATION) == kinds.count(RowKind.BATCH) == 1
    assert tracked.collector.batch_samples() == []  # drained here, not by the collector


def test_iterations_are_numbered_over_drains_where_the_engine_does_not():
    tracked = Tracked()
    (slot,) = tracked.arrive("a")
    numbers = []
    for number in range(4):
        tracked.run([slot], started=float(number), finished=number + 1.0)
        if number != 1:
            numbers += [
                float(row[IterationColumn.ITERATION_NUMBER])
                for block in blocks(tracked)
                if isinstance(block, Rows) and block.kind is RowKind.ITERATION
                for row in block.values
            ]
    assert numbers == [0.0, 1.0, 2.0, 3.0]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 11)))
def test_where_the_events_are_cut_into_drains_does_not_matter(cuts):
    def samples(reads: set[int]) -> list:
        tracked = Tracked()
        tracked.clock.now = 50.0
        a, b, c = tracked.arrive("a", "b", "c")
        tracker = tracked.tracker
        calls = [
            lambda: tracked.run([a, b], [0, 1], started=1.0, finished=2.0, scheduled_tokens=[8, 3]),
            lambda: tracked.run([a, b], started=2.0, finished=3.0),
            lambda: tracked.run([a], started=3.0, finished=4.0, preempted=[b]),
            lambda: tracked.run([a], [2], started=4.0, finished=5.0),
            lambda: tracker.finished(c, CompletionReason.CANCELLED, at=5.5),
            lambda: tracked.run([a, b], started=5.0, finished=6.0),
            lambda: tracked.run([a], started=6.0, finished=7.0, preempted=[b]),
            lambda: tracked.run([a, b], [1, 0], started=8.0, finished=9.0),
            lambda: tracker.finished(a, EOS, at=9.0),
            lambda: tracked.run([b], started=9.0, finished=10.0),
            lambda: tracked.run([a, b], started=10.0, finished=11.0),  # a is gone
            lambda: tracker.finished(b, EOS, at=12.0),
        ]
        for number, call in enumerate(calls):
            call()
            if number in reads:
                tracked.collector.get_snapshot()
        found = [(s.iteration_number, s.request_count, s.running_requests, s.waiting_requests, s.scheduled_tokens)
                 for s in tracked.iterations]  # fmt: skip
        kept = [
            (s.request_id, s.queue_time, s.total_time, s.preempted_time, s.preemptions, s.max_emission_gap)
            for s in tracked.requests.values()
        ]
        return [found, repr(kept), tracked.rejected]

    assert samples(cuts) == samples(set())


def test_who_left_is_remembered_only_until_the_next_iteration_and_never_without_bound():
    tracked = Tracked()
    for number in range(10_000):
        (slot,) = tracked.arrive(number)
        tracked.tracker.finished(slot, CompletionReason.REJECTED, at=1.0)
    blocks(tracked)
    derivation = tracked.tracker._derivation
    assert 0 < len(derivation._departed.at) <= 4096
    tracked.run(tracked.arrive("a"), started=2.0, finished=3.0)
    blocks(tracked)
    assert len(derivation._departed.at) == 0


def occupy(table: SlotTable, handles: list[int]) -> None:
    some = np.arange(len(handles), dtype=np.float64)
    table.occupy(np.array(handles, dtype=np.int64), some, some, np.zeros(len(handles)), some)


@pytest.mark.parametrize("more", [255, 256, 300, 4095, 70_000])
def test_the_table_grows_to_the_next_power_of_two_and_keeps_what_it_has(more):
    table = SlotTable()
    first = np.array([FIRST_HANDLE + 3])
    table.occupy(first, np.array([1.5]), np.array([7.0]), np.array([0.0]), np.array([np.nan]))
    occupy(table, list(range(FIRST_HANDLE + 4, FIRST_HANDLE + 4 + more)))
    assert table.capacity == max(256, 1 << more.bit_length())
    assert table.capacity == len(table.tokens) == len(table.max_gap)
    (row,) = table.rows(first)
    assert (table.handle[row], table.arrived_at[row], table.prompt_tokens[row]) == (first[0], 1.5, 7.0)
    assert len(table.live()) == more + 1


NO_HANDLES = [FREE, 0, 5, -(1 << 63), (1 << 63) - 1, FIRST_HANDLE - 1]


@given(st.data())
def test_a_handle_is_mapped_to_its_row_exactly_as_long_as_its_request_is_in_flight(data):
    """Against a dict: numbers ascend, nearly, with gaps; some requests outlive thousands of others."""
    table, known, number = SlotTable(2), {}, FIRST_HANDLE
    for _ in range(data.draw(st.integers(1, 12))):
        arriving = []
        for gap in data.draw(st.lists(st.sampled_from([1, 1, 1, 2, 40]), max_size=12)):
            number += gap
            arriving.append(number)
        if arriving:
            late = data.draw(st.booleans())
            occupy(table, arriving[::-1] if late else arriving)
            known |= dict.fromkeys(arriving)
        leaving = data.draw(st.lists(st.sampled_from(sorted(known)), unique=True)) if known else []
        if leaving and data.draw(st.booleans()):
            table.release(table.rows(np.array(leaving)))
        else:
            for handle in leaving:
                table.forget(handle)
        known = {handle: None for handle in known if handle not in leaving}
        asked = np.array([*range(FIRST_HANDLE, number + 3), *NO_HANDLES], dtype=np.int64)
        rows = table.rows(asked)
        assert asked[rows != FREE].tolist() == sorted(known)
        assert (table.handle[rows[rows != FREE]] == asked[rows != FREE]).all()
        assert len(table._places.window) <= 4 * table.capacity


def test_a_request_that_arrives_with_a_number_from_before_the_window_is_found_like_the_others():
    table = SlotTable(2)
    occupy(table, [FIRST_HANDLE + 1000])
    occupy(table, [FIRST_HANDLE])
    assert (table.rows(np.array([FIRST_HANDLE, FIRST_HANDLE + 1000, FIRST_HANDLE + 1])) != FREE).tolist() == [
        True, True, False
    ]  # fmt: skip
