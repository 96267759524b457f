"""Foreign, newer, torn, growing and unfinished runs: named, skipped or refused in one line; never a wrong number."""

from __future__ import annotations

import multiprocessing
import shutil
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchscope import CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.errors import ConfigurationError, DecodeError
from batchscope.ledger import open_run
from batchscope.ledger.analysis.opening import open_tables, reading
from batchscope.ledger.analysis.snapshot import snapshot_of
from batchscope.ledger.document import NAME
from batchscope.ledger.parts import write_part
from batchscope.ledger.recording import record
from batchscope.ledger.schema import SCHEMAS, Table
from batchscope.ledger.staging import Mark
from batchscope.records import EngineInfo


class Engine:
    """One request at a time, on a clock of the test's; ``look`` is the writer's own look for rows."""

    def __init__(self, root, **options):
        self.now = 0.0
        self.collector = SchedulerMetricsCollector(clock=lambda: self.now)
        self.recording = record(
            self.collector, root, instance_id="test", clock=lambda: self.now, interval=60, pace=lambda: self.now, **options
        )  # fmt: skip
        self.path = self.recording.path
        self.tracker = RequestTracker(self.collector)

    def work(self, requests, name="r"):
        for _ in range(requests):
            handle = self.tracker.arrived(name, prompt_tokens=7)
            for _ in range(3):
                self.now += 0.25
                self.tracker.iteration([handle])
            self.tracker.finished(handle, CompletionReason.EOS_TOKEN_REACHED)

    def look(self):
        self.recording._hand_over._hand_over()

    def close(self):
        self.collector.close()
        self.recording.close()


@pytest.fixture
def engine(tmp_path):
    engine = Engine(tmp_path)
    yield engine
    engine.close()


def test_a_run_that_is_being_written_is_read_up_to_its_last_write(engine):
    engine.work(3)
    engine.look()
    engine.work(2)  # not written yet
    run = open_run(engine.path)
    assert (run.state, run.problems, run.requests().num_rows, run.tokens().num_rows) == ("recording", [], 3, 9)
    engine.look()
    assert open_run(engine.path).requests().num_rows == 5
    assert run.requests().num_rows == 3  # what was opened stays


def test_a_write_of_which_a_reader_sees_a_part_is_left_for_later(engine):
    engine.work(3)
    engine.look()
    before = {path.name: path.read_bytes() for path in engine.path.iterdir()}
    engine.work(2)
    engine.look()
    # As if the reader came between two tables of the second write.
    (engine.path / "spans-000001.arrows").write_bytes(before["spans-000001.arrows"])
    run = open_run(engine.path)
    assert (run.state, run.problems) == ("recording", [])
    assert (run.requests().num_rows, run.iterations().num_rows, run.tokens().num_rows) == (3, 9, 9)


def test_files_of_others_are_left_out_and_named(engine):
    engine.work(3)
    engine.close()
    pq.write_table(pa.table({"a": [1]}), engine.path / "requests-000007.parquet")
    (engine.path / "iterations-000008.arrows").write_bytes(b"something else")
    (engine.path / "notes.txt").write_text("mine")
    run = open_run(engine.path)
    assert run.requests().num_rows == 3
    assert run.iterations().num_rows == 9
    assert run.problems == [
        "iterations-000008.arrows: 14 bytes at its end are of no whole write",
        "requests-000007.parquet: left out: was not written by batchscope",
    ]


def _stream(path, schema, mark):
    """A stream at ``path`` of one batch of nothing but zeros, with this mark."""
    columns = [pa.array([0]).cast(pa.string() if pa.types.is_string(kind) else kind) for kind in schema.types]
    with pa.ipc.new_stream(path, schema) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema), custom_metadata={b"batchscope": mark})


def test_streams_of_others_and_of_a_newer_schema_are_treated_as_parquet_is(engine):
    engine.work(3)
    engine.close()
    foreign, newer = engine.path / "requests-000009.arrows", engine.path / "spans-000009.arrows"
    _stream(foreign, pa.schema([("a", pa.int64())]), b'{"write":99,"until":1.0,"rows":{"requests":9}}')
    ours = SCHEMAS[Table.ITERATIONS]
    _stream(engine.path / "iterations-000009.arrows", ours.remove(ours.get_field_index("rank")), b"{}")
    run = open_run(engine.path)
    assert (run.requests().num_rows, run.iterations().num_rows) == (3, 9)
    assert len(run.problems) == 2
    assert "iterations-000009.arrows: left out: its columns are not those of iterations" in run.problems[0]
    assert run.problems[1] == "requests-000009.arrows: left out: was not written by batchscope"
    _stream(newer, SCHEMAS[Table.SPANS].with_metadata({"schema": "batchscope.ledger/99"}), b"{}")
    with pytest.raises(DecodeError, match=r"spans-000009.*ledger/99.*read it with the version that wrote it"):
        open_run(engine.path)


@pytest.mark.parametrize("mark", [b"", b"{}", b"[", b'{"write":"\xff"}'])
def test_a_batch_without_the_mark_of_its_write_is_no_part_of_the_run(engine, mark):
    engine.work(3)
    engine.close()
    _stream(engine.path / "events-000009.arrows", SCHEMAS[Table.EVENTS], mark)
    run = open_run(engine.path)
    assert run.events().num_rows == 0
    assert [problem.partition(":")[0] for problem in run.problems] == ["events-000009.arrows"]


def test_what_is_no_file_is_left_out_and_named(engine):
    engine.work(3)
    engine.close()
    (engine.path / "requests-000008.parquet").mkdir()
    (engine.path / "requests-000009.arrows").mkdir()
    run = open_run(engine.path)
    assert run.requests().num_rows == 3
    assert [problem.partition(" cannot")[0] for problem in run.problems] == [
        "requests-000008.parquet: left out:", "requests-000009.arrows: left out:",
    ]  # fmt: skip


def test_a_damaged_part_of_a_run_that_is_being_written_costs_its_own_rows_only(tmp_path):
    engine = Engine(tmp_path, part_seconds=2.0)
    engine.work(3)
    engine.look()
    for _ in range(2):
        engine.work(1)
        engine.look()
    (engine.path / "requests-000001.parquet").write_bytes(b"torn")
    last = engine.path / "requests-000002.arrows"
    assert last.exists()
    run = open_run(engine.path)
    assert (run.state, run.requests().num_rows, run.iterations().num_rows) == ("recording", 2, 15)
    assert "3 rows of requests were written and are missing" in run.problems
    last.write_bytes(last.read_bytes()[:-200])  # as if the reader came before its last write
    run = open_run(engine.path)
    assert (run.requests().num_rows, run.iterations().num_rows, run.tokens().num_rows) == (1, 12, 12)
    assert "3 rows of requests were written and are missing" in run.problems
    engine.close()


def test_a_file_that_is_damaged_inside_is_named_by_whoever_reads_it(engine):
    engine.work(300)
    engine.close()
    path = engine.path / "requests-000001.parquet"
    content = bytearray(path.read_bytes())
    content[200:900] = bytes(value ^ 0x5A for value in content[200:900])
    path.write_bytes(content)
    run = open_run(engine.path)
    with pytest.raises(
        DecodeError, match=r"requests-000001\.parquet: cannot be read: .*; move it out of the run's folder"
    ):
        run.requests()
    with pytest.raises(DecodeError, match=r"requests-000001\.parquet: cannot be read"), reading(run):
        snapshot_of(open_tables(run))
    path.unlink()
    with pytest.raises(DecodeError, match=r"requests-000001\.parquet: is gone since the run was opened"):
        run.requests()
    assert "300 rows of requests were written and are missing" in open_run(engine.path).problems


def test_requests_whose_rows_are_missing_are_not_in_flight(tmp_path):
    collector = SchedulerMetricsCollector(clock=lambda: 9.0)
    recording = collector.record_to(tmp_path)
    tracker = RequestTracker(collector)
    slots = [tracker.arrived(f"r{number}", prompt_tokens=4, at=1.0) for number in range(3)]
    tracker.iteration(slots, finished_at=2.0)
    for slot in slots[:2]:
        tracker.finished(slot, CompletionReason.EOS_TOKEN_REACHED, at=2.0)
    recording.close()
    whole = snapshot_of(open_tables(open_run(recording.path)))
    assert (whole.totals.requests_received, whole.gauges.requests_in_flight) == (3, 1)
    (recording.path / "requests-000001.parquet").unlink()
    run = open_run(recording.path)
    assert run.problems == ["2 rows of requests were written and are missing"]
    damaged = snapshot_of(open_tables(run))
    assert (damaged.totals.requests_received, damaged.gauges.requests_in_flight) == (1, 1)


def test_a_name_in_a_file_that_is_no_text_is_damage_as_any(engine):
    engine.work(3)
    engine.close()
    path = engine.path / "requests-000001.parquet"
    path.write_bytes(path.read_bytes().replace(b"queue_time", b"queue\xfftime"))
    problems = open_run(engine.path).problems
    assert problems[0].startswith("requests-000001.parquet: left out: cannot be read: ")
    assert problems[1:] == ["3 rows of requests were written and are missing"]


def test_a_part_with_other_columns_is_left_out_and_its_rows_are_missing(engine):
    engine.work(3)
    engine.close()
    path = engine.path / "requests-000001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["finished_at"]), path)
    problems = " ".join(open_run(engine.path).problems)
    assert "its columns are not those of requests" in problems
    assert "3 rows of requests were written and are missing" in problems


def test_a_part_or_a_document_of_a_newer_schema_is_refused_with_the_way_out(engine, tmp_path):
    engine.work(1)
    engine.close()
    newer = SCHEMAS[Table.EVENTS].empty_table().replace_schema_metadata({"schema": "batchscope.ledger/99"})
    pq.write_table(newer, engine.path / "events-000009.parquet")
    with pytest.raises(DecodeError, match=r"ledger/99.*read it with the version that wrote it"):
        open_run(engine.path)
    (engine.path / "events-000009.parquet").unlink()
    document = engine.path / NAME
    document.write_text(document.read_text().replace("batchscope.ledger/1", "batchscope.ledger/2"))
    with pytest.raises(DecodeError, match=r"ledger/2.*read it with the version that wrote it"):
        open_run(engine.path)
    document.write_text("{")
    with pytest.raises(DecodeError, match="not the document of a run"):
        open_run(engine.path)
    with pytest.raises(DecodeError, match="cannot be read"):
        open_run(tmp_path / "none")


def test_a_run_without_a_header_is_empty_and_says_so(engine):
    copy = engine.path.parent / "copy"
    shutil.copytree(engine.path, copy)
    document = copy / NAME
    import msgspec

    raw = msgspec.json.decode(document.read_bytes())
    document.write_bytes(msgspec.json.encode({**raw, "headers": []}))
    run = open_run(copy)
    assert run.iterations().num_rows == 0
    with pytest.raises(DecodeError, match="an empty run"):
        _ = run.header


def test_a_request_that_never_finished_has_tokens_and_is_named(engine):
    engine.work(2)
    handle = engine.tracker.arrived("endless", prompt_tokens=1)
    engine.now += 1.0
    engine.tracker.iteration([handle])
    engine.close()
    run = open_run(engine.path)
    assert run.unfinished() == [3]
    assert run.requests().column("request").to_pylist() == [1, 2]
    assert run.tokens().column("request").to_pylist() == [1, 1, 1, 2, 2, 2, 3]


def test_ids_that_come_twice_are_two_requests(engine):
    engine.work(4, name="the same")
    engine.close()
    requests = open_run(engine.path).requests()
    assert requests.column("request_id").to_pylist() == ["the same"] * 4
    assert requests.column("request").to_pylist() == [1, 2, 3, 4]


def test_two_writers_in_one_root_at_the_same_moment_have_a_run_each(tmp_path):
    engines = [Engine(tmp_path), Engine(tmp_path)]
    for number, engine in enumerate(engines):
        engine.work(number + 1)
        engine.close()
    assert sorted(open_run(engine.path).requests().num_rows for engine in engines) == [1, 2]
    assert len({engine.path for engine in engines}) == 2


def test_resets_other_limits_and_engines_are_segments_of_one_run_without_a_wrong_number(engine):
    engine.collector.set_limits(SchedulerLimits(max_running_requests=4))
    engine.work(1)
    engine.collector.set_limits(SchedulerLimits(max_running_requests=2))
    engine.work(1)
    engine.collector.reset()
    engine.work(1)
    engine.collector.drain()
    engine.collector.engine = EngineInfo("other", "1")
    engine.collector.drain()
    engine.work(1)
    engine.close()
    run = open_run(engine.path)
    iterations = run.iterations().to_pandas()
    assert iterations.groupby("segment")["utilization"].first().tolist() == [0.25, 0.5, 0.5, 0.5]
    assert [header.limits.max_running_requests for header in run.headers] == [None, 4, 2, 2, 2]
    assert run.events().column("kind").to_pylist() == ["limits", "limits", "reset", "engine"]
    assert run.events().column("at").to_pylist()[2] == pytest.approx(1.5)  # when it was, not when it was heard of
    assert iterations["iteration"].tolist() == list(range(1, 13))
    assert run.header.engine.kind == "other"


def test_a_clock_that_jumps_ahead_or_stands_still_changes_no_number(tmp_path):
    engine = Engine(tmp_path, part_seconds=10.0)
    engine.work(2)
    engine.look()
    engine.now += 1e6
    engine.work(2)
    engine.look()
    engine.look()
    engine.close()
    run = open_run(engine.path)
    assert (run.state, run.problems, run.requests().num_rows, run.tokens().num_rows) == ("finished", [], 4, 12)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_leaves_the_run_to_its_parent(engine):
    engine.work(2)
    engine.look()
    child = multiprocessing.get_context("fork").Process(target=_child, args=(engine,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert open_run(engine.path).state == "recording"  # the lock is the parent's, and held
    engine.work(1)
    engine.close()
    run = open_run(engine.path)
    assert (run.state, run.problems, run.requests().num_rows) == ("finished", [], 3)


def _child(engine):
    engine.work(5)
    engine.look()
    engine.close()


def test_a_part_is_there_whole_or_not_at_all(tmp_path):
    (tmp_path / "requests-000001.parquet").mkdir()  # it cannot be renamed there
    with pytest.raises(OSError, match="directory"):
        write_part(tmp_path, Table.REQUESTS, 1, SCHEMAS[Table.REQUESTS].empty_table(), Mark(1, 0.0, {}))
    assert [path.name for path in tmp_path.iterdir()] == ["requests-000001.parquet"]


def test_the_interpreters_end_closes_a_run_that_nobody_closed(tmp_path):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_forgets_to_close, args=(str(tmp_path),))
    process.start()
    process.join(60)
    run = open_run(tmp_path)
    assert (run.state, run.problems, run.requests().num_rows) == ("finished", [], 2)


def _forgets_to_close(root):
    collector = SchedulerMetricsCollector(clock=time.monotonic)
    collector.record_to(root)
    tracker = RequestTracker(collector)
    for _ in range(2):
        handle = tracker.arrived("r", prompt_tokens=1)
        tracker.iteration([handle])
        tracker.finished(handle, CompletionReason.EOS_TOKEN_REACHED)


def test_a_writer_that_fails_for_whatever_reason_leaves_a_run_that_says_it_was_stopped(engine, monkeypatch):
    engine.work(2)
    engine.look()

    def fail(*_):
        raise ValueError("cannot be")

    monkeypatch.setattr("batchscope.ledger.writer.request_batch", fail)
    engine.work(3)
    engine.look()
    assert "cannot be" in engine.recording.failure
    engine.close()
    run = open_run(engine.path)
    assert (run.state, run.requests().num_rows, run.iterations().num_rows) == ("stopped", 2, 15)
    assert any("ValueError: cannot be" in problem for problem in run.problems)
    assert run.document.missed["requests"] == 3


def test_closing_in_the_middle_of_a_drain_waits_for_another_moment(tmp_path):
    """A listener may close the collector: nobody hangs, and the run is closed by the next close."""
    collector = SchedulerMetricsCollector()
    recording = collector.record_to(tmp_path)
    collector.subscribe(lambda _: collector.close())
    collector.record_error("late")
    collector.drain()
    assert collector.closed
    assert open_run(tmp_path).state == "recording"
    recording.close()
    run = open_run(tmp_path)
    assert (run.state, run.events().column("name").to_pylist()) == ("finished", ["late"])


def test_a_part_that_has_grown_large_is_converted_whatever_its_age(tmp_path):
    engine = Engine(tmp_path, part_bytes=20_000)
    for _ in range(6):
        engine.work(40)
        engine.look()
    converted = sorted(path.name for path in engine.path.glob("requests-*.parquet"))
    assert len(converted) >= 2
    assert open_run(engine.path).requests().num_rows == 240
    engine.close()
    run = open_run(engine.path)
    assert (run.problems, run.requests().num_rows, run.tokens().num_rows) == ([], 240, 720)
    assert not list(engine.path.glob("*.arrows"))


@pytest.mark.parametrize(
    "options",
    [
        {"keep_seconds": -1}, {"keep_seconds": float("nan")}, {"keep_bytes": -1}, {"keep_bytes": "1"},
        {"configuration": 5}, {"configuration": {"engine": object()}}, {"level": "all"}, {"interval": 0},
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_and_neither_makes_a_run_nor_removes_one(tmp_path, options):
    with SchedulerMetricsCollector() as collector:
        kept = collector.record_to(tmp_path)
        kept.close()
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            collector.record_to(tmp_path, **options)
    assert list(tmp_path.iterdir()) == [kept.path]


@pytest.mark.parametrize("root", ["", "a\0b", 5, None, b"runs"])
def test_what_is_no_path_of_a_directory_is_refused(root):
    with SchedulerMetricsCollector() as collector, pytest.raises(ConfigurationError, match="root"):
        collector.record_to(root)
