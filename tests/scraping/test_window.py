"""Two scrapes of one target: what came in between, or that there is nothing to compare with."""

import math

import pytest
from scrape_doubles import NOW, scrape, tokens

from batchscope.scraping.series import Key
from batchscope.scraping.table import Quantity
from batchscope.scraping.window import difference

TOKENS = Key(Quantity.GENERATION_TOKENS)


def test_the_first_look_is_since_the_start_and_says_how_long_that_is_where_the_page_tells():
    window = difference(scrape(tokens(100, started=NOW - 50)), None)
    assert (window.since_start, window.restarted, window.seconds) == (True, False, 50)
    assert math.isnan(difference(scrape(tokens(100)), None).seconds)


def test_a_counter_that_goes_down_was_reset_and_the_numbers_are_said_to_be_since_then():
    window = difference(scrape(tokens(30), at=10), scrape(tokens(100), at=5))
    assert (window.since_start, window.restarted) == (True, True)
    assert sum(window.counters[TOKENS].values()) == 30


def test_another_process_is_a_restart_even_if_its_counters_are_ahead():
    window = difference(scrape(tokens(500, started=NOW + 7), at=10), scrape(tokens(100, started=NOW), at=5))
    assert (window.since_start, window.restarted, window.seconds) == (True, True, 3)
    in_turn = difference(scrape(tokens(500, started=NOW - 90), at=10), scrape(tokens(100, started=NOW), at=5))
    assert (in_turn.restarted, in_turn.seconds) == (True, 100)


@pytest.mark.parametrize(
    "gone",
    [
        'vllm:request_success_total{finished_reason="stop"} 5\n',
        'vllm:e2e_request_latency_seconds_bucket{le="+Inf"} 5\n',
    ],
)
def test_a_series_that_is_gone_is_a_restart_and_a_new_one_begins_at_zero(gone):
    assert difference(scrape(tokens(5), at=10), scrape(tokens(5) + gone, at=5)).restarted
    window = difference(scrape(tokens(5) + gone, at=10), scrape(tokens(5), at=5))
    assert not window.restarted
    assert window.moved


def test_buckets_that_fell_are_a_restart():
    buckets = 'vllm:e2e_request_latency_seconds_bucket{{le="1"}} {n}\nvllm:e2e_request_latency_seconds_bucket{{le="+Inf"}} 9\n'
    assert difference(scrape(buckets.format(n=3), at=10), scrape(buckets.format(n=4), at=5)).restarted
