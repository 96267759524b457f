"""Where a view's figures come from: an endpoint, an engine's page, a directory; each asked for how it is now."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import NamedTuple, Protocol

from batchscope.errors import BatchscopeError
from batchscope.publishing import SnapshotDirectory
from batchscope.scraping.documents import ScrapedSnapshot
from batchscope.scraping.fetch import Fetcher, MetricsUrl, ScrapeError, ScrapeLimits, wait_for
from batchscope.scraping.remote import read_snapshot, snapshot_url
from batchscope.scraping.watcher import Watcher
from batchscope.statistics.snapshot import MetricsSnapshot

_ALL = 0.9
"""Of the time that an answer may take: an error after so much of it is that there was none."""


class LookError(BatchscopeError):
    """Nothing was to be had; ``late``: no answer in time, so nobody knows whether it is gone."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


class Look(NamedTuple):
    """How an engine is now.

    ``scraped``: of an engine's own page, whose percentiles are intervals. ``still_seconds``: for how long nothing
    moved there while requests were unfinished. ``notes``: what is to be known of the figures.
    """

    snapshot: MetricsSnapshot
    scraped: ScrapedSnapshot | None = None
    still_seconds: float = nan
    notes: tuple[str, ...] = ()


class Watched(Protocol):
    """Something to look at; ``name`` is how it is called, ``address`` where it is."""

    name: str
    address: str

    def look(self, *, histograms: bool) -> Look:
        """How it is now, within its own time; LookError. ``histograms``: what merging needs, at ten times the cost."""


class Endpoint:
    """An address: batchscope's endpoint, whose figures are exact, or the page of an engine that is known.

    Many share a ``fetcher``, and its connections.
    """

    def __init__(
        self,
        url: MetricsUrl,
        limits: ScrapeLimits,
        token: bytes | None = None,
        *,
        fetcher: Fetcher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = url.text
        self.name = url.text.partition("://")[2].removesuffix("/metrics").removesuffix("/snapshot")
        self._fetcher = fetcher or Fetcher(limits, token)
        self._watcher = Watcher([url], fetcher=self._fetcher)
        self._whole = snapshot_url(url)
        path = self._whole.path.partition("?")[0]
        self._plain = self._whole._replace(path=path, text=self._whole.text.removesuffix(self._whole.path) + path)
        self._clock, self._timeout = clock, limits.timeout_seconds
        self._is_own = self._is_page = False
        self._not_own = ""

    def look(self, *, histograms: bool) -> Look:
        """Its ``/snapshot`` where it has one, else its page."""
        begin = self._clock()

        def late() -> bool:
            return self._clock() - begin >= _ALL * self._timeout

        try:
            return self._own(late, histograms=histograms) or self._page()
        except (BatchscopeError, TimeoutError) as error:
            raise LookError(self._failure(str(error)) or "no answer", late=late()) from None

    def _failure(self, error: str) -> str:
        """What went wrong, of both addresses that were asked where it was not the same."""
        message = error.removeprefix(f"{self.address}: ").removeprefix(f"{self._plain.text}: ")
        tried, self._not_own = self._not_own, ""
        other = tried.removeprefix(f"{self._plain.text}: ")
        return f"{message}; {tried}" if tried and other not in {message, tried} else message

    def _own(self, late: Callable[[], bool], *, histograms: bool) -> Look | None:
        """None where there is no ``/snapshot``, perhaps a page; an error where there was one, or no answer in time."""
        if self._is_page:
            return None
        try:
            snapshot = wait_for(read_snapshot(self._whole if histograms else self._plain, self._fetcher))
        except ScrapeError as error:
            before, self._is_own = self._is_own, False
            if before or late():
                raise
            self._not_own = str(error)
            return None
        self._is_own, self._not_own = True, ""
        return Look(snapshot)

    def _page(self) -> Look:
        report = self._watcher.round().targets[0]
        if report.scraped is None:
            self._is_page = self._is_own = False
            raise LookError(report.error)
        self._is_own, self._is_page = report.scraped.exact, not report.scraped.exact
        if report.scraped.exact:
            return Look(report.scraped.snapshot, notes=tuple(report.notes))
        still = nan
        if report.state == "stalled" and report.since is not None:
            still = (dt.datetime.now(dt.UTC) - report.since).total_seconds()
        return Look(report.scraped.snapshot, report.scraped, still, tuple(report.notes))


class Directory:
    """A directory that processes publish into; it is only read.

    Of the last look ``processes``, each with whether it lives, and how many are ``gone``: those that a reader has put
    into the archive are in the sum, and in this number, and nowhere else.
    """

    def __init__(self, path: Path) -> None:
        self.name = self.address = str(path)
        self.processes: list[tuple[MetricsSnapshot, bool]] = []
        self.gone = 0
        self._reader = SnapshotDirectory(path, max_age=0.0, compact=False)

    def look(self, *, histograms: bool) -> Look:  # noqa: ARG002  (merged ones are there in any case)
        """All processes, the living and the dead, added up."""
        snapshot = self._reader.get_snapshot()
        self.processes, self.gone = self._reader.snapshots(), self._reader.processes().gone
        if not self.processes and not self.gone:
            raise LookError("no process has published here yet")
        return Look(snapshot)


class Local:
    """A collector of this process."""

    def __init__(self, name: str, snapshot: Callable[[], MetricsSnapshot]) -> None:
        self.name = self.address = name
        self._snapshot = snapshot

    def look(self, *, histograms: bool) -> Look:  # noqa: ARG002
        """Its present snapshot."""
        return Look(self._snapshot())
