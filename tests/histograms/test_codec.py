import json
from math import inf, nan

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.errors import DecodeError
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.histograms.layout import MAX_SCALE, MIN_SCALE

ANY = st.floats(0, 1.7e308) | st.floats(1e-4, 100.0) | st.just(0.0)


def inside(**changes):
    """All observations within the buckets' range, so that offset, min and max depend on each other."""
    histogram = ExponentialHistogram(2)
    histogram.record_many([0.5, 2.0, 2.0])
    return {**histogram.to_dict(), **changes}


def document(**changes):
    histogram = ExponentialHistogram(2, thresholds=[1.0])
    histogram.record_many([0.0, 0.5, 2.0, 2.0, 1e9])
    return {**histogram.to_dict(), **changes}


@given(values=st.lists(ANY, max_size=40), scale=st.integers(MIN_SCALE, MAX_SCALE))
def test_what_was_written_is_read_back_equal(values, scale):
    histogram = ExponentialHistogram(scale, thresholds=[0.1, 1.0])
    histogram.record_many(values)
    text = json.dumps(histogram.to_dict(), allow_nan=False)
    assert ExponentialHistogram.from_dict(json.loads(text)) == histogram
    assert ExponentialHistogram.from_dict(msgspec.json.decode(msgspec.json.encode(histogram.to_dict()))) == histogram


@given(values=st.lists(ANY, min_size=1, max_size=40), coarse=st.integers(MIN_SCALE, 6))
def test_a_downscaled_histogram_is_read_back_equal(values, coarse):
    histogram = ExponentialHistogram(6)
    histogram.record_many(values)
    histogram = histogram.downscaled(coarse)
    assert ExponentialHistogram.from_dict(histogram.to_dict()) == histogram


def test_the_document_is_as_documented():
    assert document() == {
        "scale": 2,
        "offset": -5,
        "counts": [1, 0, 0, 0, 0, 0, 0, 0, 2],
        "zero_count": 1,
        "overflow_count": 1,
        "count": 5,
        "sum": 1000000004.5,
        "min": 0.0,
        "max": 1e9,
        "thresholds": [[1.0, 2]],
    }


def test_what_is_not_measured_is_null():
    empty = ExponentialHistogram().to_dict()
    assert (empty["sum"], empty["min"], empty["max"]) == (0.0, None, None)


@pytest.mark.parametrize("foreign", [None, [], "text", 3])
def test_what_is_no_object_is_refused(foreign):
    with pytest.raises(DecodeError, match="expected an object"):
        ExponentialHistogram.from_dict(foreign)


@pytest.mark.parametrize("key", sorted(document()))
def test_a_missing_key_is_named(key):
    broken = document()
    del broken[key]
    with pytest.raises(DecodeError, match=key):
        ExponentialHistogram.from_dict(broken)


@pytest.mark.parametrize("key", sorted(document()))
@pytest.mark.parametrize("wrong", ["text", {}, True, [[]], nan, inf, 10**400, [-1], [1.5], [[1.0]]])
def test_a_value_of_another_type_or_range_is_refused(key, wrong):
    with pytest.raises(DecodeError):
        ExponentialHistogram.from_dict(document(**{key: wrong}))


@pytest.mark.parametrize(
    "changes", [{"offset": -6}, {"scale": 3}, {"min": 0.6}, {"max": 2.1}, {"min": 0.0}, {"max": 1e9}], ids=str
)
def test_extremes_that_lie_in_other_buckets_are_refused(changes):
    assert ExponentialHistogram.from_dict(inside()).count == 3
    with pytest.raises(DecodeError):
        ExponentialHistogram.from_dict(inside(**changes))


@pytest.mark.parametrize("key", ["counts", "zero_count", "overflow_count", "count", "sum", "min", "max"])
def test_a_negative_figure_is_refused(key):
    with pytest.raises(DecodeError):
        ExponentialHistogram.from_dict(document(**{key: [-1, 3] if key == "counts" else -1}))


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 4},
        {"zero_count": 0, "count": 4},
        {"overflow_count": 0, "count": 4},
        {"scale": 13},
        {"offset": 200},
        {"offset": -200},
        {"counts": [0, 1, 2]},
        {"counts": [3, 0]},
        {"counts": [3.0]},
        {"counts": [2**63]},
        {"counts": [True, 2]},
        {"min": 0.5},
        {"max": 2.0},
        {"min": 3e9},
        {"min": None},
        {"max": None},
        {"thresholds": [[1.0]]},
        {"thresholds": [[1.0, 6]]},
        {"thresholds": [[1.0, 2], [1.0, 2]]},
        {"thresholds": [[1.0, 2], [2.0, 1]]},
        {"thresholds": [[None, 2]]},
        {"thresholds": [[float(k), 5] for k in range(1001)]},
    ],
    ids=str,
)
def test_parts_that_contradict_each_other_are_refused(changes):
    with pytest.raises(DecodeError):
        ExponentialHistogram.from_dict(document(**changes))


def test_an_empty_document_with_figures_is_refused():
    empty = ExponentialHistogram().to_dict()
    for changes in ({"sum": 1.0}, {"min": 1.0}, {"offset": 3}):
        with pytest.raises(DecodeError):
            ExponentialHistogram.from_dict({**empty, **changes})


def test_a_lost_sum_is_accepted_only_where_it_can_have_overflowed():
    with pytest.raises(DecodeError, match="sum"):
        ExponentialHistogram.from_dict(inside(sum=None))
    assert ExponentialHistogram.from_dict(document(sum=None)).sum == inf


def test_more_buckets_than_the_range_has_are_refused_before_memory_is_taken():
    with pytest.raises(DecodeError, match="at most 240"):
        ExponentialHistogram.from_dict(document(counts=[1] * 241))


def test_an_error_message_quotes_at_most_a_line():
    with pytest.raises(DecodeError) as caught:
        ExponentialHistogram.from_dict(document(count="x" * 10_000))
    assert len(str(caught.value)) < 200


def test_an_unknown_key_is_left_to_later_versions():
    assert ExponentialHistogram.from_dict(document(exemplars=[])) == ExponentialHistogram.from_dict(document())
