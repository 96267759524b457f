"""The panels of one engine: their figures are whole, or said to be cut."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchscope.scraping.table import Quantity
from batchscope.statistics.summaries import DistributionSummary
from batchscope.terminal import panels
from batchscope.terminal.lines import CUT, width_of
from batchscope.views.board import Latency, Percentile, of_summary

NAME = Quantity.TIME_TO_FIRST_TOKEN


class Known:
    """What a latency row asks of the figures: a collector's."""

    scraped = None


class Drawn:
    figures, value = Known, "value"


def row(one, width):
    line = panels._latency(Drawn, "TTFT", one, panels._widths(width))
    assert width_of(line) <= width
    return "".join(text for text, _ in line)


@given(seconds=st.floats(1e-6, 35_999.0), count=st.integers(1, 10**6), width=st.sampled_from([60, 66, 74, 80, 120]))
def test_no_latency_of_a_collector_loses_its_unit(seconds, count, width):
    summary = DistributionSummary(
        count=count, mean=seconds, p50=seconds, p95=seconds, p99=seconds, max=seconds, span_seconds=60.0
    )
    assert CUT not in row(of_summary(NAME, summary), width)


@pytest.mark.parametrize(("count", "narrow"), [(7, "max<=240 ms"), (300, "160..240 ms")])
def test_an_interval_that_has_no_room_is_its_upper_end(count, narrow):
    within = Percentile(math.nan, (0.16, 0.24))
    one = Latency(
        quantity=NAME, count=count, mean=0.2, p50=within, p90=within, p95=within, p99=within, max=within,
        span_seconds=60.0, relative_error=math.nan, source="",
    )  # fmt: skip
    assert narrow in row(one, 66)
    assert "160..240 ms" in row(one, 66)  # the p50 has room
    assert ("max 160..240 ms" in row(one, 80)) == (count < 20)
