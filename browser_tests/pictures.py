"""The pictures of the page for the documentation: a seeded engine, at a time that stands still. pictures.py FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from batchscope.dashboard.recorder import Recorder
from conftest import CHROMIUM, FLAGS
from served import WALL, ManyEngines, frozen, serving

WIDTH = 1280
SECONDS = 420
QUESTION = f"range={WALL + 195:.0f}-{WALL + 250:.0f}"
COSTS = "() => { document.getElementById('cost').textContent = '' }"  # of this machine, and ever different


def picture(browser, url, path, *, fragment="", height=1000, part=None, width=WIDTH):
    """One picture: the top of the page, or the figure ``part``."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="light", timezone_id="UTC", locale="en-US",
        reduced_motion="reduce",
    )  # fmt: skip
    page = context.new_page()
    page.add_init_script("performance.now = () => 0")  # no age is ever shown
    page.goto(f"{url}/#{fragment}")
    page.locator("#charts figure").first.wait_for()
    page.wait_for_timeout(1200)
    page.evaluate(COSTS)
    if part:
        page.locator(part).screenshot(path=path, animations="disabled")
    else:
        page.screenshot(path=path, animations="disabled")
    context.close()


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    many = ManyEngines(24)
    recorder = Recorder(many)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, "--disable-partial-raster"])
        with serving(*frozen(SECONDS, gap=range(310, 322))) as url:
            picture(browser, url, folder / "page.png")
            picture(browser, url, folder / "page-question.png", fragment=QUESTION, part="#question", height=2400)
        for look in range(1, 50):
            many.go_on(look)
            recorder.engines.look(many.snapshots(), many.merged, int(WALL) - 10 * (49 - look))
        with serving(many, recorder) as url:
            picture(browser, url, folder / "page-fleet.png", part="#fleet")
        browser.close()


if __name__ == "__main__":
    main()
