"""Advice and capacity as HTML files, in a real browser: whole, by themselves, readable without their pictures."""

from __future__ import annotations

import pytest

from batchscope import MetricsConfiguration, RequestTracker, SchedulerLimits, SchedulerMetricsCollector, SloTargets
from batchscope.cli import run
from batchscope.simulator import RequestSpec, SchedulerOptions, Simulator, VirtualClock

OPTIONS = SchedulerOptions(max_running_requests=3, max_scheduled_tokens=256, kv_cache_blocks=2000)
HOSTILE = "</title><img src=http://127.0.0.1:9/x onerror=alert(1)>"
FIGURES = {
    "advice": ["p99_time_to_first_token", "p99_time_per_output_token", "places"],
    "capacity": ["attainment", "growth"],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Both files, of a run with too few places and two classes, one of which has a hostile name."""
    folder, clock = tmp_path_factory.mktemp("advice_page"), VirtualClock()
    slo = {"default": SloTargets(2.0, 0.2), HOSTILE: SloTargets(e2e_latency=60.0)}
    limits = SchedulerLimits(3, 256, 2000, OPTIONS.block_size)
    collector = SchedulerMetricsCollector(MetricsConfiguration(slo=slo), limits=limits, clock=clock)
    collector.record_to(folder / "runs", configuration={"policy": "sarathi", "priorities": {}})
    specs = [
        RequestSpec(i, i / 4, 60 + 37 * i % 400, 8 + i % 90, request_class=HOSTILE if i % 5 == 0 else None)
        for i in range(300)
    ]
    Simulator(specs, RequestTracker(collector), options=OPTIONS, clock=clock, seed=0).run()
    collector.close()
    files = {name: folder / f"{name}.html" for name in FIGURES}
    model = str(folder / "model.json")
    assert run(["fit", str(folder / "runs"), "--out", model]) == 0
    known = [str(folder / "runs"), "--model", model]
    assert run(["advise", *known, "--vary", "max_running_requests", "--html", str(files["advice"])]) == 0
    assert run(["capacity", *known, "--html", str(files["capacity"])]) == 0
    return files


@pytest.fixture
def opened(open_file, written):
    return lambda name, **options: open_file(written[name], **options)


@pytest.mark.parametrize("name", FIGURES)
def test_it_opens_without_an_error_and_asks_for_nothing(opened, written, name):
    page = opened(name)
    assert page.said == []
    assert page.asked == [written[name].as_uri()]
    assert "<script" not in written[name].read_text()
    assert HOSTILE[:30] in page.inner_text("main")  # as text


@pytest.mark.parametrize("name", FIGURES)
def test_every_chart_has_a_name_marks_and_the_table_of_its_data(opened, name):
    page = opened(name)
    assert page.evaluate("[...document.querySelectorAll('figure')].map((one) => one.id)") == FIGURES[name]
    for id_ in FIGURES[name]:
        plot = page.locator(f"#{id_} .plot")
        assert len(plot.get_attribute("aria-label")) > 30
        assert "nan" not in plot.inner_html()
        page.locator(f"#{id_} summary").click()
        rows = page.locator(f"#{id_} tbody tr").count()
        assert rows >= 5
        if id_ != "places":  # a line, on which only two are marked
            assert page.locator(f"#{id_} .plot g").count() == rows
        for text in page.locator(f"#{id_} td").all_inner_texts():
            assert "nan" not in text


def test_the_page_says_what_to_set_what_gets_worse_and_what_it_cannot_know(opened):
    page = opened("advice")
    text = page.inner_text("main")
    for part in (
        "Change the settings", "95 % interval", "--max-num-seqs", "--max-running-requests", "request slots",
        "what gets worse: mean TPOT", "Everything that was tried", "inside the interval", "by request class",
        "What this cannot know", "Routing", "cannot be told from the best",
    ):  # fmt: skip
        assert part.lower() in text.lower(), part
    marks = page.locator("section:has(h2:text('Everything that was tried')) td.words").all_inner_texts()
    assert sum("now" in mark for mark in marks) == sum("best" in mark for mark in marks) == 1
    ink = "one => getComputedStyle(one).color"
    assert page.locator("th .worse").first.evaluate(ink) != page.locator("th[scope=row]").first.evaluate(ink)


def test_present_best_and_region_are_marked_in_the_trade_off_and_colours_follow_the_theme(opened):
    colors = set()
    for options in ({"color_scheme": "light"}, {"color_scheme": "dark"}):
        page = opened("advice", **options)
        plot = page.locator("#p99_time_to_first_token .plot svg")
        assert plot.locator("g > rect").count() == 1  # as recorded
        assert plot.locator("g > path").count() == 1  # the best
        assert plot.locator("> rect").count() == 1  # what cannot be told from it
        colors.add(page.evaluate("getComputedStyle(document.querySelector('.plot g > path')).stroke"))
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(246, 247, 249)"
    assert len(colors) == 2


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("width", [320, 768])
def test_nothing_scrolls_sideways_on_a_small_screen(opened, name, width):
    page = opened(name)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing_to_complain_of(opened, axe, name, scheme, width):
    page = opened(name, color_scheme=scheme, bypass_csp=True)
    page.set_viewport_size({"width": width, "height": 800})
    for summary in page.locator("summary").all():
        summary.click()
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    assert [(one["id"], [node["html"][:150] for node in one["nodes"][:3]]) for one in found] == []
