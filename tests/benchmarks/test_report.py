"""benchmarks/report.py: docs/performance.md carries what was measured, and nothing else is touched."""

from pathlib import Path

import msgspec
import pytest

import report
from harness.document import Document, Figure, Machine, judged, write

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
MACHINE = Machine(
    cpu="a cpu", cores=2, memory_bytes=2**33, system="Linux", python="CPython 3.11.7", numpy="2.4.6", batchscope="0.1.0",
    packages={"ddsketch": "3.0.1", "datasketches": None}, date="2026-01-02T03:04:05+00:00", load_average=0.25,
)  # fmt: skip


def document(name):
    return Document(
        benchmark=name, quick=False, seconds=12.0, machine=MACHINE, settings={"rounds": 30, "trace": "t"},
        figures=[
            Figure(group=f"group of {name}", name="ours", unit="ns", best=1234.5, median=2000.0, rounds=3, cheaper=7.5),
            Figure(group=f"group of {name}", name="theirs", unit="ns", absent="package"),
        ],
        targets=[judged(f"{name}: fast", "<=", 8, "x", 7.25), judged(f"{name}: small", ">=", 9, "x", 7.25)],
        notes=["a note"],
    )  # fmt: skip


@pytest.fixture
def documents():
    return {name: document(name) for name in report.BENCHMARKS}


def test_the_page_has_a_place_for_every_section(documents):
    """Each pair of markers is in docs/performance.md once."""
    filled = report.filled(PAGE.read_text(encoding="utf-8"), report.sections(documents))
    for name in report.BENCHMARKS:
        assert f"group of {name}" in filled
        assert f"| {name}: fast | <= 8 x | 7.25 x |" in filled
    assert "6 of 12 targets are met." in filled
    assert "a cpu, 2 cores, 8 GiB" in filled
    assert "datasketches absent" in filled


def test_only_what_lies_between_the_markers_is_replaced(documents):
    """Text around stays; filling twice gives what filling once gave."""
    parts = report.sections(documents)
    page = "before\n" + "".join(f"<!-- begin: {name} -->\nold\n<!-- end: {name} -->\nkept\n" for name in parts)
    once = report.filled(page, parts)
    assert once == report.filled(once, parts)
    assert once.startswith("before\n")
    assert once.count("kept\n") == len(parts)
    assert "old" not in once


def test_figures_and_marks_are_shown_as_measured(documents):
    """Units and ratios come with the figures, what is absent is named, a missed target is marked."""
    parts = report.sections(documents)
    assert "| group of recording | ours | 1,234 ns | 2,000 ns | 7.5 x |" in parts["recording"]
    assert "absent: package" in parts["recording"]
    assert "| recording: small | >= 9 x | 7.25 x |  | NOT MET |" in parts["targets"]
    assert "* a note" in parts["replay"]


@pytest.mark.parametrize(
    "page", ["no markers", "<!-- begin: machine -->\n", "<!-- end: machine --><!-- begin: machine -->\n"]
)
def test_a_page_without_a_pair_of_markers_is_refused(page):
    """The marker that is missing is named."""
    with pytest.raises(SystemExit, match=r"error: .*'machine'; add <!-- begin: machine -->"):
        report.filled(page, {"machine": "text"})


def test_a_quick_run_never_reaches_the_page(documents, tmp_path, monkeypatch):
    """Its figures are a look, not a result."""
    page = tmp_path / "page.md"
    page.write_text("untouched")
    for name, each in documents.items():
        write(msgspec.structs.replace(each, quick=name == "memory"), tmp_path / f"{name}.json")
    monkeypatch.setattr("sys.argv", ["report.py", str(tmp_path), "--docs", str(page)])
    with pytest.raises(SystemExit, match="error: memory: a quick run"):
        report.main()
    assert page.read_text() == "untouched"


def test_the_command_fills_the_page(documents, tmp_path, monkeypatch, capsys):
    """From a folder of JSON to the page."""
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    for name, each in documents.items():
        write(each, tmp_path / f"{name}.json")
    monkeypatch.setattr("sys.argv", ["report.py", str(tmp_path), "--docs", str(page)])
    report.main()
    assert "6 of 12 targets are met." in page.read_text(encoding="utf-8")
    assert str(page) in capsys.readouterr().out
