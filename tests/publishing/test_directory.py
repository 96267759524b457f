import logging
import math
import os
import shutil
import threading

import pytest
from fleet_doubles import Clock, Engine, files, reader_of

from batchscope.configuration import MetricsConfiguration, SchedulerLimits
from batchscope.errors import BusyError, ConfigurationError
from batchscope.publishing import SnapshotDirectory, archive, compaction, frame
from batchscope.publishing.files import archive_name, listing, temporary_name
from batchscope.statistics.merge import merge_snapshots
from batchscope.statistics.snapshot import decode_snapshot


def served(reader):
    return reader.get_snapshot().request_stats.total_requests


@pytest.fixture
def clock():
    return Clock()


class Reading(logging.Handler):
    """Reads what logs, wherever it logs."""

    def __init__(self):
        super().__init__()
        self.reader = None
        self.seen = []

    def emit(self, record):
        self.seen.append(record.getMessage())
        if self.reader is not None:
            self.reader.get_snapshot()


@pytest.mark.parametrize("trouble", ["junk", "gone"])
def test_a_log_handler_that_reads_the_directory_neither_waits_for_itself_nor_fails(tmp_path, monkeypatch, trouble):
    (tmp_path / "a-000000000001.snapshot").write_text("junk")
    handler = Reading()
    monkeypatch.setattr(logging.getLogger("batchscope"), "handlers", [handler])
    handler.reader = reader = reader_of(tmp_path, Clock())
    if trouble == "gone":
        shutil.rmtree(tmp_path)
    read = threading.Thread(target=reader.get_snapshot, daemon=True)
    read.start()
    read.join(20.0)
    assert not read.is_alive()
    assert len(handler.seen) == 1


def test_a_handler_that_reads_in_the_middle_of_a_read_of_the_directory_gets_an_error_and_the_read_is_whole(tmp_path):
    """The clock stands for the signal's handler: it runs in the middle of a read, in the same thread."""
    Engine(tmp_path).serve(2).publish()
    refused, within = [], []

    def clock():
        if within:
            within.clear()
            for read in (reader.get_snapshot, reader.living, reader.processes):
                with pytest.raises(BusyError, match="this thread reads these processes already"):
                    read()
                refused.append(read)
        return 100.0

    reader = SnapshotDirectory(tmp_path, clock=clock, max_age=0.0)
    within.append(True)
    assert reader.get_snapshot().request_stats.total_requests == 2
    assert len(refused) == 3


def test_a_directory_gives_what_merging_the_snapshots_gives(tmp_path, clock):
    """Totals, histograms, gauges and rates are those of merge_snapshots over the processes."""
    engines = [Engine(tmp_path).serve(n, n / 2).publish() for n in (1, 2, 3)]
    found = reader_of(tmp_path, clock).get_snapshot()
    own = [engine.collector.get_snapshot() for engine in engines]
    expected = merge_snapshots(sorted(own, key=lambda one: one.instance_id))  # in that order: sums are of floats
    assert found.request_stats == expected.request_stats
    assert found.totals == expected.totals
    assert found.histograms == expected.histograms
    assert found.gauges == expected.gauges
    assert found.merged_from == expected.merged_from


def test_read_totals_is_the_cumulative_part_of_the_same_merge(tmp_path, clock):
    Engine(tmp_path).serve(4).publish()
    state = reader_of(tmp_path, clock).read_totals()
    assert state.totals.generation_tokens == 40
    assert state.histograms["total_time"]["default"].count == 4


def test_an_empty_directory_is_a_fleet_of_nobody(tmp_path, clock):
    found = reader_of(tmp_path / "new", clock).get_snapshot()
    assert (found.request_stats.total_requests, found.merged_from) == (0, [])
    assert decode_snapshot(found.to_json(histograms=True)).totals == found.totals


def test_each_process_has_one_file_whatever_it_publishes(tmp_path):
    engine = Engine(tmp_path)
    for _ in range(5):
        engine.serve().publish()
    assert len(files(tmp_path)) == 1


def test_a_silent_process_keeps_its_counts_and_loses_gauges_and_rates(tmp_path, clock):
    """Liveness is the sequence over the reader's own clock: not the file's time, not a process id."""
    silent = Engine(tmp_path, limits=SchedulerLimits(max_running_requests=8), labels={"model": "old"}).serve(3)
    alive = Engine(tmp_path, limits=SchedulerLimits(max_running_requests=4), labels={"model": "new"}).serve(1)
    silent.clock.now += 1.0
    silent.publish()
    alive.publish()
    reader = reader_of(tmp_path, clock)
    assert reader.get_snapshot().gauges.requests_running == 4
    for _ in range(3):
        clock.now += 5.0
        found = reader.get_snapshot() if alive.publish() else None
    assert found.request_stats.total_requests == 4
    assert found.histograms["total_time"]["default"].count == 4
    assert found.gauges.requests_running == alive.collector.get_snapshot().gauges.requests_running == 2
    assert (found.limits.max_running_requests, found.labels) == (4, {})
    assert found.window.requests == 1
    assert reader.living() == [alive.collector.get_snapshot().instance_id]


def test_file_times_say_nothing_about_life(tmp_path, clock):
    """A file from the year 2001, or of tomorrow, is alive as long as its sequence grows."""
    engine = Engine(tmp_path).serve()
    reader = reader_of(tmp_path, clock)
    for when in (1e9, 4e9):
        clock.now += 9.0
        engine.publish()
        for path in tmp_path.iterdir():
            os.utime(path, (when, when))
        assert reader.get_snapshot().gauges.requests_running == 2


def test_a_final_publication_ends_a_process_at_once(tmp_path, clock):
    engine = Engine(tmp_path).serve(2)
    reader = reader_of(tmp_path, clock)
    engine.publisher.close()
    found = reader.get_snapshot()
    assert (found.request_stats.total_requests, found.gauges.requests_running, reader.living()) == (2, None, [])


def test_the_dead_are_folded_and_their_files_deleted(tmp_path, clock):
    for number in range(5):
        Engine(tmp_path).serve(number + 1).publish()
    reader = reader_of(tmp_path, clock)
    assert served(reader) == 15
    clock.now += 10.0
    assert served(reader) == 15
    assert files(tmp_path) == [archive_name(1)]
    assert served(reader_of(tmp_path, clock)) == 15


def test_a_directory_of_fifty_restarts_stays_as_small_as_one(tmp_path, clock):
    """Neither files nor the archive's list grow: an instance that said goodbye is forgotten with its file."""
    reader = reader_of(tmp_path, clock)
    sizes = []
    for number in range(50):
        with Engine(tmp_path).serve(2).publisher:
            pass
        assert served(reader) == 2 * (number + 1)
        sizes.append(sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))
        assert len(files(tmp_path)) == 1
    assert sizes[-1] < sizes[1] + 200
    assert len(archive.read(tmp_path, 50).header.final) == 1


def test_silent_instances_are_remembered_up_to_a_bound(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(archive, "REMEMBERED", 3)
    reader = reader_of(tmp_path, clock)
    for number in range(6):
        Engine(tmp_path).serve().publish()
        served(reader)
        clock.now += 10.0
        assert served(reader) == number + 1
    header = archive.read(tmp_path, 6).header
    assert (len(header.silent), header.forgotten) == (3, True)


def test_a_process_that_wakes_up_after_it_was_folded_counts_once(tmp_path, clock):
    """It misses its file, learns what the archive holds, and publishes only what it counted since."""
    engine = Engine(tmp_path).serve(3, seconds=0.5).publish()
    reader = reader_of(tmp_path, clock)
    served(reader)
    clock.now += 10.0
    assert (served(reader), len(files(tmp_path))) == (3, 1)
    engine.serve(2, seconds=4.0).publish()
    found = reader.get_snapshot()
    assert (found.request_stats.total_requests, found.gauges.requests_running) == (5, 2)
    assert found.totals == engine.collector.get_snapshot().totals
    histogram, own = (of.histograms["total_time"]["default"] for of in (found, engine.collector.get_snapshot()))
    assert histogram == own
    for _ in range(2):  # and again
        clock.now += 10.0
        served(reader)
        engine.serve(1).publish()
    assert served(reader) == 7
    assert served(reader_of(tmp_path, clock)) == 7


def test_a_process_that_wakes_up_after_it_was_forgotten_counts_once(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(archive, "REMEMBERED", 0)
    engine = Engine(tmp_path).serve(3).publish()
    reader = reader_of(tmp_path, clock)
    served(reader)
    clock.now += 10.0
    served(reader)
    engine.serve(2).publish()
    assert served(reader) == 5


def test_no_reader_sees_a_forgotten_process_twice_while_it_wakes_up(tmp_path, clock, monkeypatch):
    """It looks for its file before it publishes, because the archive no longer lists it."""
    monkeypatch.setattr(archive, "REMEMBERED", 0)
    engine = Engine(tmp_path).serve(3).publish()
    reader = reader_of(tmp_path, clock)
    served(reader)
    clock.now += 10.0
    served(reader)
    writer, seen = engine.publisher._writer, []
    write = writer._write

    def watched(name, data):
        write(name, data)
        seen.append(served(reader))

    monkeypatch.setattr(writer, "_write", watched)
    engine.serve(2).publish()
    assert seen == [5]


def test_a_process_that_publishes_between_claim_and_archive_counts_once(tmp_path, clock, monkeypatch):
    engine = Engine(tmp_path).serve(3).publish()
    reader = reader_of(tmp_path, clock)
    served(reader)
    clock.now += 10.0
    write = archive.write

    def later(*arguments):
        engine.serve(1).publish()
        return write(*arguments)

    monkeypatch.setattr(archive, "write", later)
    assert served(reader) == 4
    monkeypatch.undo()
    engine.serve(1).publish()
    assert (served(reader), reader.skipped) == (5, {})


def test_a_listing_that_misses_a_renamed_file_is_not_believed(tmp_path, clock, monkeypatch):
    """While files are renamed a listing may show neither name: two in a row have to agree."""
    Engine(tmp_path).serve(3).publish()
    reader = reader_of(tmp_path, clock)
    partial = [listing(tmp_path)._replace(published=frozenset())]
    monkeypatch.setattr(
        "batchscope.publishing.directory.listing", lambda path: partial.pop() if partial else listing(path)
    )
    assert served(reader) == 3


def test_nothing_is_deleted_while_an_older_archive_is_there(tmp_path, clock, monkeypatch):
    """Somebody may still read it, and would miss what only the newer one covers."""
    Engine(tmp_path).serve(3).publisher.close()
    reader = reader_of(tmp_path, clock)
    assert archive.write(tmp_path, 1, archive.Archive())
    monkeypatch.setattr(compaction, "discard_folder", lambda path: None)
    assert served(reader) == 3
    assert len(files(tmp_path)) == 3
    monkeypatch.undo()
    assert served(reader) == 3
    assert files(tmp_path) == [archive_name(2)]


def test_a_process_whose_file_an_operator_deleted_publishes_everything_again(tmp_path, clock):
    engine = Engine(tmp_path).serve(3).publish()
    shutil.rmtree(tmp_path)
    engine.serve(1).publish()
    assert served(reader_of(tmp_path, clock)) == 4


def test_a_claim_that_comes_while_a_process_publishes_counts_once(tmp_path, clock, monkeypatch):
    """The reader claims between the publisher's look at its file and its deletion: the worst moment."""
    engine = Engine(tmp_path).serve(3).publish()
    reader = reader_of(tmp_path, clock)
    served(reader)
    clock.now += 10.0
    writer = engine.publisher._writer
    write = writer._write
    seen = []

    def interrupted(name, data):
        if not seen:
            seen.append(served(reader))
        write(name, data)
        seen.append(served(reader_of(tmp_path, clock, compact=False)))

    monkeypatch.setattr(writer, "_write", interrupted)
    engine.serve(2).publish()
    assert seen[0] == 3
    assert served(reader) == served(reader_of(tmp_path, clock)) == 5
    assert set(seen) <= {3, 5}


def test_a_reader_that_crashes_between_archive_and_deletion_counts_nothing_twice(tmp_path, clock, monkeypatch):
    Engine(tmp_path).serve(3).publish()
    crashing = reader_of(tmp_path, clock)
    served(crashing)
    clock.now += 10.0
    monkeypatch.setattr(compaction.Compactor, "delete", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        crashing.get_snapshot()
    assert len(files(tmp_path)) == 2
    monkeypatch.undo()
    assert served(reader_of(tmp_path, clock, compact=False)) == 3
    assert served(reader_of(tmp_path, clock)) == 3
    assert files(tmp_path) == [archive_name(1)]


def test_a_reader_that_crashes_between_claim_and_archive_loses_nothing(tmp_path, clock, monkeypatch):
    engine = Engine(tmp_path).serve(3).publish()
    crashing = reader_of(tmp_path, clock)
    served(crashing)
    clock.now += 10.0
    monkeypatch.setattr(archive, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        crashing.get_snapshot()
    monkeypatch.undo()
    engine.serve(1).publish()
    assert served(reader_of(tmp_path, clock, compact=False)) == 4
    assert served(reader_of(tmp_path, clock)) == 4


def test_two_readers_that_tidy_one_directory_agree(tmp_path, clock):
    """Each folds whom it finds dead; a revision of the archive can be written once."""
    one, two = reader_of(tmp_path, clock), reader_of(tmp_path, clock)
    for number in range(6):
        Engine(tmp_path).serve(number + 1).publish()
        assert served(one) == served(two)
        clock.now += 5.0
    clock.now += 10.0
    assert (served(one), served(two), served(one)) == (21, 21, 21)
    assert len(files(tmp_path)) == 1


def test_a_reader_that_was_overtaken_writes_an_archive_that_nobody_believes(tmp_path, clock):
    """It wakes up with an old view: its revision exists, or is lower than the one that counts."""
    Engine(tmp_path).serve(3).publish()
    late = reader_of(tmp_path, clock)
    served(late)
    old = listing(tmp_path)
    clock.now += 10.0
    other = reader_of(tmp_path, clock)
    served(other)
    clock.now += 10.0
    served(other)
    assert late._compactor.fold(late._members, old, clock.now) is False  # its claim fails
    assert archive.write(tmp_path, 1, archive.Archive()) is False
    Engine(tmp_path).serve(4).publisher.close()
    served(other)
    assert archive.write(tmp_path, 1, archive.Archive()) is True  # revision 1 was deleted, 2 counts
    assert served(late) == served(other) == 7
    assert files(tmp_path) == [archive_name(2)]


def test_a_reset_does_not_let_the_fleet_fall(tmp_path, clock):
    """What had been published before a reset is carried on, also when the process is folded between."""
    engine = Engine(tmp_path).serve(3).publish()
    reader = reader_of(tmp_path, clock)
    assert served(reader) == 3
    engine.collector.reset()
    engine.serve(1).publish()
    assert served(reader) == 4
    clock.now += 10.0
    served(reader)
    engine.collector.reset()
    engine.serve(2).publish()
    assert served(reader) == 6
    engine.serve(1).publish()
    assert engine.collector.get_snapshot().request_stats.total_requests == 3
    assert reader.get_snapshot().totals.generation_tokens == 70


def damage(tmp_path, how):
    path = next(tmp_path.glob("*.snapshot"))
    data = path.read_bytes()
    path.write_bytes(how(data))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: b"", "truncated"),
        (lambda data: data[:-1] + b" ", "damaged"),
        (lambda data: b"hello\nworld", "foreign"),
        (lambda data: data.replace(b"publication/2", b"publication/1"), "foreign"),
        (lambda data: b"\0" * (frame.MAX_BYTES + 2), "oversized"),
    ],
)
def test_a_file_that_cannot_be_used_is_skipped_named_once_and_counted(tmp_path, clock, caplog, how, reason):
    Engine(tmp_path).serve(2).publish()
    damage(tmp_path, how)
    Engine(tmp_path).serve(3).publish()
    reader = reader_of(tmp_path, clock)
    with caplog.at_level(logging.WARNING, "batchscope"):
        for _ in range(3):
            found = reader.get_snapshot()
    assert found.request_stats.total_requests == 3
    assert reader.skipped == {reason: 1}
    assert found.totals.rejected_records == {f"snapshot_file_{reason}": 1}
    assert found.request_stats.rejected_records == found.totals.rejected_records
    assert len([record for record in caplog.records if reason in record.getMessage()]) == 1


def test_a_damaged_publication_does_not_take_back_the_one_before(tmp_path, clock):
    engine = Engine(tmp_path).serve(2).publish()
    reader = reader_of(tmp_path, clock)
    assert served(reader) == 2
    engine.serve(1).publish()
    damage(tmp_path, lambda data: data[:100])
    assert served(reader) == 2
    engine.publish()
    assert served(reader) == 3


def test_other_files_are_left_alone(tmp_path, clock):
    (tmp_path / "README").write_text("mine")
    (tmp_path / "my.snapshot").write_text("mine")
    reader = reader_of(tmp_path, clock)
    reader.get_snapshot()
    clock.now += 100.0
    reader.get_snapshot()
    assert files(tmp_path) == ["README", "my.snapshot"]
    assert reader.skipped == {"foreign": 1}


def test_an_archive_that_cannot_be_read_is_not_replaced(tmp_path, clock):
    """What is remembered of it still counts; nothing is folded or deleted until it can be read."""
    Engine(tmp_path).serve(2).publisher.close()
    reader = reader_of(tmp_path, clock)
    served(reader)
    served(reader)
    whole = (tmp_path / archive_name(1) / "counts").read_bytes()
    shutil.copytree(tmp_path / archive_name(1), tmp_path / archive_name(2))
    (tmp_path / archive_name(2) / "counts").write_bytes(whole[:50])
    Engine(tmp_path).serve(3).publisher.close()
    before = files(tmp_path)
    assert (served(reader), reader.skipped) == (5, {"truncated": 1})
    assert files(tmp_path) == before
    (tmp_path / archive_name(2) / "counts").write_bytes(whole)
    assert served(reader) == 5
    assert files(tmp_path) == [archive_name(3)]


def test_what_crashed_processes_left_half_written_is_swept(tmp_path, clock):
    """By the reader's observations: a temporary file that is still there after ``dead_after``."""
    (tmp_path / temporary_name()).write_bytes(b"half")
    half = tmp_path / temporary_name()
    half.mkdir()
    (half / "counts").write_bytes(b"half")
    reader = reader_of(tmp_path, clock)
    reader.get_snapshot()
    clock.now += 9.0
    reader.get_snapshot()
    assert len(files(tmp_path)) == 2
    clock.now += 1.0
    reader.get_snapshot()
    assert files(tmp_path) == []


def test_processes_with_other_rate_windows_count_but_have_no_rates(tmp_path, clock, caplog):
    for _ in range(2):
        Engine(tmp_path).serve(1).publish()
    odd = Engine(tmp_path, configuration=MetricsConfiguration(counter_window_seconds=30)).serve(4).publish()
    reader = reader_of(tmp_path, clock)
    found = reader.get_snapshot()
    assert (found.request_stats.total_requests, found.window.window_seconds, found.window.requests) == (6, 60.0, 2)
    assert reader.get_snapshot().totals.rejected_records["snapshot_file_unmergeable"] == 1
    assert odd.collector.get_snapshot().instance_id in caplog.text


def test_scrapes_at_one_time_share_one_merge(tmp_path, clock):
    engine = Engine(tmp_path).serve().publish()
    reader = SnapshotDirectory(tmp_path, max_age=0.25, clock=clock)
    first = reader.get_snapshot()
    engine.serve().publish()
    clock.now += 0.125
    assert reader.get_snapshot() is first
    clock.now += 0.125
    assert reader.get_snapshot().request_stats.total_requests == 2


def test_a_publication_is_decoded_once(tmp_path, clock, monkeypatch):
    Engine(tmp_path).serve().publish()
    reader = reader_of(tmp_path, clock)
    served(reader)
    monkeypatch.setattr("batchscope.publishing.reader.decode", lambda data: 1 / 0)
    clock.now += 5.0
    assert served(reader) == 1


def test_a_closed_reader_keeps_its_last_merge(tmp_path, clock):
    engine = Engine(tmp_path).serve().publish()
    with reader_of(tmp_path, clock) as reader:
        served(reader)
        assert not reader.closed
    engine.serve().publish()
    assert (reader.closed, served(reader)) == (True, 1)
    reader.close()


def test_a_directory_that_vanishes_keeps_the_last_counts(tmp_path, clock):
    Engine(tmp_path / "fleet").serve(2).publish()
    reader = reader_of(tmp_path / "fleet", clock)
    assert served(reader) == 2
    shutil.rmtree(tmp_path / "fleet")
    assert served(reader) == 2


def test_a_directory_that_is_a_file_is_said_at_construction(tmp_path):
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below"):
        with pytest.raises(ConfigurationError, match="directory"):
            SnapshotDirectory(tmp_path / path)


@pytest.mark.parametrize("field", ["dead_after", "max_age"])
def test_times_are_checked(tmp_path, field):
    with pytest.raises(ConfigurationError, match=field):
        SnapshotDirectory(tmp_path, **{field: -1.0})
    with pytest.raises(ConfigurationError, match=field):
        SnapshotDirectory(tmp_path, **{field: math.nan})


def test_a_reader_with_an_interval_tidies_without_scrapes(tmp_path):
    Engine(tmp_path).serve(2).publisher.close()
    with SnapshotDirectory(tmp_path, interval=3600.0) as reader:
        assert reader.closed is False
    assert files(tmp_path)[0].startswith("archive")  # the last look of its thread
    assert served(reader) == 2
