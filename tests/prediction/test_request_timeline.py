"""What a run does not say is found from what it says, where that is certain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from recorded_engines import OPTIONS, recorded

pa = pytest.importorskip("pyarrow")
from batchscope.prediction.timeline import contexts_of, instants_of  # noqa: E402

INSTANTS = ("arrived_at", "first_scheduled_at", "first_token_at", "last_token_at")
DURATIONS = ("queue_time", "prefill_time", "decode_time")


def _columns(engine):
    return {
        "first_token_at": engine.instants.first_token,
        "last_token_at": engine.instants.last_token,
        "prompt_tokens": np.array([spec.prompt_tokens for spec in engine.workload], float),
        "tokens_generated": engine.instants.output_tokens,
    }


def test_the_context_of_who_decodes_follows_from_first_and_last_tokens():
    engine = recorded()
    seen = engine.iterations
    found = contexts_of(seen.finished_at, seen.decoding_requests, _columns(engine))
    assert engine.preemptions == 0
    np.testing.assert_allclose(found, seen.kv_tokens_read, atol=1e-4)


def test_where_somebody_was_evicted_meanwhile_the_context_is_left_out_or_on_average_right():
    engine = recorded(rate=3.0, options=replace(OPTIONS, kv_cache_blocks=700))
    seen = engine.iterations
    found = contexts_of(seen.finished_at, seen.decoding_requests, _columns(engine))
    known = ~np.isnan(found)
    assert engine.preemptions > 5
    assert 0.3 < known.mean() < 1
    assert np.abs(found - seen.kv_tokens_read)[known].mean() < 0.02 * seen.kv_tokens_read.mean()


@given(st.lists(st.lists(st.floats(0, 100), min_size=4, max_size=4).map(sorted), min_size=1, max_size=8))
def test_instants_follow_from_durations_back_from_the_end_of_the_iteration(lives):
    lives = np.array(lives)
    told = lives[:, 3] + 0.001  # the record came a little after the engine's own clock said the end
    requests = pa.table(
        dict.fromkeys(INSTANTS, pa.nulls(len(lives), pa.float64()))
        | dict(zip(DURATIONS, np.diff(lives, axis=1).T, strict=True))
        | {"finished_at": told, "tokens_generated": np.full(len(lives), 2.0)}
    )
    iterations = pa.table({"at": np.unique(told), "finished_at": np.unique(lives[:, 3])[: len(np.unique(told))]})
    found = instants_of(requests, iterations)
    for name, expected in zip(INSTANTS, lives.T, strict=True):
        np.testing.assert_allclose(found[name], expected, atol=1e-9)


def test_instants_that_were_recorded_stand_and_what_no_duration_tells_stays_unknown():
    requests = pa.table({
        "arrived_at": [1.0, None], "first_scheduled_at": [2.0, None], "first_token_at": [3.0, None],
        "last_token_at": [4.0, None], "finished_at": [9.0, 9.0], "tokens_generated": [2.0, 2.0],
        "queue_time": [5.0, 1.0], "prefill_time": [5.0, 1.0], "decode_time": [5.0, None],
    })  # fmt: skip
    found = instants_of(
        requests, pa.table({"at": pa.array([], pa.float64()), "finished_at": pa.array([], pa.float64())})
    )
    assert [found[name][0] for name in INSTANTS] == [1.0, 2.0, 3.0, 4.0]
    assert all(np.isnan(found[name][1]) for name in INSTANTS)
