"""Engines in one table: worst first, merged and not averaged, each with its last minute."""

import json

import msgspec
from page_doubles import Hands, collector, second, seeded
from server_doubles import ask

from batchscope.dashboard.fleet import STRIP, EngineReader, Engines, details
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


def test_the_worst_comes_first_and_the_merge_is_a_row_of_its_own():
    ranks = [Rank(name) for name in ("a", "b", "c")]
    engines, found = looked(ranks, gone={"b"})
    table = json.loads(engines.table(found, merged(found)))
    assert table["engines"][0]["name"] == "rank=b"
    assert table["engines"][0]["state"] == "gone"
    assert [row["order"] for row in table["engines"]] == sorted(row["order"] for row in table["engines"])
    assert (table["total"], table["living"], table["gone"]) == (3, 2, 1)
    assert table["all"]["name"] == "all together"
    assert table["rule"].startswith("worst first: gone, stalled")


def test_where_nobody_lives_the_merge_is_gone_too():
    ranks = [Rank(name) for name in ("a", "b")]
    _, found = looked(ranks)
    dead = [(snapshot, False) for snapshot, _ in found]
    assert json.loads(Engines().table(dead, merged(found)))["all"]["state"] == "gone"
    assert json.loads(Engines().table(found, merged(found)))["all"]["state"] == "live"


def test_figures_are_of_the_last_minute_and_the_strip_of_ten():
    rank = Rank("a")
    engines, found = looked([rank], looks=STRIP + 5)
    [row] = json.loads(engines.table(found, merged(found)))["engines"]
    assert len(row["strip"]) == STRIP
    assert set(row["strip"]) <= set("stkdpzu-")
    assert row["slo"].endswith(
        f"n={sum(found[0][0].totals.slo_requests['interactive'][key] for key in ('met', 'missed')) * 6 // (STRIP + 5)}"
    )


def test_one_engine_has_its_verdict_and_figures():
    rank = Rank("a")
    rank.work()
    found = json.loads(details(rank.snapshot(), lives=True))
    assert found["verdict"]["state"] == "live"
    assert found["texts"]["/request_stats/completed_requests"] == "120"


def test_engines_that_left_are_forgotten():
    ranks = [Rank("a"), Rank("b")]
    engines, found = looked(ranks, looks=2)
    engines.look(found[:1], merged(found[:1]))
    assert list(engines._engines) == ["a"]


def test_a_directory_tells_of_each_process(tmp_path):
    """Also of the one that ended, until it is in the archive."""

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
            assert [row["state"] for row in table["engines"]] == ["gone", "live"]
            identity = table["engines"][1]["id"]
            assert ask(app, "/fleet", query=f"engine={identity}").json()["name"] == "rank=a"
            assert ask(app, "/fleet", query="engine=nobody").status == 404
            assert ask(make_asgi_app(reader, token="s3cret"), "/fleet").status == 401
