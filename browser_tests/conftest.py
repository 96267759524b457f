"""A real Chromium, headless; without one every test here is skipped, unless CI demands it."""

import os
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("BATCHSCOPE_CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
AXE = "axe-core@4.14.1"
BUILD = Path(__file__).parents[1] / "build" / "browser"


@pytest.fixture(scope="session")
def chromium():
    if not Path(CHROMIUM).exists():
        if os.environ.get("BATCHSCOPE_REQUIRE_BROWSER") == "1":
            pytest.fail(f"{CHROMIUM} is not there: apt-get install chromium, or set BATCHSCOPE_CHROMIUM")
        pytest.skip(f"{CHROMIUM} is not there: apt-get install chromium, or set BATCHSCOPE_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Tab:
    """A page, and what it said and asked for."""

    def __init__(self, chromium, url, *, fragment="", width=1280, height=900, wait=True, before=None, **options):
        self.url = url
        self.context = chromium.new_context(
            viewport={"width": width, "height": height}, timezone_id="UTC", locale="en-US", **options
        )
        self.page = self.context.new_page()
        self.complaints, self.asked = [], []
        self.page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type in {"error", "warning"} else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request))  # noqa: PLW0108  (playwright marks it)
        if before:
            before(self.page)
        self.page.goto(f"{url}/{fragment}")
        if wait:
            self.page.locator("#charts figure").first.wait_for()

    def text(self, selector):
        return self.page.locator(selector).first.inner_text()

    def until(self, expression, seconds=10.0):
        self.page.wait_for_function(expression, timeout=1000 * seconds)


@pytest.fixture
def tab(chromium):
    opened = []

    def open_tab(url, **options):
        opened.append(Tab(chromium, url, **options))
        return opened[-1]

    yield open_tab
    for one in opened:
        one.context.close()


@pytest.fixture(scope="session")
def axe():
    """axe-core's text, from the npm registry; it is only run here, never delivered."""
    BUILD.mkdir(parents=True, exist_ok=True)
    script = BUILD / "package" / "axe.min.js"
    if not script.exists():
        try:
            subprocess.run(["npm", "pack", AXE, "--silent"], cwd=BUILD, check=True, capture_output=True, timeout=120)
            subprocess.run(["tar", "xzf", f"{AXE.replace('@', '-')}.tgz"], cwd=BUILD, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            if os.environ.get("BATCHSCOPE_REQUIRE_BROWSER") == "1":
                raise
            pytest.skip(f"{AXE} could not be had from npm: {error}")
    return script.read_text()


@pytest.fixture
def open_file(chromium):
    """Opens a file in a context of its own: a page, what it ``said`` (errors, warnings, dialogs), what it ``asked`` for."""
    contexts = []

    def open_in_a_tab(path, **options):
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.said, page.asked = [], []
        page.on("console", lambda one: page.said.append(one.text) if one.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: (page.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_in_a_tab
    for context in contexts:
        context.close()
