"""Several engines on the page: worst first, filtered, ordered, one of them looked at; the merge on top."""

import pytest

from batchscope.dashboard.recorder import Recorder
from served import ManyEngines, serving


@pytest.fixture(scope="module")
def engines():
    source = ManyEngines(60)
    recorder = Recorder(source)
    for look in range(1, 9):
        source.go_on(look)
        recorder.engines.look(source.snapshots(), source.merged)
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


def test_an_engine_is_chosen_and_stays_chosen_after_a_reload(engines, tab):
    opened = tab(engines)
    page = opened.page
    page.get_by_role("button", name="rank=12", exact=False).first.click()
    page.locator("#fleet .one h3").wait_for()
    assert page.inner_text("#fleet .one h3") == "model_name=demo, rank=12"
    assert "engine=" in page.url
    page.reload()
    page.locator("#fleet .one h3").wait_for()
    assert page.inner_text("#fleet .one h3") == "model_name=demo, rank=12"
    page.locator("#fleet .one").get_by_role("button", name="Close").click()
    assert page.locator("#fleet .one").is_hidden()
    assert "engine=" not in page.url
    assert opened.complaints == []
