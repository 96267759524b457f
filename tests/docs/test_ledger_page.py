"""docs/ledger.md says of every column what the schema says."""

import importlib.util
from pathlib import Path

from batchscope.ledger.schema import COLUMNS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_current():
    spec = importlib.util.spec_from_file_location("generate_ledger", DOCS / "generate_ledger.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (DOCS / "ledger.md").read_text(encoding="utf-8")
    assert text == module.page(), "run: python docs/generate_ledger.py"
    for columns in COLUMNS.values():
        assert all(f"| `{column.name}` |" in text and column.meaning for column in columns)
