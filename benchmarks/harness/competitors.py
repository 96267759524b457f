"""How requests and token gaps are recorded today: each library in its cheapest form for the same figures.

The same is 6 distributions and 3 counts for a finished request, and 256 gaps of an iteration in bulk where the
library has a bulk form. Children of labels are looked up once. The sketches have no counters and no lock: they
get three integers for free, and one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.contender import EDGES, GAP_VALUES, GAPS, PROMETHEUS, REQUEST, Contender, Prepared, values
from harness.draft import draft_request

Update = Callable[[float], Any]


def prometheus_request() -> Prepared:
    from prometheus_client import CollectorRegistry, Counter, Histogram

    registry = CollectorRegistry()
    h1, h2, h3, h4, h5, h6 = (
        Histogram(f"h{k}", "h", ["model"], buckets=EDGES, registry=registry).labels("m").observe for k in range(6)
    )
    c1, c2, c3 = (Counter(f"c{k}", "c", ["model"], registry=registry).labels("m").inc for k in range(3))

    def body(count: int) -> None:
        for value in values(count):
            h1(value)
            h2(value)
            h3(value)
            h4(value)
            h5(value)
            h6(value)
            c1(3)
            c2(3)
            c3(3)

    return Prepared(body)


def prometheus_gaps() -> Prepared:
    from prometheus_client import CollectorRegistry, Histogram

    histogram = Histogram("gaps", "h", ["model"], buckets=EDGES, registry=CollectorRegistry())
    return one_by_one(histogram.labels("m").observe)


def opentelemetry_meter() -> Any:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    return MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False).get_meter("benchmark")


def opentelemetry_request() -> Prepared:
    meter, model = opentelemetry_meter(), {"model": "m"}
    histograms = [meter.create_histogram(f"h{k}", explicit_bucket_boundaries_advisory=EDGES).record for k in range(6)]
    counters = [meter.create_counter(f"c{k}").add for k in range(3)]

    def body(count: int) -> None:
        for value in values(count):
            for record in histograms:
                record(value, model)
            for add in counters:
                add(3, model)

    return Prepared(body)


def opentelemetry_gaps() -> Prepared:
    record = opentelemetry_meter().create_histogram("gaps", explicit_bucket_boundaries_advisory=EDGES).record
    model = {"model": "m"}

    def body(count: int) -> None:
        for _ in range(count):
            for gap in GAP_VALUES:
                record(gap, model)

    return Prepared(body)


def six_and_three(make: Callable[[], Update]) -> Prepared:
    """Six distributions and three integers."""
    u1, u2, u3, u4, u5, u6 = (make() for _ in range(6))

    def body(count: int) -> None:
        c1 = c2 = c3 = 0
        for value in values(count):
            u1(value)
            u2(value)
            u3(value)
            u4(value)
            u5(value)
            u6(value)
            c1 += 3
            c2 += 3
            c3 += 3

    return Prepared(body)


def one_by_one(update: Update) -> Prepared:
    def body(count: int) -> None:
        for _ in range(count):
            for gap in GAP_VALUES:
                update(gap)

    return Prepared(body)


def in_bulk(update: Callable[[Any], Any]) -> Prepared:
    gaps = np.array(GAP_VALUES)

    def body(count: int) -> None:
        for _ in range(count):
            update(gaps)

    return Prepared(body)


def ddsketch() -> Update:
    from ddsketch import DDSketch

    return DDSketch(0.01).add


def hdr() -> Update:
    """Two digits, microseconds up to a day."""
    from hdrh.histogram import HdrHistogram

    record = HdrHistogram(1, 86_400_000_000, 2).record_value
    return lambda seconds: record(int(seconds * 1e6))


def tdigest() -> Any:
    from fastdigest import TDigest

    return TDigest()


def kll() -> Any:
    from datasketches import kll_doubles_sketch

    return kll_doubles_sketch(200).update


def boost() -> Any:
    import boost_histogram

    axis = boost_histogram.axis.Variable([0.0, *EDGES])
    return boost_histogram.Histogram(axis, storage=boost_histogram.storage.Int64()).fill


MULTIPROCESS = (
    Contender(REQUEST, f"{PROMETHEUS}, multiprocess mode", 1000, prometheus_request, PROMETHEUS, PROMETHEUS, True),
    Contender(GAPS, f"{PROMETHEUS}, multiprocess mode", 30, prometheus_gaps, PROMETHEUS, PROMETHEUS, True),
)
OTEL, DIGEST = "opentelemetry-sdk", "fastdigest"
COMPETITORS = (
    Contender(REQUEST, PROMETHEUS, 3000, prometheus_request, PROMETHEUS, PROMETHEUS),
    Contender(GAPS, PROMETHEUS, 100, prometheus_gaps, PROMETHEUS, PROMETHEUS),
    *MULTIPROCESS,
    Contender(REQUEST, OTEL, 300, opentelemetry_request, OTEL, "opentelemetry.sdk.metrics"),
    Contender(GAPS, OTEL, 10, opentelemetry_gaps, OTEL, "opentelemetry.sdk.metrics"),
    Contender(REQUEST, "ddsketch", 3000, lambda: six_and_three(ddsketch), "ddsketch", "ddsketch"),
    Contender(GAPS, "ddsketch", 100, lambda: one_by_one(ddsketch()), "ddsketch", "ddsketch"),
    Contender(REQUEST, "hdrhistogram", 3000, lambda: six_and_three(hdr), "hdrhistogram", "hdrh.histogram"),
    Contender(GAPS, "hdrhistogram", 100, lambda: one_by_one(hdr()), "hdrhistogram", "hdrh.histogram"),
    Contender(REQUEST, DIGEST, 3000, lambda: six_and_three(lambda: tdigest().update), DIGEST, DIGEST),
    Contender(GAPS, f"{DIGEST}, batch_update", 500, lambda: in_bulk(tdigest().batch_update), DIGEST, DIGEST),
    Contender(REQUEST, "datasketches KLL", 3000, lambda: six_and_three(kll), "datasketches", "datasketches"),
    Contender(GAPS, "datasketches KLL, ndarray", 2000, lambda: in_bulk(kll()), "datasketches", "datasketches"),
    Contender(REQUEST, "boost-histogram", 500, lambda: six_and_three(boost), "boost-histogram", "boost_histogram"),
    Contender(GAPS, "boost-histogram, ndarray", 2000, lambda: in_bulk(boost()), "boost-histogram", "boost_histogram"),
    Contender(REQUEST, "the draft's design", 5000, draft_request),
)  # fmt: skip
