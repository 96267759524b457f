"""Classic buckets: exact counts at edges that never change."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_states import SLO, full_state, histogram

from batchscope import ExponentialHistogram, MetricsConfiguration, SchedulerMetricsCollector
from batchscope.catalog import CATALOG, MetricKind
from batchscope.exporters.prometheus import render_text
from batchscope.exporters.prometheus.edges import MOST_GRID_EDGES, cumulative_counts, edges_of

HISTOGRAMS = [metric for metric in CATALOG if metric.kind is MetricKind.HISTOGRAM]
GRIDS = pytest.mark.parametrize(  # one metric of each grid
    "metric",
    [
        metric
        for metric in HISTOGRAMS
        if metric.name.endswith(("_queue_time_seconds", "_duration_seconds", "_tokens", "_requests"))
    ],
    ids=lambda metric: metric.name,
)
EACH = pytest.mark.parametrize("metric", HISTOGRAMS, ids=lambda metric: metric.name)
SCALES = st.integers(1, 12)


@st.composite
def observations(draw, metric):
    """Values everywhere, and those that lie on an edge or a hair beside it."""
    bounds = edges_of(metric, ExponentialHistogram(6)).bounds
    beside = st.sampled_from(bounds).flatmap(
        lambda bound: st.sampled_from([bound, math.nextafter(bound, 0), math.nextafter(bound, math.inf)])
    )
    anything = st.one_of(st.floats(0, 1e12), st.just(0.0), st.floats(1e-12, 1e-8))
    return draw(st.lists(st.one_of(beside, anything), max_size=60))


@GRIDS
@given(data=st.data())
def test_every_count_is_that_of_the_values_up_to_the_edge(metric, data):
    several, expected = [], []
    for _ in range(data.draw(st.integers(1, 3))):
        values = data.draw(observations(metric))
        thresholds = data.draw(st.lists(st.floats(0.001, 100), max_size=2))
        one = histogram(values, data.draw(SCALES), thresholds)
        several.append(one)
        expected.append([sum(value <= bound for value in values) for bound in edges_of(metric, one).bounds])
    assert cumulative_counts(several, [edges_of(metric, one) for one in several]) == expected


@EACH
def test_the_edges_are_the_same_whatever_was_counted_and_however_finely(metric):
    empty = edges_of(metric, histogram([])).bounds
    assert empty == tuple(sorted(set(empty)))
    assert len(empty) <= MOST_GRID_EDGES
    for scale in range(1, 13):
        assert edges_of(metric, histogram([1e-5, 0.3, 7.0, 1e8], scale)).bounds == empty


@EACH
@given(thresholds=st.lists(st.floats(1e-6, 1e6), max_size=4, unique=True))
def test_a_target_is_always_an_edge(metric, thresholds):
    bounds = edges_of(metric, histogram([0.1], thresholds=thresholds)).bounds
    assert set(thresholds) <= set(bounds)
    assert len(bounds) <= MOST_GRID_EDGES + len(thresholds)


def test_a_coarse_histogram_of_somebody_else_shows_only_edges_it_knows_exactly():
    metric = next(metric for metric in HISTOGRAMS if metric.name == "batchscope_e2e_request_latency_seconds")
    values = [0.002, 0.3, 0.5, 2.0, 3.0, 16.0, 5000.0]
    for scale in range(-4, 1):
        one = histogram(values, scale)
        edges = edges_of(metric, one)
        assert cumulative_counts([one], [edges]) == [[sum(v <= bound for v in values) for bound in edges.bounds]]
        assert set(edges.bounds) < set(edges_of(metric, histogram(values)).bounds)


def test_nothing_to_count_is_no_error():
    assert cumulative_counts([], []) == []


def test_each_le_parses_to_the_identical_edge_and_counts_rise_to_the_count():
    found = {}
    for family in parse_text(render_text(full_state()).decode()):
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                labels = dict(sample.labels)
                le = float(labels.pop("le"))
                found.setdefault((sample.name, tuple(labels.items())), []).append((le, sample.value))
    assert found
    for (name, labels), buckets in found.items():
        metric = next(metric for metric in HISTOGRAMS if f"{metric.name}_bucket" == name)
        one = full_state().histograms[metric.source.partition(".")[2]][dict(labels).get("class", "")]
        assert [le for le, _ in buckets] == [*edges_of(metric, one).bounds, math.inf]
        assert buckets == sorted(buckets, key=lambda pair: pair[1])
        assert buckets[-1][1] == one.count


def test_the_targets_of_a_configuration_are_edges_of_their_metric_and_class():
    state = SchedulerMetricsCollector(MetricsConfiguration(slo=SLO)).read_totals()
    lines = render_text(state).decode()
    for name, class_name, target in (
        ("time_to_first_token_seconds", "interactive", "2.0"),
        ("request_time_per_output_token_seconds", "interactive", "0.12"),
        ("e2e_request_latency_seconds", "batch", "121.3"),
    ):
        assert f'batchscope_{name}_bucket{{class="{class_name}",le="{target}"}} 0\n' in lines
    assert 'e2e_request_latency_seconds_bucket{class="interactive",le="121.3"}' not in lines


def test_units_without_a_grid_of_their_own_have_one_too():
    metric = SimpleNamespace(source="histograms.x", unit="bytes")
    assert edges_of(metric, histogram([5.0])).bounds
