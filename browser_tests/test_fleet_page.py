"""Several engines on the page: worst first, filtered, ordered, one of them with charts of its own; the merge on top."""

import json
import random
import re
import urllib.request

import pytest

from batchscope.dashboard.fleet import TEXTS
from batchscope.dashboard.recorder import Recorder
from served import WALL, ManyEngines, serving


@pytest.fixture(scope="module")
def engines():
    source = ManyEngines(60)
    recorder = Recorder(source)
    for look in range(1, 9):
        source.go_on(look)
        recorder.engines.look(source.snapshots(), source.merged, int(WALL) - 10 * (8 - look))
    recorder.history.passed(int(WALL))
    recorder.start = lambda: None  # no second passes
    with serving(source, recorder) as url:
        yield url


def names(page):
    return page.locator("#fleet tbody th").all_inner_texts()


def test_the_worst_is_first_below_all_together_and_how_many_are_shown_is_said(engines, tab):
    page = tab(engines).page
    page.locator("#fleet tbody tr").first.wait_for()
    assert page.inner_text("#fleet-title").startswith("Engines 40 of 60 shown, 2 gone")
    assert names(page)[0] == "all together"
    states = page.locator("#fleet tbody td:nth-child(2)").all_inner_texts()
    assert [state.split()[-1] for state in states[1:4]] == ["gone", "gone", "live"]
    strip = page.locator("#fleet canvas").nth(3).get_attribute("aria-label")
    assert strip.startswith("What held it, letters by ten seconds: ")


def test_a_filter_and_another_order(engines, tab):
    opened = tab(engines)
    page = opened.page
    page.locator("#fleet tbody tr").first.wait_for()
    page.locator("#fleet-filter").fill("rank=1")
    assert len(names(page)) == 1 + 11
    page.locator("#fleet-filter").press("p")  # no key of the page acts in a field
    assert page.locator("#paused").is_hidden()
    page.locator("#fleet-filter").fill("")
    page.locator("#fleet-sort").select_option("waiting")
    waiting = [
        int(text) for text in page.locator("#fleet tbody tr:not(:first-child) td:nth-child(6)").all_inner_texts()
    ]
    assert waiting == sorted(waiting, reverse=True)


WAITED = ["max 3.1 s, n=4", "1.2 s, n=300", "812 ms, n=300", "-"]
MET = ["<0.1 %, n=4", "99.8 %, n=900", ">99.9 %, n=4,000", "100.0 %, n=3", "-"]


def told(route):
    """The server's answer, with such texts of the engines."""
    answer = route.fetch()
    document = answer.json()
    number = len(document["order"])
    for name, texts in (("ttft", WAITED), ("slo", MET)):
        document["texts"][TEXTS.index(name)] = [texts[place % len(texts)] for place in range(number)]
    route.fulfill(response=answer, json=document)


def test_latencies_are_in_order_whatever_their_unit_and_of_who_was_served_in_time_the_least_come_first(engines, tab):
    page = tab(engines, before=lambda page: page.route(re.compile(r"/fleet(\?|$)"), told)).page
    page.locator("#fleet tbody tr").first.wait_for()
    page.get_by_role("button", name="Show all 60").click()
    for field, column, texts in (("ttft", 7, WAITED), ("slo", 8, MET)):
        page.locator("#fleet-sort").select_option(field)
        shown = page.locator(f"#fleet tbody tr:not(:first-child) td:nth-child({column})").all_inner_texts()
        assert len(shown) == 60
        assert list(dict.fromkeys(shown)) == texts
    assert "by SLO met, the least first" in page.inner_text("#fleet > .note")


def test_all_engines_together_are_a_heat_map_of_how_full_they_were(engines, tab):
    page = tab(engines).page
    page.locator("#fleet .spread").wait_for()
    label = page.locator("#fleet .spread").get_attribute("aria-label")
    assert re.match(r"How full the engines were\. .* Last: \d+ of 58 at 90 % or more, \d+ below 10 %\.$", label)
    inks = page.evaluate(INKS, "#fleet .spread")
    assert inks > 3  # the ground, and several depths


def test_each_strip_has_the_colours_of_what_held_it(engines, tab):
    page = tab(engines).page
    page.locator("#fleet tbody tr").first.wait_for()
    assert all(page.evaluate(INKS, f"#fleet tbody tr:nth-child({row}) canvas.strip") > 1 for row in (1, 4, 5))


INKS = """(selector) => {
  const canvas = document.querySelector(selector);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
}"""


def test_an_engine_that_is_chosen_has_the_verdict_the_figures_and_the_charts_and_stays_after_a_reload(engines, tab):
    opened = tab(engines)
    page = opened.page
    page.get_by_role("button", name="rank=12", exact=False).first.click()
    opened.until("() => document.querySelector('#whose').textContent.endsWith('rank=12')")
    assert "engine=" in page.url
    identity = page.url.partition("engine=")[2]
    for _ in range(2):
        opened.until("() => document.querySelector('#chosen-text').textContent.includes('rank=12')")
        with urllib.request.urlopen(f"{engines}/history?engine={identity}") as answer:
            told = json.load(answer)
        texts = dict(zip(told["names"]["figures"], told["texts"], strict=True))
        assert page.inner_text("#sentence") == told["verdict"]["sentence"]
        place = "/totals/generation_tokens"
        assert page.locator(f'[data-field="{place}"]').first.inner_text() == texts[place]
        assert len(told["cells"]["numbers"]) == 7
        figure = page.locator("#plot-limiter >> xpath=ancestor::figure")
        if figure.locator("details[open]").count() == 0:
            figure.locator("summary").click()
        figure.locator("details tbody tr").nth(6).wait_for()
        assert figure.locator("details tbody tr").count() == 7
        opened.until("() => document.querySelectorAll('#fleet tbody tr').length === 2")
        assert names(page)[0] == "all together"
        page.reload()
        page.locator("#charts figure").first.wait_for()
    page.get_by_role("button", name="All together", exact=True).click()
    opened.until("() => document.querySelector('#whose').textContent.includes('60 processes')")
    assert "engine=" not in page.url
    assert page.locator("#chosen").is_hidden()
    assert opened.complaints == []


def test_who_has_asked_of_a_range_and_then_chooses_an_engine_can_ask_again(engines, tab):
    opened = tab(engines)
    page = opened.page
    page.locator("#fleet tbody tr").first.wait_for()
    for _ in range(2):
        page.locator("#plot-limiter").focus()
        page.keyboard.press("End")
        page.keyboard.press("Shift+ArrowLeft")
        assert page.locator("#question").is_visible()
        page.get_by_role("button", name="rank=12", exact=False).first.click()
        opened.until("() => document.querySelector('#whose').textContent.endsWith('rank=12')")
        page.locator("#charts figure").first.wait_for()
        assert page.locator("#question").is_hidden()
    assert opened.text("#state").lower() == "live"
    assert opened.complaints == []


CLICK = """(number) => {
  const all = [...document.querySelectorAll('button, summary, .plot')].filter((one) => one.checkVisibility());
  const one = all[number % all.length];
  one.focus();
  one.click();
}"""
KEYS = ["p", "w", "t", "?", "Escape", "End", "ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowLeft", "Shift+PageUp"]


@pytest.mark.parametrize("seed", [5, 12])
def test_whatever_is_clicked_in_whatever_order_the_page_goes_on(engines, tab, seed):
    opened, chance = tab(engines), random.Random(seed)
    opened.page.locator("#fleet tbody tr").first.wait_for()
    for _ in range(150):
        opened.page.evaluate(CLICK, chance.randrange(1000))
        for _ in range(chance.randrange(4)):
            opened.page.keyboard.press(chance.choice(KEYS))
        opened.page.wait_for_timeout(chance.choice([0, 0, 50, 200]))
    assert opened.complaints == []
    opened.page.evaluate("location.hash = ''")
    opened.until("() => document.querySelector('#whose').textContent.includes('60 processes')")
    assert opened.text("#state").lower() == "live"


def test_of_one_that_is_gone_it_is_said_once_and_its_figures_are_as_old_as_they_are(engines, tab):
    opened = tab(engines)
    opened.page.get_by_role("button", name="rank=7", exact=False).first.click()
    opened.until("() => document.querySelector('#verdict').dataset.state === 'gone'")
    identity = opened.page.url.partition("engine=")[2]
    with urllib.request.urlopen(f"{engines}/history?engine={identity}") as answer:
        told = json.load(answer)
    assert opened.text("#sentence").partition(" old.")[2] == told["verdict"]["sentence"].partition(" old.")[2]
    assert opened.text("#sentence").count("Gone:") == 1
    ages = set(opened.page.locator(".tile .age").all_inner_texts())
    assert ages
    assert not ages & {"0 s old", ""}


def test_while_a_chosen_engine_has_not_answered_nothing_of_the_others_looks_live(engines, tab):
    opened = tab(engines)
    opened.page.locator("#fleet tbody tr").first.wait_for()
    opened.page.route("**/history*engine=*", lambda route: None)
    opened.page.get_by_role("button", name="rank=12", exact=False).first.click()
    opened.until("() => document.body.classList.contains('stale')")
    assert opened.text("#sentence") == "Asking for the first figures of this engine."
    assert set(opened.page.locator(".tile .age").all_inner_texts()) == {"of what was shown before"}


def test_an_engine_that_nobody_knows_any_more_gives_way_to_all(engines, tab):
    page = tab(engines, fragment="#engine=nobody", wait=False).page
    page.locator("#fleet tbody tr").first.wait_for()
    assert "engine=" not in page.url
