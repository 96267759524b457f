"""Real workloads: every request is served, and an independent simulator agrees about what it takes."""

from __future__ import annotations

import csv
import gzip
import statistics

import pytest
from simulator_doubles import SHARED, RecordingTracker, needs_shared, simulate

from batchscope.simulator import LinearCostModel, RequestSpec, SchedulerOptions, Simulator, open_trace

pytestmark = needs_shared
TRACES = SHARED / "traces"


class _CountingTracker(RecordingTracker):
    """For millions of tokens: only counts, and the integral of the requests in the system."""

    def __init__(self) -> None:
        super().__init__()
        self.emitted = self.in_system = self.total_time = 0.0
        self.longest = self.lag = 0.0
        self.unnoticed: list[float] = []

    def arrived(self, request_id, *, prompt_tokens=0, request_class=None, at=None):
        self.unnoticed.append(at)
        return super().arrived(request_id, prompt_tokens=prompt_tokens, at=at)

    def iteration(self, slots, tokens=None, *, started_at, finished_at, waiting, running_requests, **facts):
        self.emitted += len(slots) if tokens is None else sum(tokens)
        self.in_system += (waiting + running_requests) * (finished_at - started_at)
        self.lag += sum(started_at - at for at in self.unnoticed)
        self.unnoticed.clear()
        self.longest = max(self.longest, finished_at - started_at)

    def finished(self, slot, reason, *, at=None, **figures):
        self.live.remove(slot)
        self.total_time += at - self.requests[slot].arrived_at


@pytest.mark.parametrize(
    ("name", "requests", "prompt", "output"),
    [
        ("azure_llm_2023_conv.csv", 19_366, 22_361_870, 4_088_665),
        ("mooncake_conversation_trace.jsonl.gz", 12_031, 144_793_823, 4_122_048),
    ],
)
def test_every_request_of_a_real_trace_is_served_and_littles_law_holds(name, requests, prompt, output):
    tracker = _CountingTracker()
    result = Simulator(open_trace(TRACES / name), tracker).run()
    assert result.arrived == result.completed == requests
    assert result.prompt_tokens == prompt
    assert result.output_tokens == tracker.emitted == output
    # Time-averaged requests in the system = arrival rate x mean time in it, times the span on both sides.
    # The counts notice an arrival when the iteration that is under way has ended; that lag is known.
    assert tracker.in_system == pytest.approx(tracker.total_time - tracker.lag, rel=1e-9)
    assert 0 <= tracker.lag <= requests * tracker.longest
    assert tracker.in_system == pytest.approx(tracker.total_time, rel=0.01)


def test_vidurs_scheduler_and_this_one_agree_on_vidurs_run():
    """Same requests, options and cost: 4,292 iterations of theirs, and every latency within 1 %."""
    with (TRACES / "vidur_conv_sarathi" / "requests.csv").open() as file:
        theirs = {row["request_id"]: row for row in csv.DictReader(file)}
    with gzip.open(TRACES / "vidur_conv_sarathi" / "batches.csv.gz", "rt") as file:
        batches = list(csv.DictReader(file))
    workload = sorted(
        (
            RequestSpec(
                name,
                float(row["arrived_at"]),
                int(row["orig_num_prefill_tokens"]),
                int(row["orig_num_decode_tokens"]),
            )
            for name, row in theirs.items()
        ),
        key=lambda spec: spec.arrival,
    )
    options = SchedulerOptions(max_running_requests=128, max_scheduled_tokens=512)
    tracker, result = simulate(workload, options=options, cost=LinearCostModel())
    assert result.iterations == pytest.approx(len(batches), rel=0.001)
    assert result.virtual_seconds == pytest.approx(float(batches[-1]["completed_at"]), rel=0.001)

    ours = tracker.by_id()
    pairs = {
        "scheduled_at": lambda request: request.scheduled_at[0],
        "prefill_completed_at": lambda request: request.emitted_at[0],
        "completed_at": lambda request: request.finished_at,
    }
    for column, instant in pairs.items():
        mean, expected = (
            statistics.mean(values)
            for values in (
                [instant(ours[name]) - ours[name].arrived_at for name in theirs],
                [float(row[column]) - float(row["arrived_at"]) for row in theirs.values()],
            )
        )
        assert mean == pytest.approx(expected, rel=0.01), column
