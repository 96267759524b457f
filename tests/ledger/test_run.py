"""What was recorded is read again: every column, every token's instant, whatever happened between."""

from __future__ import annotations

import numpy as np
import pytest

from batchscope import CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.errors import DecodeError
from batchscope.ledger import open_run
from batchscope.ledger.schema import SCHEMAS, Table
from batchscope.rows import IterationColumn, RequestColumn, RowKind
from batchscope.testing import RecordingSink

LIMITS = SchedulerLimits(max_running_requests=8, max_scheduled_tokens=100)


@pytest.fixture
def recorded(tmp_path):
    """A run of two requests with a reset between, and the sink that heard the same."""
    now = [0.0]
    sink = RecordingSink()
    with SchedulerMetricsCollector(limits=LIMITS, clock=lambda: now[0]) as collector:
        collector.subscribe(sink)
        collector.record_to(tmp_path)
        tracker = RequestTracker(collector)
        a, b = tracker.arrived("a", prompt_tokens=5), tracker.arrived("b", prompt_tokens=3)
        for step in range(20):
            now[0] += 0.1
            tracker.iteration([a, b], [1, 1 if step % 7 else 2])
            if step % 3 == 0:
                collector.drain()
        collector.record_error("out_of_memory")
        tracker.finished(a, CompletionReason.EOS_TOKEN_REACHED)
        collector.reset()
        now[0] += 0.1
        tracker.iteration([b])
        tracker.finished(b, CompletionReason.TIMEOUT)
    return open_run(tmp_path), sink


def test_every_number_that_a_sink_heard_is_in_the_tables(recorded):
    run, sink = recorded
    for kind, table in ((RowKind.REQUEST, run.requests()), (RowKind.ITERATION, run.iterations())):
        heard = np.concatenate([each.rows(kind) for each in sink.runs])
        columns = RequestColumn if kind is RowKind.REQUEST else IterationColumn
        for column in columns:
            if column.name.lower() in table.schema.names and column.name.lower() not in {
                "request_class",
                "reason",
                "limited_by",
                "limiter_reported",
            }:
                values = table.column(column.name.lower()).to_pandas().to_numpy(dtype=float)
                np.testing.assert_array_equal(values, heard[:, column], err_msg=column.name)
    assert run.requests().column("request_id").to_pylist() == ["a", "b"]
    assert run.requests().column("segment").to_pylist() == [0, 1]


def test_every_tokens_instant_is_the_trackers(recorded):
    run, sink = recorded
    heard: dict[int, list[float]] = {}
    for each in sink.runs:
        for request, instants in each.token_instants().items():
            heard.setdefault(request, []).extend(instants)
    tokens = run.tokens().to_pandas()
    assert {request: list(group) for request, group in tokens.groupby("request")["at"]} == heard


def test_who_decodes_in_every_iteration_is_one_span_over_many_drains(recorded):
    run, _ = recorded
    spans = run.spans().to_pylist()
    assert [(s["first_iteration"], s["iterations"]) for s in spans if s["request"] == 1] == [(1, 20)]


def test_a_run_that_was_closed_is_whole(recorded):
    run, sink = recorded
    assert (run.state, run.problems) == ("finished", [])
    assert run.headers == [each.header for each in sink.runs]
    assert run.header.generation == 1
    assert [(e["kind"], e["name"]) for e in run.events().to_pylist()] == [("error", "out_of_memory"), ("reset", "")]


def test_the_tables_are_as_their_schemas_say(recorded):
    run, _ = recorded
    for table, found in zip(Table, (run.requests(), run.iterations(), run.spans(), run.events()), strict=True):
        assert found.schema.equals(SCHEMAS[table], check_metadata=False)
        assert all(field.metadata[b"meaning"] for field in found.schema)


def test_where_no_run_is_or_several_are_open_run_says_so(tmp_path):
    with pytest.raises(DecodeError, match="no run"):
        open_run(tmp_path)
    with SchedulerMetricsCollector() as collector:
        first, second = collector.record_to(tmp_path), collector.record_to(tmp_path)
    assert first.path != second.path
    with pytest.raises(DecodeError, match="2 runs"):
        open_run(tmp_path)
    assert open_run(first.path).state == "finished"
