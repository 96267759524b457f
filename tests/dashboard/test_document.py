"""What the page is told: everything at first, then what is new, within its bounds at the worst input."""

import gzip
import json
import random
import re

import pytest
from page_doubles import Hands, collector, second, seeded

from batchscope import decode_snapshot
from batchscope.dashboard.counts import COLUMNS, LATENCIES
from batchscope.dashboard.document import Cursor, cursor_of, wanted_of
from batchscope.dashboard.figures import figures, pointer, value_at
from batchscope.dashboard.recorder import Recorder
from batchscope.publishing.liveness import Processes
from batchscope.views.numbers import percent
from batchscope.views.verdict import verdict

CLASSES = tuple(f"class-{number}" for number in range(8))


def emoji(count):
    chance = random.Random(1)
    return ["".join(chr(chance.randrange(0x1F300, 0x1F6FF)) for _ in range(120)) for _ in range(count)]


class Recorded:
    """A recorder on clocks of the test's, with a history of some seconds."""

    def __init__(self, seconds, **work):
        self.clock, self.wall = Hands(), Hands(1.7e9)
        self.work, self.chance = work, seeded()
        self.source = collector(self.clock, work.get("classes", ("interactive",)))
        self.recorder = Recorder(self.source, clock=self.clock, wall=self.wall)
        self.recorder.sample()
        self.go_on(seconds)

    def go_on(self, seconds=1):
        for _ in range(seconds):
            second(self.source, self.clock, self.chance, **self.work)
            self.wall.now += 1
            self.recorder.sample()

    def answer(self, cursor="", *, seconds="", last=""):
        return self.recorder.answer(self.recorder.present(), cursor_of(cursor), wanted_of(seconds, last))


def unpacked(text):
    """The rows of a packed table as (first bucket, counts)."""
    for row in text.split(",")[:-1]:
        first, _, digits = row.partition(":")
        yield (
            (
                int(first),
                [int(big or small, 10 if big else 36) for big, small in re.findall(r"\{(\d+)\}|([0-9a-z])", digits)],
            )
            if row
            else None
        )


def sizes(document):
    return len(gzip.compress(document, 4 if len(document) < 200_000 else 6, mtime=0))  # as the endpoint does


@pytest.fixture(scope="module")
def worst():
    found = Recorded(1, classes=CLASSES, errors=emoji(100), gpus=8)
    found.work["errors"], found.work["iterations"] = (), 2
    found.go_on(609)
    return found


def test_the_first_answer_and_a_tick_are_small_at_the_worst_input(worst):
    """100 error names of 120 emoji, 8 classes, 8 GPUs sampled each second, ten minutes by the second."""
    first = worst.answer(last="600")
    assert len(json.loads(first)["cells"]["numbers"]) == 600
    assert sizes(first) <= 100_000
    assert sizes(worst.answer(seconds="10")) <= 100_000
    cursor = json.loads(first)["cursor"]
    for _ in range(3):
        worst.go_on()
        tick = worst.answer(cursor)
        document = json.loads(tick)
        assert sizes(tick) <= 2_000
        assert "names" not in document
        assert len(document["cells"]["numbers"]) == 1
        cursor = document["cursor"]


def test_a_cursor_brings_each_cell_of_a_second_once():
    recorded = Recorded(5)
    first = json.loads(recorded.answer())
    recorded.go_on(3)
    second_ = json.loads(recorded.answer(first["cursor"]))
    assert not second_["whole"]
    assert second_["cells"]["numbers"] == [first["newest"] + 1, first["newest"] + 2, first["newest"] + 3]
    assert json.loads(recorded.answer(second_["cursor"]))["cells"]["numbers"] == []


def test_who_asks_twice_in_a_second_misses_no_cell():
    one = Recorded(5)
    cursor = json.loads(one.answer())["cursor"]
    for _ in range(3):
        again = json.loads(one.answer(cursor))
        assert (again["whole"], again["cells"]["numbers"], again["cursor"]) == (False, [], cursor)
    one.go_on()
    assert json.loads(one.answer(cursor))["cells"]["numbers"] == [one.recorder.history.newest]


def test_a_cursor_beyond_the_newest_cell_gets_everything():
    one = Recorded(5)
    history, _, names, _ = json.loads(one.answer())["cursor"].split("-")
    for seconds in (1, 10):
        answer = json.loads(one.answer(f"{history}-{10**14}-{names}-{seconds}", seconds=str(seconds)))
        assert answer["whole"]
        assert answer["cells"]["numbers"]


def test_the_last_cell_of_ten_seconds_comes_again_while_it_grows():
    recorded = Recorded(25)
    first = json.loads(recorded.answer(seconds="10"))
    recorded.go_on()
    again = json.loads(recorded.answer(first["cursor"], seconds="10"))
    assert again["cells"]["numbers"] == first["cells"]["numbers"][-1:]
    wall = COLUMNS.index("wall_seconds")
    assert again["cells"]["counts"][wall][-1] == first["cells"]["counts"][wall][-1] + 1


@pytest.mark.parametrize(
    "cursor", ["", "nonsense", "0-0-0-1", "../../etc", "ffffffff-12-0-1", "1-" + "9" * 40 + "-0-1"]
)
def test_what_is_no_cursor_of_this_history_gets_everything(cursor):
    recorded = Recorded(4)
    found = json.loads(recorded.answer(cursor))
    assert found["whole"]
    assert len(found["cells"]["numbers"]) == 4
    assert found["names"]["columns"] == list(COLUMNS)


def test_names_come_again_when_there_is_a_new_one():
    recorded = Recorded(3)
    cursor = json.loads(recorded.answer())["cursor"]
    recorded.source.record_error("OutOfMemory")
    recorded.go_on()
    assert "/error_stats/errors_by_type/OutOfMemory" in json.loads(recorded.answer(cursor))["names"]["figures"]


def test_wire_sums_equal_the_rings():
    recorded = Recorded(60)
    found = json.loads(recorded.answer())
    extract = recorded.recorder.history.since()
    for at, name in enumerate(COLUMNS):
        column = found["cells"]["counts"][at]
        told = (
            sum(column)
            if isinstance(column, list) and len(column) > 1
            else (column if not isinstance(column, list) else column[0])
        )
        if not isinstance(column, list):
            told = column * len(extract.cells)
        assert told == pytest.approx(extract.cells.counts[:, at].sum(), abs=2e-4), name
    for table, text in zip(extract.cells.latencies, found["cells"]["latencies"], strict=True):
        rows = list(unpacked(text))
        assert len(rows) == len(table)
        for row, kept in zip(rows, table, strict=True):
            expected = kept.tolist()
            first, counts = row or (0, [])
            assert [0] * first + counts + [0] * (len(expected) - first - len(counts)) == expected


def test_every_figure_is_a_place_of_the_snapshot():
    recorded = Recorded(30, gpus=1, errors=("a/b~c",))
    snapshot = recorded.source.get_snapshot()
    document = json.loads(snapshot.to_json())
    for place in figures(snapshot):
        value = document
        for part in place.split("/")[1:]:
            value = value[part.replace("~1", "/").replace("~0", "~")]
        assert not isinstance(value, dict | list), place
    assert figures(snapshot)[pointer("error_stats", "errors_by_type", "a/b~c")] == "30"


def test_a_percentile_of_too_few_is_not_shown():
    recorded = Recorded(1)
    texts = figures(recorded.source.get_snapshot())
    path = ("windowed", "1m", "summaries", "time_to_first_token")
    assert texts[pointer(*path, "count")] == "12"
    assert texts[pointer(*path, "p50")]
    assert texts[pointer(*path, "p95")] == texts[pointer(*path, "p99")] == ""
    assert texts[pointer(*path, "max")]


def test_in_its_first_minute_the_verdict_is_of_the_same_time_as_the_figures_since_the_start():
    recorded = Recorded(59)
    assert "while busy. " in recorded.recorder.present().verdict["sentence"]
    recorded.go_on(15)
    assert "while busy, last " in recorded.recorder.present().verdict["sentence"]


def test_the_sentence_is_the_verdicts_word_for_word():
    recorded = Recorded(3)
    told = recorded.recorder.present()
    assert told.verdict["sentence"].startswith("Batch ")
    assert told.verdict["state"] == str(verdict(recorded.source.get_snapshot()).state)


def test_silence_is_said_with_its_age_left_open():
    recorded = Recorded(2)
    silence = json.loads(recorded.answer())["names"]["silence"]
    assert silence["stale"] == "Stale: no answer; all this is {age} old."
    assert silence["gone"] == "Gone: nobody answers any more; all this is {age} old."


def test_a_restart_is_said_for_ten_seconds_and_more():
    recorded = Recorded(15)
    recorded.source.reset()
    recorded.go_on(2)
    assert recorded.recorder.present().verdict["state"] == "restarted"
    recorded.go_on(30)
    assert recorded.recorder.present().verdict["state"] == "live"


def test_an_empty_collector_has_an_answer():
    clock = Hands()
    recorder = Recorder(collector(clock), clock=clock, wall=Hands(1.7e9))
    found = json.loads(recorder.answer(recorder.present(), Cursor(), wanted_of("", "")))
    assert found["cells"]["numbers"] == []
    assert found["verdict"]["state"] == "starting"
    assert found["names"]["latencies"] == {
        "time_to_first_token": "TTFT", "inter_token_latency": "ITL", "time_per_output_token": "TPOT",
        "total_time": "e2e", "queue_time": "queue",
    }  # fmt: skip
    assert set(found["names"]["latencies"]) == set(LATENCIES)


def test_snapshots_of_other_versions_have_figures():
    """Unknown keys, missing ones and null everywhere: the page shows what there is."""
    document = json.loads(Recorded(3).source.get_snapshot().to_json())
    older = {
        key: value
        for key, value in document.items()
        if key not in {"windowed", "slo_stats", "resource_stats", "gauges"}
    }
    newer = {**document, "something": {"new": 1}, "iteration_stats": {**document["iteration_stats"], "newer": None}}
    for one in (older, newer):
        texts = figures(decode_snapshot(json.dumps(one)))
        assert texts["/gauges/requests_waiting"]
        assert texts["/iteration_stats/time_weighted_utilization"] == percent(
            value_at(decode_snapshot(json.dumps(document)), ("iteration_stats", "time_weighted_utilization"))
        )


class Dead:
    """Processes that have published, and ended."""

    def __init__(self, source):
        self.closed, self.living, self._source = False, {}, source
        self.read_totals, self.get_snapshot = source.read_totals, source.get_snapshot

    def processes(self):
        return Processes(self.living, gone=2)


def test_where_no_process_lives_any_more_the_page_says_gone_and_since_when():
    one = Recorded(5)
    dead = Dead(one.source)
    wall = Hands(one.source.get_snapshot().snapshot_time.timestamp() + 30.0)
    recorder = Recorder(dead, clock=one.clock, wall=wall)
    told = recorder.present()
    assert told.verdict["state"] == "gone"
    assert re.match(r"Gone: nobody answers any more; all this is (29|30) s old\.", told.verdict["sentence"])
    answer = json.loads(recorder.answer(told, cursor_of(""), wanted_of("", "")))
    assert answer["silent"] == pytest.approx(30.0, abs=1.0)
    dead.living = {"a": one.source.get_snapshot().gauges}
    assert recorder.present().verdict["state"] == "live"
