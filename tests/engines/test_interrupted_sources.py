"""Ctrl-C in a read, anywhere: what vLLM and SGLang told is counted once, as it is or as interrupted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from vllm_doubles import Finished, Heard, Scheduler, outputs

from batchscope import SchedulerMetricsCollector
from batchscope.engines.sglang.scheduler import SglangScheduler
from batchscope.engines.sglang.tokenizer import ABORT_SECONDS, SglangTokenizer

sys.path.append(str(Path(__file__).parent.parent / "recording"))
from interruptions import PACKAGE, RECORDING, act_at, interrupt

STEP = 1 if os.environ.get("BATCHSCOPE_SOAK") else 31
FOLDERS = (PACKAGE / "engines", RECORDING)


def in_balance(snapshot) -> bool:
    """Each request received is finished, in flight or lost."""
    totals = snapshot.totals
    gone = sum(totals.requests_by_reason.values()) + totals.requests_lost
    return totals.requests_received == gone + (snapshot.gauges.requests_in_flight or 0)


class Vllm:
    """Two steps a round with a token each; in the second a request finishes, and one is refused."""

    def __init__(self) -> None:
        self.heard = Heard()
        self.collector = self.heard.collector
        self.rounds = 0

    def tell(self) -> None:
        self.heard.step(Scheduler(1), outputs(firsts=[0.25]))
        self.heard.step(Scheduler(0), outputs(gaps=[0.125], finished=[Finished(num_generation_tokens=2)]))
        self.heard.source.turned_away()
        self.rounds += 1

    def counted(self, snapshot) -> dict[str, int]:
        reasons = snapshot.totals.requests_by_reason
        return {
            "iterations": snapshot.totals.iterations // 2,
            "gaps": snapshot.request_stats.inter_emission_latency.count,
            "refused": reasons["rejected"],
            "finished": sum(reasons.values()) - reasons["rejected"],
        }


class Sglang:
    """A request with a first token and a gap that finishes, and one aborted in the queue."""

    def __init__(self) -> None:
        self.now = 100.0
        self.collector = SchedulerMetricsCollector(clock=lambda: self.now)
        self.tokenizer = SglangTokenizer(self.collector)
        self.scheduler = SglangScheduler(self.collector)
        self.rounds = 0

    def tell(self) -> None:
        self.scheduler.observe_queue_time(0.25)
        self.tokenizer.observe_time_to_first_token({}, 0.5)
        self.tokenizer.observe_inter_token_latency({}, 0.5, 1)
        self.tokenizer.observe_one_finished_request({}, 10, 2, 4, 1.0, time_per_output_token=0.5)
        self.tokenizer.observe_one_aborted_request()
        self.now += 2 * ABORT_SECONDS
        self.rounds += 1

    def counted(self, snapshot) -> dict[str, int]:
        reasons = snapshot.totals.requests_by_reason
        return {
            "gaps": snapshot.request_stats.inter_token_latency.count,
            "aborted": reasons["cancelled"],
            "finished": reasons["other"],
        }


@pytest.mark.parametrize("engine", [Vllm, Sglang])
@pytest.mark.parametrize("read", ["get_snapshot", "reset"])
def test_a_read_ended_anywhere_loses_nothing_uncounted_and_counts_nothing_twice(engine, read):
    told, number = engine(), 0
    told.tell()
    while act_at(number, getattr(told.collector, read), interrupt, within=FOLDERS):
        snapshot = told.collector.get_snapshot()
        assert in_balance(snapshot), f"at bytecode {number}"
        if read == "get_snapshot":
            interrupted = snapshot.totals.rejected_records.get("interrupted", 0)
            for what, count in told.counted(snapshot).items():
                assert count <= told.rounds <= count + interrupted, f"{what}, at bytecode {number}"
        told.tell()
        number += STEP
    assert number > 1000


@pytest.mark.parametrize("engine", [Vllm, Sglang])
def test_an_event_that_cannot_be_read_costs_itself_alone(engine):
    told = engine()
    log = told.heard.source._log if engine is Vllm else told.tokenizer._log
    for _ in range(10):
        told.tell()
        log.append(("no", "such", "event"))
    snapshot = told.collector.get_snapshot()
    assert set(told.counted(snapshot).values()) == {10}
    assert snapshot.totals.rejected_records == {"integration_failed": 10}
