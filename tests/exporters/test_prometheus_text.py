"""Text and OpenMetrics: what prometheus_client's own parsers read is what the state holds."""

import math
import shutil
import subprocess
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_states import LABELS, full_state, histogram, with_histogram

from batchscope import ConfigurationError, SchedulerMetricsCollector
from batchscope.catalog import CATALOG, MetricKind, values
from batchscope.exporters.prometheus import Exposition, Format, render_openmetrics, render_text

PARSERS = {Format.TEXT: parse_text, Format.OPENMETRICS: parse_openmetrics}
BOTH = pytest.mark.parametrize("form", PARSERS, ids=lambda form: form.name.lower())
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def parsed(body, form):
    """(sample name, labels) -> value, each once."""
    samples = [sample for family in PARSERS[form](body.decode()) for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


def key(name, metric, labels, common=LABELS, **more):
    return name, frozenset({**dict(zip(metric.labels, labels, strict=True)), **common, **more}.items())


@BOTH
def test_every_known_value_of_the_catalogue_parses_to_the_identical_number(form):
    found = parsed(Exposition().render(full_state(), form), form)
    for metric in CATALOG:
        for labels, value in values(metric, full_state()):
            if metric.kind is MetricKind.HISTOGRAM:
                assert found[key(f"{metric.name}_count", metric, labels)] == value.count
                assert found[key(f"{metric.name}_sum", metric, labels)] == value.sum
                assert found[key(f"{metric.name}_bucket", metric, labels, le="+Inf")] == value.count
            else:
                assert found[key(metric.name, metric, labels)] == value


@BOTH
def test_nothing_is_exported_that_the_state_does_not_know(form):
    exported = {name for name, _ in parsed(Exposition().render(full_state(), form), form)}
    known = {metric.name for metric in CATALOG if list(values(metric, full_state()))} | {"batchscope_series_left_out"}
    suffixes = ("_bucket", "_count", "_sum", "_created")
    for name in exported:
        start = next((name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix)), name)
        assert {name, start, f"{start}_total"} & known


@BOTH
def test_a_family_has_the_kind_of_the_catalogue_and_is_there_once(form):
    families = list(PARSERS[form](Exposition().render(full_state(), form).decode()))
    kinds = {family.name: family.type for family in families}
    assert len(kinds) == len(families)
    assert kinds["batchscope_requests"] == "counter"
    assert kinds["batchscope_e2e_request_latency_seconds"] == "histogram"
    assert kinds["batchscope_oldest_waiting_seconds"] == "gauge"
    name, kind = {Format.TEXT: ("batchscope_info", "gauge"), Format.OPENMETRICS: ("batchscope", "info")}[form]
    assert kinds[name] == kind


def test_openmetrics_says_the_unit_and_when_counting_began_and_ends_with_eof():
    state = full_state()
    body = render_openmetrics(state)
    assert body.endswith(b"\n# EOF\n")
    families = {family.name: family for family in parse_openmetrics(body.decode())}
    assert families["batchscope_lost_slot_seconds"].unit == "seconds"
    assert families["batchscope_kv_cache_usage_ratio"].unit == "ratio"
    for name in ("batchscope_requests", "batchscope_e2e_request_latency_seconds"):
        created = [sample.value for sample in families[name].samples if sample.name == f"{name}_created"]
        assert created
        assert set(created) == {state.started_at.timestamp()}


@BOTH
@given(common=TEXTS, error=TEXTS, number=st.floats(allow_nan=False, min_value=0))
def test_any_label_value_and_any_number_come_back(form, common, error, number):
    collector = SchedulerMetricsCollector(labels={"model_name": common})
    state = collector.read_totals()
    totals = {"errors_by_type": {error: 3}, "slot_seconds": number}
    state = state._replace(totals=_replaced(state.totals, **totals))
    names = ["batchscope_errors_total", "batchscope_slot_seconds_total"]
    found = parsed(Exposition().render(state, form, names), form)
    assert found["batchscope_errors_total", frozenset({"type": error, "model_name": common}.items())] == 3
    assert found["batchscope_slot_seconds_total", frozenset({"model_name": common}.items())] == number


def _replaced(struct, **fields):
    import msgspec

    return msgspec.structs.replace(struct, **fields)


@pytest.mark.parametrize("bad", ["\0", "\ud800", "a\0b"])
@BOTH
def test_what_no_reader_takes_is_replaced(form, bad):
    state = SchedulerMetricsCollector(labels={"model_name": bad}).read_totals()
    body = Exposition().render(state, form)
    assert b"\0" not in body
    assert "model_name" in body.decode()
    parsed(body, form)


@BOTH
def test_a_label_of_the_process_gives_way_to_a_metrics_own(form):
    collector = SchedulerMetricsCollector(labels={"reason": "mine", "le": "5", "exported_reason": "older"})
    found = parsed(Exposition().render(collector.read_totals(), form), form)
    common = {"exported_exported_reason": "mine", "exported_le": "5", "exported_reason": "older"}
    assert found["batchscope_requests_total", frozenset({"reason": "other", **common}.items())] == 0
    assert found["batchscope_iterations_total", frozenset(common.items())] == 0


def test_a_label_name_that_no_format_knows_is_left_out():
    state = SchedulerMetricsCollector().read_totals()._replace(labels={"a b": "1", "__x": "2", "ok": "3"})
    assert b'batchscope_iterations_total{ok="3"} 0\n' in render_text(state)


def test_a_sum_that_overflowed_is_infinite():
    one = histogram([1e308, 1e308])
    found = parsed(render_text(with_histogram("total_time", one)), Format.TEXT)
    name = "batchscope_e2e_request_latency_seconds"
    assert found[f"{name}_sum", frozenset({"class": "default"}.items())] == math.inf
    assert found[f"{name}_bucket", frozenset({"class": "default", "le": "4096.0"}.items())] == 0
    assert found[f"{name}_count", frozenset({"class": "default"}.items())] == 2


def test_only_the_families_asked_for_by_any_of_their_names():
    exposition = Exposition()
    for name in ("batchscope_requests_total", "batchscope_requests", "batchscope_requests_created"):
        families = exposition.families(full_state(), [name])
        assert [family.metric.name for family in families] == ["batchscope_requests_total"]
    [family] = exposition.families(full_state(), ["batchscope_batch_size_requests_bucket"])
    assert family.metric.name == "batchscope_batch_size_requests"
    assert exposition.render(full_state(), Format.TEXT, ["nothing"]) == b""
    assert exposition.render(full_state(), Format.OPENMETRICS, ["nothing"]) == b"# EOF\n"


@BOTH
def test_the_budget_cuts_what_grew_and_counts_what_is_missing(form):
    state = SchedulerMetricsCollector().read_totals()
    many = {f"error {number}": 1 for number in range(5000)}
    state = state._replace(totals=_replaced(state.totals, errors_by_type=many))
    whole = parsed(Exposition(series_budget=100_000).render(state, form), form)
    cut = parsed(Exposition(series_budget=1000).render(state, form), form)
    assert whole["batchscope_series_left_out", frozenset()] == 0
    counted = [name for name, _ in cut if not name.endswith("_created") and name != "batchscope_series_left_out"]
    all_counted = [name for name, _ in whole if not name.endswith("_created") and name != "batchscope_series_left_out"]
    assert len(counted) <= 1000
    assert cut["batchscope_series_left_out", frozenset()] == len(all_counted) - len(counted)
    assert {name for name, _ in cut} == {name for name, _ in whole}
    errors = [dict(labels)["type"] for name, labels in cut if name == "batchscope_errors_total"]
    assert errors == [f"error {number}" for number in range(len(errors))]


def test_a_histogram_is_whole_or_left_out():
    for budget in range(30, 300, 7):
        found = parsed(Exposition(series_budget=budget).render(full_state(), Format.TEXT), Format.TEXT)
        counted = {(name, labels) for name, labels in found if name.endswith("_seconds_count")}
        for name, labels in counted:
            start = name.removesuffix("_count")
            buckets = [one for one in found if one[0] == f"{start}_bucket" and labels <= one[1]]
            assert len(buckets) >= 20
            assert (f"{start}_sum", labels) in found


@pytest.mark.parametrize("budget", [0, -1, 1.5, True, None])
def test_a_wrong_budget_is_refused(budget):
    with pytest.raises(ConfigurationError, match="series_budget"):
        Exposition(series_budget=budget)


def test_threads_that_share_an_exposition_get_what_one_would():
    state, shared = full_state(), Exposition()
    expected = Exposition().render(state, Format.TEXT)
    found = []
    threads = [threading.Thread(target=lambda: found.append(shared.render(state, Format.TEXT))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


def test_labels_that_come_and_go_do_not_pile_up():
    exposition = Exposition()
    state = SchedulerMetricsCollector().read_totals()
    for number in range(50):
        exposition.render(state._replace(labels={"instance_id": str(number)}), Format.TEXT)
    assert len(exposition._text._processes) <= 8


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say():
    run = subprocess.run(["promtool", "check", "metrics"], input=render_text(full_state()), capture_output=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
