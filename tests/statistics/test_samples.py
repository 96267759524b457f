"""The samples as records and as tables: every request, the slowest, and why they were slow."""

from __future__ import annotations

import csv
import importlib
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope import BatchLimiter, ConfigurationError, MissingPackageError, RequestTracker, SchedulerLimits
from spec.fakes import EOS, iteration, make, request

TIMES = st.lists(st.none() | st.integers(0, 50), max_size=12)


@given(times=TIMES, n=st.integers(0, 15))
def test_the_slowest_are_those_with_the_longest_time_longest_first(times, n):
    collector, _ = make()
    for name, seconds in enumerate(times):
        given_ = {} if seconds is None else {"time_to_first_token": float(seconds)}
        collector.record_request_completion(request(name, **given_))
    found = collector.slowest(n)
    known = [seconds for seconds in times if seconds is not None]
    assert [sample.time_to_first_token for sample in found] == sorted(known, reverse=True)[:n]
    assert all(times[sample.request_id] == sample.time_to_first_token for sample in found)


def test_the_slowest_come_from_a_buffer_that_has_wrapped_too():
    from batchscope import MetricsConfiguration

    collector, _ = make(MetricsConfiguration(max_request_samples=4))
    for name, seconds in enumerate([9.0, 1.0, 2.0, 3.0, 5.0, 4.0]):
        collector.record_request_completion(request(name, queue_time=seconds))
    assert [sample.request_id for sample in collector.slowest(2, by="queue_time")] == [4, 5]


@pytest.mark.parametrize(("n", "by"), [(3, "ttft"), (3, "tokens_generated"), (-1, "total_time"), (True, "total_time")])
def test_what_cannot_be_ordered_by_says_what_can(n, by):
    collector, _ = make()
    with pytest.raises(ConfigurationError, match=r"time_to_first_token|whole number"):
        collector.slowest(n, by=by)


def test_the_time_a_request_waited_is_that_of_the_iterations_by_what_limited_them():
    collector, _ = make(limits=SchedulerLimits(max_running_requests=1))
    tracker = RequestTracker(collector)
    first, second = tracker.arrived("a", at=1000.0), tracker.arrived("b", at=1000.5)
    for number in range(4):
        limiter = BatchLimiter.TOKEN_BUDGET if number == 2 else None
        tracker.iteration([first], started_at=1000.0 + number, finished_at=1001.0 + number, limited_by=limiter)
    tracker.iteration([second], started_at=1004.0, finished_at=1004.5)
    tracker.finished(first, EOS, at=1004.5)
    tracker.finished(second, EOS, at=1004.5)
    (slow,) = collector.slowest(1)
    assert (slow.request_id, slow.arrived_at, slow.first_scheduled_at, slow.first_token_at) == (
        "b",
        1000.5,
        1004.0,
        1004.5,
    )
    waited: dict[str, float] = {}
    for step in collector.iteration_samples():
        begin = max(step.finished_at - step.busy_time, slow.arrived_at)
        seconds = min(step.finished_at, slow.first_scheduled_at) - begin
        if seconds > 0:
            waited[step.limited_by] = waited.get(step.limited_by, 0.0) + seconds
    # The batch that it found running had been formed when nobody waited.
    assert waited == {BatchLimiter.DEMAND: 0.5, BatchLimiter.REQUEST_SLOTS: 2.0, BatchLimiter.TOKEN_BUDGET: 1.0}
    assert sum(waited.values()) == slow.queue_time


def filled():
    collector, _ = make()
    collector.record_request_completion(request('a,"b"', prompt_tokens=3, queue_time=0.25))
    collector.record_request_completion(request(7))
    collector.record_iteration(iteration(waiting_requests=2))
    collector.record_batch_utilization(0.5, request_count=4)
    return collector


def test_csv_has_every_field_and_nothing_where_nothing_is_known(tmp_path):
    samples = filled().request_samples()
    text = samples.to_csv(tmp_path / "requests.csv")
    assert (tmp_path / "requests.csv").read_bytes().decode() == text
    one, other = csv.DictReader(io.StringIO(text, newline=""))
    assert list(one) == list(samples[0].__struct_fields__)
    assert (one["request_id"], one["reason"], one["queue_time"], one["prompt_tokens"]) == (
        'a,"b"', "eos_token_reached", "0.25", "3",
    )  # fmt: skip
    assert (other["request_id"], other["queue_time"], other["prompt_tokens"]) == ("7", "", "")
    assert one["completed_time"].endswith("+00:00")


def test_an_id_that_utf_8_cannot_write_costs_no_table(tmp_path):
    collector, _ = make()
    collector.record_request_completion(request("\udc80"))
    text = collector.request_samples().to_csv(tmp_path / "requests.csv")
    assert "\\udc80" in text
    assert (tmp_path / "requests.csv").read_bytes() == text.encode()


@pytest.mark.parametrize("request_id", ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", -5])
def test_an_id_that_a_spreadsheet_would_run_is_a_text_to_it_unless_asked_for_as_it_is(request_id):
    collector, _ = make()
    collector.record_request_completion(request(request_id))
    samples = collector.request_samples()
    (safe,) = csv.DictReader(io.StringIO(samples.to_csv(), newline=""))
    (as_it_is,) = csv.DictReader(io.StringIO(samples.to_csv(safe=False), newline=""))
    assert safe["request_id"] == f"'{request_id}"
    assert as_it_is["request_id"] == str(request_id)
    assert safe["queue_time"] == as_it_is["queue_time"]


def test_an_id_without_a_text_is_named_by_its_type():
    class Silent:
        def __str__(self):
            raise RuntimeError("no text")

    collector, _ = make()
    collector.record_request_completion(request(Silent()))
    (row,) = csv.DictReader(io.StringIO(collector.request_samples().to_csv(), newline=""))
    assert row["request_id"] == "a Silent"


def test_a_slice_of_samples_is_a_table_again():
    samples = filled().request_samples()
    assert len(samples[:1].to_csv().splitlines()) == 2
    assert samples[-1] is samples[1]
    assert samples[:1].columns()["request_id"] == ['a,"b"']


@pytest.mark.parametrize("by", [[], {}, 3, None, "speed"])
def test_what_requests_cannot_be_ordered_by_is_said(by):
    with pytest.raises(ConfigurationError, match="by = "):
        filled().slowest(3, by=by)


@pytest.mark.parametrize(
    ("package", "method"), [("pyarrow", "to_arrow"), ("pandas", "to_pandas"), ("polars", "to_polars")]
)
@pytest.mark.parametrize("which", ["request_samples", "iteration_samples", "batch_samples"])
def test_a_table_has_the_rows_and_columns_or_its_package_is_named(package, method, which):
    samples = getattr(filled(), which)()
    try:
        importlib.import_module(package)
    except ImportError:
        with pytest.raises(MissingPackageError, match=rf"{method}\(\) needs {package}: pip install {package}"):
            getattr(samples, method)()
        return
    table = getattr(samples, method)()
    assert len(table) == len(samples)
    columns = table.column_names if package == "pyarrow" else list(table.columns)
    assert columns == list(samples[0].__struct_fields__)


def test_no_samples_are_a_table_without_rows():
    collector, _ = make()
    assert collector.request_samples() == []
    assert collector.iteration_samples().to_csv().startswith("iteration_number,request_count,")


def test_instants_that_nobody_gave_are_not_known():
    (sample,) = filled().request_samples()[:1]
    assert math.isnan(sample.arrived_at)
    assert sample.finished_at == 1000.0
