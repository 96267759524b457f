"""No percentile of fewer observations than it needs: then the maximum, called max."""

import msgspec
import pytest

from batchscope.statistics.summaries import DistributionSummary
from batchscope.views.board import Percentile, of_summary
from batchscope.views.samples import shown_percentiles


def latency(count):
    return of_summary("queue_time", DistributionSummary(count=count, mean=1, p50=1, p90=2, p95=3, p99=4, max=5))


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (0, []),
        (1, ["p50", "max"]),
        (19, ["p50", "max"]),
        (20, ["p50", "p95", "max"]),
        (99, ["p50", "p95", "max"]),
        (100, ["p50", "p95", "p99"]),
    ],
)
def test_p95_needs_twenty_observations_and_p99_a_hundred_else_there_is_the_maximum_called_so(count, names):
    assert [name for name, _ in shown_percentiles(latency(count))] == names


def test_a_maximum_that_nobody_knows_is_not_shown():
    unknown = msgspec.structs.replace(latency(19), max=Percentile())
    assert [name for name, _ in shown_percentiles(unknown)] == ["p50"]
