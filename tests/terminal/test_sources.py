"""Where figures come from: an endpoint of ours, an engine's page, neither; and how each failure is told."""

import datetime as dt
import threading

import pytest
from scenes import demo
from scrape_doubles import Site, tokens

from batchscope import SchedulerMetricsCollector
from batchscope.exporters.prometheus import Exposition, Format
from batchscope.publishing import SnapshotDirectory, SnapshotPublisher
from batchscope.scraping.fetch import ScrapeLimits, metrics_url
from batchscope.statistics.cumulative import cumulative_of
from batchscope.statistics.merge import merge_snapshots
from batchscope.terminal.polling import Looked
from batchscope.terminal.processes import Published
from batchscope.terminal.sources import Directory, Endpoint, Look, LookError

OWN = demo()[-1]
PAGES = {
    "/metrics": Exposition().render(cumulative_of(OWN), Format.TEXT),
    "/snapshot": OWN.to_json(),
    "/snapshot?histograms=1": OWN.to_json(histograms=True),
}


def endpoint(site, path="", seconds=5.0):
    return Endpoint(metrics_url(site.url + path), ScrapeLimits(timeout_seconds=seconds))


@pytest.mark.parametrize("path", ["", "/metrics", "/snapshot"])
def test_of_our_endpoint_it_reads_the_snapshot_and_histograms_only_where_they_are_wanted(path):
    with Site(PAGES) as site:
        source = endpoint(site, path)
        plain, whole = (source.look(histograms=wanted) for wanted in (False, True))
        asked = [path for path, _ in site.asked]
    assert (plain.snapshot.totals, plain.snapshot.histograms, plain.scraped) == (OWN.totals, {}, None)
    assert whole.snapshot.histograms.keys() == OWN.histograms.keys()
    assert asked == ["/snapshot", "/snapshot?histograms=1"]


def test_of_an_engine_it_reads_the_page_and_does_not_ask_for_a_snapshot_again():
    with Site({"/metrics": tokens(100, running=3).encode()}) as site:
        source = endpoint(site)
        first, second = (source.look(histograms=False) for _ in range(2))
        asked = [path for path, _ in site.asked]
    assert first.scraped is not None
    assert second.snapshot.gauges.requests_running == 3
    assert asked == ["/snapshot", "/metrics", "/metrics"]


def test_where_something_else_answers_both_addresses_and_what_came_are_told():
    foreign = {"/wrong": b"<html><body>a page of somebody else</body></html>"}
    with Site(foreign) as site, pytest.raises(LookError) as refused:
        endpoint(site, "/wrong").look(histograms=False)
    words = str(refused.value)
    assert words.startswith("line 1: not Prometheus text: '<html>")
    assert "(a web page: expected /metrics); " in words
    assert words.endswith("expected batchscope's endpoint, which serves /snapshot")
    assert "/wrong/snapshot: HTTP 404" in words
    with pytest.raises(LookError) as nobody:
        endpoint(site, "/wrong").look(histograms=False)
    assert str(nobody.value) == "connection refused: expected a server at this address"  # once, of both


def test_an_engine_that_came_back_as_another_is_found_out():
    with Site(PAGES) as site:
        source = endpoint(site)
        assert source.look(histograms=False).scraped is None
        site.pages = {"/metrics": tokens(100).encode()}
        with pytest.raises(LookError, match="404"):
            source.look(histograms=False)
        assert source.look(histograms=False).scraped is not None
        site.pages = {}
        with pytest.raises(LookError):
            source.look(histograms=False)
        site.pages = dict(PAGES)
        assert source.look(histograms=False).snapshot.totals == OWN.totals


def test_a_refusal_is_told_from_no_answer_in_time():
    released = threading.Event()
    with Site() as site:
        pass
    with pytest.raises(LookError) as refused:
        endpoint(site).look(histograms=False)
    assert not refused.value.late
    with Site(answer=lambda handler: released.wait(20)) as site:
        with pytest.raises(LookError) as hangs:
            endpoint(site, seconds=0.2).look(histograms=False)
        released.set()
    assert hangs.value.late


def test_a_directory_where_nobody_has_published_says_so(tmp_path):
    with pytest.raises(LookError, match="no process has published here yet"):
        Directory(tmp_path).look(histograms=False)
    session = Published(tmp_path, 1.0)
    assert [engine.address for engine in session.engines] == [str(tmp_path)]


def test_the_merge_of_processes_is_of_all_of_them_at_every_look_and_gone_when_all_are(tmp_path):
    session = Published(tmp_path, 1.0)
    one, other = (SchedulerMetricsCollector() for _ in range(2))
    parts = [one.get_snapshot(), other.get_snapshot()]
    merged = merge_snapshots(parts)
    for at, living in ((1.0, True), (2.0, True), (3.0, False)):
        session._directory.processes = [(part, living) for part in parts]
        session._take(Looked(0, at, Look(merged)))
    assert [engine.last.snapshot.instance_id for engine in session.engines] == [part.instance_id for part in parts]
    assert len(session._merged.last.snapshot.merged_from) == 2
    assert session._merged.shown(9.0).state == "gone"
    assert session._merged.shown(9.0).age == 7.0
    one.close()
    other.close()


def test_a_process_that_was_archived_is_gone_and_not_stale_and_who_ended_before_is_a_number(tmp_path):
    collectors = [SchedulerMetricsCollector(labels={"rank": str(rank)}) for rank in range(4)]
    publishers = [SnapshotPublisher(collector, tmp_path, interval=None) for collector in collectors]
    session, at = Published(tmp_path, 1.0), 0.0

    def look():
        nonlocal at
        at += 1.0
        with SnapshotDirectory(tmp_path, max_age=0.0) as reader:
            reader.get_snapshot()  # it puts the dead into the archive
        session._take(Looked(0, at, session._directory.look(histograms=False)))
        return {engine.name.partition("rank=")[2]: str(engine.shown(at + 0.5).state) for engine in session.engines}

    publishers[3].close()
    for publisher in publishers[:3]:
        publisher.publish_now()
    assert look() == dict.fromkeys("012", "starting")
    assert session.scene().notes == ["1 more ended before: they are in the sum only"]
    publishers[2].close()
    assert look() == {"0": "starting", "1": "starting", "2": "gone"}
    for publisher in publishers:
        publisher.close()
    assert look() == dict.fromkeys("012", "gone")
    later = Published(tmp_path, 1.0, wall_clock=lambda: dt.datetime.now(dt.UTC) + dt.timedelta(seconds=90))
    later._take(Looked(0, 1.0, later._directory.look(histograms=False)))
    [whole] = later.engines
    assert (str(whole.shown(1.0).state), whole.error) == ("gone", "no process lives here any more; 4 ended")
    assert 90 <= whole.shown(1.0).age < 100
