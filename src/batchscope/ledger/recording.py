"""Records a collector's rows to a folder of its own, from now until it is closed."""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import msgspec

from batchscope.background import forked
from batchscope.checks import check_not_negative, is_number
from batchscope.clock import Clock
from batchscope.errors import BusyError, ConfigurationError, DecodeError
from batchscope.ledger.document import NAME, RunDocument
from batchscope.ledger.retention import Retention, clear_what_kills_left
from batchscope.ledger.schema import Level
from batchscope.ledger.writer import PART_BYTES, PART_SECONDS, RunWriter
from batchscope.rows import Gaps
from batchscope.sinks import Drained, HandOver, Listener, Recording, Sink

logger = logging.getLogger("batchscope")

_LONGEST_INTERVAL = 60


class Recorded(Protocol):
    """What of a collector is recorded."""

    def subscribe(self, sink: Listener | Sink) -> Callable[[], None]:
        """Give ``sink`` all rows."""

    def drain(self) -> int:
        """Count what was recorded."""


class RunRecording(Recording):
    """A collector's rows on their way to a run's folder."""

    def __init__(
        self,
        collector: Recorded,
        writer: RunWriter,
        interval: float,
        max_bytes: int,
        in_flight: Callable[[], int] | None = None,
    ) -> None:
        self._in_flight = in_flight
        self.path = writer.folder
        self._writer = writer
        self._closed = self._of_the_parent = False
        self._hand_over = HandOver(
            writer, interval=interval, max_bytes=max_bytes, name="batchscope-ledger",
            before=self._look, after=writer.flush,
        )  # fmt: skip
        self._drain = collector.drain
        self._afterwards: dict[str, int] = {}
        self._unsubscribe = (collector.subscribe(self._hand_over), collector.subscribe(self._count))
        atexit.register(self.close)
        forked(self)

    @property
    def failure(self) -> str:
        """Why nothing more is written; empty where all is well."""
        return self._hand_over.failure

    @property
    def lost(self) -> dict[str, int]:
        """Rows that are not in the run, by kind: no room, no disk, or it came when nothing more could be written."""
        counts = self._hand_over.lost, self._writer.unwritten, dict(self._afterwards)
        return dict(sum(map(Counter, counts), Counter[str]()))

    def _count(self, block: Drained) -> None:
        """Rows that come when the hand-over has told the collector that it takes no more; spans nobody makes then."""
        if self._hand_over.over:
            kind = "GAP" if isinstance(block, Gaps) else block.kind.name
            self._afterwards[kind] = self._afterwards.get(kind, 0) + len(block.values)

    def _look(self) -> None:
        self._drain()
        if self.failure:
            self._writer.count_lost(self.lost, self.failure)

    def close(self, timeout: float = 10.0) -> bool:
        """Write what there is and end the run, within ``timeout`` seconds; says whether all of it was written."""
        if self._closed or self._of_the_parent:
            return not (self.failure or self.lost)
        try:
            if self._in_flight is not None:
                self._writer.document.in_flight = self._in_flight()
            for unsubscribe in self._unsubscribe:
                unsubscribe()
        except BusyError:  # a sink or a signal handler, in the middle of a drain: the interpreter's end closes it
            return False
        self._closed = True
        atexit.unregister(self.close)
        complete = self._hand_over.close(timeout)
        if not self._hand_over.running:
            self._writer.close(self.lost, self.failure)
        return complete and not self.failure

    def _after_fork(self) -> None:
        self._of_the_parent = True
        atexit.unregister(self.close)
        self._writer.leave()


def record(
    collector: Recorded,
    root: str | Path,
    *,
    instance_id: str,
    clock: Clock,
    level: str = Level.DEFAULT,
    interval: float = 1.0,
    configuration: Mapping[str, Any] | None = None,
    keep_seconds: float | None = None,
    keep_bytes: int | None = None,
    max_bytes: int = 64 << 20,
    part_seconds: float = PART_SECONDS,
    part_bytes: int = PART_BYTES,
    pace: Clock = time.monotonic,
    in_flight: Callable[[], int] | None = None,
) -> Recording:
    """Record to a folder in ``root``; ConfigurationError where it cannot be made, or a setting is out of range.

    BusyError in a sink, which cannot subscribe another one. ``in_flight`` says at its end how many requests have not
    finished.
    """
    if level not in set(Level):
        raise ConfigurationError("level", level, f"one of {', '.join(Level)}")
    if not (is_number(interval) and 0 < interval <= _LONGEST_INTERVAL):
        raise ConfigurationError("interval", interval, f"seconds, more than 0 and at most {_LONGEST_INTERVAL}")
    for field, value, what in (("keep_seconds", keep_seconds, "seconds"), ("keep_bytes", keep_bytes, "bytes")):
        if value is not None:
            check_not_negative(field, value, what)
    root = _path(root)
    if (root / NAME).exists():
        raise ConfigurationError(
            "root", str(root), "a folder of runs, not the folder of one: give the one that it is in"
        )
    document = RunDocument(level=Level(level), interval=float(interval), configuration=_settings(configuration))

    def retain() -> None:
        try:
            clear_what_kills_left(root)
            for run in Retention(keep_seconds, keep_bytes).apply(root, dt.datetime.now(dt.UTC)):
                logger.info("batchscope: %s was removed: it is too old, or the runs are too large", run)
        except (DecodeError, OSError) as error:
            logger.warning("batchscope: old runs in %s are not removed: %s", root, error)

    collector.drain()  # what came before is in no run; and who may not read the collector now learns it here
    try:
        with _new_folder(root, instance_id) as folder:
            writer = RunWriter(
                folder, document, clock, part_seconds=part_seconds, part_bytes=part_bytes, converted=retain, pace=pace
            )  # fmt: skip
    except OSError as error:
        raise ConfigurationError("root", str(root), f"a directory that can be written ({error.strerror})") from error
    retain()
    return RunRecording(collector, writer, interval, max_bytes, in_flight)


def _path(root: object) -> Path:
    if not isinstance(root, str | Path) or not str(root) or "\0" in str(root):
        raise ConfigurationError("root", root, "the path of a directory, a str or a Path")
    return Path(root)


def _settings(configuration: object) -> dict[str, Any]:
    """A copy, of what can be written as JSON."""
    try:
        copied: dict[str, Any] = msgspec.to_builtins(dict(configuration or {}), str_keys=True)  # type: ignore[call-overload]
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError("configuration", configuration, f"a mapping of JSON values ({error})") from error
    return copied


@contextlib.contextmanager
def _new_folder(root: Path, instance_id: str) -> Iterator[Path]:
    """A run's own; where what is done with it fails, nothing of it stays."""
    name = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{instance_id[:8]}"
    root.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = root / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            break
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
