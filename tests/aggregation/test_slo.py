"""Which requests met their objective: every rule of it, and the interval around the share."""

from math import isnan, nan, sqrt

import pytest

from batchscope import CompletionReason, MetricsConfiguration, RequestResult, SchedulerMetricsCollector, SloTargets
from batchscope.aggregation.slo import Z95, wilson_interval

EOS, CANCELLED = CompletionReason.EOS_TOKEN_REACHED, CompletionReason.CANCELLED
ALL = SloTargets(time_to_first_token=1.0, time_per_output_token=0.25, e2e_latency=8.0, max_emission_gap=2.0)
GOOD = {
    "time_to_first_token": 0.5, "decode_time": 1.0, "total_time": 4.0, "max_emission_gap": 0.5,
}  # fmt: skip


class Judge:
    """Finished requests, judged."""

    def __init__(self, slo=ALL, **options):
        self.now = 0.0
        self.collector = SchedulerMetricsCollector(MetricsConfiguration(slo=slo, **options), clock=lambda: self.now)

    def finished(self, reason=EOS, tokens=11, processing_time=3.0, **fields):
        self.collector.record_request_completion(RequestResult("r", tokens, reason, processing_time, **fields))
        return self

    def of(self, name="default"):
        return self.collector.get_snapshot().slo_stats[name]

    @property
    def result(self):
        """Of the one request: met, missed, unmeasured or not_evaluated."""
        found = self.of()
        counts = {name: getattr(found, name) for name in ("met", "missed", "unmeasured", "not_evaluated")}
        assert sum(counts.values()) == 1
        return next(name for name, count in counts.items() if count)


def test_a_request_that_kept_every_target_met():
    assert Judge().finished(**GOOD).result == "met"


@pytest.mark.parametrize(
    ("target", "field", "limit"),
    [("time_to_first_token", "time_to_first_token", 1.0), ("time_per_output_token", "decode_time", 2.5),
     ("e2e_latency", "total_time", 8.0), ("max_emission_gap", "max_emission_gap", 2.0)],
)  # fmt: skip
def test_the_limit_itself_is_met_and_the_least_more_misses_it(target, field, limit):
    assert Judge().finished(**GOOD | {field: limit}).result == "met"
    judge = Judge().finished(**GOOD | {field: limit * (1 + 1e-9)})
    assert judge.result == "missed"
    assert judge.of().missed_by == {"failed": 0} | {name: int(name == target) for name in ALL.declared}


def test_all_targets_are_kept_by_the_same_request_or_it_missed():
    judge = Judge()
    judge.finished(**GOOD | {"time_to_first_token": 2.0})
    judge.finished(**GOOD | {"total_time": 9.0})
    judge.finished(**GOOD)
    found = judge.of()
    assert (found.evaluated, found.met, found.missed) == (3, 1, 2)  # though each target alone was met by two of three
    assert found.attainment == 1 / 3


def test_a_request_that_missed_several_targets_is_one_missed_request():
    found = Judge().finished(**GOOD | {"time_to_first_token": 2.0, "total_time": 9.0}).of()
    assert (found.missed, found.missed_by["time_to_first_token"], found.missed_by["e2e_latency"]) == (1, 1, 1)


@pytest.mark.parametrize("reason", [CompletionReason.TIMEOUT, CompletionReason.ERROR, CompletionReason.REJECTED])
def test_a_failed_request_missed_however_fast_it_was_and_whatever_was_measured(reason):
    for fields in (GOOD, {}):
        judge = Judge().finished(reason, **fields)
        assert judge.result == "missed"
        assert judge.of().missed_by == dict.fromkeys(ALL.declared, 0) | {"failed": 1}


def test_cancelled_before_a_target_had_passed_is_not_evaluated():
    judge = Judge().finished(CANCELLED, **GOOD)
    assert judge.result == "not_evaluated"
    assert judge.of().evaluated == 0
    assert isnan(judge.of().attainment)


@pytest.mark.parametrize(
    "late", [{"time_to_first_token": 1.5}, {"total_time": 8.5}, {"max_emission_gap": 2.5}, {"decode_time": 5.0}]
)
def test_cancelled_after_a_target_had_passed_missed(late):
    assert Judge().finished(CANCELLED, **GOOD | late).result == "missed"


@pytest.mark.parametrize(("waited", "result"), [(0.5, "not_evaluated"), (1.0, "not_evaluated"), (1.5, "missed")])
def test_cancelled_without_a_token_is_judged_by_how_long_it_had_waited_for_one(waited, result):
    judge = Judge(SloTargets(time_to_first_token=1.0))
    judge.finished(CANCELLED, tokens=0, processing_time=nan, arrived_at=10.0, finished_at=10.0 + waited)
    assert judge.result == result


@pytest.mark.parametrize(("stalled", "result"), [(1.0, "not_evaluated"), (2.0, "not_evaluated"), (3.0, "missed")])
def test_cancelled_in_a_stall_is_judged_by_the_stall(stalled, result):
    judge = Judge(SloTargets(max_emission_gap=2.0))
    judge.finished(CANCELLED, max_emission_gap=0.5, last_token_at=10.0, finished_at=10.0 + stalled)
    assert judge.result == result


@pytest.mark.parametrize("missing", ["time_to_first_token", "decode_time", "max_emission_gap"])
def test_a_target_whose_quantity_was_not_measured_leaves_the_request_unmeasured(missing):
    fields = {name: value for name, value in GOOD.items() if name != missing}
    judge = Judge().finished(**fields)
    assert judge.result == "unmeasured"
    assert judge.of().evaluated == 0


def test_one_that_exceeded_a_target_missed_even_if_another_is_not_measured():
    assert Judge().finished(time_to_first_token=5.0).result == "missed"


@pytest.mark.parametrize("tokens", [0, 1])
def test_time_per_output_token_and_gaps_of_fewer_than_two_tokens_pass(tokens):
    targets = SloTargets(time_per_output_token=1e-6, max_emission_gap=1e-6)
    assert Judge(targets).finished(tokens=tokens).result == "met"
    assert Judge(targets).finished(tokens=2).result == "unmeasured"


def test_time_per_output_token_is_judged_from_the_second_token_on():
    targets = SloTargets(time_per_output_token=0.5)
    assert Judge(targets).finished(tokens=2, decode_time=0.5).result == "met"
    assert Judge(targets).finished(tokens=2, decode_time=0.75).result == "missed"


def test_the_gap_target_is_of_the_longest_stall_and_not_of_the_mean():
    targets = SloTargets(max_emission_gap=1.0)
    assert Judge(targets).finished(tokens=100, decode_time=10.0, max_emission_gap=1.5).result == "missed"


def test_without_targets_nothing_is_evaluated_and_nothing_shown():
    judge = Judge(None).finished(**GOOD)
    assert judge.collector.get_snapshot().slo_stats == {}
    assert judge.collector.get_snapshot().totals.slo_requests["default"]["not_evaluated"] == 1


def test_with_one_objective_for_all_the_class_of_a_request_does_not_matter():
    judge = Judge(SloTargets(e2e_latency=8.0)).finished(request_class="chat").finished().finished(request_class="x")
    assert (judge.of().met, list(judge.collector.get_snapshot().slo_stats)) == (3, ["default"])


def test_classes_have_their_own_targets_and_an_undeclared_one_folds_into_other():
    judge = Judge(
        {
            "chat": SloTargets(e2e_latency=2.0),
            "batch": SloTargets(e2e_latency=60.0),
            "other": SloTargets(e2e_latency=4.0),
        }
    )
    for name in ("chat", "batch", "surprise", None):
        judge.finished(processing_time=3.0, request_class=name)
    assert (judge.of("chat").met, judge.of("chat").missed) == (0, 1)
    assert (judge.of("batch").met, judge.of("batch").missed) == (1, 0)
    assert (judge.of("other").met, judge.of("other").missed) == (2, 0)
    assert [kept.request_class for kept in judge.collector.request_samples()] == ["chat", "batch", "other", "other"]


def test_other_that_was_not_declared_has_no_targets_but_its_requests_are_counted():
    judge = Judge({"chat": SloTargets(e2e_latency=2.0)}).finished(request_class="surprise")
    snapshot = judge.collector.get_snapshot()
    assert list(snapshot.slo_stats) == ["chat"]
    assert snapshot.totals.slo_requests["other"]["not_evaluated"] == 1


def test_a_request_without_a_class_is_of_default_where_that_is_declared():
    judge = Judge({"default": SloTargets(e2e_latency=4.0), "chat": SloTargets(e2e_latency=4.0)}).finished()
    assert (judge.of("default").met, judge.of("chat").met) == (1, 0)


def test_goodput_is_the_requests_a_second_that_met_in_the_window():
    judge = Judge(SloTargets(e2e_latency=8.0), counter_window_seconds=16)
    for processing_time in (1.0, 2.0, 3.0, 9.0):
        judge.finished(processing_time=processing_time)
    judge.now = 8.0
    assert judge.of().goodput_per_second == 3 / 8
    judge.now = 64.0
    judge.finished()
    assert judge.of().goodput_per_second == 1 / 16
    assert judge.of().met == 4


@pytest.mark.parametrize(
    ("met", "evaluated", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3 (score); the last: n / (n + z^2)
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)  # fmt: skip
def test_the_interval_is_wilsons_as_published(met, evaluated, low, high):
    assert wilson_interval(met, evaluated) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(("met", "evaluated"), [(0, 1), (1, 1), (3, 7), (999, 1000), (5, 10)])
def test_its_ends_are_the_shares_whose_normal_test_just_does_not_reject_the_one_seen(met, evaluated):
    share = met / evaluated
    for end in wilson_interval(met, evaluated):
        assert 0.0 <= end <= 1.0
        assert abs(share - end) == pytest.approx(Z95 * sqrt(end * (1 - end) / evaluated), abs=1e-7)


def test_of_nothing_the_interval_is_not_known():
    assert all(isnan(end) for end in wilson_interval(0, 0))


def test_the_statistics_carry_share_count_and_interval():
    judge = Judge(SloTargets(e2e_latency=8.0))
    for processing_time in (1.0,) * 15 + (9.0,) * 5:
        judge.finished(processing_time=processing_time)
    found = judge.of()
    assert (found.evaluated, found.attainment, found.targets) == (20, 0.75, {"e2e_latency": 8.0})
    assert (found.attainment_low, found.attainment_high) == wilson_interval(15, 20)
