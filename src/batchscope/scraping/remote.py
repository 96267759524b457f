"""batchscope's endpoint in another process: its ``/snapshot``, with the exact figures that no page of buckets has."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from batchscope.errors import DecodeError
from batchscope.scraping.documents import IntervalSummary, ScrapedSnapshot, ScrapeWindow
from batchscope.scraping.fetch import Fetcher, MetricsUrl, ScrapeError, ScrapeLimits, in_background, wait_for
from batchscope.scraping.table import Aggregation, Quantity
from batchscope.statistics.cumulative import CumulativeState, cumulative_of
from batchscope.statistics.snapshot import MetricsSnapshot, decode_snapshot
from batchscope.statistics.summaries import DistributionSummary, WindowStatistics

SNAPSHOT, METRICS = "/snapshot", "/metrics"
WINDOW = "1m"
"""The window whose distributions a watch shows."""
_HINT = "expected batchscope's endpoint, which serves /snapshot"


class RemoteSource:
    """A ``StateSource`` over HTTP: each call is one bounded GET of ``/snapshot``; ScrapeError where it cannot be read.

    ``url``: the endpoint's ``/metrics`` or ``/snapshot``. ``limits``: time and size. ``token``: a bearer token. Many
    sources can share a ``fetcher``, which has both.
    """

    closed = False
    """It is the other process that closes: then it does not answer."""

    def __init__(
        self,
        url: MetricsUrl,
        limits: ScrapeLimits | None = None,
        token: bytes | None = None,
        *,
        fetcher: Fetcher | None = None,
    ) -> None:
        self.url = snapshot_url(url)
        self._fetcher = fetcher or Fetcher(limits, token)

    def get_snapshot(self) -> MetricsSnapshot:
        """Everything, histograms too, so that it merges."""
        return wait_for(read_snapshot(self.url, self._fetcher))

    async def read_snapshot(self) -> MetricsSnapshot:
        """``get_snapshot()`` for a program with an event loop, which is free meanwhile."""
        return await in_background(read_snapshot(self.url, self._fetcher))

    def read_totals(self) -> CumulativeState:
        """The part that exporters read."""
        return cumulative_of(self.get_snapshot())


async def read_snapshot(url: MetricsUrl, fetcher: Fetcher, deadline: float | None = None) -> MetricsSnapshot:
    """The snapshot at ``url``. The rest: see ``Fetcher.read``."""
    pieces: list[bytes] = []
    await fetcher.read(url, pieces.append, deadline)
    try:
        return decode_snapshot(b"".join(pieces))
    except DecodeError as error:
        raise ScrapeError(f"{url.text}: {error}") from None


def snapshot_url(url: MetricsUrl) -> MetricsUrl:
    """Where the snapshot beside a page is: ``/snapshot`` in place of ``/metrics`` at the end of its path."""
    path = url.path.partition("?")[0].removesuffix(METRICS).removesuffix(SNAPSHOT) + f"{SNAPSHOT}?histograms=1"
    return url._replace(text=url.text.removesuffix(url.path) + path, path=path, hint=_HINT)


def exact(page: ScrapedSnapshot, snapshot: MetricsSnapshot, held: Mapping[str, float]) -> ScrapedSnapshot:
    """``page`` with the figures of the ``snapshot`` beside it; ``held``: seconds of the page's window by limiter.

    Its rates are the collector's own, its distributions those of the last minute; a percentile is as wide as the
    histogram's error.
    """
    busy = sum(held.values())  # an endpoint may say anything: what overflows is infinite, and no exception
    window = snapshot.windowed.get(WINDOW, WindowStatistics())
    since_start = not snapshot.elapsed_seconds > window.window_seconds
    return ScrapedSnapshot(
        snapshot=without_histograms(snapshot),
        intervals={
            quantity: _summary(window, window.summaries[quantity], quantity, since_start=since_start)
            for quantity in Quantity
            if quantity.kind is Aggregation.HISTOGRAM and quantity in window.summaries
        },
        ratios=page.ratios,
        window=ScrapeWindow(window.span_seconds, since_start, since_start and page.window.restarted),
        sources=page.sources,
        not_given={name: reason for name, reason in page.not_given.items() if name not in window.summaries},
        partial=page.partial,
        measures=snapshot.engine.kind,
        exact=True,
        limited_by={name: seconds / busy for name, seconds in held.items()} if busy > 0 else {},
        limited_over=page.window,
    )


def held_since(now: MetricsSnapshot, before: MetricsSnapshot | None) -> dict[str, float]:
    """Busy seconds by limiter that ``now`` has more than ``before``; all it has where that is another life's."""
    seconds = now.totals.busy_seconds_by_limiter
    if before is None or (before.instance_id, before.generation) != (now.instance_id, now.generation):
        return dict(seconds)
    earlier = before.totals.busy_seconds_by_limiter
    gained = {name: value - earlier.get(name, 0.0) for name, value in seconds.items()}
    return gained if min(gained.values(), default=0.0) >= 0 else dict(seconds)


def without_histograms(snapshot: MetricsSnapshot) -> MetricsSnapshot:
    """What people and programs read of a look: a tenth of the size."""
    return msgspec.structs.replace(snapshot, histograms={}, windowed_histograms={})


def _summary(
    window: WindowStatistics, found: DistributionSummary, quantity: Quantity, *, since_start: bool
) -> IntervalSummary:
    error = found.relative_error

    def interval(estimate: float) -> tuple[float, float]:
        return estimate * (1 - error), estimate * (1 + error)

    return IntervalSummary(
        count=found.count,
        mean=found.mean,
        p50=interval(found.p50),
        p90=interval(found.p90),
        p95=interval(found.p95),
        p99=interval(found.p99),
        max=(found.max, found.max),
        span_seconds=window.span_seconds,
        since_start=since_start,
        source=f"windowed.{WINDOW}.summaries.{quantity}",
    )
