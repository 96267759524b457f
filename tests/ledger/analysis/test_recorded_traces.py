"""Runs on the disk: every figure of real traces equals the live snapshot's, and those that the oracle published."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from oracle_modules import TRACES, needs_oracle, oracle
from vidur_log import FOLDER, replayed

from batchscope import MetricsConfiguration, RequestTracker, SchedulerLimits, SchedulerMetricsCollector, SloTargets
from batchscope.ledger import open_run
from batchscope.ledger.analysis.opening import open_tables
from batchscope.ledger.analysis.snapshot import snapshot_of
from batchscope.ledger.document import RunDocument
from batchscope.ledger.writer import RunWriter
from batchscope.simulator import Disturbances, SchedulerOptions, Simulator, VirtualClock, open_trace

TARGETS = SloTargets(time_to_first_token=10, time_per_output_token=0.1)
IN_BUCKETS = {"inter_token_latency", "inter_emission_latency"}  # live ones come from a histogram


@needs_oracle
def test_a_run_of_a_real_schedulers_log_has_the_figures_that_were_published(tmp_path):
    expected = json.loads((TRACES / "expected.json").read_text())[FOLDER.name]
    writer = RunWriter(tmp_path, RunDocument(), lambda: 0.0)
    live = replayed(TARGETS, expected, writer).snapshot
    writer.close({})
    run = open_run(tmp_path)
    assert run.problems == []
    requests, wanted = run.requests().to_pandas(), expected["requests"]
    for column, key in (
        ("queue_time", "queue"), ("time_to_first_token", "ttft"), ("prefill_time", "prefill"), ("decode_time", "decode"),
        ("time_per_output_token", "tpot"), ("total_time", "e2e"),
    ):  # fmt: skip
        values = requests[column].dropna()
        assert len(values) == wanted[key]["count"]
        for percent in (50, 90, 95, 99):
            found = oracle.percentile_linear(sorted(values), percent)
            assert found == pytest.approx(wanted[key][f"p{percent}_linear"], rel=1e-9), (column, percent)
    assert (len(requests), run.iterations().num_rows) == (1000, expected["iterations"]["count"])
    assert run.tokens().num_rows == wanted["output_tokens"]["sum"]
    gaps = run.tokens().to_pandas().groupby("request")["at"].diff().dropna()
    assert len(gaps) == wanted["itl"]["count"]
    assert np.percentile(gaps, 99) == pytest.approx(wanted["itl"]["p99_linear"], rel=1e-9)
    busy = run.iterations().to_pandas()["busy_time"].sum()
    assert busy == pytest.approx(expected["iterations"]["busy"], rel=1e-9)
    assert live.totals.requests_received == 1000


@needs_oracle
@pytest.mark.parametrize(
    ("trace", "limit"), [("azure_llm_2023_conv.csv", 1000), ("mooncake_conversation_trace.jsonl.gz", 200)]
)
def test_every_figure_of_a_recorded_replay_is_the_live_snapshots(tmp_path, trace, limit):
    clock, options = VirtualClock(), SchedulerOptions(max_running_requests=32, kv_cache_blocks=20_000)
    configuration = MetricsConfiguration(
        max_request_samples=100_000, max_iteration_samples=200_000, max_batch_samples=200_000,
        counter_window_seconds=86_400, slo=TARGETS,
    )  # fmt: skip
    limits = SchedulerLimits(options.max_running_requests, options.max_scheduled_tokens, options.kv_cache_blocks)
    disturbed = Disturbances(cancel_probability=0.03, timeout_probability=0.03, timeout_seconds=20.0)
    with SchedulerMetricsCollector(configuration, limits=limits, clock=clock) as collector:
        collector.record_to(tmp_path)
        workload = open_trace(TRACES / trace, limit=limit)
        Simulator(workload, RequestTracker(collector), options=options, disturbances=disturbed, clock=clock).run()
        live = collector.get_snapshot()
    run = open_run(tmp_path)
    assert run.problems == []
    found = snapshot_of(open_tables(run))
    for part in ("request_stats", "iteration_stats", "slo_stats", "totals"):
        differences = [*_different(part, *(msgspec.to_builtins(getattr(each, part)) for each in (live, found)))]
        assert differences == []


def _different(path, live, found):
    if isinstance(live, dict):
        for key in live.keys() - IN_BUCKETS:
            yield from _different(f"{path}.{key}", live[key], found[key])
    elif isinstance(live, float):
        if found != pytest.approx(live, rel=1e-9, abs=1e-12, nan_ok=True):
            yield f"{path}: {live} live, {found} of the run"
    elif live != found:
        yield f"{path}: {live} live, {found} of the run"
