"""Text that others chose (a page, a file's name) never steers the terminal, whichever command shows it."""

import pytest
from command_line import HEADER, ROWS, batchscope, refused
from scrape_doubles import Site

from batchscope import SchedulerMetricsCollector
from batchscope.exporters.prometheus import render_text
from batchscope.records import EngineInfo

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil"
MARKUP = ("[link=file:///etc/passwd]here[/link]", "[/foo]", "[red]", "\\[bold]")
KEY = "vllm:num_requests_running 1\nvllm:num_requests_waiting 0\nvllm:generation_tokens_total 5\n"


def own_page(text):
    with SchedulerMetricsCollector(labels={"model_name": text}) as collector:
        collector.engine = EngineInfo(text, text)
        collector.definitions = {"arrival": text, "queue_time": text, text: text}
        collector.record_error(text)
        return render_text(collector.read_totals())


def harmless(run):
    written = run.output + run.errors
    assert "Traceback" not in written
    assert all(line.isprintable() for line in written.splitlines()), written
    assert len(written.split("\n")) == len(written.splitlines()) + 1  # no other kind of line end
    return True


@pytest.mark.parametrize("command", [("check",), ("watch", "--once")], ids=" ".join)
@pytest.mark.parametrize("text", [ESCAPE, *MARKUP, "ends\nLACKING nothing\r"])
def test_a_page_of_our_own_kind_is_shown_as_it_is(command, text):
    """The labels of the engine's name and version are free text: shown letter by letter, as markup of no kind."""
    with Site({"/metrics": own_page(text)}) as site:
        run = batchscope(*command, site.url)
    assert harmless(run)
    assert run.code in {0, 1}
    if command == ("check",):
        assert text in run.output or text in {ESCAPE, "ends\nLACKING nothing\r"}
    assert "\nLACKING nothing" not in run.output


@pytest.mark.parametrize("engine", ["", KEY])
def test_a_name_in_a_type_line_that_is_none_is_not_taken(engine):
    page = f"# TYPE vllm:{ESCAPE.replace(' ', '')} gauge\n# TYPE [/foo] gauge\nnode_load1 0.5\n{engine}"
    with Site({"/metrics": page.encode()}) as site:
        run = batchscope("check", site.url)
    assert harmless(run)
    assert "owned" not in run.output
    assert "[/foo]" not in run.output


@pytest.mark.parametrize("name", [f"{ESCAPE}.csv", "[foo].csv", "[red]a\nb.csv"])
def test_a_traces_name_is_shown_in_note_and_title(tmp_path, name):
    path = tmp_path / name
    path.write_text(HEADER + "".join(ROWS))
    run = batchscope("replay", path)
    assert run.code == 0
    assert harmless(run)
    shown = name.encode("unicode_escape").decode()
    assert f"serving {shown}" in run.errors
    assert shown in run.output
    path.write_text("nonsense\n")
    assert harmless(run := batchscope("replay", path))
    assert refused(run, shown)
