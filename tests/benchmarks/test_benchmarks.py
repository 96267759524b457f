"""Each benchmark runs from end to end with tiny counts; what it measured is not judged, only that it is all there."""

import msgspec
import pytest

import accuracy
import ledger
import memory
import recording
import replay
from batchscope.simulator import SyntheticWorkload
from harness.document import SCHEMA, Document, read, write
from harness.show import show

TINY = recording.Plan(rounds=1, cold_rounds=1, scale=0.002, reads=1, tail_seconds=0.01)
TARGETS = (
    ("finished request, writer(): cheaper", ">=", 15, "x"),
    ("finished request, record_request_completion: cheaper", ">=", 8, "x"),
    ("finished request, writer(), cold: cheaper", ">=", 4, "x"),
    ("finished request, record_request_completion, cold: cheaper", ">=", 4, "x"),
    ("256 gaps, list: cheaper", ">=", 40, "x"),
    ("256 gaps, ndarray: cheaper", ">=", 70, "x"),
    ("256 gaps, (gap, count): cheaper", ">=", 500, "x"),
    ("an iteration with 256 gaps, list: cheaper", ">=", 35, "x"),
    ("an iteration with 256 gaps, ndarray: cheaper", ">=", 50, "x"),
    ("an iteration with 256 gaps, (gap, count): cheaper", ">=", 70, "x"),
    ("tracker, 256 slots, steady decoding, slots: list: cheaper", ">=", 35, "x"),
    ("tracker, 256 slots, steady decoding, slots: ndarray: cheaper", ">=", 35, "x"),
    ("tracker, 256 slots, tokens given, slots: list: cheaper", ">=", 25, "x"),
    ("tracker, 256 slots, tokens given, slots: ndarray: cheaper", ">=", 25, "x"),
    ("tracker, 256 slots, one leaves, one arrives, slots: list: cheaper", ">=", 25, "x"),
    ("tracker, 256 slots, one leaves, one arrives, slots: ndarray: cheaper", ">=", 25, "x"),
    ("4 threads: of one thread's time", "<=", 1.3, "x"),
    ("a sink behind a HandOver: of the time without", "<=", 1.5, "x"),
    ("a record at 10 snapshots/s, no pause between records, p99.9: of an empty call's", "<=", 2, "x"),
    ("a record at 10 snapshots/s, 200 us between records, p99.9: of an empty call's", "<=", 2, "x"),
    (
        "a record at 10 snapshots/s, 200 us between records, a sink behind a HandOver, p99.9: of an empty call's",
        "<=",
        2,
        "x",
    ),
    ("HandOver.take, 200 us between blocks, p99.9: of an empty call's", "<=", 2, "x"),
    ("read_totals() and text exposition, beside generate_latest of as many samples: cheaper", ">=", 15, "x"),
)
"""The design's table, row by row; memory has a benchmark of its own."""


@pytest.fixture(scope="module")
def recorded():
    return recording.measure(TINY, quick=True)


def survives_json(document, folder):
    """Whether the document read back from its file is the one written."""
    path = folder / "folder" / "document.json"
    write(document, path)
    return read(path) == document


def test_every_row_of_the_target_table_is_measured(recorded):
    """The table is complete, its limits are the design's, and each mark follows from measured and limit."""
    assert tuple((row.what, row.relation, row.limit, row.unit) for row in recorded.targets) == TARGETS
    for row in recorded.targets:
        measured = row.measured
        assert measured is not None
        assert measured > 0
        assert row.met is (measured >= row.limit if row.relation == ">=" else measured <= row.limit)


def test_every_contender_has_a_figure_or_is_named_absent(recorded):
    """Nobody is silently left out: a figure with a best and a median, or the package to install."""
    figures = {f"{figure.group}: {figure.name}": figure for figure in recorded.figures}
    for contender in recording.CONTENDERS:
        figure = figures[contender.key]
        if contender.present:
            assert figure.best > 0
            assert figure.median >= figure.best
            assert figure.absent is None
        else:
            assert figure.best is None
            assert figure.absent == contender.package
            assert any(contender.key in note and contender.package in note for note in recorded.notes)


def test_prometheus_client_is_what_the_others_are_compared_with(recorded):
    """The reference is once as cheap as itself, warm and cold, and its multiprocess mode took part."""
    names = ("prometheus_client", "prometheus_client, multiprocess mode")
    found = {(each.group, each.name): each for each in recorded.figures if each.name in names}
    for group in ("finished request", "finished request, cold", "256 gaps"):
        assert found[group, names[0]].cheaper == found[group, names[0]].cheaper_median == 1
        assert found[group, names[1]].cheaper > 0


def test_a_document_says_which_machine_measured_what_and_how(recorded, tmp_path):
    """The JSON has the schema, the machine, the versions of all contenders, and comes back as it was."""
    assert survives_json(recorded, tmp_path)
    raw = msgspec.json.decode((tmp_path / "folder" / "document.json").read_bytes())
    assert raw["schema"] == SCHEMA
    assert raw["machine"]["cpu"]
    assert raw["machine"]["cores"] >= 1
    assert raw["machine"]["date"].endswith("+00:00")
    assert raw["machine"]["packages"]["prometheus-client"]
    assert set(raw["machine"]["packages"]) >= {each.package for each in recording.CONTENDERS if each.package} - {
        "prometheus_client"
    }
    assert raw["settings"]["rounds"] == 1


def test_memory_is_measured_in_processes_of_their_own(tmp_path, capfd):
    """One writer and four: growth at each share of the records, the peak, what is held, what was dropped."""
    document = memory.measure(20_000, quick=True)
    assert [row.limit for row in document.targets] == [32, 3.2, 32, 3.2]
    for group in ("1 writer", "4 writers"):
        names = [figure.name for figure in document.figures if figure.group == group]
        assert names[:-3] == [f"growth after {count:,} records" for count in (0, 2000, 4000, 10_000, 20_000)]
        values = {figure.name: figure.best for figure in document.figures if figure.group == group}
        assert values["peak growth"] >= values["growth after 0 records"] > 0
        assert values["held by the collector's objects and buffers"] > 0.5
        assert values["dropped records"] == 0
    assert survives_json(document, tmp_path)
    assert capfd.readouterr().err == ""


def test_replay_gives_the_difference_that_a_collector_makes(tmp_path):
    """With, without and the difference, in three units that agree with each other."""
    workload = SyntheticWorkload(requests=60, seed=1)
    document = replay.measure("synthetic", lambda: workload, 3, quick=True)
    cost = {(figure.group, figure.name): figure for figure in document.figures}
    assert len(cost) == 9
    assert all(figure.rounds == 3 for figure in document.figures)
    assert document.settings["requests"] == 60
    seconds = cost["CPU seconds", "with"].best
    assert cost["an iteration", "with"].best == pytest.approx(seconds / document.settings["iterations"] * 1e6)
    assert cost["an output token", "with"].best == pytest.approx(seconds / document.settings["output_tokens"] * 1e9)
    assert survives_json(document, tmp_path)


def test_pairs_of_replays_alternate_and_keep_their_kinds(monkeypatch):
    """Whichever of a pair runs first, the one with the collector is the measured one."""
    ran = []

    def run(workload, *, measured):
        ran.append(measured)
        return replay.Cost(2.0 if measured else 0.5, None)

    monkeypatch.setattr(replay, "run", run)
    pairs = [replay.pair(None, bare_first=bare_first) for bare_first in (True, False)]
    assert ran == [False, True, True, False]
    assert [each.difference for each in pairs] == [1.5, 1.5]


def test_accuracy_keeps_what_the_histogram_promises(tmp_path):
    """On seeded data the worst error is within the bound, and missing traces are named."""
    document = accuracy.measure(3000, tmp_path / "no traces", quick=True)
    assert [row.met for row in document.targets] == [True, True, True]
    assert sum("skipped" in note for note in document.notes) == 3
    groups = {figure.group for figure in document.figures}
    assert groups == {"lognormal", "gamma", "bimodal", "heavy tail", "worst of all"}
    classic = {figure.group: figure.best for figure in document.figures if figure.name == "vLLM's buckets"}
    assert classic["worst of all"] == max(classic.values()) > 5
    assert survives_json(document, tmp_path)


def test_documents_are_shown_with_their_marks(recorded, capsys):
    """The terminal shows each target's limit and mark, and says that a quick run is no result."""
    show(recorded)
    shown = capsys.readouterr().out
    assert "QUICK" in shown
    assert all(row.what in shown for row in recorded.targets)
    assert ">= 15 x" in shown


def test_a_file_that_is_no_result_is_refused(tmp_path):
    """Foreign JSON, another schema and a missing file end with one line that says what to do."""
    good = Document(
        benchmark="memory", quick=True, seconds=0.0, machine=recording.describe(), settings={}, figures=[], targets=[]
    )
    write(msgspec.structs.replace(good, schema="other/1"), tmp_path / "other.json")
    (tmp_path / "foreign.json").write_text('{"a": 1}')
    for name in ("other.json", "foreign.json", "missing.json"):
        with pytest.raises(SystemExit, match=rf"error: .*{name}: .*(measure again|--json)"):
            read(tmp_path / name)


def test_keeping_a_run_is_measured_by_its_size_and_by_what_it_takes(tmp_path):
    """Sizes meet their targets at any speed of the machine; the cost is there, with a run and without."""
    document = ledger.measure(ledger.Plan(requests=4000, rounds=1, seconds=0.2), quick=True)
    assert [row.limit for row in document.targets] == [32, 64, 0.2, 80, 0.5, 1]
    assert [row.met for row in document.targets[:4]] == [True] * 4
    cost = {(figure.group, figure.name): figure.best for figure in document.figures if figure.group.startswith("cost")}
    assert len(cost) == 6
    assert min(cost.values()) > 0
    assert survives_json(document, tmp_path)
