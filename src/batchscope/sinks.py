"""Who listens to a collector's rows: a sink, the header that says of which run they are, and a hand-over to a thread.

A function may listen, too: it hears rows. A sink hears besides when another run begins, so that a file of rows can
be read without the collector that wrote it.
"""

from __future__ import annotations

import abc
import atexit
import datetime as dt
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec

from batchscope.background import Closing, Periodic, forked
from batchscope.configuration import SchedulerLimits, SloTargets
from batchscope.errors import BatchscopeError, ConfigurationError, DecodeError
from batchscope.records import EngineInfo
from batchscope.rows import Gaps, Rows
from batchscope.text import readable_document, shown
from batchscope.version import __version__

logger = logging.getLogger("batchscope")

SCHEMA = "batchscope.rows/1"

Drained: TypeAlias = Rows | Gaps
Listener: TypeAlias = Callable[[Drained], None]
"""Receives drained rows, checked and completed, in blocks; called under the drain's lock."""


class RunHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Of which run the rows that follow are, and how they are read.

    A run is one ``generation`` (resets so far) of one collector (``instance_id``), with the same limits, engine and
    definitions. ``request_classes[code]`` is the name of a class, ``slo`` has its targets. Rows have instants of the
    collector's clock: ``anchor_instant`` of it was ``anchor_time`` (UTC). ``schema`` names the columns: those of
    ``batchscope.rows``. ``started_instant`` is ``started_at`` on the collector's clock, to the bit. ``simulated``: that
    clock is a simulation's; its instants are of no day, and only time since the start means something.
    """

    instance_id: str
    generation: int
    started_at: dt.datetime
    anchor_instant: float
    anchor_time: dt.datetime
    request_classes: tuple[str, ...]
    slo: dict[str, SloTargets]
    limits: SchedulerLimits
    labels: dict[str, str]
    role: str
    engine: EngineInfo
    definitions: dict[str, str]
    started_instant: float | None = None
    simulated: bool = False
    schema: str = SCHEMA
    version: str = __version__

    def to_json(self) -> bytes:
        """The JSON document (UTF-8); lone surrogates are spelled out."""
        return msgspec.json.encode(readable_document(msgspec.to_builtins(self)))


def decode_header(document: bytes | str) -> RunHeader:
    """What ``RunHeader.to_json`` wrote; DecodeError for anything else, and for another schema."""
    try:
        header = msgspec.json.decode(document, type=RunHeader)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise DecodeError(f"not a header of rows: {error}") from error
    if header.schema != SCHEMA:
        raise DecodeError(f"schema = {header.schema!r}: expected {SCHEMA!r}; read it with the version that wrote it")
    return header


@runtime_checkable
class Sink(Protocol):
    """Hears all rows of a collector, and of which run they are. All methods are called under the drain's lock.

    They may be called on the engine's own thread: a sink that writes goes behind a ``HandOver``. Whatever one
    raises, it hears nothing more, not even ``end``.
    """

    def begin(self, header: RunHeader) -> None:
        """What follows is of this run. What it raises when it is subscribed, ``subscribe`` raises."""

    def take(self, block: Drained) -> None:
        """Rows of one kind, in memory of their own."""

    def end(self) -> None:
        """The run is over: another one begins, or nothing more comes. A forked child's sinks are not told."""


class Missed(NamedTuple):
    """Rows that a ``HandOver`` had no room for, by kind (latencies as ``GAP``), and the span of their instants."""

    rows: dict[str, int]
    first_at: float
    last_at: float

    def and_then(self, block: Drained) -> Missed:
        """With one more block."""
        at, kind = (block.at, "GAP") if isinstance(block, Gaps) else (block.values[:, 0], block.kind.name)
        if not len(at):
            return self
        rows = {**self.rows, kind: self.rows.get(kind, 0) + len(at)}
        return Missed(rows, min(self.first_at, float(at.min())), max(self.last_at, float(at.max())))


_NOTICE_BYTES = 2048  # about what a header takes
NOTHING_MISSED = Missed({}, float("inf"), float("-inf"))


@runtime_checkable
class PatientSink(Sink, Protocol):
    """A sink that may be told late, in another thread, and of what it missed: what a ``HandOver`` hands over to."""

    def missed(self, missed: Missed) -> None:
        """These rows are not in what follows: there was no room for them. They are of the run that was begun last."""


class SinkError(BatchscopeError, RuntimeError):
    """A hand-over can hand over no more: its sink failed, it was closed, or it is of another process."""


class HandOver(Closing):
    """A collector's sink that hands all over to ``sink`` in a thread of its own: the engine's thread pays an append.

    The thread looks for rows every ``interval`` seconds. At most ``max_bytes`` wait for it; what comes then is counted
    in ``lost`` and told to ``sink.missed`` before the next rows that had room: nobody is kept waiting. If ``sink``
    raises, that is logged, ``failure`` says what, what waits is lost, and the collector is told with the next block
    (``sink_failed``). ``before`` is called before each look, such as a drain of the collector; ``after`` when all that
    waited is handed over, such as a flush: what it raises, ``sink`` raised. ``close()`` after the collector's; it is
    closed at the interpreter's end, too. In a forked child it is off.
    """

    def __init__(
        self,
        sink: PatientSink,
        *,
        interval: float = 0.1,
        max_bytes: int = 64 << 20,
        name: str = "batchscope-sink",
        before: Callable[[], object] | None = None,
        after: Callable[[], object] | None = None,
    ) -> None:
        if not isinstance(sink, PatientSink):
            raise ConfigurationError("sink", sink, "an object with begin, take, end and missed")
        if not (isinstance(max_bytes, int) and max_bytes >= 2 * _NOTICE_BYTES):
            raise ConfigurationError("max_bytes", max_bytes, f"an integer >= {2 * _NOTICE_BYTES}")
        self.failure = ""
        self.over = False
        """Under the drain's lock: whether the collector was told that it takes no more; later rows are not counted."""
        self._sink = sink
        self._max_bytes = max_bytes
        self._before, self._after = before, after
        self._of_the_parent = False
        self._closed = False
        # Written under the drain's lock only.
        self._given = 0
        self._next: list[tuple[str, RunHeader | None]] = []  # an end, a beginning: what there was no room for
        self._missing = self._refused = NOTHING_MISSED
        # Written by the thread only.
        self._handed = 0
        self._begun = False
        self._unused = self._untold = NOTHING_MISSED
        self._queue: deque[tuple[str, Any, int]] = deque()
        self._periodic = Periodic(self._hand_over, interval, name).start()
        atexit.register(self.close)
        forked(self)

    def _after_fork(self) -> None:
        """In the child: the thread and the sink are the parent's."""
        self._of_the_parent = True
        self._queue.clear()
        atexit.unregister(self.close)

    @property
    def running(self) -> bool:
        """Whether its thread lives: until ``close`` at least."""
        return self._periodic.running

    @property
    def lost(self) -> dict[str, int]:
        """Rows that the sink did not get, by kind."""
        kinds = {**self._refused.rows, **self._unused.rows}
        return {kind: self._refused.rows.get(kind, 0) + self._unused.rows.get(kind, 0) for kind in kinds}

    # Under the drain's lock.

    def begin(self, header: RunHeader) -> None:
        """As ``Sink.begin``: it is the next thing that is handed over."""
        self._check()
        self._next.append(("begin", header))
        self._make_room(0)  # else before the next rows that have room

    def end(self) -> None:
        """As ``Sink.end``."""
        self._check()
        self._next = [("end", None)]  # a run that began and ended while there was no room is not told
        self._make_room(0)

    def take(self, block: Drained) -> None:
        """As ``Sink.take``: only appended."""
        self._check()
        size = block.values.nbytes + (0 if isinstance(block, Rows) else block.at.nbytes)
        if self._make_room(size):
            self._queue.append(("take", block, size))
        else:
            self._missing = self._missing.and_then(block)
            self._refused = self._refused.and_then(block)

    def _check(self) -> None:
        if self.failure:
            self.over = True
            raise SinkError(self.failure)
        if self._closed or self._of_the_parent:
            raise SinkError("closed, or of another process: subscribe a HandOver made here, unsubscribe before close()")

    def _make_room(self, size: int) -> bool:
        """Whether ``size`` bytes more may wait; then what had to be told before them is on its way."""
        size += _NOTICE_BYTES * len(self._next)
        if self._given - self._handed + size > self._max_bytes:
            return False
        self._given += size
        if self._missing.rows:
            self._queue.append(("missed", self._missing, 0))
            self._missing = NOTHING_MISSED
        self._queue.extend([(what, header, _NOTICE_BYTES) for what, header in self._next])
        self._next = []
        return True

    # In the thread.

    def _hand_over(self) -> None:
        try:
            if self._before is not None:
                self._before()
        finally:
            self._hand_over_queue()
        if self._after is not None and not self.failure:
            try:
                self._after()
            except Exception as error:  # noqa: BLE001  (whatever it raises)
                self._fail(error)

    def _hand_over_queue(self) -> None:
        while self._queue:
            what, told, size = self._queue.popleft()
            try:
                self._tell(what, told)
            except Exception as error:  # noqa: BLE001  (whatever the sink raises)
                self._fail(error)
                if what == "take":
                    self._unused = self._unused.and_then(told)
            self._handed += size

    def _tell(self, what: str, told: Any) -> None:
        if what == "take" and (self.failure or not self._begun):
            self._unused = self._unused.and_then(told)
        elif self.failure:
            return
        elif what == "begin":
            self._end()
            self._begun = True
            self._sink.begin(told)
            if self._untold.rows:
                self._sink.missed(self._untold)
                self._untold = NOTHING_MISSED
        elif what == "end":
            self._end()
        elif what == "missed" and not self._begun:
            self._untold = told  # the run that it is of begins with the next notice
        else:
            getattr(self._sink, what)(told)

    def _end(self) -> None:
        if self._begun:
            self._begun = False
            self._sink.end()

    def _fail(self, error: Exception) -> None:
        self.failure = shown(f"{type(self._sink).__name__} failed: {type(error).__name__}: {error}")
        logger.warning("batchscope: %s; it gets no more rows", self.failure)

    def close(self, timeout: float = 5.0) -> bool:
        """Hand over what waits and end the sink, within ``timeout`` seconds; says whether that was all there was.

        It can be called again. False: the sink failed or hangs, or rows were lost.
        """
        if self._of_the_parent:
            return True
        if not self._closed:
            self._closed = True
            atexit.unregister(self.close)
            if self._missing.rows:
                self._queue.append(("missed", self._missing, 0))
            self._queue.extend([(what, header, 0) for what, header in self._next])
            self._queue.append(("end", None, 0))
        return self._periodic.close(timeout) and not self.failure and not self.lost


class Recording(Closing):
    """A run that is being written, in ``path``. ``close()`` ends it; so do the collector's, and the interpreter's end.

    ``failure`` says why nothing more is written, where that is so; ``lost``: rows that are not in the run, by kind.
    """

    path: Path

    @property
    @abc.abstractmethod
    def failure(self) -> str:
        """Why nothing more is written; empty where all is well."""

    @property
    @abc.abstractmethod
    def lost(self) -> dict[str, int]:
        """Rows that are not in the run, by kind."""

    @abc.abstractmethod
    def close(self, timeout: float = 10.0) -> bool:
        """Write what there is and end the run, within ``timeout`` seconds; says whether all of it was written."""
