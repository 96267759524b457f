"""What could not be used of a directory: counted by reason, and told to a log that cannot flood."""

from __future__ import annotations

import contextlib
import logging
from collections import deque

import msgspec

from batchscope.background import Lines, RateLimitedLog
from batchscope.reasons import SKIPPED_FILE, Tally
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.text import shown

logger = logging.getLogger("batchscope")
_MOST_REMEMBERED = 50_000
_MOST_NAMED = 100


class Untold:
    """Lines that come while a lock is held: logged after it, since a log's handler may read what it protects."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, object, tuple[object, ...]]] = deque()

    def log(self, level: int, message: object, /, *arguments: object) -> None:
        """Keep a line."""
        self._lines.append((level, message, arguments))

    def tell(self) -> None:
        """Log what was kept, each line once; the lock is not held."""
        while self._lines:
            with contextlib.suppress(Exception):  # a handler may raise anything; another reader may be quicker
                level, message, arguments = self._lines.popleft()
                logger.log(level, message, *arguments)


class SkippedFiles:
    """What was not used: each thing is counted and named in the log once, not at every scrape.

    The log names the first 100 of each reason, and then one a minute. 50,000 are remembered, 10 MB at most.
    """

    def __init__(self, lines: Lines) -> None:
        self.counts = Tally()
        self._log = RateLimitedLog(lines)
        self._named: dict[tuple[str, str], None] = {}

    def skip(self, name: str, reason: str, why: object) -> None:
        """``name`` is not used for ``reason``."""
        if (name, reason) in self._named:
            return
        self._named[name, reason] = None
        if len(self._named) > _MOST_REMEMBERED:
            del self._named[next(iter(self._named))]
        self.counts.add(reason)
        key = f"{reason} {min(self.counts[reason], _MOST_NAMED)}"
        self._log.warning(key, "batchscope: %s is skipped (%s): %s", shown(name), reason, shown(why))

    def shown_in(self, snapshot: MetricsSnapshot) -> MetricsSnapshot:
        """``snapshot`` with what was skipped among its rejected records."""
        if not self.counts:
            return snapshot
        rejected = dict(snapshot.totals.rejected_records)
        for reason, count in self.counts.items():
            rejected[SKIPPED_FILE + reason] = rejected.get(SKIPPED_FILE + reason, 0) + count
        return msgspec.structs.replace(
            snapshot,
            totals=msgspec.structs.replace(snapshot.totals, rejected_records=rejected),
            request_stats=msgspec.structs.replace(snapshot.request_stats, rejected_records=rejected),
        )
