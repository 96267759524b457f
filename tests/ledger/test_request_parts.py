"""A request's life cut into parts: they add up, and each is what the instants say."""

from __future__ import annotations

import numpy as np
import pytest
from heard_tables import tables
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_histories import random_run
from split_by_instants import split

from batchscope.ledger.histories import Histories
from batchscope.ledger.request_parts import Part


def cut(histories: Histories) -> dict[int, dict]:
    """As the oracle's answer: what is decoding and what is stretched together."""
    found: dict[int, dict] = {}
    for block in histories.cut(histories.told):
        for place, row in enumerate(block.rows):
            mine: dict = {}
            for name, ticks in (("before", block.before), ("after", block.after)):
                for column, (part, limiter) in enumerate(histories.columns):
                    seconds = float(histories.ticks.seconds(ticks[place, column]))
                    if seconds:
                        key = (str(Part.DECODE if part is Part.STRETCHED else part), limiter, name)
                        mine[key] = mine.get(key, 0.0) + seconds
            found[int(histories.number[row])] = mine
    return found


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((1, 1, 2)), st.integers(1, 9))
def test_each_part_is_what_the_instants_of_the_record_say(seed, ranks, drains):
    run = tables(random_run(seed, ranks=ranks, drains=drains))
    expected = split(*run)
    found = cut(Histories(*run))
    assert found.keys() == expected.keys()
    for request, parts in expected.items():
        assert found[request] == pytest.approx(parts, abs=1e-9), request


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((1, 2, 3)))
@example(60, 3)  # a request that is evicted on one rank and comes back on another, in an iteration after that
def test_the_parts_add_up_to_the_e2e_latency_the_ttft_and_the_longest_gap(seed, ranks):
    requests, iterations, spans = tables(random_run(seed, 60, ranks=ranks))
    histories = Histories(requests, iterations, spans)
    rows = requests.to_pylist()
    for block in histories.cut(histories.told, gaps=True):
        before, after, gap = (
            histories.ticks.seconds(one.sum(axis=1)) for one in (block.before, block.after, block.gap)
        )
        assert min(block.before.min(), block.after.min(), block.gap.min()) >= 0
        for place, row in enumerate(block.rows.tolist()):
            known = rows[row]
            assert before[place] + after[place] == pytest.approx(known["finished_at"] - known["arrived_at"], abs=1e-9)
            if known["first_token_at"] is not None:
                assert before[place] == pytest.approx(known["first_token_at"] - known["arrived_at"], abs=1e-9)
            if known["max_emission_gap"] is not None:
                assert gap[place] == pytest.approx(known["max_emission_gap"], abs=1e-9)


def test_requests_are_cut_the_same_whatever_block_they_are_in():
    run = tables(random_run(3, 80))
    whole = Histories(*run)
    (block,) = whole.cut(whole.told)
    for place, row in enumerate(block.rows):
        (alone,) = whole.cut(np.array([row]))
        assert (alone.before[0] == block.before[place]).all()
        assert (alone.after[0] == block.after[place]).all()
