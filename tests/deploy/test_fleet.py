"""A fleet of three engines, a real Prometheus with native histograms and one without: counts, quantiles, panels."""

import importlib.util
import shutil
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
if shutil.which("prometheus") is None:
    pytest.skip("prometheus is not installed: apt-get install prometheus", allow_module_level=True)

from live_prometheus import SLICES, Engine, Prometheus, wait_until

from batchscope.statistics.cumulative import CumulativeState
from batchscope.statistics.snapshot import MetricsSnapshot

TTFT = "batchscope_time_to_first_token_seconds"


class Fleet:
    def __init__(self, folder):
        self.engines = [Engine(seed) for seed in (1, 2, 3)]
        targets = [engine.server.url.removeprefix("http://").rstrip("/") for engine in self.engines]
        for name in ("native", "classic"):
            (folder / name).mkdir()
        self.native = Prometheus(folder / "native", targets, native=True)
        self.classic = Prometheus(folder / "classic", targets, native=False)
        for number in range(SLICES):
            for engine in self.engines:
                engine.tell(number)
            expected = sum(state.totals.iterations for state in self.states())
            for prometheus in (self.native, self.classic):
                wait_until(
                    lambda p=prometheus, n=expected: p.value("sum(batchscope_iterations_total)") == n, "scraped a slice"
                )

    def states(self) -> list[CumulativeState]:
        return [engine.collector.read_totals() for engine in self.engines]

    def merged(self) -> MetricsSnapshot:
        return MetricsSnapshot.merge(*(engine.collector.get_snapshot() for engine in self.engines))

    def close(self):
        for prometheus in (self.native, self.classic):
            prometheus.close()
        for engine in self.engines:
            engine.server.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    yield fleet
    fleet.close()


@pytest.fixture(params=["native", "classic"])
def prometheus(fleet, request):
    return getattr(fleet, request.param)


def test_every_target_is_up_and_stays_so(prometheus):
    assert [target["lastError"] for target in prometheus.targets()] == ["", "", ""]
    assert prometheus.value("min(min_over_time(up[1m]))") == 1


@pytest.mark.parametrize(
    ("expression", "read"),
    [
        ("sum(batchscope_requests_total)", lambda totals: sum(totals.requests_by_reason.values())),
        ('sum(batchscope_requests_total{reason="cancelled"})', lambda totals: totals.requests_by_reason["cancelled"]),
        ("sum(batchscope_generation_tokens_total)", lambda totals: totals.generation_tokens),
        ("sum(batchscope_prompt_tokens_total)", lambda t: t.prompt_tokens_computed + t.prompt_tokens_cached),
        ("sum(batchscope_iterations_total)", lambda totals: totals.iterations),
        ("sum(batchscope_preemptions_total)", lambda totals: totals.preemptions),
        (
            'sum(batchscope_slo_requests_total{class="interactive",result="met"})',
            lambda totals: totals.slo_requests["interactive"]["met"],
        ),
    ],
)
def test_counts_equal_the_collectors_to_the_unit(fleet, prometheus, expression, read):
    expected = sum(read(state.totals) for state in fleet.states())
    assert expected > 0
    assert prometheus.value(expression) == expected


def test_utilization_and_limiters_of_the_fleet_come_from_counters(fleet, prometheus):
    merged = fleet.merged()
    utilization = "sum(batchscope_used_slot_seconds_total) / sum(batchscope_slot_seconds_total)"
    assert prometheus.value(utilization) == pytest.approx(merged.iteration_stats.time_weighted_utilization, rel=1e-9)
    shares = prometheus.query(
        "sum by (limited_by) (batchscope_iteration_busy_seconds_total)"
        " / on () group_left () sum(batchscope_iteration_busy_seconds_total)"
    )
    for labels, share in shares:
        assert share == pytest.approx(merged.iteration_stats.limited_by[labels["limited_by"]], abs=1e-9)


def nearest_rank(values, per_thousand):
    ordered = sorted(values)
    return ordered[-(-per_thousand * len(ordered) // 1000) - 1]


@pytest.mark.parametrize("per_thousand", [500, 900, 990])
def test_native_histograms_give_quantiles_of_the_fleet_within_the_guarantee(fleet, per_thousand):
    values = [value for engine in fleet.engines for value in engine.first_tokens()]
    assert fleet.native.value(f"histogram_count(sum({TTFT}))") == len(values)
    exact = nearest_rank(values, per_thousand)
    found = fleet.native.value(f"histogram_quantile({per_thousand / 1000}, sum({TTFT}))")
    # Prometheus interpolates within the bucket: the answer lies in it, one bucket (2^(1/64)) wide.
    assert found == pytest.approx(exact, rel=2 ** (1 / 64) - 1)


def test_classic_buckets_err_more_and_their_counts_are_exact(fleet):
    values = [value for engine in fleet.engines for value in engine.first_tokens()]
    assert fleet.classic.value(f"sum({TTFT}_count)") == len(values)
    # The target of the class is an edge: attainment is exact.
    met = fleet.classic.value(f'sum({TTFT}_bucket{{class="interactive",le="1.0"}})')
    interactive = [value for engine in fleet.engines for value in engine.first_tokens("interactive")]
    assert met == sum(value <= 1.0 for value in interactive)
    errors = {}
    for name in ("native", "classic"):
        buckets = f"sum({TTFT})" if name == "native" else f"sum by (le) ({TTFT}_bucket)"
        errors[name] = max(
            abs(getattr(fleet, name).value(f"histogram_quantile({q / 1000}, {buckets})") / nearest_rank(values, q) - 1)
            for q in (500, 900, 990)
        )
    assert errors["native"] < 0.011 < errors["classic"] < 1.0


def test_recording_rules_give_values_and_no_alert_is_broken(fleet, prometheus):
    def recorded():
        return prometheus.query('{__name__=~"job:batchscope_.*"}')

    names = {labels["__name__"] for labels, _ in wait_until(recorded, "rules evaluated")}
    assert "job:batchscope_batch_utilization:ratio_rate5m" in names
    assert "job:batchscope_ttft:p99_rate5m" in names
    assert prometheus.value("max(prometheus_rule_evaluation_failures_total) or vector(0)") == 0


def panels():
    path = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboard.py"
    spec = importlib.util.spec_from_file_location("dashboard", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.panels()


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel.title)
def test_every_panel_has_data(prometheus, panel):
    found = []
    for query in panel.queries:
        expression = (
            query.expression.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$model_name", ".*")
        )
        found += prometheus.query(expression)
    assert found, panel.title
    assert any(value == value for _, value in found), f"{panel.title}: only NaN"  # noqa: PLR0124
