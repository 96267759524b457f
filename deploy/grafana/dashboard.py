"""The Grafana dashboard as code: ``python deploy/grafana/dashboard.py > deploy/grafana/batchscope.json``.

It reads raw series, not the recording rules, so it works without them. Quantiles come from native histograms
where they were scraped, else from classic buckets. ``panels()`` is what the tests run against a live Prometheus.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import GraphDrawStyle, StackingMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

SELECTOR = 'job=~"$job",model_name=~"$model_name"'
MET, EVALUATED = ',result="met"', ',result=~"met|missed"'
WIDTH, HEIGHT = 8, 8


class Query(NamedTuple):
    """One expression and the legend of its series."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """One panel: what it answers, and its queries."""

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]
    stacked: bool = False
    single: bool = False


def rate(name: str, labels: str = "") -> str:
    """The rate of a counter or histogram of the chosen jobs and models."""
    return f"rate(batchscope_{name}{{{SELECTOR}{labels}}}[$__rate_interval])"


def quantile(q: float, name: str, by: str = "") -> str:
    """A quantile over all engines, by native histogram or classic buckets."""
    native = f"histogram_quantile({q}, sum by ({by}) ({rate(name)}))"
    classic = f"histogram_quantile({q}, sum by ({', '.join(filter(None, (by, 'le')))}) ({rate(name + '_bucket')}))"
    return f"{native} or {classic}"


def quantiles(name: str) -> tuple[Query, ...]:
    """Median, 90th and 99th percentile."""
    return tuple(Query(quantile(q, name), f"p{round(100 * q)}") for q in (0.5, 0.9, 0.99))


def gauge(name: str) -> str:
    """A present value of the chosen jobs and models."""
    return f"batchscope_{name}{{{SELECTOR}}}"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Is it well?": (
        Panel(
            "SLO attainment", "Requests that met all their targets / evaluated ones, by class.", "percentunit",
            (Query(
                f"sum by (class) ({rate('slo_requests_total', MET)})"
                f" / sum by (class) ({rate('slo_requests_total', EVALUATED)})",
                "{{class}}",
            ),), single=True,
        ),
        Panel(
            "Batch utilization", "Slots taken / slots, over busy time, of all engines.", "percentunit",
            (Query(
                f"sum({rate('used_slot_seconds_total')}) / sum({rate('slot_seconds_total')})", "utilization"
            ),), single=True,
        ),
        Panel(
            "Requests a second", "Finished ones, whatever the reason.", "reqps",
            (Query(f"sum({rate('requests_total')})", "finished"),), single=True,
        ),
    ),
    "Why is the batch not fuller?": (
        Panel(
            "What limits the batch", "Shares of busy time, not of iterations.", "percentunit",
            (Query(
                f"sum by (limited_by) ({rate('iteration_busy_seconds_total')})"
                f" / ignoring (limited_by) group_left () sum({rate('iteration_busy_seconds_total')})",
                "{{limited_by}}",
            ),), stacked=True,
        ),
        Panel(
            "Slots lost", "Request slots left empty on average, by what kept them empty.", "short",
            (Query(f"sum by (limited_by) ({rate('lost_slot_seconds_total')})", "{{limited_by}}"),), stacked=True,
        ),
        Panel(
            "Running and waiting", "Averages over busy time, which no gauge of a scrape can show.", "short",
            (
                Query(
                    f"sum({rate('running_request_seconds_total')}) / sum({rate('running_reported_seconds_total')})",
                    "running",
                ),
                Query(
                    f"sum({rate('waiting_request_seconds_total')}) / sum({rate('waiting_reported_seconds_total')})",
                    "waiting",
                ),
            ),
        ),
        Panel(
            "KV cache", "Blocks held / usable, by engine.", "percentunit",
            (Query(gauge("kv_cache_usage_ratio"), "{{instance}}"),),
        ),
        Panel(
            "Preemptions", "A second; work that is thrown away.", "ops",
            (Query(f"sum({rate('preemptions_total')})", "preemptions"),),
        ),
        Panel(
            "Busy", "Time in iterations / time, a rank.", "percentunit",
            (Query(
                f"sum({rate('iteration_busy_seconds_total')}) / sum({rate('rank_seconds_total')})", "busy"
            ),),
        ),
    ),
    "Are users served in time?": (
        Panel("Time to first token", "From arrival.", "s", quantiles("time_to_first_token_seconds")),
        Panel("Queue time", "Arrival to first scheduled.", "s", quantiles("request_queue_time_seconds")),
        Panel("Time per output token", "One value a request.", "s", quantiles("request_time_per_output_token_seconds")),
        Panel("Stalls", "Gap between two emissions of a request.", "s", quantiles("inter_emission_latency_seconds")),
        Panel("End-to-end latency", "Arrival to finish.", "s", quantiles("e2e_request_latency_seconds")),
        Panel(
            "Missed targets", "A second, by class and target; one request can miss several.", "reqps",
            (Query(f"sum by (class, target) ({rate('slo_missed_targets_total')})", "{{class}} {{target}}"),),
        ),
    ),
    "How much?": (
        Panel(
            "Tokens a second", "Computed prompt tokens and output tokens.", "short",
            (
                Query(f"sum({rate('generation_tokens_total')})", "output"),
                Query(f"sum by (source) ({rate('prompt_tokens_total')})", "prompt, {{source}}"),
            ),
        ),
        Panel(
            "Requests by end", "A second, by reason.", "reqps",
            (Query(f"sum by (reason) ({rate('requests_total')})", "{{reason}}"),), stacked=True,
        ),
        Panel(
            "In flight", "Requests received and not finished.", "short",
            (
                Query(f"sum({gauge('requests_in_flight')})", "in flight"),
                Query(f"sum({gauge('requests_waiting')})", "waiting"),
                Query(f"max({gauge('oldest_waiting_seconds')})", "oldest waiting, seconds"),
            ),
        ),
        Panel(
            "Iteration", "Duration of iterations.", "s", quantiles("iteration_duration_seconds"),
        ),
        Panel(
            "Batch size", "Requests an iteration.", "short", quantiles("batch_size_requests"),
        ),
        Panel(
            "Errors, losses, refusals", "A second: what should be 0.", "short",
            (
                Query(f"sum by (type) ({rate('errors_total')})", "error {{type}}"),
                Query(f"sum({rate('requests_lost_total')})", "lost requests"),
                Query(f"sum by (reason) ({rate('rejected_records_total')})", "refused {{reason}}"),
                Query(f"sum({rate('dropped_records_total')})", "dropped records"),
            ),
        ),
    ),
}  # fmt: skip


def panels() -> list[Panel]:
    """All panels, in order."""
    return [panel for row in ROWS.values() for panel in row]


def _built(panel: Panel) -> timeseries.Panel | stat.Panel:
    built = stat.Panel() if panel.single else timeseries.Panel()
    built.title(panel.title).description(panel.text).unit(panel.unit).span(WIDTH).height(HEIGHT)
    built.datasource(DataSourceRef(type_val="prometheus", uid="$datasource"))
    for place, query in enumerate(panel.queries):
        built.with_target(
            prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(chr(ord("A") + place))
        )
    if isinstance(built, timeseries.Panel):
        built.draw_style(GraphDrawStyle.LINE).fill_opacity(30 if panel.stacked else 5)
        if panel.stacked:
            built.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    return built


def _variable(name: str, label: str) -> dashboard.QueryVariable:
    """A choice of label values; ``.*`` also takes engines that lack the label."""
    return (
        dashboard.QueryVariable(name).label(label).query(f"label_values(batchscope_info, {name})")
        .datasource(DataSourceRef(type_val="prometheus", uid="$datasource"))
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).include_all(True).all_value(".*").multi(True)
    )  # fmt: skip


def build() -> dashboard.Dashboard:
    """The dashboard's builder."""
    builder = (
        dashboard.Dashboard("batchscope").uid("batchscope").tags(["batchscope", "llm"])
        .refresh("30s").time("now-1h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("job", "Job")).with_variable(_variable("model_name", "Model"))
    )  # fmt: skip
    for title, row in ROWS.items():
        builder.with_row(dashboard.Row(title))
        for panel in row:
            builder.with_panel(_built(panel))
    return builder


def render() -> str:
    """The JSON that Grafana imports."""
    return JSONEncoder(sort_keys=True, indent=2).encode(build().build()) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
