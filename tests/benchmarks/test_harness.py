"""The harness: turns are taken, ratios are of one round, lost records are noticed, memory is counted."""

import os
from pathlib import Path

import numpy as np
import pytest

from batchscope import catalog
from harness import rounds, targets
from harness.competitors import MULTIPROCESS
from harness.contender import Contender, Prepared, is_present, values
from harness.document import judged
from harness.held import held_bytes, peak_bytes, resident_bytes
from harness.ours import OURS, request_by_writer
from harness.reading import exporter, full_collector
from harness.rounds import Times, interleaved
from harness.runner import Child, Local, Remote
from run import BENCHMARKS, HERE, command


def test_contenders_take_turns_round_by_round():
    """Everyone runs once a round before anyone runs again; the first round warms up and is not counted."""
    turns = []

    def contender(name):
        return Contender("group", name, 7, lambda: Prepared(lambda count: turns.append((name, count))))

    times = interleaved([contender(name) for name in "abc"], rounds=3, mode="warm")
    assert all(count == 7 for _, count in turns)
    names = [name for name, _ in turns]
    assert [set(names[k : k + 3]) for k in range(0, 12, 3)] == [set("abc")] * 4
    assert {key: len(found.rounds) for key, found in times.items()} == {f"group: {name}": 3 for name in "abc"}


def test_what_is_not_installed_does_not_run():
    """An absent module leaves its contender out of the times, and it is never made."""
    missing = Contender("group", "absent", 1, pytest.fail, "a-package", "no_such_module_here.inner")
    assert not missing.present
    assert is_present("json.decoder")
    assert interleaved([missing], rounds=1, mode="warm") == {}


def test_settling_is_part_of_a_warm_call_and_a_share_of_a_cold_one():
    """What recording puts off is run with each round, and in cold rounds apart, for its share."""
    log = []
    runner = Local(Prepared(log.append, lambda: log.append("settled")))
    runner.warm(5)
    assert log == [5, "settled"]
    runner.cold(2)
    assert log[2:] == [1, 1, "settled", *[2000, "settled"] * 3]


def test_a_contender_that_lost_records_stops_the_benchmark():
    """The collector is asked at the end whether it holds all that was recorded."""
    prepared = request_by_writer()
    prepared.body(10)
    prepared.verify(10)
    with pytest.raises(RuntimeError, match="11 requests recorded, 10 counted"):
        prepared.verify(11)


@pytest.mark.parametrize("contender", OURS, ids=lambda contender: contender.key)
def test_our_contenders_record_what_they_say(contender):
    """Everything recorded is counted, none rejected, none dropped."""
    runner = Local(contender.make())
    assert runner.warm(33) > 0
    runner.verify()


def test_multiprocess_mode_lives_in_a_child_only():
    """The child's histograms write to files of its own folder; this process's environment stays as it was."""
    before = dict(os.environ)
    with Child() as child:
        for contender in MULTIPROCESS:
            assert Remote(child, contender).warm(3) > 0
        assert Remote(child, MULTIPROCESS[0]).cold(3) > 0
        folder = Path(child._folder.name)
        assert any(path.name.startswith("histogram_") for path in folder.iterdir())
    assert not folder.exists()
    assert dict(os.environ) == before
    assert child._process.returncode == 0


def test_a_child_that_dies_is_noticed(capfd):
    """The contender that killed it is named; its error is on stderr."""
    unknown = Contender("group", "unknown", 1, pytest.fail, own_process=True)
    with Child() as child, pytest.raises(RuntimeError, match="'group: unknown'"):
        Remote(child, unknown).warm(1)
    assert "KeyError" in capfd.readouterr().err


def test_ratios_are_taken_round_by_round_and_of_the_best():
    """A slow round of both sides changes no ratio of rounds; the target is judged by best over best."""
    theirs, ours = Times([100.0, 300.0, 110.0]), Times([10.0, 30.0, 10.0])
    assert ours.ratios(theirs) == [10.0, 10.0, 11.0]
    row = targets.of_ratio(targets.Ratio("what", "theirs", "ours", ">=", 10.0), {"theirs": theirs, "ours": ours})
    assert (row.measured, row.median, row.met) == (10.0, 10.0, True)
    absent = targets.of_ratio(targets.Ratio("what", "theirs", "ours", ">=", 10.0), {"ours": ours})
    assert (absent.measured, absent.met) == (None, None)


@pytest.mark.parametrize(
    ("relation", "measured", "met"), [(">=", 4.0, True), (">=", 3.9, False), ("<=", 4.0, True), ("<=", 4.1, False)]
)
def test_the_limit_itself_is_met(relation, measured, met):
    """At the limit a target is met, beyond it not."""
    assert judged("what", relation, 4.0, "x", measured).met is met


def test_values_repeat_without_end():
    """Any number of values is given, the same ones each time, none of them alike for long."""
    assert list(values(5000))[4096:] == list(values(904))
    assert len(set(values(100))) == 100


def test_held_bytes_counts_each_buffer_once():
    """An array counts whole however often it is reached, through a view or an object column too."""
    array = np.zeros(100_000)
    inner = bytearray(50_000)
    objects = np.array([inner, None], dtype=object)
    size = held_bytes([array, array[10:], {"again": array}, objects])
    assert 850_000 <= size < 860_000
    assert 0 < resident_bytes() <= peak_bytes() * 1.01


def test_the_full_collector_has_something_in_every_metric():
    """What is exported is the whole catalogue, but for what needs hardware or what an engine alone can count."""
    of_engines = ("totals.prefix_cache", "totals.corrupted_requests")
    render = exporter()
    if render is None:
        pytest.skip("this version has no text exposition")
    text = render(full_collector(2000).read_totals()).decode()
    for metric in catalog.CATALOG:
        if metric.source.startswith(("resources.", *of_engines)) or metric.name == "batchscope_graph_tokens_total":
            continue
        assert f"\n{metric.name}" in text, metric.name


def test_the_entry_runs_all_benchmarks_with_the_same_options(tmp_path):
    """Each is a script beside run.py, and gets --quick and a file in the folder."""
    for name in BENCHMARKS:
        line = command(name, tmp_path, quick=True)
        assert Path(line[1]).is_file()
        assert line[2:] == ["--quick", "--json", str(tmp_path / f"{name}.json")]
    assert command("memory", None, quick=False)[1:] == [str(HERE / "memory.py")]


def test_rounds_of_runners_are_closed_when_one_fails(monkeypatch):
    """The child is gone even if a contender raises."""
    children = []

    class Watched(Child):
        def __init__(self):
            super().__init__()
            children.append(self)

    def fail(count):
        raise ValueError(count)

    monkeypatch.setattr(rounds, "Child", Watched)
    broken = Contender("group", "broken", 1, lambda: Prepared(fail))
    with pytest.raises(ValueError, match="1"):
        interleaved([MULTIPROCESS[0], broken], rounds=1, mode="warm", scale=0.001)
    assert [child._process.returncode for child in children] == [0]
