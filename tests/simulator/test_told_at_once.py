"""A simulation that tells its tracker repeated iterations in one call gives every figure that one by one gives."""

from __future__ import annotations

import json

import msgspec
import numpy as np
from hypothesis import given, settings
from test_policies import policy_options
from test_simulator_properties import COST, disturbances, workloads

from batchscope import RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.rows import RowKind
from batchscope.simulator import Simulator, VirtualClock
from batchscope.testing import RecordingSink


class _OneByOne:
    """What any engine would call of a tracker, and nothing else."""

    def __init__(self, tracker: RequestTracker) -> None:
        self.arrived, self.iteration, self.finished = tracker.arrived, tracker.iteration, tracker.finished


def _served(workload, options, trouble, wrapped, on_progress=None):
    """The result, the snapshot and the rows of a run."""
    clock = VirtualClock()
    limits = SchedulerLimits(max_running_requests=options.max_running_requests, kv_cache_blocks=options.kv_cache_blocks)
    with SchedulerMetricsCollector(limits=limits, clock=clock) as collector:
        sink = RecordingSink()
        collector.subscribe(sink)
        tracker = wrapped(RequestTracker(collector))
        simulator = Simulator(workload, tracker, options=options, cost=COST, disturbances=trouble, clock=clock)
        result = simulator.run(on_progress)
        document = json.loads(collector.get_snapshot().to_json(histograms=True))
    for own in ("instance_id", "started_at", "snapshot_time"):
        del document[own]
    rows = {kind: sink.runs[0].rows(kind) for kind in (RowKind.REQUEST, RowKind.ITERATION, RowKind.SPAN)}
    return result, document, rows


@settings(max_examples=30, deadline=None)
@given(workloads(), policy_options(), disturbances)
def test_every_figure_is_that_of_iterations_told_one_by_one(workload, options, trouble):
    at_once = _served(workload, options, trouble, lambda tracker: tracker)
    one_by_one = _served(workload, options, trouble, _OneByOne)
    assert at_once[:2] == one_by_one[:2]
    for kind, rows in one_by_one[2].items():
        np.testing.assert_array_equal(at_once[2][kind], rows)


@settings(max_examples=8, deadline=None)
@given(workloads(failures=False), policy_options(), disturbances)
def test_progress_is_shown_after_the_same_iterations(workload, options, trouble):
    workload = [_later(spec, day) for day in range(4) for spec in workload]
    shown = [[], []]
    for wrapped, of in zip((lambda tracker: tracker, _OneByOne), shown, strict=True):
        _served(workload, options, trouble, wrapped, of.append)
    assert shown[0] == shown[1]


def _later(spec, days):
    return msgspec.structs.replace(spec, request_id=f"{spec.request_id}+{days}", arrival=spec.arrival + 86_400 * days)
