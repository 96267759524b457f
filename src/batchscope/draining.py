"""The core of a collector: one lock, one state, and everything that is drained into it."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import chain

import numpy as np

from batchscope.aggregation.requests import ClassNames
from batchscope.aggregation.state import State
from batchscope.background import forked
from batchscope.clock import WENT_BACK, Clock, WallClock
from batchscope.configuration import OTHER_CLASS, MetricsConfiguration, SchedulerLimits
from batchscope.errors import BusyError, ConfigurationError, InvalidRecordError
from batchscope.reasons import RejectReason
from batchscope.recording.mistakes import Mistakes, refused
from batchscope.recording.producer import Source
from batchscope.recording.ring import OURSELVES, Pressure
from batchscope.recording.rings import Numbering, ProducerContext
from batchscope.recording.thread_writers import Writers
from batchscope.recording.unread import ReadyRows, Unread
from batchscope.records import ResourceSample
from batchscope.rows import Gaps, IterationColumn, RequestColumn, RowKind, Rows
from batchscope.sinks import Drained, Listener, RunHeader, Sink
from batchscope.statistics.build import Cut
from batchscope.statistics.producer_counts import Counted, count

logger = logging.getLogger("batchscope")


class _Subscriber:
    """Who listens: ``listener`` hears rows; a ``sink`` hears spans, too, and of which run they are by a ``header``."""

    __slots__ = ("describe", "header", "listener", "sink")

    def __init__(self, listener: Listener | Sink, describe: Callable[[], RunHeader]) -> None:
        self.sink = None if callable(listener) else listener
        self.listener: Listener = listener if callable(listener) else listener.take
        self.describe = None if callable(listener) else describe
        self.header: RunHeader | None = None

    def introduce(self) -> None:
        """Tell a sink of which run the next rows are, where it is another one than before."""
        if self.sink is None or self.describe is None:
            return
        header = self.describe()
        if header != self.header:
            self.end()
            self.sink.begin(header)
            self.header = header

    def end(self) -> None:
        """Tell a sink that no more rows come of the run that it was told last."""
        if self.sink is not None and self.header is not None:
            self.header = None
            self.sink.end()


class Draining:
    """Empties rings and sources into a ``State``, under ``lock``; knows who listens and since when it counts.

    Producers write without the lock, through ``shared``. Methods that say "the lock is held" do not take it: the
    lock is not reentrant, nothing that runs under it may read the collector (``BusyError``).
    """

    def __init__(self, configuration: MetricsConfiguration, limits: SchedulerLimits, clock: Clock) -> None:
        self.configuration = configuration
        self.limits = limits
        self._clock, self._latest = clock, clock()
        self.classes = ClassNames(configuration)
        self.sources: list[Source] = []
        self.numbering = Numbering()
        self._subscribers: list[_Subscriber] = []
        self._sinks_end = False  # somebody wants them to
        self._last = False  # with the drain that is at work
        self._telling = False  # sinks, in a drain that did not come to its end
        self._given: list[tuple[Drained, ReadyRows | None]] = []
        self._counting: Gaps | None = None
        self._resetting: int | None = None
        self.mistakes = Mistakes()
        strict = configuration.strict
        self.shared = ProducerContext(
            clock, self.classes.codes, self.classes.other, strict, self.check if strict else self.relieve,
            limits, eager=strict, pressure=Pressure(), mistakes=self.mistakes, numbering=self.numbering,
        )  # fmt: skip
        self.writers = Writers(self.shared)
        self._start()
        self._begin()
        forked(self)

    @property
    def simulated(self) -> bool:
        """Whether the clock says that its time is not the wall's."""
        return getattr(self._clock, "simulated", False) is True

    def clock(self) -> float:
        """The collector's clock; where it gives no number, the instant of the last drain: what is there is read."""
        now = self._clock()
        return now if math.isfinite(now) else self._latest

    def _start(self) -> None:
        """What a fork's child needs anew."""
        self._lock = threading.RLock()
        self.sequence = 0
        self.blocks = 0
        self._told: tuple[int, Counted] | None = None
        self._news = 0
        self.generation = 0
        self.instance_id = uuid.uuid4().hex
        self.wall = WallClock(self.clock)

    def _begin(self, before: State | None = None) -> None:
        self.state = State(self.configuration, self.limits, self.classes, self.clock())
        if before is not None:  # no instant counts as busy twice, and no total falls, not even across a reset
            self.state.iterations.clock, self.state.sources = before.iterations.clock, before.sources
        self._before = count(self.state, self.writers.rings, self.sources)

    @property
    def lock(self) -> AbstractContextManager[object]:
        """What a reader holds, with ``with``; BusyError where this thread does already.

        A sink, a signal handler or a finalizer that reads in the middle of a read would wait for itself for ever,
        or see half a state.
        """
        if self._held_here():
            raise BusyError("this thread reads the collector already: read it after the sink, handler or finalizer")
        return self._lock

    def _held_here(self) -> bool:
        # Conditions ask the same. A flag of our own would stand wrong after a Ctrl-C beside the lock's own steps.
        held: bool = self._lock._is_owned()  # type: ignore[attr-defined]  # noqa: SLF001
        return held

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """What a reader holds; when it is done, and nothing is locked, it logs what was refused and why."""
        with self.lock:
            yield
            for (reason, what), detail in self.state.rejections.first.items():
                self.mistakes.note_refused(reason, what, detail)
            if self.classes.codes.undeclared is not None:
                self._note_undeclared(self.classes.codes.undeclared)
        self.tell()

    def _note_undeclared(self, name: str) -> None:
        declared = ", ".join(map(repr, self.classes.names))
        self.mistakes.remark(
            "undeclared", "request_class",
            f"request_class={name} is not declared in slo= ({declared}): such requests count as {OTHER_CLASS!r}."
            " Only the first one is logged.",
        )  # fmt: skip

    def tell(self) -> None:
        """Log the first mistake of each kind, once, unless each was raised already; the lock is not held."""
        for text in self.mistakes.untold():
            if self.configuration.strict:
                continue
            with contextlib.suppress(Exception):  # a handler of the engine may raise anything
                logger.warning("batchscope: %s", text)

    def attach(self, source: Source) -> ProducerContext:
        """Drain ``source`` with everything else from now on."""
        with self.lock:
            self.sources.append(source)
        return self.shared

    def subscribe(self, listener: Listener | Sink, describe: Callable[[], RunHeader]) -> Callable[[], None]:
        """Give ``listener`` all rows from now on; returns what ends that. A sink's own ``begin`` may raise here."""
        subscriber = _Subscriber(listener, describe)
        with self.lock:
            self.drain()
            subscriber.introduce()
            self._subscribers.append(subscriber)
            self._note_sinks()

        def unsubscribe() -> None:
            with self.lock:
                self.drain()
                if subscriber in self._subscribers:
                    self._remove(subscriber)
                    self._try(subscriber, subscriber.end)

        return unsubscribe

    def _remove(self, subscriber: _Subscriber) -> None:
        self._subscribers.remove(subscriber)
        self._note_sinks()

    def _note_sinks(self) -> None:
        self.numbering.spans_wanted = any(each.sink is not None for each in self._subscribers)

    def introduce(self) -> None:
        """Tell sinks of which run the next rows are, where that changed; the lock is held."""
        for each in list(self._subscribers):
            self._try(each, each.introduce)

    def end_sinks(self) -> None:
        """Tell sinks the last rows and that it was all; what is a function goes on listening.

        Where this thread drains already (a sink or a signal handler closes the collector), that drain does it. One of
        another thread does not: it may not see what was recorded until now.
        """
        self._sinks_end = self.numbering.spans_wanted
        if self._held_here():
            self._last = self._sinks_end
        elif self._sinks_end:
            with self.lock:
                self.drain()

    def _end_sinks(self) -> None:
        self._sinks_end = self._last = False
        for each in [each for each in self._subscribers if each.sink is not None]:
            self._remove(each)
            self._try(each, each.end)

    def _try(self, subscriber: _Subscriber, call: Callable[..., object], *arguments: object) -> None:
        """Whatever a listener raises, recording goes on: without it."""
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001  (anything)
            if subscriber in self._subscribers:
                self._remove(subscriber)
            self.writers.own().error("sink_failed", error)

    def _drained(self, blocks: Iterable[list[Drained]]) -> Iterator[Unread | ReadyRows | Drained]:
        for rings in list(self.writers.rings):
            for unread in rings.unread():
                self.blocks += 1
                yield unread
        for block in chain.from_iterable(blocks):
            self.blocks += 1
            known = [rows for given, rows in self._given if given is block]
            rows = known[0] if known else ReadyRows(block) if isinstance(block, Rows) else None
            if not known:
                self._counting = block if isinstance(block, Gaps) else None
                self._given.append((block, rows))
                yield block if rows is None else rows
                self._counting = None
            elif rows is not None:
                yield rows

    def drain(self) -> float:
        """Count everything recorded so far; the lock is held. Gives the instant of the cut.

        An exception may end it anywhere (Ctrl-C). What it left in rings and with sources the next one takes; what it
        took and did not count is counted as ``interrupted``; nothing counts twice. That a sink may lack a block is an
        error ``sink_interrupted``; that the clock went back since the last one is an error ``clock_went_back``.
        """
        self._last = self._sinks_end
        now = self.clock()
        if now < self._latest:
            self.writers.own().error(WENT_BACK)
        self._latest = now
        if self._resetting is not None:
            self._finish_reset(self._resetting)
        if self.numbering.spans_wanted:
            self.introduce()
        if self._telling:
            self.writers.own().error("sink_interrupted")
        self._telling = self.numbering.spans_wanted
        self.state.settle()
        if self._counting is not None:  # some of them may have been counted
            self.state.rejections.add(RejectReason.INTERRUPTED, len(self._counting.values))
            self._counting = None
        for rings in self.writers.rings:
            lost = rings.gap_log.interrupted()
            if lost:
                self.state.rejections.add(RejectReason.INTERRUPTED, lost)
        blocks = [source.drain() for source in self.sources]
        self.state.consume(self._drained(blocks), now, (self._publish,) if self._subscribers else ())
        for of_source in blocks:
            of_source.clear()
        self._given.clear()
        self._telling = False
        if self._last:
            self._end_sinks()
        return now

    def news(self) -> int:
        """Drain; the lock is held. Grows whenever anything was recorded, counted or set since the call before."""
        self.drain()
        told = self.blocks, count(self.state, self.writers.rings, self.sources)
        if told != self._told:
            self._told, self._news = told, self._news + 1
        return self._news

    def _publish(self, block: Drained) -> None:
        if self.numbering.spans_wanted and isinstance(block, Rows):
            self._number(block)
        for each in list(self._subscribers):
            if each.sink is not None or not (isinstance(block, Rows) and block.kind is RowKind.SPAN):
                self._try(each, each.listener, block)

    def _number(self, rows: Rows) -> None:
        """Give a number to each request and iteration that has none: a tracker gives its own."""
        if rows.kind is RowKind.REQUEST:
            numbers = rows.values[:, RequestColumn.NUMBER]
        elif rows.kind is RowKind.ITERATION:
            numbers = rows.values[:, IterationColumn.ORDINAL]
        else:
            return
        without = np.flatnonzero(~(numbers > 0))  # nan, or the 0 of a ring's row
        count = len(without)
        if count:
            of_requests = rows.kind is RowKind.REQUEST
            first = self.numbering.requests(count) if of_requests else self.numbering.iterations(None, count)
            numbers[without] = np.arange(first, first + count)

    def relieve(self) -> bool | str:
        """A producer's memory runs full and nobody reads: drain, unless somebody does already (False)."""
        if self._held_here():
            return OURSELVES
        if not self._lock.acquire(blocking=False):
            return False
        try:
            with contextlib.suppress(Exception):  # a producer is not told; the next reader is, if it happens again
                self.drain()
        finally:
            self._lock.release()
        return True

    def check(self) -> None:
        """Strict mode: drain at once, and raise if a record was rejected; a record of a sink's waits for the next."""
        if self._held_here():
            return
        with self.lock:
            before = self.counted().rejected
            self.state.rejections.last = self.mistakes.last = None
            self.drain()
            now = self.counted().rejected
        grown = [reason for reason, count in now.items() if count > before.get(reason, 0)]
        if grown:
            raise InvalidRecordError(self._refusal() or f"A record was not counted ({', '.join(grown)})")

    def _refusal(self) -> str:
        """The record that was refused last, in words."""
        if self.state.rejections.last is not None:
            self.mistakes.note_refused(*self.state.rejections.last)
        return "" if self.mistakes.last is None else str(refused(*self.mistakes.last))

    def counted(self) -> Counted:
        """What producers and checks counted since the last reset; the lock is held."""
        return count(self.state, self.writers.rings, self.sources).minus(self._before)

    def record_resources(self, samples: Iterable[ResourceSample], facts: Mapping[str, str], interval: float) -> None:
        """Keep what was sampled now; what was recorded before is drained: energy and tokens are of one span."""
        if not 0 < interval < math.inf:
            raise ConfigurationError("interval", interval, "seconds > 0")
        samples = list(samples)
        with self.lock:
            now = self.drain()
            rejected = self.state.rejections.total
            self.state.resources.record(samples, facts, now, interval, self.state.tokens())
            self.blocks += 1
            refused = self.state.rejections.total > rejected
        if refused and self.configuration.strict:
            raise InvalidRecordError(self._refusal())

    def set_limits(self, limits: SchedulerLimits) -> None:
        """Measure against other limits from now on; what was recorded before keeps the old ones."""
        with self.lock:
            self.drain()
            self.limits = limits
            self.state.iterations.limits = limits
            self.shared = self.shared._replace(limits=limits)
            for source in self.sources:
                source.set_limits(limits)
            self.blocks += 1
            self.introduce()

    def cut(self) -> Cut:
        """Everything recorded so far, drained, and what it is read with; the lock is held."""
        now = self.drain()
        live = [source.live(now, tuple(self.classes.targets.values())) for source in self.sources]
        return Cut(self.configuration, self.limits, self.classes, self.state, self.counted(), live, now)

    def reset(self) -> None:
        """Forget what was counted; requests in flight stay."""
        with self.lock:
            self.drain()
            self._resetting = self.generation + 1
            self._finish_reset(self._resetting)
            self.introduce()

    def _finish_reset(self, generation: int) -> None:
        """All of it can be done again: where an exception comes between, the next drain does."""
        for source in self.sources:
            source.reset()
        self.state.iterations.clock.restart()
        self._begin(self.state)
        self.generation = generation
        self.blocks += 1
        self._resetting = None

    def _after_fork(self) -> None:
        """In the child: empty, a new lock, no sinks; rows of other threads, even half-written, are gone."""
        self._start()
        self._subscribers = [each for each in self._subscribers if each.sink is None]
        self._note_sinks()
        self._sinks_end = self._last = self._telling = False
        self._given.clear()
        self._resetting = None
        for source in self.sources:
            source.after_fork()
        for rings in self.writers.rings:
            rings.discard()
        self._begin()
