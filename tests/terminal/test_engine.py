"""What a view remembers of an engine: its state, the last minute, a cell of history for each look."""

import math

import msgspec
import pytest
from scenes import END, NOON, demo, engine, fleet, text_of

from batchscope import BatchLimiter
from batchscope.scraping.documents import ScrapedSnapshot, ScrapeWindow
from batchscope.terminal.engine import CELLS, Engine
from batchscope.terminal.fleet import SORTS, ranked, short_names, states, worst_first
from batchscope.terminal.panels import band, seconds
from batchscope.terminal.sources import Look
from batchscope.views.verdict import verdict


def state(one, now):
    return str(one.shown(now).state)


def test_it_is_down_before_the_first_answer_stale_without_one_gone_when_refused_and_live_again():
    one = Engine("e", "http://e/metrics", 1.0)
    assert state(one, 0.0) == "down"
    one.looked(Look(demo()[0]), 0.0)
    assert [state(one, at) for at in (0.0, 2.0, 2.1)] == ["live", "live", "stale"]
    one.failed("no answer", late=True)
    assert state(one, 1.0) == "live"
    one.failed("refused")
    assert (state(one, 1.0), one.shown(1.0).error, one.shown(1.0).fresh) == ("gone", "refused", False)
    one.looked(Look(demo()[1]), 3.0)
    assert (state(one, 3.0), one.shown(3.0).error) == ("live", "")


def test_a_restart_is_said_for_five_seconds_and_begins_the_last_minute_anew():
    one = engine()
    other = [msgspec.structs.replace(snapshot, instance_id="other") for snapshot in demo()]
    for place, snapshot in enumerate(other[:8]):
        one.looked(Look(snapshot), END + 1.0 + place)
    assert [state(one, END + 1.0 + place) for place in (0, 4, 5)] == ["restarted", "restarted", "live"]
    assert one.shown(END + 8.0).figures.recent.elapsed_seconds == pytest.approx(7.0, abs=0.2)
    before, after = [cell for cell in one.shown(END + 8.0).cells if cell.begin in {END - 1, END + 1}]
    assert (before.end, after.begin) == (END, END + 1)  # and no cell between the two lives


def test_its_last_minute_is_the_difference_of_two_looks_that_far_apart():
    one = engine(last=40)
    recent = one.shown(40.0).figures.recent
    assert recent.elapsed_seconds == pytest.approx(40.0, abs=0.2)
    assert recent.totals.iterations == demo()[-1].totals.iterations - demo()[0].totals.iterations
    for second in range(41, 200):
        later = msgspec.structs.replace(demo()[-1], elapsed_seconds=demo()[-1].elapsed_seconds + second - 40)
        one.looked(Look(later), float(second))
    assert 60.0 <= one.shown(199.0).figures.recent.elapsed_seconds <= 66.0
    one.choose(300.0)
    assert one.shown(199.0).figures.recent.elapsed_seconds == pytest.approx(199.0, abs=0.2)


def test_history_and_marks_are_bounded():
    one = engine()
    for second in range(3000):
        later = msgspec.structs.replace(demo()[-1], elapsed_seconds=1000.0 + second)
        one.looked(Look(later), 1000.0 + second)
    assert len(one.shown(4000.0).cells) == CELLS
    assert all(len(marks) <= 15 for marks in one._marks.values())


def test_a_cell_is_a_second_and_its_letter_is_what_held_the_batch_longest_in_it():
    one = engine().shown(float(END))
    found = seconds(one, 40)
    assert all(cell is not None for cell in found)
    for cell, (before, now) in zip(found, zip(demo(), demo()[1:], strict=False), strict=True):
        gained = {
            name: now.totals.busy_seconds_by_limiter[name] - before.totals.busy_seconds_by_limiter[name]
            for name in BatchLimiter
        }
        assert gained[cell.limiter] == max(gained.values())
    letters = text_of(band(one, 40))
    assert len(letters) == 40
    assert set(letters) <= set("STKDPZ-U")  # capitals: the simulator reports what it does


def test_what_is_inferred_is_a_small_letter():
    one = engine().shown(float(END))
    inferred = one._replace(cells=[cell._replace(reported=False) for cell in one.cells])
    assert text_of(band(inferred, 40)) == text_of(band(one, 40)).lower()


def test_without_answers_the_band_is_hatched_also_afterwards_though_the_counts_tell_of_the_time():
    one = engine(snapshots=demo()[:5], last=4)
    assert text_of(band(one.shown(10.0), 12)).endswith("//////")
    one.looked(Look(demo()[15]), 14.0)
    one.looked(Look(demo()[16]), 15.0)
    assert text_of(band(one.shown(15.0), 15))[4:14] == "//////////"
    assert "/" not in text_of(band(one.shown(15.0), 15))[14:]


def test_charts_draw_nothing_where_there_was_no_answer():
    one = engine(snapshots=demo()[:5], last=4)
    one.looked(Look(demo()[15]), 14.0)
    assert [cell is None for cell in seconds(one.shown(14.0), 14)] == [False] * 4 + [True] * 10


def test_where_somebody_is_there_and_has_told_nothing_new_that_is_no_gap():
    """An idle process publishes every four seconds."""
    one = engine(snapshots=demo()[:5], last=4)
    for second in (5.0, 6.0, 7.0):
        one.seen(second)
    still = msgspec.structs.replace(demo()[4], elapsed_seconds=demo()[4].elapsed_seconds + 4.0)
    one.looked(Look(still), 8.0)
    assert text_of(band(one.shown(8.0), 8))[4:] == "    "
    assert all(seconds(one.shown(8.0), 8))


@pytest.mark.parametrize("late", [0.5, 1.4])
def test_the_second_that_no_look_has_told_of_yet_is_no_gap(late):
    assert "/" not in text_of(band(engine().shown(END + late), 30))


def test_a_page_tells_no_limiter_and_its_stall_is_told_by_its_counters():
    page = ScrapedSnapshot(
        snapshot=msgspec.structs.replace(demo()[-1], windowed={}), intervals={}, ratios={}, window=ScrapeWindow(5.0),
        sources={}, not_given={},
    )  # fmt: skip
    one = Engine("e", "http://e/metrics", 1.0)
    one.looked(Look(page.snapshot, page, 99.0), 1.0)
    assert state(one, 1.0) == "stalled"
    assert one.shown(1.0).told.sentence.startswith("Stalled")
    one.looked(Look(page.snapshot, page, math.nan), 2.0)
    assert state(one, 2.0) == "live"


def test_the_sentence_is_the_verdicts_own_of_the_last_minute():
    shown = engine().shown(float(END))
    figures = shown.figures
    assert shown.told == verdict(figures.snapshot, age=0.0, recent=figures.recent)


# A fleet.


def test_the_worst_come_first_by_the_stated_rule():
    engines = [one.shown(float(END)) for one in fleet()]
    found = ranked(engines)
    assert [one.name for one in found[:2]] == ["gpu3", "gpu-never"]
    assert [str(one.state) for one in found[:2]] == ["gone", "down"]
    keys = [worst_first(one)[:3] for one in found]
    assert keys == sorted(keys)
    assert states(engines) == "1 down, 1 gone, 29 live"


@pytest.mark.parametrize("sort", SORTS)
def test_any_order_keeps_everybody_and_a_filter_only_those_that_match(sort):
    engines = [one.shown(float(END)) for one in fleet()]
    assert {one.name for one in ranked(engines, sort)} == {one.name for one in engines}
    assert {one.name for one in ranked(engines, sort, "GPU2")} == {"gpu2", *(f"gpu{place}" for place in range(20, 30))}
    assert [one.name for one in ranked(engines, sort, "gone")] == ["gpu3"]
    assert ranked(engines, sort, "nobody") == []


def test_names_are_in_the_order_in_which_people_count():
    engines = [one.shown(float(END)) for one in fleet(12)]
    assert [one.name for one in ranked(engines, "name")][:4] == ["gpu0", "gpu1", "gpu2", "gpu3"]


def test_a_digit_that_is_no_number_is_a_letter():
    names = ["\u00b9", "10", "\u0663", "1" * 40, "\u2461"]
    engines = [Engine(name, name, 1.0).shown(0.0) for name in names]
    assert [one.name for one in ranked(engines, "name")] == ["\u0663", "10", "1" * 40, "\u00b9", "\u2461"]


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["gpu1.site.example:9464", "gpu12.site.example:9464"], ["gpu1", "gpu12"]),
        (["10.0.0.1:8000", "10.0.0.2:8000"], ["10.0.0.1", "10.0.0.2"]),
        (["h:1/e0", "h:1/e17"], ["e0", "e17"]),
        (["a", "b"], ["a", "b"]),
        (["x.y", "x.z"], ["x.y", "x.z"]),
        (["only.one:1"], ["only.one:1"]),
        ([], []),
    ],
)
def test_what_all_names_share_is_left_out_of_them(names, short):
    assert short_names(names) == short


def test_the_clock_of_the_scenes_is_frozen():
    assert NOON.isoformat() == "2026-11-28T12:00:00+00:00"
