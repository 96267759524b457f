"""The main job on real input: traces served by the embedded scheduler, seen through the collector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batchscope import RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.records import Outcome
from batchscope.rows import IterationColumn, RequestColumn, RowKind
from batchscope.simulator import Disturbances, SchedulerOptions, Simulator, VirtualClock, open_trace

TRACES = Path(__file__).resolve().parents[2] / "shared" / "traces"
AZURE = TRACES / "azure_llm_2023_conv.csv"
MOONCAKE = TRACES / "mooncake_conversation_trace.jsonl.gz"

pytestmark = pytest.mark.skipif(not TRACES.is_dir(), reason="the real traces lie beside the repository in CI only")


def replay(trace, **settings):
    clock = VirtualClock()
    options = settings.pop("options", SchedulerOptions())
    limits = SchedulerLimits(options.max_running_requests, options.max_scheduled_tokens, options.kv_cache_blocks)
    collector = SchedulerMetricsCollector(limits=limits, clock=clock)
    rows = {RowKind.REQUEST: [], RowKind.ITERATION: []}
    collector.subscribe(
        lambda block: rows[block.kind].append(block.values) if getattr(block, "kind", None) in rows else None
    )
    result = Simulator(trace, RequestTracker(collector), options=options, clock=clock, seed=1, **settings).run()
    return result, collector.get_snapshot(), {kind: np.concatenate(blocks) for kind, blocks in rows.items()}


@pytest.mark.parametrize(
    ("path", "limit", "rate_scale"),
    [(AZURE, 3000, 0.7), (AZURE, 3000, 1.5), (MOONCAKE, 600, 0.3), (MOONCAKE, 600, 1.0)],
)
def test_littles_law_holds_between_iteration_and_request_rows(path, limit, rate_scale):
    """The time average of running + waiting (from iterations) is the arrival rate times the mean time in the system."""
    result, _, rows = replay(open_trace(path, limit=limit, rate_scale=rate_scale))
    requests, iterations = rows[RowKind.REQUEST], rows[RowKind.ITERATION]
    began, ended = requests[:, RequestColumn.ARRIVED_AT].min(), requests[:, RequestColumn.FINISHED_AT].max()
    in_system = iterations[:, IterationColumn.RUNNING_REQUESTS] + iterations[:, IterationColumn.WAITING_REQUESTS]
    present = float((in_system * iterations[:, IterationColumn.BUSY_TIME]).sum()) / (ended - began)
    mean_stay = float(requests[:, RequestColumn.TOTAL_TIME].mean())
    assert present == pytest.approx(result.arrived / (ended - began) * mean_stay, rel=0.03)


@pytest.mark.parametrize("path", [AZURE, MOONCAKE])
def test_what_arrived_is_what_ended_whatever_disturbs_it(path):
    """arrived = completed + failed + cancelled, in the simulator, in the statistics and in the totals."""
    result, snapshot, rows = replay(
        open_trace(path, limit=1500),
        options=SchedulerOptions(max_running_requests=64),
        disturbances=Disturbances(cancel_probability=0.1, timeout_probability=0.1, timeout_seconds=20.0),
    )
    stats = snapshot.request_stats
    ended = {
        Outcome.COMPLETED: result.completed,
        Outcome.FAILED: result.failed,
        Outcome.CANCELLED: result.cancelled,
    }
    assert result.arrived == 1500 == sum(ended.values()) == len(rows[RowKind.REQUEST])
    assert [stats.completed_requests, stats.failed_requests, stats.cancelled_requests] == list(ended.values())
    assert snapshot.totals.requests_received == 1500
    assert snapshot.gauges.requests_in_flight == snapshot.totals.requests_lost == 0
    assert min(ended.values()) > 0


@pytest.mark.parametrize(
    ("path", "requests", "prompt", "output"),
    [(AZURE, 19_366, 22_361_870, 4_088_665), (MOONCAKE, 12_031, 144_793_823, 4_122_048)],
)
def test_a_whole_trace_is_served_to_the_last_token(path, requests, prompt, output):
    """Every request of the trace completes, and the collector's totals are the trace's own."""
    _, snapshot, _ = replay(open_trace(path))
    totals = snapshot.totals
    assert snapshot.request_stats.completed_requests == requests
    assert totals.prompt_tokens_computed + totals.prompt_tokens_cached == prompt
    assert totals.generation_tokens == totals.generation_tokens_of_requests == output
    assert snapshot.request_stats.rejected_records == {}
    assert totals.dropped_records == 0
    assert snapshot.iteration_stats.limiter_reported_ratio == pytest.approx(1.0)
