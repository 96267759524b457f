"""The examples do what they say."""

import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def rows_to_a_file(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import rows_to_a_file

    yield rows_to_a_file
    sys.modules.pop("rows_to_a_file")


def test_a_reader_of_a_file_of_rows_tells_two_generations_apart_and_has_every_tokens_instant(
    rows_to_a_file, tmp_path, capsys
):
    rows_to_a_file.main(tmp_path / "rows.jsonl")
    assert capsys.readouterr().out.splitlines() == [
        "generation 0: finished ['short'], tokens at {1: [1.0, 2.0], 2: [2.0]}",
        "generation 1: finished ['long'], tokens at {2: [3.0, 3.0]}",
    ]
    headers = [header for header, _ in rows_to_a_file.runs(tmp_path / "rows.jsonl")]
    assert [header.generation for header in headers] == [0, 1]
    assert headers[0].instance_id == headers[1].instance_id
