"""What is said of a slow request, or of the slowest: one sentence, the settings behind it, every part in a row."""

from __future__ import annotations

import datetime as dt

import pytest

from batchscope import SchedulerLimits
from batchscope.ledger.explanation import (
    ComparedPart,
    ExplainedRequest,
    Explanation,
    Metric,
    Slowest,
    TimePart,
)
from batchscope.ledger.request_parts import HELD, Part
from batchscope.records import BatchLimiter
from batchscope.views.explanation import ExplanationView, part_name, sentence, settings
from batchscope.views.rendering import plain

NOON = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)
KV, BUDGET = BatchLimiter.KV_CACHE, BatchLimiter.TOKEN_BUDGET
LIMITS = SchedulerLimits(kv_cache_blocks=500)


def one(*parts: tuple[Part, str | None, float], name: str = "chat-7", reported: float | None = 1.0) -> Explanation:
    told = tuple(
        TimePart(part=part, limiter=limiter, modelled=False, seconds=share * 10, share=share, before_first_token=0.0)
        for part, limiter, share in parts
    )
    request = ExplainedRequest(
        request=8, request_id=name, request_class="default", reason="eos_token_reached", arrived=1.0, arrived_time=NOON,
        total_time=10.0, time_to_first_token=None, time_per_output_token=None, max_emission_gap=None,
        tokens_generated=None, prompt_tokens=5, cached_tokens=None, preemptions=1, parts=told,
    )  # fmt: skip
    return Explanation(complete=True, request=request, limits=LIMITS, reported_ratio=reported)


def slowest(*parts: tuple[Part, str | None, float, float | None]) -> Explanation:
    told = tuple(
        ComparedPart(
            part=part, limiter=limiter, modelled=False, share=share, share_of_others=others, mean=share * 10,
            mean_of_others=others,
        )
        for part, limiter, share, others in parts
    )  # fmt: skip
    alone = parts[0][3] is None
    found = Slowest(
        metric=Metric.TTFT, share=1.0 if alone else 0.01, requests=3, others=0 if alone else 297, threshold=9.0,
        mean=10.0, mean_of_others=None if alone else 1.0, parts=told, stretches=(), stretches_in_all=0, worst=(),
    )  # fmt: skip
    return Explanation(complete=True, slowest=found, limits=LIMITS)


def test_the_slowest_stand_beside_the_others():
    told = slowest((Part.QUEUED, KV, 0.71, 0.04), (Part.PREFILL, None, 0.29, 0.96))
    assert sentence(told) == (
        "The slowest 1 % of TTFT (3 of 300 requests) spent 71.0 % of it queued, held by the KV cache "
        "(the others 4.0 %); 29.0 % of it in its own prefill (the others 96.0 %)."
    )
    assert settings(told) == ["kv_cache_blocks, now 500"]


def test_what_two_limiters_held_is_told_together_and_apart():
    told = slowest((Part.QUEUED, KV, 0.6, 0.1), (Part.QUEUED, BUDGET, 0.4, 0.2))
    assert sentence(told).endswith(
        "spent 100.0 % of it queued, held by the KV cache 60.0 % and the token budget 40.0 % "
        "(the others 30.0 %: 10.0 % and 20.0 %)."
    )


def test_all_requests_have_no_others():
    assert sentence(slowest((Part.DECODE, None, 1.0, None))) == (
        "All requests (3 of 3 requests) spent 100.0 % of it decoding."
    )


def test_of_one_request_the_largest_parts_are_named():
    told = one((Part.DECODE, None, 0.5), (Part.PREEMPTED, KV, 0.3), (Part.ARRIVING, None, 0.1), (Part.AFTER, None, 0.1))
    assert sentence(told) == (
        "Of its 10.0 s from arrival to end it spent 50.0 % decoding; 30.0 % preempted, waiting to come back, held by the "
        "KV cache."
    )


@pytest.mark.parametrize(
    ("limiter", "said"),
    [
        (BatchLimiter.DEMAND, "held by nothing that the scheduler names (demand)"),
        (BatchLimiter.UNKNOWN, "held by what nobody said"),
        (BatchLimiter.POLICY, "held by the scheduler's admission policy"),
        (BatchLimiter.DEFERRED, "held by what requests wait for (grammar, adapter, KV transfer)"),
        ("of_a_later_version", "held by of a later version"),
        ("\x1b[2J", "held by \\x1b[2J"),
    ],
)
def test_a_limiter_without_a_setting_is_told_in_words(limiter, said):
    assert said in sentence(one((Part.QUEUED, limiter, 1.0)))


def test_every_part_has_a_name_and_words():
    for part in Part:
        limiter = KV if part in HELD else None
        assert part_name(part, limiter, modelled=True).endswith("(modelled)")
        assert "100.0 %" in sentence(one((part, limiter, 1.0)))


@pytest.mark.parametrize("width", [80, 100, 140])
def test_it_fits_the_screen_and_foreign_text_steers_nothing(width):
    shown = plain(ExplanationView(one((Part.QUEUED, KV, 1.0), name="\x1b[2J[red]\n" * 30)), width)
    assert max(map(len, shown.splitlines())) <= width
    assert all(line.isprintable() for line in shown.splitlines())
    assert "[red]" in shown


def test_a_request_that_took_no_time_is_not_explained():
    assert "no time to explain" in sentence(one())


def test_whether_what_held_it_was_reported_or_inferred_is_said():
    assert "what held it: inferred" in plain(ExplanationView(one((Part.QUEUED, KV, 1.0), reported=0.0)))
