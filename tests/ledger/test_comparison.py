"""Runs of the simulator compared: equal ones do not differ, a slower one does, and where nothing can be said that is said."""

from functools import cache

import numpy as np
import pytest
from independent_bootstrap import calls_different
from simulated_runs import OPTIONS, NoisyCost, serve, workload

from batchscope import RequestTracker, SchedulerMetricsCollector, SloTargets
from batchscope.errors import ConfigurationError
from batchscope.ledger import open_run
from batchscope.ledger.comparison.compare import Settings, compare_measured
from batchscope.ledger.comparison.condition import Outcome, parse_condition
from batchscope.ledger.comparison.document import Verdict
from batchscope.ledger.comparison.figures import figure_names
from batchscope.ledger.comparison.measured import measured_run, waiting_since
from batchscope.ledger.comparison.pairing import pair
from batchscope.ledger.steady_state import steady_state
from batchscope.rows import RequestColumn as R
from batchscope.simulator import Simulator, VirtualClock

DIFFERS, EQUIVALENT, INCONCLUSIVE = Verdict


@cache
def run(load=0.8, seed=1, noise=0, factor=1.0, requests=600):
    return serve(
        workload(load, seed, requests), NoisyCost(factor, drift=0.01, jitter=0.02, seed=noise), name=f"run {noise}"
    )


def compared(a, b, **settings):
    sides = [side if isinstance(side, list) else [side] for side in (a, b)]
    return compare_measured(*sides, Settings(**settings))


def figure(comparison, name):
    return next(each for each in comparison.figures if each.figure == name)


# Calibrated: the small part of proofs/compare_calibration.py


def test_equal_engines_do_not_differ_and_independent_requests_would_say_so():
    differing, independent = 0, 0
    for seed in range(4):
        a = run(0.95, seed, noise=seed)
        differing += bool(verdicts(compared(a, run(0.95, seed, noise=100 + seed)))[DIFFERS])
        other = run(0.95, seed + 50, noise=200 + seed)
        differing += bool(verdicts(compared(a, other))[DIFFERS])
        independent += calls_different(a, other, seed=seed)
    assert differing == 0
    assert independent >= 2


def verdicts(comparison):
    return {kind: [each.figure for each in comparison.figures if each.verdict is kind] for kind in Verdict}


@pytest.mark.parametrize("load", [0.5, 0.95])
def test_steps_that_take_three_per_cent_longer_are_found_with_the_same_requests(load):
    comparison = compared(run(load, 3, noise=3), run(load, 3, noise=4, factor=1.03))
    found = verdicts(comparison)[DIFFERS]
    assert "step_time_same_work" in found
    step = figure(comparison, "step_time_same_work")
    assert step.relative == pytest.approx(0.03, abs=0.012)
    assert step.low < step.relative < step.high
    assert step.better is False


def test_a_slower_step_is_found_even_with_other_requests():
    found = figure(compared(run(0.5, 3, noise=3), run(0.5, 9, noise=4, factor=1.06)), "step_time_same_work")
    assert found.verdict is DIFFERS
    assert found.relative == pytest.approx(0.06, abs=0.02)


def test_near_capacity_a_floor_is_what_slower_steps_would_do_to_what_queues():
    idle, busy = (compared(run(load, 3, noise=3), run(load, 3, noise=5)) for load in (0.5, 0.95))
    assert figure(idle, "mean_ttft").floor < 0.06
    assert figure(busy, "mean_ttft").floor > 0.1
    assert figure(busy, "waiting").floor >= figure(busy, "mean_queue_time").floor > 0.1
    assert figure(busy, "mean_step_time").floor == pytest.approx(0.03, rel=0.1)
    assert figure(busy, "step_time_same_work").floor == pytest.approx(0.02, rel=0.1)


def test_a_few_unpaired_requests_near_capacity_are_inconclusive_and_say_what_is_needed():
    comparison = compared(run(0.95, 3, noise=3), run(0.95, 4, noise=5))
    assert comparison.paired == "no"
    ttft = figure(comparison, "mean_ttft")
    assert ttft.verdict is INCONCLUSIVE
    assert ttft.needed_repeats == 3
    assert ttft.needed_requests is None or ttft.needed_requests > 600
    assert "needs" in ttft.needs


def test_repeats_with_requests_of_their_own_are_compared_pair_by_pair_too():
    a = [run(0.5, seed, noise=seed) for seed in (1, 2, 3)]
    b = [run(0.5, seed, noise=10 + seed, factor=1.03) for seed in (1, 2, 3)]
    comparison = compared(a, b)
    assert comparison.repeats
    step = figure(comparison, "mean_tpot")
    assert step.verdict is DIFFERS
    assert any(each.freedom == 2 and each.floor == 0 for each in comparison.figures)  # others are known between runs


def test_repeats_of_one_workload_have_welchs_interval():
    a = [run(0.5, 1, noise=noise) for noise in (1, 2, 3)]
    b = [run(0.5, 1, noise=noise, factor=1.05) for noise in (4, 5, 6, 7)]
    comparison = compared(a, b)
    found = figure(comparison, "mean_step_time")
    assert found.verdict is DIFFERS
    assert 2 <= found.freedom <= 5
    assert found.floor == 0
    assert found.relative == pytest.approx(0.06, abs=0.03)


def test_two_repeats_raise_the_floor_to_what_they_showed():
    a, slow = run(0.5, 1, noise=1), run(0.5, 1, noise=2, factor=1.08)
    alone = figure(compared(a, run(0.5, 1, noise=3, factor=1.05)), "mean_step_time")
    beside = figure(compared([a, slow], run(0.5, 1, noise=3, factor=1.05)), "mean_step_time")
    assert alone.verdict is DIFFERS
    assert beside.floor > 0.06
    assert beside.verdict is not DIFFERS


# The same, and seeds


def test_the_same_run_twice_is_equivalent_in_every_figure():
    comparison = compared(run(), run(), seed=5)
    assert set(verdicts(comparison)[EQUIVALENT]) == {each.figure for each in comparison.figures}


def test_equal_seeds_give_equal_comparisons():
    first, again, other = (compared(run(), run(noise=7), seed=seed) for seed in (1, 1, 2))
    assert first.figures == again.figures
    assert first.figures != other.figures


def test_a_comparison_turned_round_says_the_opposite():
    there, back = compared(run(), run(noise=7, factor=1.2)), compared(run(noise=7, factor=1.2), run())
    for each in there.figures:
        assert figure(back, each.figure).difference == pytest.approx(-each.difference)
        if each.verdict is DIFFERS and each.better is not None:
            assert figure(back, each.figure).better is not each.better


def test_intervals_of_positive_figures_stay_positive():
    fast = compared(run(0.95, 3, noise=3, factor=3.0), run(0.95, 3, noise=3, factor=0.2))
    assert all(each.low > -1 for each in fast.figures if each.positive)
    assert figure(fast, "p99_ttft").verdict is DIFFERS


# Pairs


def renamed(measured, ids):
    return measured._replace(ids=np.array(ids, dtype=object))


def test_ids_that_are_made_up_anew_are_paired_in_order_of_arrival():
    a, b = run(), run(noise=7)
    comparison = compared(renamed(a, [f"a{n}" for n in range(600)]), renamed(b, [f"b{n}" for n in range(600)]))
    assert comparison.paired == "order"
    assert figure(comparison, "mean_tpot").relative == figure(compared(a, b), "mean_tpot").relative


def test_the_same_numbers_of_other_requests_are_no_pairs():
    found = pair(run(seed=1), run(seed=2))
    assert not found.shared
    assert "prompts differ" in found.notes[0]


def test_without_a_common_id_the_workloads_differ():
    found = pair(run(seed=1), renamed(run(seed=2), [f"b{n}" for n in range(600)]))
    assert not found.shared
    assert "no request id is in both" in found.notes[0]


def fewer(measured, keep):
    return measured._replace(
        ids=measured.ids[keep],
        rows=measured.rows[keep],
        outcomes=measured.outcomes[keep],
        classes=measured.classes[keep],
        counted=measured.counted[keep],
    )


def test_lost_requests_are_counted_and_left_out_on_both_sides():
    keep = np.arange(600) % 10 != 0
    comparison = compared(run(), fewer(run(noise=7), keep))
    assert (comparison.pairs, comparison.only_in_a, comparison.only_in_b) == (540, 60, 0)
    assert any("60 of 600 requests" in note for note in comparison.notes)
    assert figure(comparison, "mean_ttft").n_a == figure(comparison, "mean_ttft").n_b == 540


def test_one_request_says_nothing_and_says_so():
    one = np.arange(600) == 5
    comparison = compared(fewer(run(), one), fewer(run(noise=7, factor=2.0), one))
    assert not [name for name in verdicts(comparison)[DIFFERS] if name.endswith(("ttft", "tpot", "e2e"))]
    assert any("1 request says nothing" in note for note in comparison.notes)


def test_ids_that_come_twice_pair_nothing_with_anything_wrong():
    ids = [f"r{n // 2}" if n < 100 else f"r{n}" for n in range(600)]
    found = pair(renamed(run(), ids), renamed(run(noise=7), ids))
    assert found.how == "id"
    assert len(found.a) == 500


def test_gaps_and_other_settings_are_named():
    a = run()._replace(settings={"engine": "vllm", "kv_cache_blocks": 9})
    b = run(noise=7)._replace(settings={"engine": "vllm", "kv_cache_blocks": None}, gaps=3)
    notes = compared(a, b).notes
    assert "the engine was set otherwise: kv_cache_blocks 9 -> not known" in notes
    assert any("3 rows are missing" in note for note in notes)


def test_an_empty_side_is_refused():
    with pytest.raises(ConfigurationError, match="one run or more"):
        compare_measured([run()], [], Settings())
    nothing = fewer(run(), np.zeros(600, bool))._replace(step_at=np.empty(0), steps={})
    with pytest.raises(ConfigurationError, match="requests or iterations in it"):
        compare_measured([run()], [nothing], Settings())


def test_a_margin_is_a_share():
    with pytest.raises(ConfigurationError, match="at most 1"):
        Settings(margin=5)


# Sensitivity


def test_who_waits_in_one_queue_has_waited_since_it_began():
    measured = run()
    rows = measured.rows[:4].copy()
    rows[:, R.ARRIVED_AT] = [0.0, 1.0, 5.0, 9.0]
    rows[:, R.FIRST_SCHEDULED_AT] = [2.0, 3.0, 5.0, 10.0]
    small = measured._replace(rows=rows, ids=measured.ids[:4], outcomes=measured.outcomes[:4])
    assert waiting_since(small).tolist() == [0.0, 0.0, 5.0, 9.0]


def test_the_sensitivity_of_a_queue_is_what_slower_steps_do_to_it():
    """Perturbation analysis foretells the mean TTFT of the same requests with steps 2 % slower within a third."""
    a, slower = (serve(workload(0.8, 6, 1500), NoisyCost(factor)) for factor in (1.0, 1.02))
    comparison = compared(a, slower)
    ttft = figure(comparison, "mean_ttft")
    assert ttft.floor == pytest.approx(ttft.relative, rel=0.34)


# Conditions


@pytest.mark.parametrize(
    ("text", "name", "more", "threshold", "relative"),
    [
        ("p99_ttft > +5%", "p99_ttft", True, 0.05, True),
        ("goodput<-3%", "goodput", False, -0.03, True),
        (" mean_tpot > 2ms ", "mean_tpot", True, 0.002, False),
        ("attainment < -0.01", "attainment", False, -0.01, False),
        ("mean_e2e > 1.5s", "mean_e2e", True, 1.5, False),
    ],
)
def test_conditions_are_read(text, name, more, threshold, relative):
    condition = parse_condition(text)
    assert condition[1:3] == (name, more)
    assert condition.threshold == pytest.approx(threshold)
    assert condition.relative is relative


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p99_ttft",
        "p99_ttft > ",
        "p99_ttft >= 5%",
        "p99_tft > 5%",
        "5% < p99_ttft",
        "p99_ttft > 5 parsecs",
        "p99_ttft > +5",
        "attainment < -5",
        "attainment:chat < -2",
    ],
)
def test_a_condition_that_is_none_says_what_one_is(text):
    with pytest.raises(ConfigurationError) as caught:
        parse_condition(text)
    assert "\n" not in str(caught.value)


def test_a_forgotten_unit_is_asked_for_and_never_taken_for_seconds():
    with pytest.raises(ConfigurationError, match="a unit behind"):
        parse_condition("p99_ttft>+5")
    with pytest.raises(ConfigurationError, match="a share of at most 1, or %"):
        parse_condition("attainment < -5")


def test_a_name_that_is_nearly_one_is_suggested():
    with pytest.raises(ConfigurationError, match="p99_ttft"):
        parse_condition("p99_tft > 5%")


def outcome(text, comparison):
    return parse_condition(text).of(comparison)[0]


def test_a_condition_is_asked_of_the_bound():
    comparison = compared(run(0.5, 3, noise=3), run(0.5, 3, noise=4, factor=1.10))
    step = figure(comparison, "mean_step_time")
    assert outcome(f"mean_step_time > {100 * step.low - 1:.3f}%", comparison) is Outcome.FAIL
    assert outcome(f"mean_step_time > {100 * step.high + 1:.3f}%", comparison) is Outcome.PASS
    assert outcome(f"mean_step_time > {100 * step.relative:.3f}%", comparison) is Outcome.INCONCLUSIVE
    assert outcome("mean_step_time < 0%", comparison) is Outcome.PASS
    assert outcome("attainment < -1%", comparison) is Outcome.INCONCLUSIVE  # nobody declared targets
    assert outcome(f"mean_step_time > {1000 * step.difference * 3:.6f}ms", comparison) is Outcome.PASS


def test_more_conditions_need_more():
    comparison = compared(run(0.5, 3, noise=3), run(0.5, 3, noise=4, factor=1.10))
    step = figure(comparison, "mean_step_time")
    condition = parse_condition(f"mean_step_time > {100 * step.low - 0.01:.3f}%")
    assert condition.of(comparison)[0] is Outcome.FAIL
    assert condition.of(comparison, 20)[0] is Outcome.INCONCLUSIVE


def test_every_figure_has_a_name_of_its_own():
    assert len(set(figure_names())) == len(figure_names())


# Classes, and which part of a run counts


def of_classes(measured, order=None):
    """Two classes, of which ``batch`` has the looser target; ``order``: the requests as they lie in the record."""
    names = np.array(["chat" if name % 3 else "batch" for name in range(len(measured.ids))], dtype=object)
    found = measured._replace(
        classes=names, slo={"chat": SloTargets(time_to_first_token=0.2), "batch": SloTargets(time_to_first_token=2.0)}
    )
    return found if order is None else fewer(found, order)


def test_requests_paired_by_id_keep_their_class_in_whatever_order_they_were_recorded():
    shuffled = np.random.default_rng(3).permutation(600)
    a, b = of_classes(run()), of_classes(run(noise=7, factor=1.5), shuffled)
    comparison = compared(a, b)
    assert comparison.paired == "id"
    for name, limit in (("chat", 0.2), ("batch", 2.0)):
        found = figure(comparison, f"attainment:{name}")
        for side, value in ((a, found.a), (b, found.b)):
            mine = side.classes == name
            assert value == pytest.approx((side.rows[mine, R.TIME_TO_FIRST_TOKEN] <= limit).mean())
        assert (found.n_a, found.n_b) == ((a.classes == name).sum(),) * 2
    assert not any("another request class" in note for note in comparison.notes)


def test_pairs_of_another_class_are_counted():
    other = of_classes(run(noise=7))
    other.classes[:30] = "batch"
    assert any(
        "20 of 600 pairs are of another request class" in note for note in compared(of_classes(run()), other).notes
    )


def test_a_condition_may_ask_of_one_class():
    comparison = compared(of_classes(run()), of_classes(run(noise=7, factor=3.0)))
    outcome, why = parse_condition("attainment:chat < -0.05").of(comparison)
    assert outcome is Outcome.FAIL, why
    assert parse_condition("attainment:nobody < -5%").of(comparison)[0] is Outcome.INCONCLUSIVE


def steady(measured, start, end):
    return measured._replace(steady=(start, end), unsteady="")


def test_of_the_same_requests_all_are_compared_and_of_others_the_steady_part_where_every_run_has_one():
    a, same, other = (steady(one, 10.0, 40.0) for one in (run(), run(noise=7), run(seed=2, noise=7)))
    for b, requests in ((same, 600), (run(seed=2), 600)):
        comparison = compared(a, b)
        assert [window.requests for window in comparison.windows] == [requests] * 2
        assert comparison.counted.startswith("all of each run")
    comparison = compared(a, other)
    assert comparison.counted.startswith("the steady part")
    for side, window in zip((a, other), comparison.windows, strict=True):
        inside = (side.at >= 10.0) & (side.at <= 40.0)
        assert (window.start, window.end, window.requests, window.of) == (10.0, 40.0, inside.sum(), 600)
    ttft = figure(comparison, "mean_ttft")
    inside = (a.at >= 10.0) & (a.at <= 40.0)
    assert ttft.n_a == inside.sum()
    assert ttft.a == pytest.approx(a.rows[inside, R.TIME_TO_FIRST_TOKEN].mean())
    ended = (a.rows[:, R.FINISHED_AT] >= 10.0) & (a.rows[:, R.FINISHED_AT] <= 40.0)
    assert figure(comparison, "requests_per_second").a == pytest.approx(ended.sum() / 30.0)


def test_of_the_same_requests_a_steady_part_is_the_same_time_of_both():
    a, b = steady(run(), 10.0, 40.0), steady(run(noise=7), 12.0, 50.0)
    comparison = compared(a, b, part="steady")
    assert [(window.start, window.end) for window in comparison.windows] == [(12.0, 40.0)] * 2
    ttft = figure(comparison, "mean_ttft")
    assert ttft.n_a == ttft.n_b < 600


def test_a_steady_part_that_a_run_has_not_is_refused_and_by_itself_not_taken():
    a, b = steady(run(), 10.0, 40.0), run(seed=2)._replace(unsteady="it grew to its end")
    with pytest.raises(ConfigurationError, match="it grew to its end"):
        compared(a, b, part="steady")
    assert "it grew to its end" in compared(a, b).counted


def test_the_recorded_run_says_where_it_is_steady(tmp_path):
    clock = VirtualClock()
    with SchedulerMetricsCollector(clock=clock) as collector:
        collector.record_to(tmp_path)
        Simulator(workload(0.5, 1, 400), RequestTracker(collector), options=OPTIONS, clock=clock).run()
    found = measured_run(open_run(tmp_path))
    part = steady_state(open_run(tmp_path).requests(), open_run(tmp_path).iterations())
    assert part.found == (found.steady is not None)
    if part.found:
        assert found.steady == (part.start - found.origin, part.end - found.origin)
    else:
        assert found.unsteady == part.missing
