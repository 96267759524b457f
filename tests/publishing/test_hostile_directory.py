"""A directory that others can write to: nothing foreign is followed, waited for, deleted or believed."""

import contextlib
import logging
import os
import random
import socket
import stat
import threading

import pytest
from fleet_doubles import Clock, Engine, files, reader_of
from hypothesis import given
from hypothesis import strategies as st

from batchscope.errors import ConfigurationError
from batchscope.publishing import SnapshotDirectory, SnapshotPublisher, archive, publication
from batchscope.publishing.files import Published, archive_name, listing, temporary_name
from batchscope.publishing.frame import FrameError, pack, unpack
from batchscope.publishing.publication import FORMAT, PublicationHeader
from batchscope.server.health import judge_processes

PUBLISHED = "0123456789abcdef-000000000007.snapshot"
CLAIMED = PUBLISHED.replace("snapshot", "claimed")
ARCHIVE = archive_name(7)
HALF_WRITTEN = f".batchscope-{'0' * 32}.tmp"
SECONDS = 20.0


def within(seconds, work):
    """The result of ``work``; a test that would hang fails instead."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert results, "it hangs, or has raised"
    return results[0]


def tree(path):
    """Every name below ``path``, with what it is and what is in it."""
    return {
        str(one.relative_to(path)): os.readlink(one)
        if one.is_symlink()
        else one.read_bytes()
        if one.is_file()
        else None
        for one in path.rglob("*")
    }


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def home(tmp_path):
    """What belongs to somebody else, also under the names that are ours."""
    home = tmp_path / "home"
    (home / "inner").mkdir(parents=True)
    for name in ("letter", "counts", "inner/letter", PUBLISHED):
        (home / name).write_text("mine")
    return home


@pytest.fixture
def fleet(tmp_path):
    """A directory that a process has published into."""
    Engine(tmp_path / "fleet").serve(3).publish()
    return tmp_path / "fleet"


def look_often(fleet, clock):
    """All that a reader does in a long life: it looks, finds the living dead, folds, sweeps and deletes."""
    reader = reader_of(fleet, clock)
    for _ in range(6):
        assert within(SECONDS, reader.get_snapshot).request_stats.total_requests == 3
        clock.now += 6.0
    return reader


@pytest.mark.parametrize("name", [HALF_WRITTEN, ".x.tmp", PUBLISHED, CLAIMED, ARCHIVE, archive_name(1), "link"])
@pytest.mark.parametrize("to", ["", "letter", "inner", "counts"])
def test_a_link_is_never_followed_and_what_it_leads_to_never_deleted(fleet, clock, home, name, to):
    before = tree(home)
    (fleet / name).symlink_to(home / to)
    look_often(fleet, clock)
    assert tree(home) == before


def test_a_link_to_counts_of_others_is_not_believed(fleet, clock, tmp_path):
    Engine(tmp_path / "other").serve(50).publish()
    found = next((tmp_path / "other").iterdir())
    held = archive.Archive().with_gone([publication.decode(found.read_bytes())], [])
    assert archive.write(tmp_path, 7, held)
    (fleet / ARCHIVE).symlink_to(tmp_path / ARCHIVE)
    (fleet / found.name).symlink_to(found)
    reader = look_often(fleet, clock)
    assert reader.skipped == {"unreadable": 2}


@pytest.mark.parametrize(
    "name", [".x.tmp", ".swp.tmp", ".batchscope.tmp", f".batchscope-{'A' * 32}.tmp", "notes.tmp", "archive-7", "README"]
)
def test_files_of_other_programs_are_left_alone(fleet, clock, name):
    (fleet / name).write_text("mine")
    (fleet / f"{name}.d").mkdir()
    (fleet / f"{name}.d" / "file").write_text("mine")
    look_often(fleet, clock)
    assert (fleet / name).read_text() == (fleet / f"{name}.d" / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give a file away")
def test_what_another_user_left_half_written_is_that_users(fleet, clock):
    (fleet / temporary_name()).write_text("half")
    theirs = fleet / temporary_name()
    theirs.write_text("half")
    os.chown(theirs, 12345, 12345)
    look_often(fleet, clock)
    assert [name for name in files(fleet) if name.endswith(".tmp")] == [theirs.name]


def test_a_directory_of_our_name_with_more_than_ours_in_it_keeps_that(fleet, clock):
    for name in (temporary_name(), archive_name(1)):
        (fleet / name).mkdir()
        (fleet / name / "letter").write_text("mine")
        (fleet / name / "counts").mkdir()
        (fleet / name / "counts" / "letter").write_text("mine")
    before = {name: content for name, content in tree(fleet).items() if "letter" in name}
    reader = reader_of(fleet, clock)
    for _ in range(4):
        within(SECONDS, reader.get_snapshot)
        clock.now += 6.0
    assert {name: content for name, content in tree(fleet).items() if "letter" in name} == before


def make_socket(path):
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as one, contextlib.chdir(path.parent):
        one.bind(path.name)


ODD = {
    "fifo": os.mkfifo,
    "folder": lambda path: path.mkdir(),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": make_socket,
    "file": lambda path: path.write_bytes(b"junk"),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", [PUBLISHED, CLAIMED, ARCHIVE, f"{ARCHIVE}/counts"])
def test_one_odd_file_neither_blocks_a_reader_nor_freezes_its_figures(fleet, clock, caplog, name, kind):
    """It is skipped, counted once and named once; the others' counts go on, and so does /healthz."""
    if "/" in name:
        (fleet / ARCHIVE).mkdir()
    ODD[kind](fleet / name)
    reader = reader_of(fleet, clock)
    with caplog.at_level(logging.WARNING, "batchscope"):
        for _ in range(3):
            assert within(SECONDS, reader.get_snapshot).request_stats.total_requests == 3
    Engine(fleet).serve(2).publish()
    assert within(SECONDS, reader.get_snapshot).request_stats.total_requests == 5
    assert sum(reader.skipped.values()) == 1
    assert len([one for one in caplog.records if name.partition("/")[0] in one.getMessage()]) == 1
    found = reader.processes()
    assert found.trouble == ""
    assert judge_processes(reader.get_snapshot().gauges, found).healthy
    assert kind in {"file", "empty"} or reader.skipped == {"unreadable": 1}


def test_an_archive_without_counts_stops_only_the_tidying(fleet, clock):
    """Nobody knows what it was: nothing is folded or deleted beside it, and all is tidied when it has gone."""
    (fleet / ARCHIVE).mkdir()
    Engine(fleet).serve(2).publisher.close()
    reader = reader_of(fleet, clock)
    before = files(fleet)
    for _ in range(3):
        clock.now += 10.0
        assert reader.get_snapshot().request_stats.total_requests == 5
    assert files(fleet) == before
    (fleet / ARCHIVE).rmdir()
    assert reader.get_snapshot().request_stats.total_requests == 5
    assert files(fleet) == [archive_name(1)]


def test_ten_thousand_junk_files_are_counted_once_and_not_all_named(fleet, clock, caplog):
    for number in range(10_000):
        (fleet / f"junk \x1b[2J {number}.snapshot").touch()
    reader = reader_of(fleet, clock)
    with caplog.at_level(logging.WARNING, "batchscope"):
        for _ in range(3):
            assert within(SECONDS, reader.get_snapshot).request_stats.total_requests == 3
    assert reader.skipped == {"foreign": 10_000}
    assert 1 <= len(caplog.records) <= 100
    assert all(one.getMessage().isprintable() for one in caplog.records)


def test_a_look_that_never_succeeds_says_why(fleet, clock, monkeypatch):
    """In /healthz, not in the log alone: a directory that changes at every look, or that is gone."""
    reader = reader_of(fleet, clock)

    def health():
        gauges = reader.get_snapshot().gauges
        return judge_processes(gauges, reader.processes())

    assert health().healthy
    numbers = iter(range(10**6))

    def changing(path):
        return listing(path)._replace(published=frozenset({Published("other", next(numbers))}))

    with monkeypatch.context() as patched:
        patched.setattr("batchscope.publishing.directory.listing", changing)
        assert (health().status, str(fleet) in health().reason) == ("unreadable", True)
        assert "changes faster" in health().reason
    assert health().healthy
    fleet.rename(fleet.with_name("away"))
    assert "is gone" in health().reason
    fleet.with_name("away").rename(fleet)
    assert health().healthy


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775, 0o777, 0o1777])
def test_a_directory_that_everybody_can_write_to_is_warned_of_once(tmp_path, clock, caplog, mode):
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet").chmod(mode)
    reader = reader_of(tmp_path / "fleet", clock)
    reader.get_snapshot()
    said = [one.getMessage() for one in caplog.records]
    assert len(said) == (1 if mode & stat.S_IWOTH else 0)
    assert all("every user" in one and str(tmp_path) in one for one in said)


def test_a_directory_that_is_made_here_is_not_everybodys_whatever_the_umask(tmp_path, caplog):
    before = os.umask(0)
    try:
        Engine(tmp_path / "made" / "by a publisher").publish()
        reader_of(tmp_path / "made" / "by a reader", Clock())
    finally:
        os.umask(before)
    assert not caplog.records
    for name in ("by a publisher", "by a reader"):
        assert not (tmp_path / "made" / name).stat().st_mode & stat.S_IWOTH


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800", None, 7, b"", b"a\0b"])
def test_what_can_be_no_path_is_a_configuration_error_and_writes_nothing(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    collector = Engine(tmp_path / "fleet").collector
    with pytest.raises(ConfigurationError, match="path"):
        SnapshotPublisher(collector, path, interval=None)
    with pytest.raises(ConfigurationError, match="directory"):
        SnapshotDirectory(path)
    assert files(tmp_path) == ["fleet"]


@pytest.mark.parametrize("path", ["unix:/run/fleet.sock", "unix:", b"unix:fleet"])
def test_a_unix_socket_is_told_from_a_directory_and_nothing_is_made(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    collector = Engine(tmp_path / "fleet").collector
    expected = r"unix:.*expected a directory, such as /run/batchscope.*Unix sockets are gone"
    with pytest.raises(ConfigurationError, match=expected):
        SnapshotPublisher(collector, path, interval=None)
    with pytest.raises(ConfigurationError, match=expected):
        SnapshotDirectory(path)
    assert files(tmp_path) == ["fleet"]


def test_a_path_may_be_bytes(tmp_path):
    Engine(os.fsencode(tmp_path / "fleet").decode()).serve(2).publish()
    assert SnapshotDirectory(os.fsencode(tmp_path / "fleet")).get_snapshot().request_stats.total_requests == 2


HEADER = PublicationHeader(format=FORMAT, instance="abc", base=3, sequence=9, final=False)


@given(st.binary(max_size=200), st.data())
def test_a_frame_in_which_any_one_byte_is_another_is_refused(body, data):
    """The header is under the checksum as well: whose it is, from where to where, whether it was the last."""
    frame = pack(HEADER, body)
    header, found = unpack(frame, PublicationHeader, FORMAT)
    assert (header.instance, header.base, header.sequence, header.final, found) == ("abc", 3, 9, False, body)
    place = data.draw(st.integers(0, len(frame) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != frame[place]))
    with pytest.raises(FrameError):
        unpack(frame[:place] + bytes([other]) + frame[place + 1 :], PublicationHeader, FORMAT)
    with pytest.raises(FrameError):
        unpack(frame[:place], PublicationHeader, FORMAT)


def test_no_mutated_archive_or_publication_is_believed(tmp_path):
    """1,000 mutations of bytes that are really there: each is refused, none raises anything else."""
    Engine(tmp_path).serve(3).publish()
    published = next(tmp_path.iterdir()).read_bytes()
    archived = archive.encode(archive.Archive().with_gone([publication.decode(published)], []))
    random_ = random.Random(7)
    for frame, decode in ((archived, archive.decode), (published, publication.decode)):
        decode(frame)
        for _ in range(500):
            changed = bytearray(frame)
            for _ in range(random_.choice([1, 2, 5])):
                changed[random_.randrange(min(len(frame), random_.choice([300, 10**9])))] ^= 1 << random_.randrange(8)
            if changed != frame:
                with pytest.raises(FrameError):
                    decode(bytes(changed))
