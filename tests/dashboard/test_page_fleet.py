"""Engines in one table: worst first, merged and not averaged, each with its last minute and a history of its own."""

import gzip
import json
import random

import msgspec
from page_doubles import Hands, collector, second, seeded
from server_doubles import ask

from batchscope.dashboard.counts import place
from batchscope.dashboard.document import cursor_of, wanted_of
from batchscope.dashboard.engines import MOST_ENGINES, STRIP, Engines
from batchscope.dashboard.fleet import TEXTS, EngineReader, known_of, table
from batchscope.dashboard.history import TENS
from batchscope.dashboard.recorder import Recorder
from batchscope.publishing import SnapshotDirectory, SnapshotPublisher
from batchscope.server import make_asgi_app
from batchscope.statistics.snapshot import MetricsSnapshot


class Rank:
    """An engine that works when it is told to."""

    def __init__(self, name):
        self.clock, self.chance = Hands(), seeded()
        self.collector = collector(self.clock)
        self.collector.labels["rank"] = name
        self.name = name

    def work(self, seconds=10):
        for _ in range(seconds):
            second(self.collector, self.clock, self.chance, iterations=4)

    def snapshot(self):
        return msgspec.structs.replace(self.collector.get_snapshot(), instance_id=self.name)


def merged(found):
    return MetricsSnapshot.merge(*(snapshot for snapshot, _ in found))


def looked(ranks, looks=8, gone=()):
    engines = Engines()
    for _ in range(looks):
        for rank in ranks:
            if rank.name not in gone:
                rank.work(2)
        found = [(rank.snapshot(), rank.name not in gone) for rank in ranks]
        engines.look(found, merged(found))
    return engines, found


def told(engines, found, gone=0, known=""):
    """The table, its engines as rows in order."""
    document = json.loads(table(engines, found, merged(found), gone, known_of(known)))
    names = document.get("names", [["?", "?"]] * len(document["order"]))
    strips = document["strips"][1:] or [["", ""]] * len(names)
    document["engines"] = [
        dict(zip(TEXTS, (column[at] for column in document["texts"]), strict=True))
        | dict(zip(("id", "name"), names[at], strict=True))
        | dict(zip(("strip", "full"), strips[at], strict=True))
        for at in document["order"]
    ]
    return document


def test_the_worst_comes_first_and_the_merge_is_a_row_of_its_own():
    ranks = [Rank(name) for name in ("a", "b", "c")]
    engines, found = looked(ranks, gone={"b"})
    rows = told(engines, found, gone=1)
    assert rows["engines"][0]["name"] == "rank=b"
    assert [row["state"] for row in rows["engines"]] == ["gone", "live", "live"]
    assert (rows["living"], rows["gone"]) == (2, 1)
    assert rows["all"]["state"] == "live"
    assert rows["rule"].startswith("worst first: gone, stalled")


def test_where_nobody_lives_the_merge_is_gone_too():
    ranks = [Rank(name) for name in ("a", "b")]
    _, found = looked(ranks)
    dead = [(snapshot, False) for snapshot, _ in found]
    assert told(Engines(), dead)["all"]["state"] == "gone"
    assert told(Engines(), found)["all"]["state"] == "live"
    archived = table(Engines(), [], ranks[0].snapshot(), 2, known_of(""))
    assert (json.loads(archived)["all"]["state"], json.loads(archived)["gone"]) == ("gone", 2)


def test_figures_are_of_the_last_minute_and_the_strip_of_ten():
    rank = Rank("a")
    engines, found = looked([rank], looks=STRIP + 5)
    [row] = told(engines, found)["engines"]
    assert len(row["strip"]) == len(row["full"]) == STRIP
    assert set(row["strip"]) <= set("stkdpzu-")
    assert set(row["full"]) <= set("0123456789")
    assert row["slo"].endswith(
        f"n={sum(found[0][0].totals.slo_requests['interactive'][key] for key in ('met', 'missed')) * 6 // (STRIP + 5)}"
    )


def test_an_engine_that_was_archived_stays_as_gone_for_ten_minutes():
    ranks = [Rank("a"), Rank("b")]
    engines, found = looked(ranks, looks=2)
    for looks in range(1, STRIP + 2):
        engines.look(found[:1], merged(found[:1]))
        rows = told(engines, found[:1], gone=1)
        names = {row["name"]: row["state"] for row in rows["engines"]}
        assert names == ({"rank=a": "live", "rank=b": "gone"} if looks <= STRIP else {"rank=a": "live"})
        assert (rows["living"], rows["gone"]) == (1, 1)


def test_a_cursor_brings_what_is_new_of_the_strips_and_no_name_twice():
    ranks = [Rank("a"), Rank("b")]
    engines, found = looked(ranks, looks=4)
    first = told(engines, found)
    again = told(engines, found, known=first["cursor"])
    assert (again["new"], again["strips"], "names" in again) == (0, [], False)
    engines.look(found, merged(found))
    later = told(engines, found, known=again["cursor"])
    assert later["new"] == 1
    assert [[len(one) for one in strip] for strip in later["strips"]] == [[1, 1]] * 3
    engines.look(found[:1], merged(found[:1]))
    assert "names" in told(engines, found[:1], known="0-0")


def test_an_engine_that_was_not_looked_at_yet_has_a_history_of_no_name(tmp_path):
    """So the page does not take the one to come for that of another server, and marks no restart."""
    rank = Rank("a")
    rank.work(1)
    with SnapshotPublisher(rank.collector, tmp_path, interval=None), SnapshotDirectory(tmp_path) as directory:
        recorder = Recorder(directory)
        name = rank.collector.get_snapshot().instance_id
        told = json.loads(recorder.answer(recorder.present(name), cursor_of(""), wanted_of("", ""), name))
        assert told["history"] == ""
        assert told["cells"]["numbers"] == []
        again = json.loads(recorder.answer(recorder.present(name), cursor_of(told["cursor"]), wanted_of("", ""), name))
        assert again["whole"]


def test_its_history_holds_what_each_engine_counted_in_ten_seconds():
    ranks = [Rank("a"), Rank("b")]
    engines, found = looked(ranks, looks=6)
    for engine, snapshot, _ in engines.told(found):
        cells = engine.history.since(seconds=TENS).cells
        assert cells.numbers.tolist() == [2, 3, 4, 5, 6]
        assert cells.counts[:, place("iterations")].tolist() == [8.0] * 5
        first_look = snapshot.request_stats.completed_requests // 6
        assert int(cells.latencies[0].sum()) == snapshot.request_stats.completed_requests - first_look


def _many(number):
    """As many engines, whose names and figures all differ."""
    rank = Rank("a")
    rank.work(12)
    chance, snapshot = random.Random(3), rank.snapshot()

    def one():
        factor = chance.random()
        totals = {
            name: {key: value * chance.random() for key, value in getattr(snapshot.totals, name).items()}
            for name in ("busy_seconds_by_limiter", "lost_slot_seconds_by_limiter")
        }
        slo = {"interactive": {"met": chance.randrange(500), "missed": chance.randrange(50)}}
        return msgspec.structs.replace(
            snapshot,
            instance_id=f"{chance.getrandbits(128):032x}",
            labels={"host": f"gpu-{chance.getrandbits(40):x}.example.org"},
            gauges=msgspec.structs.replace(snapshot.gauges, requests_waiting=chance.randrange(900)),
            totals=msgspec.structs.replace(
                snapshot.totals, **totals, slo_requests=slo,
                used_slot_seconds=snapshot.totals.slot_seconds * factor,
            ),
        )  # fmt: skip

    return [(one(), True) for _ in range(number)]


def test_two_hundred_engines_take_24_mebibytes_and_100_kb_at_first_and_2_kb_a_second():
    """Asked for every three seconds; every figure of every engine is another one, and every letter of its strip."""
    engines, found, chance = Engines(), _many(200), random.Random(4)
    whole = found[0][0]
    engines.look(found, whole)
    for engine, _, _ in engines.told(found):
        engine.looks.clear()  # then all that was ever counted is of the last minute
        engine.letters.extend(chance.choices("stkdpzu-", k=STRIP))
        engine.levels.extend(chance.choices("0123456789", k=STRIP))
    engines.looks = STRIP
    assert engines.nbytes <= 24 * 2**20
    assert engines.nbytes / 200 * MOST_ENGINES <= 31 * 2**20
    first = table(engines, found, whole, 0, known_of(""))
    assert len(gzip.compress(first, 4, mtime=0)) <= 100_000
    engines.looks += 1
    tick = table(engines, found, whole, 0, known_of(json.loads(first)["cursor"]))
    assert len(gzip.compress(tick, 4, mtime=0)) <= 3 * 2_000


def test_no_more_engines_are_remembered_than_there_is_room_for_and_who_left_makes_room():
    engines, found = Engines(), _many(MOST_ENGINES + 4)
    engines.look(found, found[0][0])
    assert len(engines.told(found)) == MOST_ENGINES
    engines.look(found[4:], found[0][0])
    engines.look(found[4:], found[0][0])
    assert all(engine.history is not None for engine, _, _ in engines.told(found[4:]))


def test_a_directory_tells_of_each_process_and_charts_one(tmp_path):
    """Also of the one that ended."""

    one, other = Rank("a"), Rank("b")
    one.work(2)
    other.work(2)
    with SnapshotPublisher(one.collector, tmp_path, interval=None):
        publisher = SnapshotPublisher(other.collector, tmp_path, interval=None)
        publisher.close()
        with SnapshotDirectory(tmp_path, compact=False) as reader:
            assert isinstance(reader, EngineReader)
            reader.get_snapshot()
            assert [lives for _, lives in reader.snapshots()] == [True, False]
            app = make_asgi_app(reader)
            table = ask(app, "/fleet").json()
            states = dict(zip((name for _, name in table["names"]), table["texts"][0], strict=True))
            assert states == {"rank=a": "live", "rank=b": "gone"}
            identity = {name: one for one, name in table["names"]}["rank=a"]
            found = ask(app, "/history", query=f"engine={identity}").json()
            assert (found["seconds"], found["names"]["labels"], found["names"]["merged"]) == (10, {"rank": "a"}, False)
            assert "last" not in found["verdict"]["sentence"]
            nobody = ask(app, "/history", query="engine=nobody")
            assert (nobody.status, "nobody" in nobody.json()["error"]) == (404, True)
            assert ask(make_asgi_app(reader, token="s3cret"), "/fleet").status == 401
