"""The report of a run as one HTML file, in a real browser: whole, by itself, at once, and right in both themes."""

from __future__ import annotations

import time

import pytest

from batchscope import MetricsConfiguration, RequestTracker, SchedulerLimits, SchedulerMetricsCollector, SloTargets
from batchscope.cli import run
from batchscope.ledger import open_run
from batchscope.ledger.analysis.opening import open_tables
from batchscope.ledger.analysis.snapshot import snapshot_of
from batchscope.simulator import RequestSpec, SchedulerOptions, Simulator, VirtualClock
from batchscope.views.board import board
from batchscope.views.numbers import count, percent

OPTIONS = SchedulerOptions(max_running_requests=16, max_scheduled_tokens=256, kv_cache_blocks=300)
HOSTILE = "</script><img src=http://127.0.0.1:9/x onerror=alert(1)>"
FIGURES = {
    "band", "requests", "room", "arrivals", "preemptions", "time_to_first_token", "time_per_output_token",
    "inter_token_latency", "total_time", "attainment", "heat_time_to_first_token", "heat_inter_token_latency", "cdf",
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The file, and the snapshot of its run."""
    folder, clock = tmp_path_factory.mktemp("run_page"), VirtualClock()
    configuration = MetricsConfiguration(slo={"default": SloTargets(1.0, 0.05), "batch": SloTargets(e2e_latency=20.0)})
    limits = SchedulerLimits(16, 256, 300, OPTIONS.block_size)
    collector = SchedulerMetricsCollector(configuration, limits=limits, labels={"model": HOSTILE}, clock=clock)
    collector.record_to(folder / "runs")
    specs = [
        RequestSpec(
            f"{HOSTILE}{i}", i / 8, 60 + 37 * i % 400, 8 + i % 90, request_class="batch" if i % 5 == 0 else None
        )
        for i in range(1500)
    ]
    Simulator(specs, RequestTracker(collector), options=OPTIONS, clock=clock, seed=0).run()
    collector.close()
    assert run(["report", str(folder / "runs"), "--html", str(folder / "report.html")]) == 0
    return folder / "report.html", snapshot_of(open_tables(open_run(folder / "runs")))


@pytest.fixture
def opened(open_file, written):
    def drawn(**options):
        begun = time.monotonic()
        page = open_file(written[0], **options)
        page.wait_for_selector("html[data-drawn]")
        page.seconds = time.monotonic() - begun
        return page

    return drawn


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_at_once_without_an_error_and_asks_for_nothing(opened, written, scheme):
    opened(color_scheme=scheme)  # a first one: the browser itself starts
    page = opened(color_scheme=scheme)
    assert page.seconds < 1.0
    assert page.said == []
    assert page.asked == [written[0].as_uri()]
    shown = page.evaluate("[...document.querySelectorAll('figure:not([hidden])')].map((one) => one.id)")
    assert set(shown) == FIGURES
    assert len(written[0].read_bytes()) <= 400_000


def test_its_figures_are_the_snapshots(opened, written):
    page, figures = opened(), board(written[1])
    tiles = dict(
        page.evaluate(
            "[...document.querySelectorAll('.tile')].map((t) => [t.children[0].innerText, t.children[1].innerText])"
        )
    )
    assert tiles["Batch full"] == percent(figures.batch.full_by_time)
    assert tiles["Requests finished"] == count(figures.requests.finished) == "1,500"
    assert tiles["SLO met, batch"] == percent(
        next(one for one in figures.slo if one.request_class == "batch").attainment
    )
    text = page.inner_text("main")
    for held in figures.held:
        assert percent(held.share) in text


def test_the_band_and_the_heat_map_have_ink_and_print_is_on_white(opened):
    page = opened(color_scheme="dark")
    inked = """(id) => {
      const canvas = document.querySelector(`#${id} canvas`), context = canvas.getContext("2d");
      const found = new Set(context.getImageData(0, 0, canvas.width, canvas.height).data);
      return [found.size, getComputedStyle(document.documentElement).backgroundColor];
    }"""
    for id_ in ("band", "heat_time_to_first_token", "cdf"):
        assert page.evaluate(inked, id_)[0] > 5
    dark = page.evaluate(inked, "band")[1]
    page.emulate_media(media="print")
    assert page.evaluate(inked, "band")[1] == "rgb(246, 247, 249)" != dark


def test_every_figure_reads_what_the_shared_cursor_is_on_by_mouse_and_by_keyboard(opened):
    page = opened()
    page.locator("#requests .plot").hover()
    readings = page.locator("figure:not([hidden]) .reading").all_inner_texts()
    assert sum("in the batch" in one for one in readings) == 1
    assert any("slot-s lost" in one for one in readings)
    page.mouse.move(0, 0)
    page.locator("#band .plot").focus()
    page.keyboard.press("End")
    last = page.inner_text("#requests .reading")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#requests .reading") != last
    page.keyboard.press("Escape")
    assert "means over busy time" in page.inner_text("#requests .reading")


@pytest.mark.parametrize("width", [320, 768])
def test_nothing_scrolls_sideways_on_a_small_screen(opened, width):
    page = opened()
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(50)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_complain_of(opened, axe, scheme):
    page = opened(color_scheme=scheme, bypass_csp=True)
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    assert [(one["id"], [node["html"][:150] for node in one["nodes"][:3]]) for one in found] == []
