"""The page as its reader sees it: what it shows is what /snapshot says, and every way to look at it works."""

import json
import re
import urllib.request

import pytest

from batchscope import (
    BatchLimiter,
    CompletionReason,
    IterationResult,
    RequestResult,
    SchedulerLimits,
    SchedulerMetricsCollector,
    decode_snapshot,
)
from batchscope.dashboard.figures import figures
from batchscope.dashboard.recorder import Recorder
from batchscope.simulator import VirtualClock
from batchscope.views import numbers
from batchscope.views.palette import GROUNDS
from served import WALL, frozen, serving

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\u202eevil\u202c",
    "\x1b[31mred",
    "x" * 300,
    "🦀" * 60,
    "</script><script>alert(2)</script>",
]


@pytest.fixture(scope="module")
def demo():
    """Three minutes and more of the demo with a gap, errors, two preemptions and a GPU; time stands still."""

    def disturb(collector):
        from batchscope.records import ResourceSample

        for name in HOSTILE:
            collector.record_error(name)
        collector.record_iteration(
            IterationResult(0, 1, 1, 0, 0.001, started_at=199.998, finished_at=199.999, preemptions=2)
        )
        collector.record_resources([
            ResourceSample("gpu", "0", "utilization_ratio", 0.83, "ratio"),
            ResourceSample("gpu", "0", "memory_used_bytes", 6.1e10, "bytes"),
            ResourceSample("gpu", "0", "memory_total_bytes", 8e10, "bytes"),
            ResourceSample("gpu", "0", "power_watts", 431.0, "watts"),
        ])  # fmt: skip

    collector, recorder = frozen(200, gap=range(60, 75), before_end=[disturb])
    with serving(collector, recorder) as url:
        yield url


def snapshot(url):
    with urllib.request.urlopen(f"{url}/snapshot", timeout=20) as answer:
        return answer.read()


def test_every_figure_carries_its_field_and_equals_the_snapshot(demo, tab):
    page = tab(demo).page
    document = snapshot(demo)
    expected, raw = figures(decode_snapshot(document)), json.loads(document)
    shown = page.eval_on_selector_all("[data-field]", "all => all.map(one => [one.dataset.field, one.textContent])")
    assert len(shown) >= 50
    for place, text in shown:
        assert text == expected[place], place
        value = raw
        for part in place.split("/")[1:]:
            value = value[part.replace("~1", "/").replace("~0", "~")]
    assert {place for place, _ in shown} >= {
        "/gauges/requests_running",
        "/slo_stats/interactive/attainment",
        "/resource_stats/gpu.0.power_watts/last",
    }


def test_no_tile_and_no_cell_shows_a_number_without_its_field(demo, tab):
    """Tiles and tables of the present: a digit stands in a field, or is part of a name."""
    page = tab(demo).page
    bare = page.evaluate("""() => [...document.querySelectorAll('.tile .value, .tile .more, td:not(details td):not([data-window])')]
        .map(one => { const copy = one.cloneNode(true); copy.querySelectorAll('[data-field]').forEach(f => f.remove()); return one.dataset.field ? '' : copy.textContent; })
        .filter(text => /[0-9]/.test(text))""")
    assert bare == []


def test_what_held_the_batch_in_the_time_shown_is_the_snapshots(demo, tab):
    page = tab(demo).page
    iterations = decode_snapshot(snapshot(demo)).iteration_stats
    shown = dict(
        page.eval_on_selector_all("[data-window]", "all => all.map(one => [one.dataset.window, one.textContent])")
    )
    assert shown
    for limiter, share in iterations.limited_by.items():
        if share:
            assert shown[f"limited_by/{limiter}"] == numbers.percent(share)
            assert shown[f"lost_slot_seconds/{limiter}"] == numbers.amount(iterations.lost_slot_seconds[limiter])


STRIPED = """() => {
  const canvas = document.querySelector('#plot-limiter canvas');
  const x = 58 + (54.25 / 60) * (canvas.width - 70); // within one second of sixty
  const { data } = canvas.getContext('2d').getImageData(Math.round(x), 20, 5, 12);
  return new Set(new Uint32Array(data.buffer)).size;
}"""


@pytest.mark.parametrize("said", [True, False])
def test_what_is_inferred_is_striped_and_its_letter_is_small(tab, said):
    clock = VirtualClock()
    collector = SchedulerMetricsCollector(limits=SchedulerLimits(max_scheduled_tokens=100), clock=clock)
    recorder = Recorder(collector, clock=clock, wall=lambda: WALL)
    recorder.start = lambda: None  # no second passes
    recorder.sample()
    for second in range(60):
        clock.advance_to(second + 1)
        collector.record_iteration(
            IterationResult(
                second, 4, 4, 0, 1.0, started_at=second, finished_at=second + 1, scheduled_tokens=100, waiting_requests=3,
                running_requests=4, limited_by=BatchLimiter.TOKEN_BUDGET if said else None,
            )
        )  # fmt: skip
        recorder.sample()
    with serving(collector, recorder) as url:
        page = tab(url, fragment="#window=60").page
        letter = page.locator("figure:has(#plot-limiter) .letter").first.inner_text()
        assert letter == ("T" if said else "t")
        assert (page.evaluate(STRIPED) > 1) == (not said)


def test_the_banner_is_the_verdict_word_for_word(demo, tab):
    opened = tab(demo)
    with urllib.request.urlopen(f"{demo}/history", timeout=20) as answer:
        verdict = json.loads(answer.read())["verdict"]
    assert opened.text("#sentence") == verdict["sentence"]
    assert opened.page.locator("#verdict").get_attribute("data-state") == verdict["state"]


def test_hostile_names_are_text(demo, tab):
    opened = tab(demo)
    cells = opened.page.locator("#charts th[scope=row]").all_text_contents()
    assert "<img src=x onerror=alert(1)>" in cells
    assert opened.page.locator("main img, main script").count() == 0
    assert not any("\x1b" in cell or "\u202e" in cell for cell in cells)
    assert opened.complaints == []


def test_nothing_comes_from_elsewhere_nothing_complains_and_the_policy_is_on(demo, tab):
    opened = tab(demo)
    opened.page.wait_for_timeout(2500)
    assert opened.complaints == []
    assert {request.url.split("/")[2] for request in opened.asked} == {demo.removeprefix("http://")}
    opened.page.evaluate(
        "() => { const one = document.createElement('script'); one.textContent = 'window.ran = 1'; document.body.append(one) }"
    )
    assert opened.page.evaluate("window.ran") is None
    assert any("Content Security Policy" in said for said in opened.complaints)


def test_numbers_are_written_as_everywhere(demo, tab):
    """format.js against batchscope.views.numbers, over seven decades and the odd values."""
    page = tab(demo).page
    values = [
        0,
        1,
        0.5,
        0.999,
        0.9995,
        0.99999,
        0.0005,
        0.001,
        99.95,
        100,
        12345.6,
        1e6,
        1.005,
        2.5,
        59.94,
        600,
        599.9,
        3600,
        36000,
        1e5,
    ]
    values += [round(10 ** (step / 7 - 6), 9) * (1 + step / 97) for step in range(80)]
    for name, form in (
        ("count", numbers.count),
        ("percent", numbers.percent),
        ("amount", numbers.amount),
        ("duration", numbers.duration),
        ("perSecond", numbers.per_second),
    ):
        told = page.evaluate(
            "async ([name, values]) => { const all = await import('./page/format.js'); return [...values, NaN, null].map(all[name]) }",
            [name, values],
        )
        assert told == [*map(form, values), "-", "-"], name


def test_the_cursor_is_in_all_charts_and_the_data_under_it_are_read(demo, tab):
    opened = tab(demo)
    box = opened.page.locator("#plot-kv").bounding_box()
    opened.page.locator("#plot-kv").scroll_into_view_if_needed()
    box = opened.page.locator("#plot-kv").bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 30)
    opened.until(
        "() => document.querySelectorAll('.line-cursor:not([hidden])').length === document.querySelectorAll('.plot').length"
    )
    assert re.match(
        r"\d\d:\d\d:\d\d: KV cache \d", opened.text("#plot-kv >> xpath=ancestor::figure//span[@class='reading']")
    )
    assert opened.page.locator("#paused").is_hidden()


def test_a_range_is_a_question_by_mouse(demo, tab):
    opened = tab(demo)
    plot = opened.page.locator("#plot-requests")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 40)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 40, steps=5)
    opened.page.mouse.up()
    assert opened.page.locator("#question").is_visible()
    after = plot.bounding_box()
    assert abs(after["y"] - box["y"]) < 2, "the chart moves under the hand"
    assert opened.text("#question h2").startswith("What differs from 16:0")
    rows = opened.page.locator("#question table >> nth=0").locator("tbody tr").all_inner_texts()
    assert len(rows) >= 8
    assert all(re.search(r"\d and \d.* (iterations|requests|tokens)$", row) for row in rows)
    assert "range=" in opened.page.url
    opened.page.get_by_role("button", name="Drop the selection").click()
    assert opened.page.locator("#question").is_hidden()


def test_nothing_is_said_of_fewer_than_thirty(demo, tab):
    """A range of one second holds three requests: what they took is not compared; nor is a preemption or two."""
    opened = tab(demo, fragment=f"#range={WALL + 190:.0f}-{WALL + 191:.0f}")
    assert "Too few to say" in opened.text("#question .note >> nth=-1")
    assert "preemptions a minute (n 0 and 2)" in opened.text("#question .note >> nth=-1")
    assert not re.search(r"TTFT p(50|99)\t", opened.text("#question table"))


def test_a_finger_that_taps_moves_the_cursor(demo, tab):
    opened = tab(demo, has_touch=True)
    plot = opened.page.locator("#plot-limiter")
    box = plot.bounding_box()
    opened.page.touchscreen.tap(box["x"] + box["width"] * 0.6, box["y"] + 40)
    opened.until(
        "() => document.querySelectorAll('.line-cursor:not([hidden])').length === document.querySelectorAll('.plot').length"
    )


def test_a_percentile_is_there_as_soon_as_it_has_enough_observations_and_the_maximum_until_then(tab):
    collector, recorder = frozen(20)
    with serving(collector, recorder) as url:
        opened = tab(url)
        p99 = opened.page.locator("figure:has(#plot-percentiles) .beside tbody tr").first.locator("td").nth(3)
        assert p99.inner_text().startswith("max ")
        for number in range(100):
            collector.record_request_completion(
                RequestResult(
                    f"more-{number}", 5, CompletionReason.EOS_TOKEN_REACHED, 1.0, time_to_first_token=0.25, total_time=1.0,
                    request_class="interactive",
                )
            )  # fmt: skip
        opened.until(
            "() => document.querySelector(\"td[data-field='/windowed/1m/summaries/time_to_first_token/p99']\")?.textContent.endsWith('s')"
        )
        assert not p99.inner_text().startswith("max ")


def test_where_nobody_was_judged_no_range_is_shown(tab):
    collector, recorder = frozen(1, busy=False)
    with serving(collector, recorder) as url:
        opened = tab(url)
        assert opened.page.locator("figure:has(#plot-slo) .scroll td").first.inner_text() == "-"


STORE = """async (answers) => {
  const { Store } = await import('./page/store.js');
  const store = new Store(1);
  const cells = (numbers) => ({ numbers, counts: [1, 1], slo: [], gpus: [], latencies: [] });
  const names = { columns: ['wall_seconds', 'samples'] };
  for (const [history, numbers] of answers) store.take({ history, names, newest: 0, marks: [], cells: cells(numbers) });
  store.trim(50, (instant) => instant > 10 && instant <= 12);
  return [[...store.cells.keys()], [...store.marks]];
}"""


def test_another_server_is_marked_where_its_first_cell_is_and_a_paused_view_keeps_its_time_and_no_other(demo, tab):
    """Its first answer has no cell yet; of what is long ago only what the pause shows is kept."""
    answers = [["a", [10, 11, 12, 13, 40, 60, 61]], ["b", []], ["b", [70, 71]], ["b", [72]]]
    assert tab(demo).page.evaluate(STORE, answers) == [[11, 12, 60, 61, 70, 71, 72], [[70, "restarted"]]]


@pytest.mark.parametrize(
    "fragment", ["#pause=1e300", "#pause=-1", "#pause=x&window=7&range=9-1", "#range=-1e308-1e308"]
)
def test_whatever_a_link_says_the_page_is_there(demo, tab, fragment):
    opened = tab(demo, fragment=fragment)
    assert opened.text("#state").lower() == "live"
    assert opened.page.locator("#paused").is_hidden()
    assert opened.complaints == []


def test_pausing_freezes_the_view_and_not_the_truth(tab):
    collector, recorder = frozen(90)
    with serving(collector, recorder) as url:
        opened = tab(url)
        opened.page.keyboard.press("p")
        assert opened.text("#paused-text").startswith("Paused at 16:01:30")
        running = opened.text("[data-field='/totals/requests_received']")
        collector.reset()
        collector.record_error("later")
        opened.until("() => document.querySelector('#verdict').dataset.state === 'restarted'")
        assert opened.text("[data-field='/totals/requests_received']") == running
        assert running != "0"
        opened.page.reload()
        opened.page.locator("#charts figure").first.wait_for()
        assert opened.text("#paused-text").startswith("Paused at 16:01:30")
        opened.page.get_by_role("button", name="Resume").first.click()
        assert opened.page.locator("#paused").is_hidden()
        assert "pause" not in opened.page.url
        opened.until(
            "() => document.querySelector(\"[data-field='/totals/requests_received']\").textContent !== '"
            + running
            + "'"
        )


def test_window_and_theme_are_in_the_address_and_survive_a_reload(demo, tab):
    opened = tab(demo)
    opened.page.get_by_role("button", name="2 h").click()
    opened.page.keyboard.press("t")
    opened.page.keyboard.press("t")
    assert opened.page.url.endswith("#window=7200&theme=dark")
    assert any("seconds=10" in request.url for request in opened.asked) or opened.page.wait_for_timeout(1500) is None
    opened.page.reload()
    opened.page.locator("#charts figure").first.wait_for()
    assert opened.page.locator("html").get_attribute("data-theme") == "dark"
    assert opened.page.locator("#windows [aria-pressed=true]").inner_text() == "2 h"
    opened.page.keyboard.press("w")
    assert opened.page.locator("#windows [aria-pressed=true]").inner_text() == "1 min"


def test_the_story_by_keyboard_alone(demo, tab):
    """To a chart, along it, a range, what differs, the table, the keys: no mouse."""
    opened = tab(demo)
    keyboard, page = opened.page.keyboard, opened.page
    for _ in range(40):
        keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "plot-limiter":
            break
    assert page.evaluate("document.activeElement.id") == "plot-limiter"
    keyboard.press("End")
    keyboard.press("ArrowLeft")
    opened.until("() => document.querySelector('#spoken').textContent.startsWith('What held the batch. 16:03:1')")
    for _ in range(40):
        keyboard.press("Shift+ArrowLeft")
    assert page.locator("#question").is_visible()
    assert page.locator("#question tbody tr").count() >= 8
    keyboard.press("Escape")
    assert page.locator("#question").is_hidden()
    keyboard.press("?")
    assert page.locator("#keys").is_visible()
    keyboard.press("Escape")
    assert page.locator("#keys").is_hidden()
    page.locator("figure summary").first.focus()
    keyboard.press("Enter")
    page.locator("figure details[open] tbody tr").first.wait_for()
    assert page.locator("figure details[open] tbody tr").count() == 25
    assert "page 1 of" in opened.text("figure details[open] .pager")
    assert opened.complaints == []


@pytest.mark.parametrize(("width", "scale"), [(320, 1), (640, 2)])
def test_it_is_narrow_without_scrolling_sideways(demo, tab, width, scale):
    """320 px, and 1,280 at 200 % zoom."""
    page = tab(demo, width=width, device_scale_factor=scale).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """() => [...document.querySelectorAll('main *, header *')].filter(one => one.getClientRects().length && one.getBoundingClientRect().right > innerWidth + 1 && !one.closest('.scroll')).map(one => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []


def test_the_token_is_asked_for_and_never_becomes_part_of_an_address(tab):
    collector, recorder = frozen(20)
    with serving(collector, recorder, token=b"s3cret") as url:
        opened = tab(url, wait=False)
        opened.page.locator("#token").wait_for()
        assert opened.text("#state").lower() == "token needed"
        opened.page.locator("#token").fill("wrong")
        opened.page.keyboard.press("Enter")
        opened.page.wait_for_timeout(500)
        assert opened.page.locator("#locked").is_visible()
        opened.page.locator("#token").press("p")  # no key acts while a field has the focus
        assert opened.page.locator("#paused").is_hidden()
        opened.page.locator("#token").fill("s3cret")
        opened.page.keyboard.press("Enter")
        opened.page.locator("#charts figure").first.wait_for()
        assert opened.page.locator("#locked").is_hidden()
        assert not any("s3cret" in request.url for request in opened.asked)
        assert opened.asked[-1].headers["authorization"] == "Bearer s3cret"
        assert "s3cret" not in opened.page.url
        assert opened.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_a_hidden_tab_asks_for_nothing_and_comes_back_at_once(demo, tab):
    opened = tab(demo)
    opened.page.evaluate(
        """() => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => window.away }); window.away = true; document.dispatchEvent(new Event('visibilitychange')) }"""
    )
    opened.page.wait_for_timeout(300)
    before = len(opened.asked)
    opened.page.wait_for_timeout(2500)
    assert len(opened.asked) == before
    opened.page.evaluate("() => { window.away = false; document.dispatchEvent(new Event('visibilitychange')) }")
    opened.page.wait_for_timeout(500)
    assert len(opened.asked) == before + 1


INKS = """() => {
  window.inks = new Set();
  const fill = CanvasRenderingContext2D.prototype.fillRect;
  CanvasRenderingContext2D.prototype.fillRect = function (...place) {
    if (matchMedia('print').matches) inks.add(this.fillStyle);
    return fill.apply(this, place);
  };
}"""


def test_what_is_printed_is_printed_on_white_whatever_the_theme(demo, tab):
    page = tab(demo, fragment="#theme=dark").page
    page.evaluate(INKS)
    page.pdf()
    inks = page.evaluate("[...inks].filter((one) => typeof one === 'string')")
    assert GROUNDS["light"].grid in inks
    assert GROUNDS["dark"].grid not in inks


def test_every_chart_has_a_name_a_role_and_its_data_as_a_table(demo, tab):
    page = tab(demo).page
    figures = page.locator("#charts figure:not([hidden])")
    assert figures.count() == 11
    for number in range(figures.count()):
        figure = figures.nth(number)
        assert figure.get_attribute("role") == "figure"
        named = page.locator(f"#{figure.get_attribute('aria-labelledby')}")
        assert named.inner_text()
        figure.locator("summary").click()
        figure.locator("details tbody tr").first.wait_for()
        assert 1 <= figure.locator("details tbody tr").count() <= 25
        assert figure.locator("details caption").inner_text() == named.inner_text()


def test_without_uplot_the_page_says_so_and_shows_the_rest(demo, tab):
    opened = tab(
        demo,
        before=lambda page: page.route(
            "**/page/uplot.js", lambda route: route.fulfill(body="", content_type="text/javascript")
        ),
    )
    assert "Line charts are missing" in opened.text("#plot-kv")
    assert opened.page.locator("#plot-limiter canvas").count() == 1
    assert opened.complaints == []


def test_an_empty_collector_is_starting_and_nothing_is_invented(tab):
    collector, recorder = frozen(1, busy=False)
    with serving(collector, recorder) as url:
        opened = tab(url)
        assert opened.text("#sentence") == "Starting: no request yet."
        assert opened.text("[data-field='/iteration_stats/time_weighted_utilization']") == "-"
        assert "NaN" not in opened.page.inner_text("body")
        assert opened.complaints == []
