"""What readers of several processes have in common: one merge shared by concurrent scrapes, and complaints."""

from __future__ import annotations

import abc
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping

import msgspec

from batchscope.background import Closing, Lines, RateLimitedLog, forked
from batchscope.checks import checked_labels
from batchscope.clock import Clock
from batchscope.errors import BusyError, ConfigurationError
from batchscope.publishing.liveness import Members, Processes
from batchscope.publishing.merge_fleet import combine, steady
from batchscope.reasons import SKIPPED_FILE, Tally
from batchscope.statistics.cumulative import CumulativeState, cumulative_of
from batchscope.statistics.merge_parts import common
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


class FleetReader(Closing):
    """Many processes as one source of statistics: exporters and servers take it where they take a collector.

    Its counters never fall while it lives. A scrape within ``max_age`` seconds of the one before gets the same
    merge. ``skipped`` counts, by reason, what could not be used; snapshots show it among ``rejected_records``.
    Its labels are those that all processes agree on, dead or alive: they only ever become fewer. ``labels`` are
    what they are instead, from the start: then no series of the sum ever changes its name.
    """

    def __init__(self, dead_after: float, max_age: float, clock: Clock, labels: Mapping[str, str] | None) -> None:
        for field, value, least in (("dead_after", dead_after, 0.0), ("max_age", max_age, -1.0)):
            if not (isinstance(value, int | float) and least < value < threading.TIMEOUT_MAX):
                raise ConfigurationError(field, value, "seconds > 0" if least == 0 else "seconds >= 0")
        self._clock = clock
        self._fixed = None if labels is None else checked_labels(labels)
        self._common: dict[str, str] | None = None
        self._trouble = ""
        self._max_age = float(max_age)
        self._members = Members(float(dead_after))
        self._untold = Untold()
        self._skips = SkippedFiles(self._untold)
        self._closed = False
        self._sequence = 0
        self._merged: MetricsSnapshot | None = None
        self._merged_at = 0.0
        self._lock = threading.RLock()
        forked(self)

    @abc.abstractmethod
    def _refresh(self, now: float) -> None:
        """Bring ``_members`` up to date; the lock is held."""

    @property
    def skipped(self) -> dict[str, int]:
        """What could not be used, by reason, each file or peer once."""
        return dict(self._skips.counts)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called: the last merge stays readable."""
        return self._closed

    def get_snapshot(self) -> MetricsSnapshot:
        """The merge of all: counts of the living and the dead, gauges and rates of the living."""
        with self._reading():
            now = self._clock()
            if self._merged is None or (now - self._merged_at >= self._max_age and not self._closed):
                self._merged, self._merged_at = self._merge(now), now
            return self._merged

    def read_totals(self) -> CumulativeState:
        """The cumulative part of the same merge."""
        return cumulative_of(self.get_snapshot())

    def living(self) -> list[str]:
        """The instances that were alive at the last look."""
        with self._reading():
            return [snapshot.instance_id for snapshot in self._members.living(self._clock())]

    def snapshots(self) -> list[tuple[MetricsSnapshot, bool]]:
        """Each process's own snapshot as of the last look, and whether it lives; not those in the archive."""
        with self._reading():
            now, members = self._clock(), self._members
            gone = [member.publication.snapshot for member in members.gone(now)]
            living = members.living(now)
        alive = {snapshot.instance_id for snapshot in living}
        return [(one, True) for one in living] + [(one, False) for one in gone if one.instance_id not in alive]

    def processes(self) -> Processes:
        """Who lives and how many are gone, as of the last look, and why that look failed if it did."""
        with self._reading():
            return self._members.processes(self._clock())._replace(trouble=self._trouble)

    def close(self) -> None:
        """Stop reading; it can be called again."""
        self._closed = True

    def _merge(self, now: float) -> MetricsSnapshot:
        if not self._closed:
            self._refresh(now)
        self._sequence += 1
        archived = self._members.archive.counts
        gone = [member.publication.snapshot for member in self._members.gone(now)]
        whole = combine(
            self._members.living(now), [*([archived] if archived is not None else []), *gone],
            lambda instance, why: self._skips.skip(instance, "unmergeable", why),
        )  # fmt: skip
        whole = _with_skips(whole, self._skips.counts)
        whole = msgspec.structs.replace(whole, generation=0, sequence=self._sequence, labels=self._labels(whole))
        return whole if self._merged is None else steady(whole, self._merged)

    def _labels(self, whole: MetricsSnapshot) -> dict[str, str]:
        """The labels of the sum: fixed, or those that nobody who was ever seen contradicts."""
        if self._fixed is not None:
            return self._fixed
        if self._members.archive.counts is not None or len(self._members):
            known = [whole.labels] if self._common is None else [self._common, whole.labels]
            self._common = common(known)
        return self._common or {}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """What holds the lock; BusyError where this thread does already: a signal handler or a finalizer."""
        if self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001  (see ``Draining``)
            raise BusyError("this thread reads these processes already: read them after the handler or finalizer")
        with self._lock:
            yield
        self._untold.tell()

    def _after_fork(self) -> None:
        self._lock = threading.RLock()


def _with_skips(snapshot: MetricsSnapshot, counts: dict[str, int]) -> MetricsSnapshot:
    """``snapshot`` with what was skipped among its rejected records."""
    if not counts:
        return snapshot
    rejected = dict(snapshot.totals.rejected_records)
    for reason, count in counts.items():
        rejected[SKIPPED_FILE + reason] = rejected.get(SKIPPED_FILE + reason, 0) + count
    return msgspec.structs.replace(
        snapshot,
        totals=msgspec.structs.replace(snapshot.totals, rejected_records=rejected),
        request_stats=msgspec.structs.replace(snapshot.request_stats, rejected_records=rejected),
    )
