"""The labels of a sum: its series must not change their names while counts live on."""

import msgspec
import pytest
from fleet_doubles import Clock, Engine, reader_of

from batchscope.errors import ConfigurationError
from batchscope.publishing import archive
from batchscope.publishing.archive import Archive


def process(target, rank):
    return Engine(target, labels={"model_name": "m", "rank": rank}).serve().publish()


@pytest.mark.parametrize("how", ["close", "silence"])
def test_a_label_that_was_dropped_stays_dropped(tmp_path, how):
    """One process's rank never becomes the name of the sum, whoever of them ends, restarts or wakes up."""
    clock = Clock()
    reader = reader_of(tmp_path, clock)
    assert reader.get_snapshot().labels == {}
    zero = process(tmp_path, "0")
    assert reader.get_snapshot().labels == {"model_name": "m", "rank": "0"}
    one = process(tmp_path, "1")
    assert reader.get_snapshot().labels == {"model_name": "m"}
    if how == "close":
        one.publisher.close()
    clock.now += 10.0
    for step in (zero.publish, lambda: process(tmp_path, "0"), zero.publisher.close, lambda: None):
        step()
        for each in (reader, reader_of(tmp_path, clock)):
            assert each.get_snapshot().labels == {"model_name": "m"}
        clock.now += 10.0
    if how == "silence":
        one.publish()
        assert reader.get_snapshot().labels == {"model_name": "m"}
    assert reader_of(tmp_path, clock).get_snapshot().request_stats.total_requests == 3


def test_a_rank_that_restarts_alone_keeps_its_labels(tmp_path):
    clock = Clock()
    reader = reader_of(tmp_path, clock)
    for _ in range(3):
        process(tmp_path, "0").publisher.close()
        assert reader.get_snapshot().labels == {"model_name": "m", "rank": "0"}


def test_labels_that_are_told_are_there_from_the_start(tmp_path):
    clock = Clock()
    reader = reader_of(tmp_path, clock, labels={"fleet": "f"})
    for rank in ("0", "1"):
        assert reader.get_snapshot().labels == {"fleet": "f"}
        process(tmp_path, rank)
    assert reader.read_totals().labels == {"fleet": "f"}
    for bad in (5, {"1": "x"}, {"x": 1}):
        with pytest.raises(ConfigurationError, match="label"):
            reader_of(tmp_path, clock, labels=bad)


def test_an_archive_of_before_labels_and_lives_were_kept_is_read(tmp_path):
    clock = Clock()
    process(tmp_path, "1").publisher.close()
    reader_of(tmp_path, clock).get_snapshot()
    old = archive.read(tmp_path, 1)
    assert old.header.lives == 1
    header = msgspec.structs.replace(old.header, lives=0)
    assert archive.write(tmp_path, 2, Archive(header, msgspec.structs.replace(old.counts, labels={})))
    process(tmp_path, "0")
    found = reader_of(tmp_path, clock).get_snapshot()
    assert (found.labels, found.request_stats.total_requests) == ({}, 2)


def test_who_lives_and_who_is_gone_is_counted(tmp_path):
    """A process that wakes up is not gone, although the archive holds a part of its counts."""
    clock = Clock()
    directory = tmp_path / "fleet"
    reader = reader_of(directory, clock)
    one, two = process(directory, "0"), process(directory, "1")

    def counts():
        reader.get_snapshot()
        found = reader.processes()
        return len(found.living), found.gone

    assert counts() == (2, 0)
    one.publisher.close()
    assert counts() == (1, 1)
    clock.now += 10.0
    assert counts() == (0, 2)
    two.serve().publish()
    assert counts() == (1, 1)
    directory.rename(tmp_path / "elsewhere")
    reader.get_snapshot()
    assert "is gone" in reader.processes().trouble
