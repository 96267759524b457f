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

from batchscope.aggregation.checks import INTERRUPTED
from batchscope.aggregation.requests import ClassNames
from batchscope.aggregation.state import Drained, Sink, State
from batchscope.background import forked
from batchscope.clock import Clock, WallClock
from batchscope.configuration import OTHER_CLASS, MetricsConfiguration, SchedulerLimits
from batchscope.errors import BusyError, ConfigurationError, InvalidRecordError
from batchscope.recording.mistakes import Mistakes
from batchscope.recording.producer import Source
from batchscope.recording.ring import OURSELVES, Pressure
from batchscope.recording.rings import ProducerContext
from batchscope.recording.thread_writers import Writers
from batchscope.recording.unread import ReadyRows, Unread
from batchscope.records import ResourceSample
from batchscope.rows import Gaps, Rows
from batchscope.statistics.build import Cut
from batchscope.statistics.producer_counts import Counted, count

logger = logging.getLogger("batchscope")


class Draining:
    """Empties rings and sources into a ``State``, under ``lock``; knows who listens and since when it counts.

    Producers write without the lock, through ``shared``. Methods that say "the lock is held" do not take it: the
    lock is not reentrant, nothing that runs under it may read the collector (``BusyError``).
    """

    def __init__(self, configuration: MetricsConfiguration, limits: SchedulerLimits, clock: Clock) -> None:
        self.configuration = configuration
        self.limits = limits
        self.clock = clock
        self.classes = ClassNames(configuration)
        self.sources: list[Source] = []
        self.sinks: list[Sink] = []
        self._given: list[tuple[Drained, ReadyRows | None]] = []
        self._counting: Gaps | None = None
        self._resetting: int | None = None
        self.mistakes = Mistakes()
        strict = configuration.strict
        self.shared = ProducerContext(
            clock, self.classes.codes, self.classes.other, strict, self.check if strict else self.relieve,
            limits, eager=strict, pressure=Pressure(), mistakes=self.mistakes,
        )  # fmt: skip
        self.writers = Writers(self.shared)
        self._start()
        self._begin()
        forked(self)

    def _start(self) -> None:
        """What a fork's child needs anew."""
        self._lock = threading.RLock()
        self.sequence = 0
        self.blocks = 0
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

    def subscribe(self, sink: Sink) -> Callable[[], None]:
        """Give ``sink`` all rows from now on; returns what ends that."""
        with self.lock:
            self.drain()
            self.sinks.append(sink)

        def unsubscribe() -> None:
            with self.lock:
                self.drain()
                if sink in self.sinks:
                    self.sinks.remove(sink)

        return unsubscribe

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
        took and did not count is counted as ``interrupted``; nothing counts twice.
        """
        now = self.clock()
        if self._resetting is not None:
            self._finish_reset(self._resetting)
        self.state.settle()
        if self._counting is not None:  # some of them may have been counted
            self.state.rejections.add(INTERRUPTED, len(self._counting.values))
            self._counting = None
        for rings in self.writers.rings:
            lost = rings.gap_log.interrupted()
            if lost:
                self.state.rejections.add(INTERRUPTED, lost)
        blocks = [source.drain() for source in self.sources]
        self.state.consume(self._drained(blocks), now, (self._publish,) if self.sinks else ())
        for of_source in blocks:
            of_source.clear()
        self._given.clear()
        return now

    def _publish(self, block: Drained) -> None:
        for sink in list(self.sinks):
            try:
                sink(block)
            except Exception as error:  # noqa: BLE001  (whatever a listener raises, recording goes on)
                self.sinks.remove(sink)
                self.writers.own().error("sink_failed", error)

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
        return str(self.mistakes.last or "")

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

    def _finish_reset(self, generation: int) -> None:
        """All of it can be done again: where an exception comes between, the next drain does."""
        for source in self.sources:
            source.reset()
        self.state.iterations.clock.restart()
        self._begin(self.state)
        self.generation = generation
        self._resetting = None

    def _after_fork(self) -> None:
        """In the child: empty, a new lock; rows of other threads, even half-written, are gone."""
        self._start()
        self._given.clear()
        self._resetting = None
        for source in self.sources:
            source.after_fork()
        for rings in self.writers.rings:
            rings.discard()
        self._begin()
