"""A view while it runs: what keys do, what pausing keeps, how engines that hang are left alone."""

import datetime as dt
import math
import threading

import msgspec
import pytest
from scenes import NOON, demo, text_of

from batchscope.terminal.frame import frame
from batchscope.terminal.polling import MOST_THREADS, Looked, Poller
from batchscope.terminal.session import Session
from batchscope.terminal.sources import Look, LookError


class Source:
    """Answers with the demo's second that a test has chosen."""

    def __init__(self, name, place=0):
        self.name, self.address, self.place = name, f"http://{name}", place
        self.error = None

    def look(self, *, histograms):
        if self.error:
            raise self.error
        return Look(msgspec.structs.replace(demo()[self.place], instance_id=self.name))


class Hanging(Source):
    """Does not answer before the test lets it."""

    def __init__(self, name):
        super().__init__(name)
        self.asked, self.released = 0, threading.Event()

    def look(self, *, histograms):
        self.asked += 1
        self.released.wait(30)
        raise LookError("no complete answer within 2 s", late=True)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def wall(self):
        return NOON + dt.timedelta(seconds=self.now)


def session(*sources, interval=1.0):
    """Asked by hand: ``ask()`` is a round of looks."""
    clock = Clock()
    one = Session(sources, interval, clock=clock, wall_clock=clock.wall, cpu_clock=lambda: clock.now / 50)

    def ask(seconds=1.0):
        clock.now += seconds
        for place, source in enumerate(sources):
            try:
                one.engines[place].looked(source.look(histograms=False), clock.now)
            except LookError as error:
                one.engines[place].failed(str(error), late=error.late)
            source.place += 1
        one.update()

    one.ask = ask
    return one


def screen(one, width=80, height=24):
    return "\n".join(text_of(line) for line in frame(one.scene(), one.viewing, width, height).lines)


def press(one, *keys):
    return [one.press(key, key if len(key) == 1 else None) for key in keys]


def test_q_and_control_c_end_it_and_no_other_key_does():
    one = session(Source("a"), Source("b"))
    assert (press(one, "q"), one.interrupted) == ([False], False)
    assert (press(one, "ctrl+c"), one.interrupted) == ([False], True)
    assert press(one, "slash", "ctrl+c") == [True, False]
    one.press("escape")
    others = ["up", "down", "enter", "escape", "s", "w", "p", "p", "question_mark", "f5", "home", "end", "x", "left"]
    assert all(press(one, *others))


def test_keys_choose_order_engine_and_filter_and_enter_opens_what_escape_closes():
    one = session(Source("a0"), Source("a1"), Source("b"))
    one.ask()
    one.ask()
    assert "3 of 3 shown, worst first" in screen(one)
    press(one, "s")
    assert "3 of 3 shown, by name" in screen(one)
    press(one, "down", "down")
    assert one.viewing.selected == "http://a1"
    press(one, "pagedown", "down")
    assert one.viewing.selected == "http://b"
    press(one, "home", "up", "enter")
    assert "batchscope top  http://a0" in screen(one)
    assert "Latency " in screen(one)
    press(one, "escape", "slash", "a", "1")
    assert "/a1_" in screen(one)
    assert "1 of 3 shown" in screen(one)
    press(one, "backspace", "enter")
    assert "2 of 3 shown, by name; 2 match /a" in screen(one)
    press(one, "slash", "q", "escape", "escape")
    assert "3 of 3 shown" in screen(one)


def test_while_the_filter_is_typed_letters_are_letters():
    one = session(Source("a"), Source("b"))
    press(one, "slash")
    assert press(one, *"qps?w") == [True] * 5
    assert one.viewing.wanted == "qps?w"


def test_a_pause_keeps_the_view_and_its_history_and_the_verdict_goes_on():
    one = session(Source("a"))
    for _ in range(10):
        one.ask()
    before = screen(one).splitlines()
    press(one, "p")
    for _ in range(12):
        one.ask()
    paused = screen(one).splitlines()
    assert " PAUSED at 12:00:10, 12 s behind. " in "\n".join(paused)
    batch = next(line for line in before if line.startswith("Batch"))
    held = [line for line in before if line.startswith("held by")]
    assert batch in paused
    assert held == [line for line in paused if line.startswith("held by")]
    assert "last 21 s" in "\n".join(paused[:5])
    one.engines[0].failed("refused")
    assert "GONE" in screen(one)
    assert batch in screen(one)
    press(one, "space")
    assert len(one.scene().engines[0].cells) == 21
    assert batch not in screen(one)


def test_w_changes_the_window_of_all_figures():
    one = session(Source("a"))
    for _ in range(3):
        one.ask()
    assert one.engines[0].shown(3.0).window == 60.0
    press(one, "w")
    assert " w 300 s " in screen(one)
    press(one, "w")
    assert " w 60 s " in screen(one)


def test_the_footer_says_what_the_view_itself_costs():
    one = session(Source("a"))
    for _ in range(7):
        one.ask()
    assert "this view: 2.0 % of a core, every 1 s" in screen(one)


def test_the_mouse_selects_an_engine_and_opens_the_selected_one():
    one = session(Source("a"), Source("b"))
    one.ask()
    rows = frame(one.scene(), one.viewing, 80, 24).rows
    assert sorted(rows.values()) == ["http://a", "http://b"]
    one.select("http://b")
    assert (one.viewing.selected, one.viewing.detail) == ("http://b", False)
    one.select("http://b")
    assert one.viewing.detail


def test_all_engines_together_are_merged_not_averaged():
    sources = [Source("a", 30), Source("b", 40)]
    one = session(*sources)
    one.ask()
    snapshots = [msgspec.structs.replace(demo()[at], instance_id=str(at)) for at in (30, 40)]
    for place, snapshot in enumerate(snapshots):
        one.engines[place].looked(Look(snapshot), one._clock.now)
    one._merge_due = -math.inf
    one.update()
    for _ in range(500):
        if not one.merging:
            break
        threading.Event().wait(0.01)
        one.update()
    whole = one.scene().merged.figures
    assert whole.snapshot.totals.iterations == sum(snapshot.totals.iterations for snapshot in snapshots)
    ttft = whole.snapshot.windowed["1m"].summaries["time_to_first_token"]
    parts = [snapshot.windowed["1m"].summaries["time_to_first_token"] for snapshot in snapshots]
    assert ttft.count == sum(part.count for part in parts)
    assert min(part.p99 for part in parts) <= ttft.p99 <= max(part.p99 for part in parts)


def test_engines_that_do_not_merge_are_told_why():
    one = session(Source("a", 3), Source("b", 4))
    one.ask()
    same = demo()[30]
    for engine in one.engines:
        engine.looked(Look(same), one._clock.now)
    one._merge_due = -math.inf
    one.update()
    for _ in range(500):
        if one._notes:
            break
        threading.Event().wait(0.01)
        one.update()
    assert "would count twice" in screen(one)


# Many at once.


def drained(poller, count):
    found = []
    for _ in range(2000):
        found += poller.found()
        if len(found) >= count:
            return found
        threading.Event().wait(0.005)
    raise AssertionError(f"{len(found)} of {count} looks came")


def test_twenty_that_hang_delay_no_other_and_are_not_asked_again_meanwhile():
    hanging = [Hanging(f"h{place}") for place in range(20)]
    poller = Poller([*hanging, *(Source(f"e{place}") for place in range(180))], 0.3)
    poller.start()
    try:
        found = drained(poller, 3 * 180)
        rounds = {place: [one.at for one in found if one.place == place] for place in range(20, 200)}
        assert all(len(times) >= 1 for times in rounds.values())
        assert not [one for one in found if one.place < 20]
        assert [one.asked for one in hanging] == [1] * 20
        for one in hanging:
            one.released.set()
        later = drained(poller, 200)
        assert {one.place for one in later if one.late} == set(range(20))
    finally:
        poller.close()


def test_there_are_no_more_threads_than_engines_nor_than_a_few_dozen():
    before = threading.active_count()
    poller = Poller([Source(str(place)) for place in range(500)], 60.0)
    poller.start()
    try:
        assert threading.active_count() - before <= MOST_THREADS + 1
        assert {one.place for one in drained(poller, 500)} == set(range(500))
    finally:
        poller.close()


def test_whatever_one_engine_says_the_others_are_looked_at():
    broken = Source("a")
    broken.error = ZeroDivisionError("of its figures")
    poller = Poller([broken, Source("b")], 60.0)
    poller.start()
    try:
        found = {one.place: one for one in drained(poller, 2)}
    finally:
        poller.close()
    assert found[0].error == "ZeroDivisionError: of its figures"
    assert found[1].look is not None


@pytest.mark.parametrize("error", [LookError("refused"), LookError("late", late=True)])
def test_why_nothing_came_is_told_to_the_engine(error):
    source = Source("a")
    source.error = error
    poller = Poller([source], 60.0)
    poller.start()
    try:
        [one] = drained(poller, 1)
    finally:
        poller.close()
    assert (one.look, one.error, one.late) == (None, str(error), error.late)


def test_of_many_engines_another_window_comes_with_the_next_look_so_that_a_key_waits_for_none():
    session = Session([Source(f"e{place}") for place in range(30)], 1.0, clock=lambda: 3.0)
    for at in range(3):
        for place in range(30):
            session._take(Looked(place, float(at), Look(demo()[at])))
    before = [engine.shown(3.0).figures for engine in session.engines]
    session.viewing = session.viewing._replace(selected="http://e7")
    session.press("w")
    after = [engine.shown(3.0) for engine in session.engines]
    assert {one.window for one in after} == {300.0}
    assert [one.figures is figures for one, figures in zip(after, before, strict=True)] == [
        place != 7 for place in range(30)
    ]
    session._take(Looked(0, 3.0, Look(demo()[3])))
    assert session.engines[0].shown(3.0).figures is not before[0]
