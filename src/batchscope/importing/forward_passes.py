"""Dynamo's traces of forward passes (``dynamo.fpm.trace.v1``): JSON lines, mostly gzip, one an iteration that was kept.

A line is an envelope with an ``event``: ``schema``, ``observed_at_unix_ms``, ``capture_mode`` (``sampled`` keeps the
newest iteration every few seconds) and ``fpm``, the message that ``batchscope.engines.forward_pass`` reads from the
wire. Its ``counter_id`` counts a rank's iterations: what is missing between two lines was not kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from batchscope.clock import later
from batchscope.collector import SchedulerMetricsCollector
from batchscope.engines.forward_pass import ForwardPass, Scheduled, definitions_of, iteration_of
from batchscope.errors import WorkloadError
from batchscope.importing.content import FORWARD_PASS_SCHEMA, Content
from batchscope.importing.imported import EPOCH, ImportSource, check_in_reach
from batchscope.records import EngineInfo
from batchscope.rows import RowKind
from batchscope.simulator.trace_lines import BadRowError, read_lines
from batchscope.simulator.virtual_clock import VirtualClock
from batchscope.sinks import Missed


class Event(msgspec.Struct, gc=False):
    """What an envelope holds."""

    schema: str
    observed_at_unix_ms: int
    fpm: ForwardPass
    capture_mode: str = ""


class Envelope(msgspec.Struct, gc=False):
    """A line."""

    event: Event


class _Iterations:
    """All lines of all files, by instant, and what is missing between them."""

    def __init__(self, paths: list[Path]) -> None:
        self.passes = sorted((event for path in paths for event in _events(path)), key=_order)
        self.modes = Counter(event.capture_mode for event in self.passes)
        self.idle = sum(1 for event in self.passes if not _count(event.fpm))
        if len(self.passes) == self.idle:
            raise WorkloadError(f"{paths[0]}: no iteration in it, expected lines of {FORWARD_PASS_SCHEMA}")
        self.first = self.passes[0].observed_at_unix_ms / 1000
        self.gaps = sum(missing for _, missing in self._followed())

    def _followed(self) -> Iterator[tuple[Event, int]]:
        """Each line with how many of its rank are missing before it; lines that came twice are left out."""
        latest: dict[tuple[str, int], int] = {}
        for event in self.passes:
            sender, number = (event.fpm.worker_id, event.fpm.dp_rank), event.fpm.counter_id
            before = latest.get(sender)
            if before == number:
                continue
            latest[sender] = number
            yield event, max(0, number - before - 1) if before is not None else 0

    def replay(self, collector: SchedulerMetricsCollector, clock: VirtualClock) -> Iterator[Missed | None]:
        """Record each iteration; idle heartbeats are none."""
        before = 0.0
        for event, missing in self._followed():
            instant = event.observed_at_unix_ms / 1000 - self.first
            clock.advance_to(instant)
            if missing:
                yield Missed({RowKind.ITERATION.name: missing}, before, instant)
            if _count(event.fpm):
                collector.record_iteration(
                    iteration_of(event.fpm, event.fpm.scheduled_requests or Scheduled(), instant)
                )
                yield None
            before = instant


def source(contents: dict[Path, Content]) -> ImportSource:
    """The segments of one trace, in any order; several ranks are told apart."""
    paths = [path for path, content in contents.items() if content is Content.FORWARD_PASSES]
    found = _Iterations(paths)
    notes = []
    if found.gaps:
        sampled = " (the trace was sampled)" if found.modes["sampled"] else ""
        notes.append(f"iterations missing between those of the trace: {found.gaps:,}{sampled}")
    if found.idle:
        notes.append(f"heartbeats of an idle engine, which are no iterations: {found.idle:,}")
    return ImportSource(
        format=Content.FORWARD_PASSES.value,
        replay=found.replay,
        engine=EngineInfo("dynamo"),
        definitions={
            **definitions_of(),
            "iteration_instants": "ended when Dynamo observed its message, to a millisecond",
        },
        anchor_instant=0.0,
        anchor_time=later(EPOCH, found.first),
        missing=[
            "requests: latencies, attainment, which ran in which iteration",
            "first and speculated tokens",
            "limiters: inferred",
            "KV-cache usage",
        ],
        notes=notes,
    )


def _events(path: Path) -> Iterator[Event]:
    envelopes, events = msgspec.json.Decoder(Envelope), msgspec.json.Decoder(Event)
    for line in read_lines(path):
        try:
            text = line.text
            event = envelopes.decode(text).event if '"event"' in text else events.decode(text)
        except (msgspec.MsgspecError, BadRowError) as error:
            raise WorkloadError(f"{path}, line {line.number}: no forward pass ({error})") from None
        if event.schema != FORWARD_PASS_SCHEMA:
            raise WorkloadError(
                f"{path}, line {line.number}: schema = {event.schema!r}: expected {FORWARD_PASS_SCHEMA!r}"
            )
        check_in_reach(f"{path}, line {line.number}", event.observed_at_unix_ms / 1000)
        yield event


def _order(event: Event) -> tuple[int, str, int, int]:
    return event.observed_at_unix_ms, event.fpm.worker_id, event.fpm.dp_rank, event.fpm.counter_id


def _count(message: ForwardPass) -> int:
    scheduled = message.scheduled_requests or Scheduled()
    return scheduled.num_prefill_requests + scheduled.num_decode_requests
