"""The report of a snapshot: what it says, and that nothing of it is cut off."""

import datetime as dt
import io
import math
import re

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from batchscope import (
    BatchLimiter,
    CompletionReason,
    MetricsConfiguration,
    MetricsSnapshot,
    RequestResult,
    RequestTracker,
    SchedulerLimits,
    SchedulerMetricsCollector,
    SloTargets,
    decode_snapshot,
)
from batchscope.records import EngineInfo
from batchscope.statistics.summaries import (
    BatchStatistics,
    DistributionSummary,
    ErrorStatistics,
    IterationStatistics,
    RequestStatistics,
    SloStatistics,
)
from batchscope.statistics.totals import Gauges, Totals, WindowTotals
from batchscope.views.rendering import plain
from batchscope.views.report import Report

LIMITS = SchedulerLimits(max_running_requests=2, max_scheduled_tokens=2048, kv_cache_blocks=500)
NOON = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)


def served(limiter=None, *, limits=LIMITS, iterations=4, configuration=None):
    """A collector whose one iteration after the other is held by ``limiter``, by the clock of a test."""
    now = [0.0]
    collector = SchedulerMetricsCollector(configuration, limits=limits, clock=lambda: now[0])
    tracker = RequestTracker(collector)
    slots = [tracker.arrived(number, prompt_tokens=120, at=0.0) for number in range(3)]
    for number in range(iterations):
        now[0] = number + 1.0
        tracker.iteration(slots[:2], started_at=float(number), finished_at=number + 1.0, limited_by=limiter)
    tracker.finished(slots[0], CompletionReason.EOS_TOKEN_REACHED, at=now[0])
    return collector


def snapshot_of(shares, *, reported=1.0, limits=LIMITS, **fields):
    """A snapshot in which these limiters held the batch for these shares of 100 busy seconds."""
    return MetricsSnapshot(
        request_stats=fields.pop("request_stats", RequestStatistics()),
        iteration_stats=IterationStatistics(
            limited_by=shares,
            lost_slot_seconds=dict.fromkeys(shares, 0.4),
            limiter_reported_ratio=reported,
            time_weighted_utilization=0.5,
        ),
        batch_stats=BatchStatistics(),
        error_stats=fields.pop("error_stats", ErrorStatistics()),
        totals=fields.pop("totals", Totals(busy_seconds_by_limiter={name: 100 * s for name, s in shares.items()})),
        limits=limits,
        snapshot_time=NOON,
        started_at=NOON,
        **fields,
    )


def line_of(report, name):
    """The head's line of that name, with what it goes on with in the next."""
    found = re.search(rf"│ {name}  +(.*?)│\n((?:│ {{12}}.*\n)*)", report)
    return re.sub(r"[\s│]+", " ", found[1] + found[2]).strip() if found else None


def test_it_is_the_picture_of_the_demo_for_ones_own_engine():
    report = served().get_snapshot().report()
    for part in (
        "3 arrived",
        "1 completed",
        "2 still in flight",
        "TTFT",
        "queue",
        "Why the batch was not fuller",
        "now 1 running",
    ):
        assert part in report
    assert "over time" not in report
    assert "nan" not in report
    assert all(line == line.rstrip() and len(line) <= 100 for line in report.splitlines())


@pytest.mark.parametrize(
    ("limiter", "words"),
    [
        (BatchLimiter.REQUEST_SLOTS, "the request slots (max_running_requests, now 2): 100.0 % of busy time"),
        (BatchLimiter.TOKEN_BUDGET, "the token budget (max_scheduled_tokens, now 2048): 100.0 % of busy time"),
        (BatchLimiter.KV_CACHE, "the KV cache (kv_cache_blocks, now 500): 100.0 % of busy time"),
        (BatchLimiter.POLICY, "the scheduler's admission policy: 100.0 % of busy time"),
        (BatchLimiter.PAUSED, "a pause of admission: 100.0 % of busy time"),
        (BatchLimiter.DEMAND, "mostly nothing, there was no more to do: 100.0 % of busy time"),
        (BatchLimiter.UNKNOWN, "nobody said, nor can it be inferred: 100.0 % of busy time"),
    ],
)
def test_it_says_what_held_the_batch_for_how_long_and_names_a_setting_only_where_there_is_one(limiter, words):
    report = served(limiter).get_snapshot().report()
    assert line_of(report, "held by") == words
    assert "turn" not in report
    assert ("max_" in report.split("Why the batch")[1]) == (limiter in {"request_slots", "token_budget"})


def test_a_setting_without_a_known_value_is_named_alone():
    report = snapshot_of({"kv_cache": 1.0}, limits=SchedulerLimits()).report()
    assert line_of(report, "held by") == "the KV cache (kv_cache_blocks): 100.0 % of busy time"


def test_an_inferred_cause_is_called_inferred_wherever_it_stands():
    report = served().get_snapshot().report()
    assert line_of(report, "held by").endswith("of busy time (inferred)")
    unknown = line_of(snapshot_of({"unknown": 0.6, "demand": 0.4}, reported=0.0).report(), "held by")
    assert not unknown.endswith("(inferred)")
    assert "share of busy time; inferred" in report
    reported = served(BatchLimiter.KV_CACHE).get_snapshot().report()
    assert "inferred" not in reported
    assert "share of busy time; reported by the scheduler" in reported
    mixed = snapshot_of({"kv_cache": 1.0}, reported=0.25).report()
    assert "of busy time (25.0 % reported, rest inferred)" in line_of(mixed, "held by")


def test_the_head_names_every_cause_from_ten_percent_on_and_the_largest_however_little_it_is():
    shares = {"unknown": 0.5, "kv_cache": 0.27, "demand": 0.14, "policy": 0.09}
    assert line_of(snapshot_of(shares).report(), "held by") == (
        "nobody said, nor can it be inferred: 50.0 % of busy time the KV cache (kv_cache_blocks, now 500): 27.0 % of busy time "
        "nothing, there was no more to do: 14.0 % of busy time"
    )
    assert "KV" in line_of(snapshot_of({"kv_cache": 0.05}).report(), "held by")


def test_demand_that_was_the_largest_is_said_before_the_first_limit():
    report = snapshot_of({"demand": 0.7, "kv_cache": 0.3}).report()
    assert line_of(report, "held by") == (
        "mostly nothing, there was no more to do: 70.0 % of busy time "
        "the KV cache (kv_cache_blocks, now 500): 30.0 % of busy time"
    )
    assert "mostly" not in line_of(snapshot_of({"demand": 0.49, "kv_cache": 0.48}).report(), "held by")
    assert "KV" not in line_of(snapshot_of({"demand": 0.95, "kv_cache": 0.05}).report(), "held by")


def test_what_is_unknown_names_the_limits_that_nobody_gave():
    limits = SchedulerLimits(max_running_requests=2)
    report = snapshot_of({"unknown": 1.0}, limits=limits).report(width=140)
    words = "not reported; to infer it, give SchedulerLimits: max_scheduled_tokens, kv_cache_blocks"
    assert words in re.sub(r"\s+", " ", report)
    assert "give SchedulerLimits" not in snapshot_of({"unknown": 1.0}).report()


def test_seconds_lost_slot_seconds_and_those_who_waited_stand_beside_each_share():
    totals = Totals(
        busy_seconds_by_limiter={"kv_cache": 75.0, "demand": 25.0},
        waiting_request_seconds_by_limiter={"kv_cache": 120.0, "demand": 0.0},
    )
    report = snapshot_of({"kv_cache": 0.75, "demand": 0.25}, totals=totals).report()
    rows = report.split("Why the batch")[1].splitlines()
    assert re.split(r"  +", rows[1].strip())[-4:] == ["for, s", "lost slot-s", "wait req-s", "which is"]
    assert re.split(r"  +", rows[3].strip())[-4:] == ["75.0", "0.400", "120", "kv_cache_blocks, now 500"]
    assert re.split(r"  +", rows[4].strip())[-4:] == ["25.0", "0.400", "0", "there was no more to do"]


def test_most_refused_is_said_in_the_head_and_not_that_there_was_no_more_to_do():
    totals = Totals(requests_received=100, requests_by_reason={"rejected": 93, "eos_token_reached": 7})
    requests = RequestStatistics(total_requests=100, completed_requests=7, failed_requests=93)
    snapshot = snapshot_of({"demand": 1.0}, totals=totals, request_stats=requests)
    report = plain(Report(snapshot, why_refused="they can never fit: kv_cache_blocks is 10, the longest needs 261"))
    assert line_of(report, "refused") == (
        "most requests: 93 of 100, at admission they can never fit: kv_cache_blocks is 10, the longest needs 261"
    )
    assert line_of(report, "held by") is None
    assert line_of(snapshot.report(), "refused") == "most requests: 93 of 100, at admission"


def test_what_should_not_be_is_noted_with_its_largest_parts():
    snapshot = snapshot_of(
        {},
        totals=Totals(requests_lost=3, dropped_records=4),
        request_stats=RequestStatistics(rejected_records={"wrong_type": 2, "negative": 1}),
        error_stats=ErrorStatistics(errors_by_type={"A": 1, "B": 9, "C": 2, "D": 5}),
        gauges=Gauges(requests_overdue={"interactive": 2, "batch": 1}),
    )
    assert line_of(snapshot.report(), "to note") == (
        "3 unfinished and past their SLO 3 lost 17 errors (B 9, D 5, C 2, ...) 3 records rejected (wrong_type 2, negative 1) "
        "4 records dropped"
    )
    assert line_of(snapshot_of({}).report(), "to note") is None


def test_preempted_work_that_is_done_again_is_noted_with_its_share():
    def noted(**totals):
        return line_of(snapshot_of({}, totals=Totals(**totals)).report(), "to note")

    thrash = {"preemptions": 40, "recomputed_tokens": 3000, "requests_received": 100}
    assert noted(**thrash, scheduled_prefill_tokens=10_000) == (
        "3,000 of 10,000 prefill tokens (30.0 %) were computed again, after 40 preemptions"
    )
    assert noted(**thrash) == "3,000 tokens were computed again, after 40 preemptions"
    assert noted(preemptions=40, requests_received=100) == "40 preemptions of 100 requests"
    assert noted(preemptions=4, recomputed_tokens=300, scheduled_prefill_tokens=10_000, requests_received=100) is None


def test_demand_while_requests_wait_is_noted():
    snapshot = served(BatchLimiter.DEMAND).get_snapshot()  # one of three waits all the time
    assert line_of(snapshot.report(), "to note") == (
        "demand was reported while requests waited (1.00 on average): say what kept them out"
    )


def test_a_batch_beyond_its_limit_is_noted():
    snapshot = served(BatchLimiter.KV_CACHE, limits=SchedulerLimits(max_running_requests=1)).get_snapshot()
    assert line_of(snapshot.report(), "to note") == "the largest batch had 2 requests, and max_running_requests is 1"


def test_requests_that_no_target_was_applied_to_are_counted_beside_those_that_were():
    collector = SchedulerMetricsCollector(MetricsConfiguration(slo=SloTargets(e2e_latency=2.0)), clock=lambda: 0.0)
    for reason in (CompletionReason.EOS_TOKEN_REACHED, CompletionReason.CANCELLED, CompletionReason.CANCELLED):
        collector.record_request_completion(RequestResult(reason, 5, reason, 1.0))
    section = collector.get_snapshot().report().split("\nSLO ")[1]
    assert "(2 not evaluated)" in section
    assert "not measured" not in section


@pytest.mark.parametrize(("columns", "width"), [(60, 80), (90, 90), (200, 140)])
def test_on_a_terminal_it_is_as_wide_as_that_within_bounds_and_else_a_page(monkeypatch, columns, width):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    snapshot = served().get_snapshot()
    assert snapshot.report() == snapshot.report(width=100)
    for name, value in {"COLUMNS": str(columns), "LINES": "40", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", Terminal())
    assert snapshot.report() == snapshot.report(width=width)


def test_rates_of_the_window_stand_beside_those_of_a_longer_run():
    requests = RequestStatistics(requests_per_second=2.5, tokens_per_second=700)
    window = WindowTotals(window_seconds=60, elapsed_seconds=3600)
    assert line_of(snapshot_of({}, request_stats=requests, window=window).report(), "last 60 s") == (
        "2.50 requests/s 700 output tokens/s"
    )
    short = WindowTotals(window_seconds=60, elapsed_seconds=59)
    assert line_of(snapshot_of({}, request_stats=requests, window=short).report(), "last 60 s") is None


def test_where_the_samples_kept_are_fewer_than_the_requests_it_says_the_last():
    collector = SchedulerMetricsCollector(MetricsConfiguration(max_request_samples=10), clock=lambda: 0.0)
    for number in range(25):
        collector.record_request_completion(RequestResult(number, 5, CompletionReason.EOS_TOKEN_REACHED, 1.0))
    assert "Latency   the last 10 of 25 completed requests" in collector.get_snapshot().report()
    assert "the last" not in served().get_snapshot().report()


def test_percentiles_that_are_estimates_say_their_error():
    one, other = served(), served()
    assert "ITL: every token; its percentiles within 0.54 %" in one.get_snapshot().report()
    merged = MetricsSnapshot.merge(one.get_snapshot(), other.get_snapshot()).report()
    assert "ITL: every token; percentiles within 0.54 %" in merged
    precise = served(configuration=MetricsConfiguration(percentile_precision=3)).get_snapshot()
    assert "its percentiles within 0.068 %" in precise.report()


def test_of_an_engine_that_tells_outputs_only_the_gap_is_shown():
    requests = RequestStatistics(inter_emission_latency=DistributionSummary(9, *[0.05] * 6))
    assert "completed requests; gap: every output\n" in snapshot_of({}, request_stats=requests).report()
    rows = [line.split() for line in snapshot_of({}, request_stats=requests).report().splitlines()]
    assert ["gap", "between", "outputs", "9", "ms", *["50.0"] * 6] in rows
    assert not [row for row in rows if row[:1] == ["ITL"]]


def test_whose_snapshot_it_is_stands_in_the_title_or_where_it_has_no_room_below():
    snapshot = msgspec.structs.replace(
        snapshot_of({}), engine=EngineInfo("vllm", "0.32.0"), labels={"model_name": "Qwen-2-7B"}
    )
    assert "batchscope  vllm 0.32.0, model_name=Qwen-2-7B, 2026-11-28 12:00:00 UTC ─" in snapshot.report()
    long = msgspec.structs.replace(snapshot, labels={"model_name": "x" * 150})
    assert "x" * 150 in line_of(long.report(width=80), "of").replace(" ", "")


@pytest.mark.parametrize("text", ["[red]", "\x1b[31m", "a\nb", "\u202e", "\ud800"])
def test_foreign_text_is_shown_and_steers_nothing(text):
    snapshot = snapshot_of(
        {text: 1.0},
        labels={"name": text},
        slo_stats={text: SloStatistics(targets={text: 1.0}, evaluated=1, missed_by={text: 1})},
        error_stats=ErrorStatistics(errors_by_type={text: 1}),
    )
    report = snapshot.report()
    assert "".join(report.split("\n")).isprintable()
    assert text == "[red]" or text not in report
    assert text != "[red]" or report.count("[red]") >= 5


def test_the_repr_is_one_line_that_says_what_it_is_of():
    snapshot = served().get_snapshot()
    assert re.fullmatch(
        r"<MetricsSnapshot of 20[-\d]+ [:\d]+\+00:00: 1 requests finished, 4 iterations; print\(snapshot.report\(\)\) shows it>",
        repr(snapshot),
    )
    assert str(snapshot) == repr(snapshot)


COUNTS = st.integers(0, 10**10)
SECONDS = st.just(math.nan) | st.just(0.0) | st.floats(1e-9, 1e9)
TEXT = st.characters(max_codepoint=0x2000)
RATIOS = st.just(math.nan) | st.floats(0, 1)


def structs(kind, **of):
    by_type = {int: COUNTS, float: SECONDS, str: st.just(""), "float": SECONDS, "int": COUNTS}
    fields = {
        field.name: of.get(field.name, by_type.get(field.type))
        for field in msgspec.structs.fields(kind)
        if of.get(field.name) is not None or field.type in by_type
    }
    return st.builds(kind, **fields)


SUMMARIES = structs(DistributionSummary, relative_error=st.sampled_from([0.0, 0.0054, 0.086]))
LATENCIES = ("queue_time", "time_to_first_token", "time_per_output_token", "inter_token_latency", "total_time")
SHARES = st.dictionaries(st.sampled_from(list(BatchLimiter)), RATIOS)
SLO = st.dictionaries(
    st.sampled_from(["default", "interactive", "x" * 64]),
    structs(
        SloStatistics,
        targets=st.dictionaries(st.sampled_from(SloTargets.__struct_fields__), SECONDS),
        missed_by=st.dictionaries(st.sampled_from(SloTargets.__struct_fields__), COUNTS),
        attainment=RATIOS, attainment_low=RATIOS, attainment_high=RATIOS,
    ),
)  # fmt: skip
SNAPSHOTS = st.builds(
    MetricsSnapshot,
    request_stats=structs(RequestStatistics, **dict.fromkeys(LATENCIES, SUMMARIES)),
    iteration_stats=structs(
        IterationStatistics, limited_by=SHARES, lost_slot_seconds=st.dictionaries(st.sampled_from(list(BatchLimiter)), SECONDS),
        limiter_reported_ratio=RATIOS, time_weighted_utilization=RATIOS, average_kv_cache_usage=RATIOS, busy_ratio=RATIOS,
    ),
    batch_stats=structs(BatchStatistics),
    error_stats=st.builds(ErrorStatistics, errors_by_type=st.dictionaries(st.text(TEXT, max_size=80), COUNTS, max_size=5)),
    slo_stats=SLO,
    totals=structs(Totals, busy_seconds_by_limiter=st.dictionaries(st.sampled_from(list(BatchLimiter)), SECONDS)),
    gauges=structs(Gauges),
    limits=st.builds(SchedulerLimits, st.none() | st.integers(1, 10**6), st.none() | st.integers(1, 10**6)),
    labels=st.dictionaries(st.text(TEXT, max_size=10), st.text(TEXT, max_size=200), max_size=2),
    snapshot_time=st.just(NOON),
    started_at=st.just(NOON),
    elapsed_seconds=SECONDS,
)  # fmt: skip


@settings(max_examples=60, deadline=None, phases=[Phase.generate])
@given(SNAPSHOTS, st.sampled_from([80, 100, 120, 140]))
def test_whatever_the_figures_nothing_is_cut_off_and_no_line_is_too_wide(snapshot, width):
    report = snapshot.report(width=width)
    assert [line for line in report.splitlines() if "…" in line or cell_len(line) > width] == []


def test_a_snapshot_that_was_written_and_read_again_has_the_same_report():
    snapshot = served().get_snapshot()
    assert decode_snapshot(snapshot.to_json()).report() == snapshot.report()
