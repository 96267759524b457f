"""deploy/grafana: the dashboard is generated, parses, and asks for metrics that exist."""

import importlib.util
import json
from pathlib import Path

import promql_parser
import pytest

from batchscope.catalog import CATALOG, MetricKind

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"


@pytest.fixture(scope="module")
def dashboard():
    spec = importlib.util.spec_from_file_location("dashboard", GRAFANA / "dashboard.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def selectors(expression):
    found = []

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node.name)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def test_the_committed_dashboard_is_what_the_code_makes(dashboard):
    assert (GRAFANA / "batchscope.json").read_text() == dashboard.render()


def test_every_expression_parses_and_reads_metrics_of_the_catalogue(dashboard):
    series = {metric.name for metric in CATALOG}
    series |= {f"{metric.name}_bucket" for metric in CATALOG if metric.kind is MetricKind.HISTOGRAM}
    for panel in dashboard.panels():
        for query in panel.queries:
            names = selectors(query.expression.replace("$__rate_interval", "1m"))
            assert names
            assert set(names) <= series, panel.title


def test_every_panel_and_query_reaches_the_document(dashboard):
    document = json.loads(dashboard.render())
    panels = [panel for panel in document["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in panels] == [panel.title for panel in dashboard.panels()]
    for shown, panel in zip(panels, dashboard.panels(), strict=True):
        assert [target["expr"] for target in shown["targets"]] == [query.expression for query in panel.queries]
        assert shown["description"] == panel.text
