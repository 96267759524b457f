"""Several targets, scraped again and again: each keeps its own state, and one that fails never stops the rest."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from batchscope.errors import ConfigurationError
from batchscope.scraping.documents import ScrapedSnapshot, TargetReport, WatchDocument
from batchscope.scraping.engines import ENGINES
from batchscope.scraping.fetch import Fetcher, MetricsUrl, ScrapeError, ScrapeLimits, in_background, wait_for
from batchscope.scraping.page import PageReader
from batchscope.scraping.remote import METRICS, SNAPSHOT, exact, held_since, read_snapshot, snapshot_url
from batchscope.scraping.series import PageSeries, known_samples, read
from batchscope.scraping.snapshot import ScrapeIdentity, scraped_snapshot
from batchscope.scraping.sums import TargetSums, combined, figures_of
from batchscope.scraping.table import Quantity, family_of
from batchscope.scraping.window import Scrape, difference
from batchscope.statistics.snapshot import MetricsSnapshot

MAX_TARGETS = 256
"""A connection each, all at once."""
STALLED_SECONDS = 30.0
"""Unfinished requests, and no counter that moves, for so long: stuck."""
FLEET = "fleet"
_NOTES = 10
_NAMES = 100


class UnknownEngineError(ScrapeError):
    """The page is Prometheus text, and no known engine's; ``names``: its families."""

    def __init__(self, message: str, names: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.names = sorted(names)


class TargetAnswer(NamedTuple):
    """One target's page, read; of batchscope's own endpoint the ``snapshot`` beside it, or why it is ``lacking``."""

    reading: PageSeries
    snapshot: MetricsSnapshot | None = None
    lacking: str = ""


async def look(url: MetricsUrl, fetcher: Fetcher) -> TargetAnswer:
    """One target within the limits, all together; ``ScrapeError`` as for ``scrape``. A ``/snapshot`` means its page."""
    deadline = fetcher.deadline()
    if url.path.partition("?")[0].endswith(SNAPSHOT):
        path = url.path.partition("?")[0].removesuffix(SNAPSHOT) + METRICS
        url = url._replace(text=url.text.removesuffix(url.path) + path, path=path)
    reading = await scrape(url, fetcher, deadline)
    if not reading.engine.sign:
        return TargetAnswer(reading)
    try:
        return TargetAnswer(reading, await read_snapshot(snapshot_url(url), fetcher, deadline))
    except ScrapeError as error:
        return TargetAnswer(reading, lacking=f"exact figures are not to be had: {error}")


async def scrape(url: MetricsUrl, fetcher: Fetcher, deadline: float | None = None) -> PageSeries:
    """One page, read; ``ScrapeError`` where it cannot be, or is no known engine's. The rest: see ``Fetcher.read``."""
    reader = PageReader(known_samples().__contains__, fetcher.limits, url.text)
    await fetcher.read(url, reader.take, deadline)
    page = reader.page()
    reading = read(page)
    if reading is None:
        names = ", ".join(engine.title for engine in ENGINES)
        message = f"{url.text}: a metrics page, but of no engine that is known: expected {names}"
        raise UnknownEngineError(message, {*page.families, *map(family_of, page.unknown)})
    return reading


class Target:
    """One target's memory: its last scrape, since when it is in its state, how often it restarted."""

    def __init__(self, url: MetricsUrl, *, stalled_seconds: float = STALLED_SECONDS) -> None:
        self.url = url
        self.figures: TargetSums | None = None
        self.snapshot: MetricsSnapshot | None = None
        self.held: dict[str, float] = {}
        self._stalled_seconds = stalled_seconds
        self._last: Scrape | None = None
        self._generation = 0
        self._sequence = 0
        self._failing_since: float | None = None
        self._unknown_since: float | None = None
        self._idle_since: tuple[float, float] | None = None

    def answered(self, now: Scrape) -> TargetReport:
        """The target's page was read."""
        window = difference(now, self._last)
        before = None if self._last is None or window.since_start else self._last.snapshot
        self.figures, self.snapshot = figures_of(now, window), now.snapshot
        self.held = {} if now.snapshot is None else held_since(now.snapshot, before)
        self._generation += window.restarted
        self._sequence += 1
        self._last, self._failing_since, self._unknown_since = now, None, None
        if window.since_start or window.moved or not _busy(self.figures, now.snapshot):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now.at - window.seconds, now.wall - window.seconds
        stalled = self._idle_since is not None and now.at - self._idle_since[0] >= self._stalled_seconds
        identity = ScrapeIdentity(self.url.text, self._generation, self._sequence, _utc(now.wall))
        page = scraped_snapshot(self.figures, identity, now.reading.announced)
        return TargetReport(
            url=self.url.text,
            state="stalled" if stalled else "live",
            since=_utc(self._idle_since[1]) if stalled and self._idle_since else None,
            notes=_notes(now),
            unknown_names=now.reading.unknown,
            scraped=page if now.snapshot is None else exact(page, now.snapshot, self.held),
        )

    def failed(self, error: str, wall: float) -> TargetReport:
        """The target could not be read, at ``wall`` (wall clock, seconds)."""
        if self._failing_since is None:
            self._failing_since = wall
        self.figures = self.snapshot = self._idle_since = self._unknown_since = None
        state = "gone" if self._last is not None else "down"
        return TargetReport(url=self.url.text, state=state, since=_utc(self._failing_since), error=error)

    def unknown(self, error: UnknownEngineError, wall: float) -> TargetReport:
        """The target answered, at ``wall``, with a metrics page of no known engine."""
        if self._unknown_since is None:
            self._unknown_since = wall
        self.figures = self.snapshot = self._idle_since = self._failing_since = None
        return TargetReport(
            url=self.url.text,
            state="unknown",
            since=_utc(self._unknown_since),
            error=f"{error}; see its names: batchscope check {self.url.text}",
            unknown_names=error.names[:_NAMES],
        )


class Watcher:
    """Scrapes all targets at once: ``round()`` is one look at each of them.

    ConfigurationError for a target that is named twice (it would count twice) or more than 256 of them. ``token`` is
    sent to every target. Many watchers can share a ``fetcher``, which has limits and token.
    """

    def __init__(
        self,
        urls: Sequence[MetricsUrl],
        *,
        limits: ScrapeLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        stalled_seconds: float = STALLED_SECONDS,
        token: bytes | None = None,
        fetcher: Fetcher | None = None,
    ) -> None:
        if len(urls) > MAX_TARGETS:
            raise ConfigurationError("URL", f"({len(urls)} of them)", f"at most {MAX_TARGETS}")
        for index, url in enumerate(urls):
            if url in urls[:index]:
                raise ConfigurationError("URL", url.text, "each target once")
        self._fetcher = fetcher or Fetcher(limits, token)
        self._clock, self._wall_clock = clock, wall_clock
        self._targets = [Target(url, stalled_seconds=stalled_seconds) for url in urls]
        self._sequence = 0

    def round(self) -> WatchDocument:
        """Look at every target, all at once; takes hardly longer than the limits allow one."""
        return wait_for(self._round())

    async def next_round(self) -> WatchDocument:
        """``round()`` for a program with an event loop, which is free meanwhile."""
        return await in_background(self._round())

    async def _round(self) -> WatchDocument:
        reports = await asyncio.gather(*(self._report(target) for target in self._targets))
        self._sequence += 1
        now = _utc(self._wall_clock())
        fleet = _fleet(self._targets, ScrapeIdentity(FLEET, 0, self._sequence, now))
        return WatchDocument(time=now, targets=reports, fleet=fleet)

    async def _report(self, target: Target) -> TargetReport:
        at, wall = self._clock(), self._wall_clock()  # the scrape's time is its start, as Prometheus has it
        try:
            seen = await look(target.url, self._fetcher)
            return target.answered(Scrape(seen.reading, at, wall, seen.snapshot, seen.lacking))
        except UnknownEngineError as error:
            return target.unknown(error, self._wall_clock())
        except ScrapeError as error:
            return target.failed(str(error), self._wall_clock())
        except Exception as error:  # noqa: BLE001  (one target's page must not end the watch of the others)
            return target.failed(f"{target.url.text}: {type(error).__name__}: {error}", self._wall_clock())


def _fleet(targets: Sequence[Target], identity: ScrapeIdentity) -> ScrapedSnapshot | None:
    """All that answered, together: by their snapshots where all have one, else by their pages."""
    up = [target.figures for target in targets if target.figures is not None]
    if not up:
        return None
    page = scraped_snapshot(combined(up), identity)
    snapshots = [target.snapshot for target in targets if target.snapshot is not None]
    if len(snapshots) < len(up):
        return page
    try:
        held: Counter[str] = Counter()
        for target in targets:
            held.update(target.held if target.snapshot is not None else {})
        return exact(page, snapshots[0] if len(snapshots) == 1 else MetricsSnapshot.merge(*snapshots), held)
    except Exception as error:  # noqa: BLE001  (what others' documents say must not end the watch)
        return msgspec.structs.replace(page, notes=[f"the targets' snapshots do not merge: {error}"])


def _busy(figures: TargetSums, snapshot: MetricsSnapshot | None) -> bool:
    """Whether requests are unfinished; batchscope knows them even while no iteration tells who runs."""
    numbers = [figures.gauges.get(q, 0) for q in (Quantity.REQUESTS_RUNNING, Quantity.REQUESTS_WAITING)]
    return any(number > 0 for number in numbers) or (snapshot is not None and snapshot.gauges.requests_in_flight > 0)


def _notes(now: Scrape) -> list[str]:
    mixed = now.reading.mixed if now.snapshot is None else ()  # our own endpoint may speak as vLLM, too
    others = [f"names of {title} are on this page as well, and not read" for title in mixed]
    left_out = [f"left out: {rejected}" for rejected in now.reading.rejected[:_NOTES]]
    return [*others, *left_out, *([now.lacking] if now.lacking else [])]


def _utc(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
