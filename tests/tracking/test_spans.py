"""Which request took part in which iteration, with how many tokens: what a sink hears, and nobody else."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tracker_doubles import Tracked

from batchscope import CompletionReason
from batchscope.recording.rings import Numbering
from batchscope.rows import IterationColumn, RequestColumn, RowKind, Rows, SpanColumn
from batchscope.testing import RecordingSink

EOS = CompletionReason.EOS_TOKEN_REACHED
S = SpanColumn


class Listened(Tracked):
    def __init__(self) -> None:
        super().__init__()
        self.sink = RecordingSink()
        self.collector.subscribe(self.sink)

    def spans(self) -> list[tuple]:
        """(request, first iteration, iterations, tokens, scheduled, evicted), in order."""
        self.collector.drain()
        rows = self.sink.runs[-1].rows(RowKind.SPAN)[:, 1:]
        return sorted(tuple(None if np.isnan(value) else int(value) for value in row) for row in rows.tolist())

    def column(self, kind: RowKind, column: int) -> list[float]:
        self.collector.drain()
        return self.sink.runs[-1].rows(kind)[:, column].tolist()


def test_a_prompt_at_once_and_all_its_decoding_is_one_span():
    listened = Listened()
    a, b = listened.arrive("a", "b")
    listened.run([a], scheduled_tokens=[120], started=0.0, finished=1.0)
    listened.run([a, b], scheduled_tokens=[1, 50], started=1.0, finished=2.0)
    listened.run([a, b], started=2.0, finished=3.0)
    assert listened.spans() == [(1, 1, 3, 1, 120, 0), (2, 2, 2, 1, 50, 0)]
    assert listened.sink.runs[-1].token_instants() == {1: [1.0, 2.0, 3.0], 2: [2.0, 3.0]}


def test_chunks_accepted_drafts_and_evictions_are_spans_of_their_own():
    listened = Listened()
    a, b = listened.arrive("a", "b")
    listened.run([a, b], [0, 1], scheduled_tokens=[64, 9], started=0.0, finished=1.0)
    listened.run([a, b], [1, 3], scheduled_tokens=[36, 4], started=1.0, finished=2.0)
    listened.run([a], [1], started=2.0, finished=3.0, preempted=[b])
    assert listened.spans() == [
        (1, 1, 1, 0, 64, 0), (1, 2, 2, 1, 36, 0),
        (2, 1, 1, 1, 9, 0), (2, 2, 1, 3, 4, 0), (2, 3, 1, 0, 0, 1),
    ]  # fmt: skip


def test_iterations_of_a_rank_follow_each_other_in_their_numbers_whatever_other_ranks_do_between():
    listened = Listened()
    a, b = listened.arrive("a", "b")
    for step in range(3):
        listened.run([a], started=float(step), finished=step + 1.0, rank=0)
        listened.run([b], started=float(step), finished=step + 1.0, rank=1)
        if step == 1:
            listened.collector.drain()
    line = Numbering.LINE
    assert [span[:3] for span in listened.spans()] == [(1, 1, 2), (1, 3, 1), (2, line + 1, 2), (2, line + 3, 1)]


def test_a_drain_ends_a_span_and_the_next_goes_on_where_it_ended():
    listened = Listened()
    (a,) = listened.arrive("a")
    for step in range(4):
        listened.run([a], started=float(step), finished=step + 1.0)
        if step == 1:
            listened.collector.drain()
    assert [span[:3] for span in listened.spans()] == [(1, 1, 2), (1, 3, 2)]


def test_a_request_that_decodes_where_another_stopped_has_a_span_of_its_own():
    listened = Listened()
    a, b = listened.arrive("a", "b")
    listened.run([a, b], started=0.0, finished=1.0)
    listened.collector.drain()
    listened.run([a], started=1.0, finished=2.0)
    listened.run([b], started=2.0, finished=3.0)
    assert [span[:3] for span in listened.spans()] == [(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 3, 1)]


def test_requests_and_iterations_that_no_tracker_told_have_numbers_too():
    listened = Listened()
    listened.arrive("tracked")
    listened.collector.drain()
    listened.collector.writer().request("untracked", 1, EOS, 1.0)
    listened.collector.writer().iteration(7, 1, 1, 0, 1.0)
    listened.collector.writer().iteration(7, 1, 1, 0, 1.0)
    assert listened.column(RowKind.REQUEST, RequestColumn.NUMBER) == [2.0]
    assert listened.column(RowKind.ITERATION, IterationColumn.ORDINAL) == [1.0, 2.0]
    listened.run([], started=0.0, finished=1.0)
    assert listened.column(RowKind.ITERATION, IterationColumn.ORDINAL)[2] > 2.0


def test_a_function_hears_no_spans_even_beside_a_sink_and_without_a_sink_none_are_made():
    tracked, heard = Tracked(), []
    unsubscribe = tracked.collector.subscribe(heard.append)
    tracked.run(tracked.arrive("a"), started=0.0, finished=1.0)
    assert not [block for block in tracked.tracker.drain() if block.kind is RowKind.SPAN]
    unsubscribe()
    listened = Listened()
    listened.collector.subscribe(heard.append)
    listened.run(listened.arrive("a"), started=0.0, finished=1.0)
    assert len(listened.spans()) == 1
    assert not [block for block in heard if isinstance(block, Rows) and block.kind is RowKind.SPAN]


def test_tokens_of_an_iteration_that_was_rejected_have_no_instant_and_are_not_taken_for_others():
    listened = Listened()
    (a,) = listened.arrive("a")
    for step in range(3):
        listened.run([a], started=float(step), finished=step + 1.0, kv_cache_usage=97.0 if step == 1 else 0.5)
    assert listened.spans() == [(1, 1, 3, 1, None, 0)]
    instants = listened.sink.runs[-1].token_instants()[1]
    assert (instants[0], np.isnan(instants[1]), instants[2]) == (1.0, True, 3.0)
    assert listened.rejected == {"not_a_ratio": 1}


PART = st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 1, 1, 1, 3]), st.sampled_from([1, 1, 7, 30]))
RUN = st.tuples(
    st.just("run"), st.lists(PART, min_size=1, max_size=4), st.booleans(), st.sets(st.integers(0, 3), max_size=1)
)
STEPS = st.one_of(
    RUN, RUN, RUN, RUN, st.just("arrive"), st.just("drain"), st.tuples(st.just("finish"), st.integers(0, 5))
)


@settings(max_examples=100)
@given(st.lists(STEPS, min_size=8, max_size=40))
def test_spans_say_of_each_request_in_each_iteration_what_was_told(script):
    """Stale slots and a slot named twice, too: what is refused is in no span."""
    listened, slots, live, iterations = Listened(), [], [], 0
    expected: dict[tuple[int, int], tuple] = {}
    holding: set[int] = set()
    for step in ["arrive", "arrive", *script]:
        if step == "arrive":
            live.append(len(slots))
            slots += listened.arrive(len(slots), at=float(iterations))
        elif step == "drain":
            listened.collector.drain()
        elif step[0] == "finish" and slots:
            which = step[1] % len(slots)
            listened.tracker.finished(slots[which], CompletionReason.CANCELLED, at=float(iterations))
            live = [request for request in live if request != which]
            holding.discard(which)
        elif step[0] == "run" and slots:
            parts = {part[0] % len(slots): part[1:] for part in step[1]}
            evicted = {which % len(slots) for which in step[3]} & holding - set(parts)
            listened.run(
                [slots[which] for which in parts], [tokens for tokens, _ in parts.values()],
                scheduled_tokens=[scheduled for _, scheduled in parts.values()] if step[2] else None,
                preempted=[slots[which] for which in evicted],
                started=float(iterations), finished=iterations + 1.0,
            )  # fmt: skip
            iterations += 1
            for which in set(parts) & set(live):
                tokens, scheduled = parts[which]
                expected[which + 1, iterations] = (tokens, scheduled if step[2] else None, 0)
                holding.add(which)
            for which in evicted:
                expected[which + 1, iterations] = (0, 0, 1)
                holding.discard(which)
    found: dict[tuple[int, int], list] = defaultdict(list)
    for request, first, count, tokens, scheduled, evicted in listened.spans() if slots else ():
        for place in range(count):
            found[request, first + place].append((tokens, 1 if place else scheduled, evicted))
    assert all(len(parts) == 1 for parts in found.values())
    for key in expected.keys() | found.keys():
        (tokens, scheduled, evicted), said = found[key][0], expected[key]
        assert (tokens, evicted) == (said[0], said[2])
        if said[1] is not None:
            assert scheduled == said[1]
