"""The collector for prometheus_client's registry: one line, and ours stand beside the engine's."""

import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_states import full_collector, full_state

from batchscope import SchedulerMetricsCollector
from batchscope.exporters.prometheus import PrometheusCollector, render_openmetrics, render_text


def registry(source, **options):
    found = CollectorRegistry(auto_describe=True)
    Counter("engine_steps", "The engine's own.", registry=found)
    found.register(PrometheusCollector(source, **options))
    return found


def samples(families):
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created") and not sample.name.startswith("engine_")
    }


def test_generate_latest_gives_what_our_own_text_gives():
    theirs = samples(parse_text(generate_latest(registry(full_collector())).decode()))
    ours = samples(parse_text(render_text(full_state()).decode()))
    assert theirs == ours


def test_their_openmetrics_gives_what_ours_gives():
    theirs = samples(parse_openmetrics(generate_openmetrics(registry(full_collector())).decode()))
    assert theirs == samples(parse_openmetrics(render_openmetrics(full_state()).decode()))


def test_the_engines_own_metrics_stay():
    assert b"engine_steps_total 0.0" in generate_latest(registry(full_collector()))


class NotRead(SchedulerMetricsCollector):
    def read_totals(self):
        raise AssertionError


def test_registering_reads_nothing():
    registry(NotRead())


def test_registering_it_twice_or_beside_the_same_names_is_refused():
    found = registry(SchedulerMetricsCollector())
    with pytest.raises(ValueError, match="Duplicated"):
        found.register(PrometheusCollector(SchedulerMetricsCollector()))
    with pytest.raises(ValueError, match="batchscope_requests"):
        Counter("batchscope_requests", "Somebody else's.", registry=found)


def test_a_closed_collector_has_nothing_to_show():
    collector = SchedulerMetricsCollector()
    found = registry(collector)
    assert b"batchscope_iterations_total" in generate_latest(found)
    collector.close()
    assert b"batchscope_" not in generate_latest(found)


def test_a_scrape_of_chosen_names_works():
    found = registry(full_collector()).restricted_registry(["batchscope_iterations_total"])
    assert generate_latest(found).count(b"\nbatchscope_") == 1


def test_vllms_names_can_be_had_here_too():
    assert b"vllm:num_requests_running{" in generate_latest(registry(full_collector(), vllm_names=True))


def test_prometheus_client_is_loaded_with_the_collector_only():
    program = (
        "import sys, batchscope.exporters.prometheus as p\n"
        "assert 'prometheus_client' not in sys.modules\n"
        "p.PrometheusCollector\n"
        "assert 'prometheus_client' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
