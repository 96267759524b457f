"""Every Python block of README and docs runs as written, a page's blocks one after the other."""

import contextlib
import io
import re
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDS_AN_ENGINE = {"vllm.md", "sglang.md", "transformers.md"}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def promised(page):
    """Code that the page says prints something, and what: a block of text behind "It prints:"."""
    pattern = r"^```python\n(.*?)^```\n\nIt prints:\n\n```text\n(.*?)^```"
    return re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_pages_have_code():
    assert sum(len(blocks(page)) for page in PAGES) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_compiles_and_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "documentation"}
    before = set(threading.enumerate())
    for number, block in enumerate(blocks(page)):
        code = block.replace("/run/batchscope", str(tmp_path / "run")).replace("port=9464", "port=0")
        compiled = compile(code, f"{page.name}, block {number}", "exec")
        if page.name not in NEEDS_AN_ENGINE:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compiled, namespace)  # noqa: S102  (our own pages)
    for value in namespace.values():
        if type(value).__module__.startswith("batchscope") and callable(getattr(value, "close", None)):
            value.close()
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("batchscope")]
    for thread in left:
        thread.join(10)
    assert not [thread.name for thread in left if thread.is_alive()]


@pytest.mark.parametrize("page", [page for page in PAGES if promised(page)], ids=lambda page: page.name)
def test_what_a_page_says_its_code_prints_is_what_it_prints_word_for_word(page):
    for code, expected in promised(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page.name, "exec"), {"__name__": "documentation"})  # noqa: S102  (our own pages)
        assert printed.getvalue() == expected


def test_the_first_page_shows_what_its_code_prints():
    assert promised(ROOT / "README.md")


def test_every_link_inside_the_repository_leads_somewhere():
    for page in [*PAGES, *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "decisions").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
