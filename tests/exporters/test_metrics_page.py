"""docs/metrics.md says what the catalogue says."""

import importlib.util
from pathlib import Path

from batchscope.catalog import CATALOG

DOCS = Path(__file__).resolve().parents[2] / "docs"


def generated():
    spec = importlib.util.spec_from_file_location("generate_metrics", DOCS / "generate_metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


def test_the_page_is_up_to_date():
    assert (DOCS / "metrics.md").read_text(encoding="utf-8") == generated(), "run: python docs/generate_metrics.py"


def test_every_metric_is_on_the_page():
    page = generated()
    for metric in CATALOG:
        assert f"`{metric.name}`" in page
        assert metric.help in page
