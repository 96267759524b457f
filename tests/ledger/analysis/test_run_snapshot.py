"""Every figure of a ledger equals the live snapshot's of the same run, and the oracle's."""

from __future__ import annotations

import json
import math
import random

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracle_modules import TRACES, needs_oracle
from recorded_tables import tables_of
from vidur_log import FOLDER, replayed

from batchscope import (
    CompletionReason,
    MetricsConfiguration,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
    decode_snapshot,
)
from batchscope.ledger.analysis.snapshot import snapshot_of
from batchscope.simulator import Disturbances, RequestSpec, SchedulerOptions, Simulator, VirtualClock
from batchscope.testing import RecordingSink

PARTS = ("request_stats", "iteration_stats", "batch_stats", "error_stats", "slo_stats", "totals", "means", "window")
GAPS = ("inter_token_latency", "inter_emission_latency")
SLO = {
    "chat": SloTargets(time_to_first_token=0.5, time_per_output_token=0.03),
    "batch": SloTargets(e2e_latency=8.0, max_emission_gap=0.2),
}
KEEPS_ALL = MetricsConfiguration(
    max_request_samples=100_000, max_iteration_samples=100_000, max_batch_samples=100_000,
    counter_window_seconds=86_400, slo=SLO,
)  # fmt: skip


def differences(live, found):
    """What is not the same to 1e-9, of a live snapshot and of a run's."""
    return [line for part in PARTS for line in _different(part, *(_plain(getattr(s, part)) for s in (live, found)))]


def _plain(part):
    plain = msgspec.to_builtins(part)
    if "window_seconds" in plain:
        del plain["window_seconds"]  # a run's is the run
    for name in GAPS:  # a live collector counts them in buckets
        if name in plain:
            plain[name] = {key: plain[name][key] for key in ("count", "mean", "max", "span_seconds")}
    return plain


def _different(path, live, found):
    if isinstance(live, dict):
        for key in live.keys() | found.keys():
            yield from _different(f"{path}.{key}", live.get(key, "absent"), found.get(key, "absent"))
    elif isinstance(live, float) and isinstance(found, float):
        if not (math.isnan(live) and math.isnan(found)) and live != pytest.approx(found, rel=1e-9, abs=1e-12):
            yield f"{path}: {live} live, {found} of the run"
    elif type(live) is not type(found) or live != found:
        yield f"{path}: {live!r} live, {found!r} of the run"


def within_buckets(live, found):
    """The live gaps lie within their histogram's guarantee of the exact ones, whose neighbours they may be."""
    for name in GAPS:
        estimate, exact = getattr(live.request_stats, name), getattr(found.request_stats, name)
        assert (exact.source, exact.relative_error) == ("samples", 0.0)
        if estimate.count > 1000:  # between two ranks linear interpolation finds values that nobody had
            for p in ("p50", "p90", "p95", "p99"):
                assert getattr(estimate, p) == pytest.approx(getattr(exact, p), rel=estimate.relative_error + 0.01)


def recorded(specs, options, disturbances=Disturbances()):  # noqa: B008
    """The live snapshot of a simulated run, and its tables."""
    sink = RecordingSink()
    live, ended = recorded_in(sink, specs, options, disturbances)
    return live, tables_of(sink, ended)


def recorded_in(sink, specs, options, disturbances=Disturbances()):  # noqa: B008
    """The live snapshot, and when the run ended."""
    clock = VirtualClock()
    limits = SchedulerLimits(
        options.max_running_requests, options.max_scheduled_tokens, options.kv_cache_blocks, options.block_size
    )
    collector = SchedulerMetricsCollector(KEEPS_ALL, limits=limits, clock=clock)
    collector.subscribe(sink)
    Simulator(specs, RequestTracker(collector), options=options, disturbances=disturbances, clock=clock, seed=0).run()
    live = collector.get_snapshot()
    collector.close()
    return live, clock()


specs = st.lists(
    st.builds(
        RequestSpec,
        request_id=st.uuids().map(str),
        arrival=st.floats(0, 5, allow_subnormal=False),
        prompt_tokens=st.integers(1, 600),
        output_tokens=st.integers(1, 60),
        request_class=st.sampled_from(["chat", "batch", "else", None]),
    ),
    min_size=1,
    max_size=25,
).map(lambda found: sorted(found, key=lambda spec: spec.arrival))


@settings(
    max_examples=3, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)  # to shrink takes minutes
@given(specs, st.integers(40, 400), st.integers(2, 16), st.sampled_from([0.0, 0.3]))
def test_every_figure_of_a_run_is_the_live_snapshots(specs, blocks, places, trouble):
    """Whatever was preempted, cut into chunks, cancelled, timed out or refused; of several request classes."""
    options = SchedulerOptions(max_running_requests=places, max_scheduled_tokens=256, kv_cache_blocks=blocks)
    disturbances = Disturbances(cancel_probability=trouble, timeout_probability=trouble, timeout_seconds=1.0)
    live, tables = recorded(specs, options, disturbances)
    found = snapshot_of(tables)
    assert differences(live, found) == []
    within_buckets(live, found)
    assert differences(found, decode_snapshot(found.to_json())) == []


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_gaps_of_requests_that_move_between_ranks_are_the_live_snapshots(seed):
    """A span says what happens on its rank; what a request did on another one meanwhile lies in between."""
    chosen = random.Random(seed)
    now, sink = [0.0], RecordingSink()
    collector = SchedulerMetricsCollector(KEEPS_ALL, clock=lambda: now[0])
    collector.subscribe(sink)
    tracker = RequestTracker(collector)
    everybody = [tracker.arrived(f"r{number}", prompt_tokens=9) for number in range(6)]
    settled, movers = everybody[:2], everybody[2:]
    for _ in range(60):
        now[0] += chosen.randrange(1, 9) / 64
        rank = chosen.randrange(3)
        batch = [*chosen.sample(movers, chosen.randrange(1, 5)), *(settled if not rank else [])]
        tracker.iteration(batch, [chosen.choice((0, 1, 1, 1, 3)) for _ in batch], finished_at=now[0], rank=rank)
    for slot in everybody[1:]:
        tracker.finished(slot, CompletionReason.EOS_TOKEN_REACHED)
    live = collector.get_snapshot()
    collector.close()
    tables = tables_of(sink, now[0])
    found = snapshot_of(tables)
    assert differences(live, found) == []
    first, second = (snapshot_of(tables.between(*edges)) for edges in ((None, now[0] / 2), (now[0] / 2, None)))
    for name in GAPS:
        counts = [getattr(part.request_stats, name).count for part in (first, second, found)]
        assert counts[0] + counts[1] == counts[2] > 0


@needs_oracle
@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the event log is not here: no {FOLDER}")
def test_figures_of_the_log_of_a_scheduler_of_others_are_the_published_ones():
    expected = json.loads((TRACES / "expected.json").read_text())["vidur_conv_sarathi"]
    sink = RecordingSink()
    replayed(SloTargets(time_to_first_token=10, time_per_output_token=0.1), expected, sink)
    found = snapshot_of(tables_of(sink, ended=expected["windows_30s"][-1]["t"]))
    stats, totals, wanted = found.request_stats, found.totals, expected["requests"]
    for name, key in (
        ("queue_time", "queue"), ("time_to_first_token", "ttft"), ("prefill_time", "prefill"),
        ("decode_time", "decode"), ("time_per_output_token", "tpot"), ("total_time", "e2e"),
        ("inter_token_latency", "itl"), ("inter_emission_latency", "itl"),
    ):  # fmt: skip
        summary = getattr(stats, name)
        figures = (summary.count, summary.mean, summary.p50, summary.p90, summary.p95, summary.p99, summary.max)
        keys = ("count", "mean", *(f"p{p}_linear" for p in (50, 90, 95, 99)), "max")
        assert figures == pytest.approx([wanted[key][each] for each in keys], rel=1e-9), name
    assert (stats.total_requests, totals.iterations) == (1000, expected["iterations"]["count"])
    assert totals.busy_seconds == pytest.approx(expected["iterations"]["busy"], rel=1e-9)
    assert totals.generation_tokens == wanted["output_tokens"]["sum"]
    assert found.slo_stats["default"].met == expected["goodput_ttft10_tpot0.1"]["good"] == 683


def test_a_stretch_has_what_ended_in_it_and_stretches_add_up():
    live, tables = recorded(
        [RequestSpec(str(i), i / 10, prompt_tokens=100, output_tokens=30) for i in range(100)],
        SchedulerOptions(max_running_requests=8, max_scheduled_tokens=256, kv_cache_blocks=400),
    )
    whole = snapshot_of(tables)
    middle = tables.began + tables.seconds / 3
    first, second = (snapshot_of(tables.between(*edges)) for edges in ((None, middle), (middle, None)))
    for path in ("iterations", "generation_tokens", "preemptions", "busy_seconds", "used_slot_seconds"):
        parts = [getattr(part.totals, path) for part in (first, second)]
        assert min(parts) > 0 or path == "preemptions"
        assert sum(parts) == pytest.approx(getattr(whole.totals, path), rel=1e-12)
    for name in GAPS:
        counts = [getattr(part.request_stats, name).count for part in (first, second, whole)]
        assert counts[0] + counts[1] == counts[2] > counts[0] > 0
    assert first.elapsed_seconds == pytest.approx(tables.seconds / 3)
    assert first.request_stats.total_requests + second.request_stats.total_requests == 100
    assert first.request_stats.requests_per_second == first.request_stats.total_requests / first.elapsed_seconds
    requests = tables.requests.to_pyarrow()
    arrived, finished = (requests.column(name).to_pylist() for name in ("arrived_at", "at"))
    assert first.totals.requests_received == sum(at <= middle for at in arrived)
    assert second.totals.requests_received == 100 - first.totals.requests_received
    flying = sum(came <= middle < left for came, left in zip(arrived, finished, strict=True))
    assert first.gauges.requests_in_flight == flying > 0 == second.gauges.requests_in_flight
    assert live.totals.iterations == whole.totals.iterations
