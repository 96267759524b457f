"""An hour of the page, told and timed faster than it passes: what it knows is trimmed, and its heap stays as it is."""

import json

from batchscope.dashboard.document import cursor_of, wanted_of
from batchscope.dashboard.recorder import Recorder
from batchscope.simulator import VirtualClock
from served import WALL, engine, serving

STEP = 4
"""Seconds that an answer is later than the one before: a page that asks each second would take four times as long."""
RECORDED, WARM, END = 40, 2700, 2700 + 3600
GROWTH = 0.02
"""Of the heap after 45 minutes, when all that it keeps is full and all its code compiled: what an hour more may add."""

# Answers as the server gave them, each some seconds later than the one before, for ever; the test winds the clock.
ANSWERS = """([answers, step]) => {
  const parsed = answers.map((text) => JSON.parse(text));
  const begin = parsed[0].newest;
  window.told = 0;
  window.fetch = async () => {
    const one = structuredClone(parsed[window.told ? 1 + (window.told % (parsed.length - 1)) : 0]);
    const later = begin + step * window.told - one.newest;
    one.newest += later;
    one.cells.numbers = one.cells.numbers.map((number) => number + later);
    one.history = parsed[0].history;
    window.told += 1;
    const text = JSON.stringify(one);
    return { status: 200, text: async () => text };
  };
}"""


def recorded():
    """The first answer of the demo, and the ticks after it."""
    clock = VirtualClock()
    collector, simulator = engine(clock)
    recorder = Recorder(collector, clock=clock, wall=lambda: WALL)
    recorder.sample()
    cursor, found = "", []
    for second in range(1, STEP * RECORDED + 1):
        simulator.run(should_stop=lambda until=second: clock() >= until)
        clock.advance_to(second)
        recorder.sample()
        if second % STEP:
            continue
        found.append(recorder.answer(recorder.present(), cursor_of(cursor), wanted_of("", "")).decode())
        cursor = json.loads(found[-1])["cursor"]
    recorder.start = lambda: None  # no second passes
    return collector, recorder, found


def test_an_hour_adds_nothing_to_the_pages_heap(tab):
    collector, recorder, answers = recorded()
    with serving(collector, recorder) as url:
        opened = tab(url, fragment="#window=60", before=lambda page: page.clock.install(time=WALL))
        page = opened.page
        page.evaluate(ANSWERS, [answers, STEP])
        session = opened.context.new_cdp_session(page)
        session.send("Performance.enable")

        def heap(seconds):
            while (told := page.evaluate("window.told")) < seconds // STEP:
                page.clock.run_for(1000 * min(60, seconds // STEP - told))
            session.send("HeapProfiler.collectGarbage")
            metrics = session.send("Performance.getMetrics")["metrics"]
            return next(one["value"] for one in metrics if one["name"] == "JSHeapUsedSize")

        first, last = heap(WARM), heap(END)
        assert opened.text("#state").lower() == "live"
        assert opened.complaints == []
    assert last <= (1 + GROWTH) * first, f"{first / 1e6:.2f} MB after {WARM} s, {last / 1e6:.2f} MB after {END} s"
