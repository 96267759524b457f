"""When the server is silent nothing looks live; when it is back everything is, the gap is seen, and nothing comes twice."""

import re
import signal
import time
from itertools import pairwise

import pytest

from served import command, free_port

LIVE = "() => document.querySelector('#verdict').dataset.state === 'live' && !document.body.classList.contains('stale')"
WITHIN = 3.0


def times(page):
    """The instants in the first two pages of the running chart's data."""
    figure = page.locator("#plot-requests >> xpath=ancestor::figure")
    if figure.locator("details[open]").count() == 0:
        figure.locator("summary").click()
    figure.locator("details tbody th").first.wait_for()
    found = figure.locator("details tbody th").all_inner_texts()
    if figure.get_by_role("button", name="Earlier").is_enabled():
        figure.get_by_role("button", name="Earlier").click()
        found += figure.locator("details tbody th").all_inner_texts()
        figure.get_by_role("button", name="Later").click()
    return found


def seconds(text):
    hours, minutes, rest = map(int, text.split(":"))
    return 3600 * hours + 60 * minutes + rest


def check_gap(page, least):
    found = [seconds(text) for text in times(page)]
    assert len(found) == len(set(found)), "a second is drawn twice"
    steps = [one - other for one, other in pairwise(found)]
    assert max(steps) >= least, steps


def nothing_looks_live(opened, states):
    opened.until("() => document.body.classList.contains('stale')", WITHIN)
    assert opened.page.locator("#verdict").get_attribute("data-state") in states
    ages = opened.page.locator(".tile .age").all_inner_texts()
    assert ages
    assert all(age.endswith(" old") for age in ages)
    styles = opened.page.eval_on_selector_all(".tile .value", "all => all.map(one => getComputedStyle(one).fontStyle)")
    assert set(styles) == {"italic"}
    assert re.search(r"all this is \d", opened.text("#sentence"))


@pytest.fixture
def port():
    return free_port()


def test_a_server_that_hangs_goes_stale_and_comes_back(tab, port):
    with command(port) as process:
        opened = tab(f"http://127.0.0.1:{port}")
        opened.until(LIVE)
        opened.page.wait_for_timeout(3000)
        process.send_signal(signal.SIGSTOP)
        try:
            nothing_looks_live(opened, {"stale"})
            opened.page.wait_for_timeout(4000)
            assert opened.page.locator("#verdict").get_attribute("data-state") == "stale"
        finally:
            process.send_signal(signal.SIGCONT)
        opened.until(LIVE, WITHIN)
        opened.page.wait_for_timeout(1500)
        check_gap(opened.page, 4)


def test_a_server_that_is_killed_is_gone_and_its_successor_is_live(tab, port):
    with command(port):
        opened = tab(f"http://127.0.0.1:{port}")
        opened.until(LIVE)
        opened.page.wait_for_timeout(4000)
    nothing_looks_live(opened, {"gone"})
    opened.page.wait_for_timeout(2000)
    with command(port):
        began = time.monotonic()
        opened.until("() => !document.body.classList.contains('stale')", WITHIN)
        assert time.monotonic() - began < WITHIN
        opened.page.wait_for_timeout(4000)
        check_gap(opened.page, 3)
        assert opened.page.locator("#verdict").get_attribute("data-state") in {"live", "starting", "idle"}
