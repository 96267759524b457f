"""axe-core finds nothing, however grave, in any state and theme.

It needs ``new Function``, which the page's policy forbids: here, and only here, the policy is off.
"""

import contextlib

import pytest

from batchscope.dashboard.recorder import Recorder
from served import ManyEngines, frozen, serving

RULES = {"resultTypes": ["violations"]}


@contextlib.contextmanager
def live():
    with serving(*frozen(120, gap=range(40, 50))) as url:
        yield url


@contextlib.contextmanager
def empty():
    with serving(*frozen(1, busy=False)) as url:
        yield url


@contextlib.contextmanager
def engines():
    source = ManyEngines(200)
    with serving(source, Recorder(source)) as url:
        yield url


@pytest.fixture(
    scope="module", params=["live", "paused", "stale", "empty", "200 engines", "one engine", "question", "token"]
)
def state(request):
    made = {"empty": empty, "200 engines": engines, "one engine": engines}.get(request.param, live)
    if request.param == "token":
        with serving(*frozen(5), token=b"s3cret") as url:
            yield request.param, url
        return
    with made() as url:
        yield request.param, url


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(state, theme, tab, axe):
    name, url = state
    opened = tab(url, fragment=f"#theme={theme}", bypass_csp=True, wait=name != "token")
    page = opened.page
    if name == "paused":
        page.keyboard.press("p")
    if name == "stale":
        page.route("**/history*", lambda route: None)
        opened.until("() => document.body.classList.contains('stale')", 6)
    if name == "question":
        page.locator("#plot-limiter").focus()
        page.keyboard.press("End")
        for _ in range(50):
            page.keyboard.press("Shift+ArrowLeft")
        page.locator("figure summary").first.click()
    if name == "200 engines":
        page.locator("#fleet tbody tr").first.wait_for()
        assert "40 of 200 shown" in page.inner_text("#fleet-title")
        page.get_by_role("button", name="Show all 200").click()
        assert page.locator("#fleet tbody tr").count() == 201  # and all together
    if name == "one engine":
        page.locator("#fleet tbody tr:nth-child(9) button").click()
        opened.until("() => document.querySelectorAll('#fleet tbody tr').length === 2")
        page.locator("#charts figure").first.wait_for()
    if name == "token":
        page.locator("#token").wait_for()
    page.evaluate(axe)
    found = page.evaluate("options => axe.run(document, options)", RULES)["violations"]
    assert [
        (one["id"], [node["html"][:160] + " " + node["failureSummary"][:300] for node in one["nodes"]][:3])
        for one in found
    ] == []


def test_nothing_moves_for_who_asks_for_less_motion(tab):
    with live() as url:
        moving = tab(url, reduced_motion="reduce").page.evaluate(MOVING)
        assert moving == []
        assert tab(url, reduced_motion="no-preference").page.evaluate(MOVING) != [], "else this looks at nothing"


def test_marks_keep_their_colours_where_the_system_forces_its_own(tab):
    """The legend's swatches are told apart by their colour; all else takes the system's."""
    with live() as url:
        page = tab(url, forced_colors="active").page
        colors = page.evaluate(
            "() => [...document.querySelectorAll('.swatch')].map(e => getComputedStyle(e).backgroundColor)"
        )
        assert len(colors) > 1
        assert len(set(colors)) == len(colors)


MOVING = """() => [...document.querySelectorAll('*')].filter(e => {
  const style = getComputedStyle(e)
  return [style.transitionDuration, style.animationDuration].some(all => all.split(',').some(one => parseFloat(one) > 0))
}).map(e => e.className)"""
