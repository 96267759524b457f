"""Runs: the same as element by element, in less work."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracker_doubles import Tracked

from batchscope import CompletionReason
from batchscope.tracking import derivation
from batchscope.tracking.iteration_batch import UNKNOWN_TOKENS
from batchscope.tracking.runs import Elements, covering, long_runs, longest_within, single_runs

SLOTS, ITERATIONS = 6, 12
# What a slot did in an iteration: nothing, a token, a token counted as unknown, prefill, two tokens, evicted.
DID = {"t": (1, 1, False), "u": (1, UNKNOWN_TOKENS, False), "p": (0, 7, False), "s": (2, 2, False), "e": (0, 0, True)}
HISTORIES = st.lists(
    st.text(st.sampled_from("ttttttu-pse"), min_size=SLOTS, max_size=SLOTS), min_size=1, max_size=ITERATIONS
)


def elements(history: list[str], *, bare: bool = False) -> Elements:
    found = [
        (slot, iteration, *DID[did])
        for iteration, row in enumerate(history)
        for slot, did in enumerate(row)
        if did in ("tu" if bare else DID)
    ]
    slot, iteration, tokens, scheduled, evicted = np.array(found, dtype=np.int64).reshape(-1, 5).T
    if bare:
        return Elements(slot, iteration, None, None, None)
    return Elements(slot, iteration, tokens, scheduled, evicted.astype(bool))


def expanded(runs) -> list[tuple]:
    """Each element of each run; a further one schedules the token that it emits."""
    rows = zip(*[np.zeros(len(runs.slot)) if column is None else column for column in runs], strict=True)
    return [
        (int(slot), iteration, int(tokens), int(scheduled) if iteration == begin else None, bool(evicted))
        for slot, begin, end, tokens, scheduled, evicted in rows
        for iteration in range(int(begin), int(end) + 1)
    ]


@given(history=HISTORIES, bare=st.booleans())
def test_long_runs_hold_every_element_once_in_the_order_of_slots_and_iterations(history, bare):
    given_elements = elements(history, bare=bare)
    found = long_runs(given_elements, SLOTS, len(history))
    if found is None:  # most elements are no part of a run
        return
    single, _ = single_runs(given_elements, SLOTS)
    for one, other in zip(expanded(found), expanded(single), strict=True):
        assert (one[:3], one[4]) == (other[:3], other[4])
        assert one[3] in (None, other[3])
    assert ((found.begin[1:] > found.end[:-1]) | (found.slot[1:] > found.slot[:-1])).all()


def test_slots_that_decode_through_are_one_run_each():
    found = long_runs(elements(["tttttt"] * 5, bare=True), SLOTS, 5)
    assert found.slot.tolist() == list(range(SLOTS))
    assert (set(found.begin.tolist()), set(found.end.tolist())) == ({0}, {4})


def test_a_slot_twice_in_an_iteration_or_a_table_much_larger_than_its_elements_has_no_long_runs():
    twice = Elements(np.array([3, 3]), np.array([0, 0]), None, None, None)
    assert long_runs(twice, SLOTS, 1) is None
    assert long_runs(elements(["t-----"], bare=True), 1 << 20, 1) is None


@given(
    st.lists(st.floats(0, 8), min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=20),
)
def test_spans_are_counted_and_measured_as_by_hand(steps, pairs):
    finished = np.cumsum(steps)
    spans = [(min(pair) % len(steps), max(pair) % len(steps)) for pair in pairs]
    spans = [(low, high) for low, high in spans if low <= high]
    begin, end = np.array(spans, dtype=np.int64).reshape(-1, 2).T
    assert covering(begin, end, len(steps)).tolist() == [
        sum(low <= place <= high for low, high in spans) for place in range(len(steps))
    ]
    expected = [np.max(np.diff(finished)[low:high], initial=-1.0) if high > low else np.nan for low, high in spans]
    assert np.array_equal(longest_within(finished, begin, end), np.array(expected, dtype=float), equal_nan=True)


def play(history: list[str], *, known_starts: bool) -> list:
    """What a collector makes of a history whose slots come with their first iteration and leave at the end."""
    tracked = Tracked()
    tracked.clock.now = 100.0
    slots = tracked.arrive(*range(SLOTS))
    for number, row in enumerate(history):
        batch = [slots[place] for place, did in enumerate(row) if did in "tups"]
        tokens = [DID[did][0] for did in row if did in "tups"]
        tracked.tracker.iteration(
            batch,
            None if set(tokens) <= {1} else tokens,
            started_at=number + 0.25 if known_starts else None,
            finished_at=number + 1.0,
            preempted=[slots[place] for place, did in enumerate(row) if did == "e"],
        )
    for slot in slots[::2]:
        tracked.tracker.finished(slot, CompletionReason.CANCELLED, at=50.0)
    snapshot = tracked.collector.get_snapshot()
    iterations = [
        (s.request_count, s.tokens_generated, s.processing_time, s.running_requests, s.waiting_requests,
         s.scheduled_tokens)
        for s in tracked.collector.iteration_samples()
    ]  # fmt: skip
    requests = [
        (s.tokens_generated, s.queue_time, s.prefill_time, s.decode_time, s.preempted_time, s.max_emission_gap)
        for s in tracked.collector.request_samples()
    ]
    gaps = snapshot.histograms["inter_emission_latency"][""].to_dict()
    return [repr(iterations), repr(requests), gaps, snapshot.totals.rejected_records]  # nan is not equal to itself


@pytest.mark.parametrize("known_starts", [True, False])
@given(history=HISTORIES)
def test_what_follows_from_runs_follows_from_elements(known_starts, history):
    by_runs = play(history, known_starts=known_starts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(derivation, "long_runs", lambda *_: None)
        assert play(history, known_starts=known_starts) == by_runs
