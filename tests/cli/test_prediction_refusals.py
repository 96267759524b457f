"""Of runs that tell too little ``fit``, ``whatif``, ``score``, ``capacity`` and ``advise`` say so in a line, and no figure."""

from __future__ import annotations

import pytest
from command_line import Run

from batchscope import (
    CompletionReason,
    MetricsConfiguration,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
)
from batchscope.cli import run as command
from batchscope.ledger.document import RunDocument
from batchscope.ledger.writer import RunWriter
from batchscope.records import EngineInfo
from batchscope.simulator import RequestSpec, SchedulerOptions, Simulator, VirtualClock
from batchscope.sinks import Missed

COMMANDS = ("fit", "whatif", "score", "capacity", "advise")
LIMITS = SchedulerLimits(8, 256, 4000, 16)
OPTIONS = SchedulerOptions(max_running_requests=8, max_scheduled_tokens=256, kv_cache_blocks=4000, policy="vllm")


class Recorded:
    """A run that is being written, and the collector whose rows it gets."""

    def __init__(self, path, engine="vllm", configuration=None):
        path.mkdir()
        self.clock = VirtualClock()
        self.collector = SchedulerMetricsCollector(
            MetricsConfiguration(slo=SloTargets(2.0)), limits=LIMITS, clock=self.clock
        )
        self.collector.engine = EngineInfo(engine, "1.0")
        self.writer = RunWriter(path, RunDocument(configuration={"policy": "vllm"}), self.clock)
        self.end = self.collector.subscribe(self.writer)
        self.tracker = RequestTracker(self.collector)

    def close(self):
        self.collector.drain()
        self.end()
        self.writer.close({})
        self.collector.close()

    def serve(self, requests=120, **facts):
        specs = [RequestSpec(i, i / 5, 60 + 37 * i % 400, 8 + i % 90) for i in range(requests)]
        Simulator(specs, self.tracker, options=OPTIONS, clock=self.clock, seed=0).run()

    def one_by_one(self, requests=120, prompt=50, rank=0, tokens=4):
        """Requests that an engine of its own serves, one after the other."""
        for number in range(requests):
            slot = self.tracker.arrived((rank, number), prompt_tokens=prompt, rank=rank)
            for _ in range(tokens):
                started = self.clock()
                self.clock.advance_to(started + 0.02)
                self.tracker.iteration([slot], rank=rank, started_at=started, finished_at=self.clock())
            self.tracker.finished(slot, CompletionReason.EOS_TOKEN_REACHED)


def good(run):
    run.serve()


def without_lengths(run):
    run.one_by_one(prompt=0)


def with_lost_rows(run):
    run.serve()
    run.collector.drain()
    run.writer.missed(Missed({"REQUEST": 3}, 0.0, 1.0))


def of_two_replicas(run):
    run.one_by_one(60)
    run.one_by_one(60, rank=1)


def with_changed_settings(run):
    run.serve()
    run.collector.drain()
    run.collector.set_limits(SchedulerLimits(16, 256, 4000, 16))
    run.one_by_one(5)


def with_few_requests(run):
    run.serve(40)


def without_requests(run):
    run.collector.drain()


BAD = {
    without_lengths: "have no lengths (prompt_tokens, tokens_generated): record them",
    with_lost_rows: "3 rows were lost while it was recorded: record it again",
    of_two_replicas: "2 replicas in one run",
    with_changed_settings: "the settings changed half-way (2 kinds of limits)",
    with_few_requests: "100",
    without_requests: "",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder a kind of run, and a model of the good one."""
    root = tmp_path_factory.mktemp("refusals")
    for make in (good, *BAD):
        recorded = Recorded(root / make.__name__)
        make(recorded)
        recorded.close()
    other = Recorded(root / "other", engine="sglang")
    good(other)
    other.close()
    for name in ("good", "other"):
        assert command(["fit", str(root / name), "--out", str(root / f"{name}.json")]) == 0
    return root


def asked(name, runs, run="good", model="good", *options):
    """The command of ``run`` with the model and, where it takes them, a target."""
    given = {
        "fit": [],
        "whatif": ["--model", str(runs / f"{model}.json")],
        "score": [str(runs / f"{model}.json")],
        "capacity": ["--model", str(runs / f"{model}.json"), "--slo-ttft", "2"],
        "advise": ["--model", str(runs / f"{model}.json"), "--slo-ttft", "2", "--vary", "max_running_requests"],
    }
    return [name, str(runs / run), *given[name], *options]


def refused_in_a_line(capsys, arguments, part):
    """One line that says why, nothing on stdout, exit code 2."""
    capsys.readouterr()
    code = command(arguments)
    told = Run(code, *capsys.readouterr())
    assert told.code == 2, told
    assert told.output == ""
    assert len(told.errors.splitlines()) == 1, told.errors
    assert told.errors.startswith("error: ")
    assert part in told.errors, told.errors


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_a_run_that_tells_too_little_is_refused(runs, name, make, capsys):
    refused_in_a_line(capsys, asked(name, runs, make.__name__), BAD[make])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_of_which_a_file_is_missing_is_refused(runs, name, tmp_path, capsys):
    torn = tmp_path / "torn"
    torn.mkdir()
    for file in (runs / "good").iterdir():
        if not file.name.startswith("requests"):
            (torn / file.name).write_bytes(file.read_bytes())
    refused_in_a_line(capsys, asked(name, tmp_path, "torn", runs / "good"), "a prediction needs every request")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "fit"])
def test_a_model_of_another_engine_is_refused(runs, name, capsys):
    refused_in_a_line(capsys, asked(name, runs, model="other"), "the model is of sglang 1.0, the run good of vllm 1.0")


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [
        *((name, ("--set", "places=4"), "--set places: no such setting") for name in ("whatif", "capacity")),
        *((name, ("--set", "kv_cache_blocks=0"), "--set kv_cache_blocks=0") for name in ("whatif", "capacity")),
        *((name, ("--assume", "block_size=-1"), "--assume block_size=-1") for name in COMMANDS),
        *((name, ("--assume", "places=4"), "--assume places: no such setting") for name in COMMANDS),
        *((name, ("--assume", "kv_cache_blocks=2"), "are larger than its KV cache of 16 tokens") for name in COMMANDS),
        ("whatif", ("--set", "policy=vllm", "--set", "policy=sglang"), "--set policy=sglang: policy is there twice"),
        ("fit", ("--assume", "block-size=16", "--assume", "block_size=8"), "block_size is there twice"),
        ("advise", ("--vary", "places"), "--vary places"),
        ("advise", ("--most-kv-cache-blocks", "0"), "--most-kv-cache-blocks 0"),
        ("advise", ("--most-kv-cache-blocks", "1"), "--most-kv-cache-blocks 1: expected at least 4000"),
        ("advise", ("--kv-blocks-per-token", "1e9"), "--kv-blocks-per-token 1000000000.0: expected KV blocks from 0"),
        ("advise", ("--try-policy", "fifo"), "--try-policy fifo: expected one of"),
        ("whatif", ("--set", "prefix_caching=maybe"), "--set prefix_caching=maybe: expected True or False"),
        ("whatif", ("--set", "block_size=1000000"), "--set block_size=1000000: with it, hash_block_tokens"),
        ("whatif", ("--rate-scale", "1e-300"), "--rate-scale 1e-300: expected a factor from 0.001 to 1000"),
        ("fit", ("--out", "/nowhere/model.json"), "--out /nowhere/model.json"),
        *((name, ("--from", "1"), "no request finished after 1 of the run") for name in ("whatif", "score")),
        ("fit", ("--until", "0.1"), "expected at least 100"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(runs, name, options, part, capsys):
    refused_in_a_line(capsys, asked(name, runs, "good", "good", *options), part)


def test_requests_that_are_still_open_at_the_end_are_left_out_and_that_is_said(tmp_path, capsys):
    collector = SchedulerMetricsCollector(limits=LIMITS, clock=(clock := VirtualClock()))
    collector.engine = EngineInfo("vllm", "1.0")
    with collector, collector.record_to(tmp_path):
        tracker = RequestTracker(collector)
        specs = [RequestSpec(i, i / 5, 60 + 37 * i % 400, 8 + i % 90) for i in range(120)]
        Simulator(specs, tracker, options=OPTIONS, clock=clock, seed=0).run()
        for number in range(3):
            tracker.arrived(("open", number), prompt_tokens=50)
        collector.drain()
    assert command(["fit", str(tmp_path), "--json"]) == 0
    assert "requests that had not ended when the run did: 3 are left out" in capsys.readouterr().out


def test_a_limit_that_is_assumed_away_never_binds_and_is_said_to(runs, capsys):
    assert command(asked("whatif", runs, "good", "good", "--assume", "kv_cache_blocks=none", "--json")) == 0
    assert "kv_cache_blocks is not known: taken as never binding" in capsys.readouterr().out


def test_targets_that_nobody_can_meet_have_no_best_setting_and_no_rate(runs, capsys):
    model = str(runs / "good.json")
    known = [str(runs / "good"), "--model", model, "--slo-tpot", "0.0001"]
    refused_in_a_line(capsys, ["advise", *known, "--vary", "max_running_requests"], "serves anybody within")
    assert command(["capacity", *known]) == 1
    told = capsys.readouterr().out
    assert "no rate holds" in told
    assert "up to" not in told


@pytest.mark.parametrize("name", ["capacity", "advise"])
def test_targets_of_a_class_that_never_came_are_refused(runs, name, capsys):
    given = asked(name, runs)
    at = given.index("--slo-ttft")
    given[at : at + 2] = ["--slo", "nobody: time_to_first_token=1"]
    refused_in_a_line(capsys, given, "has requests of default, and targets are of nobody: expected a class of both")
