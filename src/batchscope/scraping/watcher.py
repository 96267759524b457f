"""Several targets, scraped again and again: each keeps its own state, and one that fails never stops the rest."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from batchscope.errors import ConfigurationError
from batchscope.scraping.documents import ScrapedSnapshot, TargetReport, WatchDocument
from batchscope.scraping.engines import ENGINES
from batchscope.scraping.fetch import MetricsUrl, ScrapeError, ScrapeLimits, countdown, fetch
from batchscope.scraping.page import read_exposition
from batchscope.scraping.remote import METRICS, SNAPSHOT, RemoteSource, exact, held_since
from batchscope.scraping.series import Reading, known_samples, read
from batchscope.scraping.snapshot import ScrapeIdentity, scraped_snapshot
from batchscope.scraping.sums import Figures, combined, figures_of
from batchscope.scraping.table import Quantity, family_of
from batchscope.scraping.window import Scrape, difference
from batchscope.statistics.snapshot import MetricsSnapshot

MAX_TARGETS = 256
"""A thread each while they are scraped."""
STALLED_SECONDS = 30.0
"""Unfinished requests, and no counter that moves, for so long: stuck."""
FLEET = "fleet"
_GRACE_SECONDS = 1.0
_NOTES = 10
_NAMES = 100


class UnknownEngineError(ScrapeError):
    """The page is Prometheus text, and no known engine's; ``names``: its families."""

    def __init__(self, message: str, names: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.names = sorted(names)


class Look(NamedTuple):
    """One target's page, read; of batchscope's own endpoint the ``snapshot`` beside it, or why it is ``lacking``."""

    reading: Reading
    snapshot: MetricsSnapshot | None = None
    lacking: str = ""


def look(url: MetricsUrl, limits: ScrapeLimits, token: bytes | None = None) -> Look:
    """One target within ``limits``, all together; ``ScrapeError`` as for ``scrape``. A ``/snapshot`` means its page."""
    remaining = countdown(limits.timeout_seconds)
    if url.path.partition("?")[0].endswith(SNAPSHOT):
        path = url.path.partition("?")[0].removesuffix(SNAPSHOT) + METRICS
        url = url._replace(text=url.text.removesuffix(url.path) + path, path=path)
    reading = scrape(url, limits, token, remaining)
    if not reading.engine.sign:
        return Look(reading)
    try:
        return Look(reading, RemoteSource(url, limits, token).get_snapshot(remaining))
    except (ScrapeError, TimeoutError) as error:
        return Look(reading, lacking=f"exact figures are not to be had: {error}")


def scrape(
    url: MetricsUrl, limits: ScrapeLimits, token: bytes | None = None, remaining: Callable[[], float] | None = None
) -> Reading:
    """One page, read; ``ScrapeError`` where it cannot be, or is no known engine's. The rest: see ``fetch``."""
    remaining = remaining or countdown(limits.timeout_seconds)
    pieces = fetch(url, limits, remaining, token)
    try:
        page = read_exposition(pieces, known_samples().__contains__, limits, origin=url.text, check_time=remaining)
    finally:
        pieces.close()  # lets go of the connection at once
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
        self.figures: Figures | None = None
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
    sent to every target.
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
    ) -> None:
        if len(urls) > MAX_TARGETS:
            raise ConfigurationError("URL", f"({len(urls)} of them)", f"at most {MAX_TARGETS}")
        for index, url in enumerate(urls):
            if url in urls[:index]:
                raise ConfigurationError("URL", url.text, "each target once")
        self._limits = limits or ScrapeLimits()
        self._clock, self._wall_clock, self._token = clock, wall_clock, token
        self._targets = [Target(url, stalled_seconds=stalled_seconds) for url in urls]
        self._jobs: dict[MetricsUrl, _Job] = {}
        self._sequence = 0

    def round(self) -> WatchDocument:
        """Scrape every target, in parallel; takes hardly longer than the limits allow one."""
        for target in self._targets:
            if target.url not in self._jobs:
                self._jobs[target.url] = _Job(target.url, self._limits, self._token, self._clock, self._wall_clock)
        end = self._clock() + self._limits.timeout_seconds + _GRACE_SECONDS
        reports = [self._report(target, end) for target in self._targets]
        self._sequence += 1
        now = _utc(self._wall_clock())
        fleet = _fleet(self._targets, ScrapeIdentity(FLEET, 0, self._sequence, now))
        return WatchDocument(time=now, targets=reports, fleet=fleet)

    def _report(self, target: Target, end: float) -> TargetReport:
        job = self._jobs[target.url]
        if not job.done.wait(max(0.0, end - self._clock())):
            # Name resolution has no deadline of its own: its thread is left to end, and asked again next round.
            return target.failed(f"{target.url.text}: no answer within {self._limits.timeout_seconds:g} s",
                                 self._wall_clock())  # fmt: skip
        del self._jobs[target.url]
        if isinstance(job.outcome, Scrape):
            return self._answered(target, job.outcome)
        if isinstance(job.outcome, UnknownEngineError):
            return target.unknown(job.outcome, self._wall_clock())
        return target.failed(job.outcome, self._wall_clock())

    def _answered(self, target: Target, now: Scrape) -> TargetReport:
        try:
            return target.answered(now)
        except Exception as error:  # noqa: BLE001  (one target's figures must not end the watch of the others)
            return target.failed(f"{target.url.text}: {type(error).__name__}: {error}", self._wall_clock())


class _Job:
    """One scrape in a thread of its own; ``done`` once ``outcome`` is there."""

    def __init__(
        self,
        url: MetricsUrl,
        limits: ScrapeLimits,
        token: bytes | None,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.done = threading.Event()
        self.outcome: Scrape | UnknownEngineError | str = f"{url.text}: the scrape ended without a result"
        self._work = url, limits, token, clock, wall_clock
        threading.Thread(target=self._run, name=f"batchscope-scrape-{url.host}", daemon=True).start()

    def _run(self) -> None:
        url, limits, token, clock, wall_clock = self._work
        at, wall = clock(), wall_clock()  # the scrape's time is its start, as Prometheus has it
        try:
            seen = look(url, limits, token)
            self.outcome = Scrape(seen.reading, at, wall, seen.snapshot, seen.lacking)
        except UnknownEngineError as error:
            self.outcome = error
        except ScrapeError as error:
            self.outcome = str(error)
        except Exception as error:  # noqa: BLE001  (one target's page must not end the watch of the others)
            self.outcome = f"{url.text}: {type(error).__name__}: {error}"
        finally:
            self.done.set()


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


def _busy(figures: Figures, snapshot: MetricsSnapshot | None) -> bool:
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
