"""A comparison as people read it: a line a figure from 80 columns on, every verdict in words, nothing hostile."""

import pytest

from batchscope.ledger.comparison.document import Answer, Comparison, Difference, Verdict, Window
from batchscope.ledger.comparison.figures import QUANTITIES, is_first
from batchscope.views.comparison import summary, view
from batchscope.views.rendering import plain


def difference(**changes):
    given = {
        "figure": "step_time_same_work", "meaning": "", "unit": "s", "a": 0.0324, "b": 0.0648, "difference": 0.0324,
        "relative": 1.0, "low": 0.5, "high": 25.1, "floor": 0.02, "p": 0.0, "verdict": Verdict.DIFFERS, "n_a": 9, "n_b": 9,
        "error": 0.1, "freedom": 9.0, "positive": True, "better": False,
    }  # fmt: skip
    return Difference(**{**given, **changes})


def comparison(*figures, **changes):
    given = {
        "a": ["before"], "b": ["after"], "paired": "id", "pairs": 1200, "only_in_a": 0, "only_in_b": 0, "method": "pair",
        "seed": 0, "notes": [], "figures": list(figures), "conditions": [],
    }  # fmt: skip
    return Comparison(**{**given, **changes})


FIGURES = (
    difference(),
    difference(figure="p99_ttft", better=True, relative=-0.5, low=-0.6, high=-0.4),
    difference(figure="batch_size", unit="requests", better=None),
    difference(figure="mean_e2e", verdict=Verdict.EQUIVALENT, within=0.045),
    difference(figure="p99_e2e", verdict=Verdict.INCONCLUSIVE, needed_requests=12_000, needed_repeats=3),
    difference(figure="p95_e2e", verdict=Verdict.INCONCLUSIVE, needed_repeats=3),
    difference(figure="preemptions", unit="", a=0.0, b=0.25, difference=0.25, relative=float("nan"), low=float("nan"), high=float("nan")),
    difference(figure="failed_share", unit="1", a=0.0, b=0.0, difference=0.0),
)  # fmt: skip


def lines(shown, width=80):
    return plain(view(shown), width).splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_a_figure_is_a_line_with_its_verdict(width):
    found = {line.split()[0]: line for line in lines(comparison(*FIGURES), width) if line}
    ends = {
        "step_time_same_work": "worse", "p99_ttft": "better", "batch_size": "differs", "mean_e2e": "within 4.5 %",
        "p99_e2e": "needs 12,000", "p95_e2e": "needs 3 runs", "preemptions": "worse",
    }  # fmt: skip
    for name, end in ends.items():
        assert found[name].endswith(end)
    assert "failed_share" not in found  # 0 on both sides
    assert "from 0" in found["preemptions"]
    assert "+0.250" not in found["preemptions"]
    assert not any("…" in line for line in found.values())


def test_what_the_columns_and_verdicts_mean_stands_above_them():
    text = " ".join(" ".join(lines(comparison(*FIGURES))).split())
    legend = text[: text.index("figure ")]
    for told in ("95 % interval are per cent of A", "within X %: equivalent", "needs N: inconclusive"):
        assert told in legend
    assert "needs N runs: inconclusive" in " ".join(lines(comparison(*FIGURES, method="repeats")))


def test_what_was_counted_is_one_line_with_requests_and_time():
    windows = [
        Window(run="before", start=20.0, end=310.5, requests=1200, of=1300),
        Window(run="after", start=0.0, end=300.0, requests=900, of=900),
    ]
    text = " ".join(lines(comparison(*FIGURES, counted="the steady part of each run", windows=windows), 200))
    assert (
        "the steady part of each run; requests by arrival, rates by end: A 1,200 of 1,300 in 20.0..310.5 s, B 900 of 900 in 0.0..300.0 s"
        in text
    )


def test_what_whoever_is_served_notices_stands_before_what_is_behind_it():
    names = [quantity.figure(share) for quantity in QUANTITIES for share in quantity.shares]
    first = [is_first(name) for name in names]
    assert first == sorted(first, reverse=True)
    assert names[first.index(False)] == "step_time_same_work"
    assert is_first("attainment:batch")


def test_the_result_is_counted():
    assert summary(comparison(*FIGURES)).startswith(
        "5 figures differ (1 better, 3 worse), 1 equivalent, 2 inconclusive"
    )
    assert "no figure" in summary(comparison())


@pytest.mark.parametrize(
    ("changed", "leans"), [({}, True), ({"low": -0.5}, False), ({"relative": 0.01}, False), ({"better": None}, False)]
)
def test_what_is_far_off_and_not_proven_is_counted_in_the_result(changed, leans):
    figures = (difference(verdict=Verdict.INCONCLUSIVE, **changed), *FIGURES)
    assert summary(comparison(*figures)).endswith(
        "(0 lean to better, 3 to worse)" if leans else "(0 lean to better, 2 to worse)"
    )


def test_names_and_conditions_cannot_steer_a_terminal():
    text = plain(
        view(comparison(a=["\x1b[2Jx"], notes=["\x1b[31m"], conditions=[Answer("c\x07", "fail", "why\n")])), 80
    )
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "fail" in text
