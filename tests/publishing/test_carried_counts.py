"""Counts since an earlier snapshot: what was before and what came since make the whole again."""

import msgspec
import pytest
from fleet_doubles import CONFIGURATION, Clock, Engine
from hypothesis import example, given
from hypothesis import strategies as st

from batchscope.collector import SchedulerMetricsCollector
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.publishing.carried_counts import Continuation, _histogram_since, since
from batchscope.publishing.merge_fleet import ended
from batchscope.statistics.merge import merge_snapshots

VALUES = st.lists(
    st.floats(1e-6, 1e6) | st.sampled_from([0.0, 0.5, 1.0, 2.0, 1e-12, 5e9]), max_size=20
)  # below, within and beyond the buckets


@given(before=VALUES, after=VALUES, scale=st.integers(0, 8))
def test_a_histogram_and_what_came_since_make_the_whole(before, after, scale):
    """Counts, extremes and thresholds exactly, the sum but for rounding; and it can be written and read."""
    whole = ExponentialHistogram(scale, thresholds=[0.5, 2.0])
    whole.record_many(before)
    old = whole.copy()
    whole.record_many(after)
    new = _histogram_since(whole, old)
    assert new.count == len(after)
    assert ExponentialHistogram.from_dict(new.to_dict()) == new
    if after:
        assert min(after) >= new.min * (1 - 2**-2) or new.min == whole.min
    old.merge(new)
    found, expected = old.to_dict(), whole.to_dict()
    assert found.pop("sum") == pytest.approx(expected.pop("sum"))
    assert found == expected


def test_what_is_gone_has_counts_and_nothing_of_the_present(tmp_path):
    snapshot = Engine(tmp_path).serve(3).collector.get_snapshot()
    found = merge_snapshots([ended(snapshot)])
    assert (found.totals, found.histograms) == (snapshot.totals, snapshot.histograms)
    assert (found.gauges.requests_running, found.window.requests, found.windowed) == (None, 0, {})
    assert found.iteration_stats.average_requests_per_iteration != found.iteration_stats.average_requests_per_iteration


@given(steps=st.lists(st.sampled_from(["serve", "publish", "fail", "fold", "reset"]), max_size=30))
@example(["serve", "publish", "serve", "fail", "fold", "reset", "serve"])
@example(["serve", "publish", "reset", "serve", "fold", "fail", "reset", "serve"])
def test_folded_and_published_are_always_all_that_was_published(steps):
    """Whatever the order of resets, failures and folds: the archive and the publication add up, never less."""
    engine, continuation = Quiet(), Continuation()
    delivered = archive = folded = None
    best = counted = looked = 0
    for step in [*steps, "publish"]:
        if step == "serve":
            engine.serve(2)
            counted += 2
        elif step == "reset":
            engine.collector.reset()
            counted = looked  # what nobody looked at before a reset is gone
        elif step == "fold" and delivered is not None and folded is None:
            archive = ended(merge_snapshots([ended(delivered.snapshot)] + ([archive] if archive else [])))
            folded = delivered.sequence
        elif step in {"publish", "fail"}:
            publication, looked = continuation.publication(engine.collector.get_snapshot(), final=False), counted
            if step == "publish" and folded is not None:  # only now it learns of it
                continuation.folded(folded)
                continuation.keep([folded])
                publication, folded = continuation.publication(engine.collector.get_snapshot(), final=False), None
            delivered = publication if step == "publish" else delivered
            continuation.keep([delivered.sequence] if delivered else [])
            if step == "publish":
                parts = [ended(publication.snapshot)] + ([archive] if archive else [])
                total = merge_snapshots(parts).totals.generation_tokens_of_iterations
                assert total == counted * 10 >= best
                best = total


class Quiet(Engine):
    """An engine without a publisher."""

    def __init__(self):
        self.collector = SchedulerMetricsCollector(CONFIGURATION, clock=Clock())


def test_after_a_reset_nothing_is_taken_away(tmp_path):
    engine = Engine(tmp_path).serve(3)
    before = engine.collector.get_snapshot()
    engine.collector.reset()
    after = engine.serve(1).collector.get_snapshot()
    assert since(after, before) is after
    assert since(msgspec.structs.replace(after, generation=0), after).totals == after.totals
