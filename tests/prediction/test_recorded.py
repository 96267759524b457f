"""Requests and forward passes that two processes recorded are one observed run, by the clock on the wall."""

from __future__ import annotations

import json

import numpy as np
import pytest
from recorded_engines import OPTIONS, TRUTH, recorded

from batchscope import CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.cli import run as command
from batchscope.importing import Given, import_run
from batchscope.prediction import NotEnoughError, fit
from batchscope.prediction.recorded import read_observed

WALL = 1_782_777_601.25
HOST = 4e-3
"""Seconds an iteration outside of its forward pass."""


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def passes(engine, moved=0.0):
    """A dynamo.fpm.trace.v1 of the engine, one iteration of two: the others were not kept."""
    seen = engine.iterations
    for number in range(0, len(seen), 2):
        scheduled = {
            "num_prefill_requests": int(seen.prefill_tokens[number] > 0),
            "sum_prefill_tokens": int(seen.prefill_tokens[number]),
            "num_decode_requests": int(seen.decoding_requests[number]),
            "sum_decode_kv_tokens": int(seen.kv_tokens_read[number]),
        }
        fpm = {"version": 1, "worker_id": "w", "counter_id": number, "scheduled_requests": scheduled,
               "wall_time": seen.seconds[number] - HOST}  # fmt: skip
        at = round(1000 * (WALL + moved + seen.finished_at[number]))
        yield {
            "event": {"schema": "dynamo.fpm.trace.v1", "observed_at_unix_ms": at, "capture_mode": "sampled", "fpm": fpm}
        }


def requests(engine):
    """What vLLM's own metrics say of the requests; its clock is not the one on the wall."""
    instants = engine.instants
    for index, spec in enumerate(engine.workload):
        yield {
            "request_id": f"r{index}", "input_toks": spec.prompt_tokens, "output_toks": spec.output_tokens,
            "queued_ts": 500 + instants.arrived[index], "scheduled_ts": 500 + instants.first_scheduled[index],
            "first_token_ts": 500 + instants.first_token[index], "last_token_ts": 500 + instants.last_token[index],
            "arrival_time": WALL + instants.arrived[index],
        }  # fmt: skip


@pytest.fixture(scope="module")
def engine():
    return recorded(seed=2)


@pytest.fixture(scope="module")
def runs(engine, tmp_path_factory):
    """Folders of the requests, of the passes, and of passes of another day."""
    root = tmp_path_factory.mktemp("apart")
    given = Given(max_running_requests=32, max_scheduled_tokens=1024, kv_cache_blocks=4000, kv_block_size=16)
    for name, rows in (("requests", requests(engine)), ("passes", passes(engine)), ("later", passes(engine, 86_400))):
        (root / f"{name}.jsonl").write_text(lines(rows))
        import_run([root / f"{name}.jsonl"], root / name, given)
    return root


def test_both_are_of_one_clock(runs, engine):
    observed = read_observed(runs / "requests", runs / "passes")
    assert observed.forward_passes
    assert observed.options.max_running_requests == OPTIONS.max_running_requests
    kept = engine.iterations.where(np.arange(len(engine.iterations)) % 2 == 0)
    assert len(observed.iterations) == len(kept)
    first = engine.instants.arrived[0]  # is 0 there
    assert observed.iterations.finished_at == pytest.approx(kept.finished_at - first, abs=2e-3)
    assert observed.iterations.seconds == pytest.approx(kept.seconds - HOST)
    assert observed.instants.last_token == pytest.approx(engine.instants.last_token - first)


def test_fit_names_this_depth_and_finds_the_engines_constants(runs, capsys):
    """Iterations that are missing between two of the trace are none that were lost."""
    asked = ["fit", str(runs / "requests"), "--iterations", str(runs / "passes")]
    assert command([*asked, "--json"]) == 0
    model = json.loads(capsys.readouterr().out)
    assert model["depth"] == "forward passes"
    for name in ("fixed", "per_prefill_token"):
        assert model["constants"][name]["value"] == pytest.approx(getattr(TRUTH, name), rel=0.05)
    assert command(asked) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "fitted to forward passes and requests" in told
    assert "between its forward passes the engine takes" in told


def test_requests_alone_are_another_depth(runs):
    observed = read_observed(runs / "requests")
    assert observed.iterations is None
    assert not observed.forward_passes


def test_passes_of_another_time_or_none_are_refused(runs):
    with pytest.raises(NotEnoughError, match="do not overlap: expected the same engine's, of the same time"):
        read_observed(runs / "requests", runs / "later")
    with pytest.raises(NotEnoughError, match="no iteration in it"):
        read_observed(runs / "requests", runs / "requests")


def test_passes_without_requests_say_what_they_lack(runs):
    with pytest.raises(NotEnoughError, match="0 requests finished in what is to be fitted"):
        fit(read_observed(runs / "passes"))


@pytest.mark.parametrize(
    ("told", "found_again"),
    [
        ({}, True),
        ({"prefix_caching": False}, False),
        ({"cache_config": {"enable_prefix_caching": False}}, False),
        ({"cache_config": {"enable_prefix_caching": True}}, True),
    ],
    ids=["nothing", "our word", "vllm off", "vllm on"],
)
def test_whether_blocks_are_found_again_is_what_the_configuration_says_and_of_one_instant_who_came_first_is_first(
    tmp_path, told, found_again
):
    limits = SchedulerLimits(2, 64, kv_cache_blocks=100, kv_block_size=16)
    collector = SchedulerMetricsCollector(limits=limits, clock=lambda: 9.0)
    recording = collector.record_to(tmp_path, configuration=told)
    tracker = RequestTracker(collector)
    slots = [tracker.arrived(f"r{number}", prompt_tokens=4 + number, at=1.0) for number in range(3)]
    for now, slot in zip((2.0, 3.0, 4.0), reversed(slots), strict=True):  # who came last ends first
        tracker.iteration([slot], finished_at=now)
        tracker.finished(slot, CompletionReason.EOS_TOKEN_REACHED, at=now)
    recording.close()
    observed = read_observed(recording.path)
    assert observed.options.prefix_caching is found_again
    assert [spec.prompt_tokens for spec in observed.workload] == [4, 5, 6]
