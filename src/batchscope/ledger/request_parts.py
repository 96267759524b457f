"""What a request's time is made of: the parts of its life, and the phases that it goes through.

A request's life, from its arrival to its end, is cut where its spans begin and end: it waits, takes part in
iterations, stands still, is evicted, takes part again. While it takes part, the time is its own: of its prefill, of
its decoding, or of computing again what an eviction lost. While it does not, the time is held by what stopped the
line's last attempt to admit (``iteration_lines``), or nothing ran. Every cut is an instant of the record, in whole
ticks, so the parts add up to the life exactly. Only ``STRETCHED`` is a model's (``prefill_cost``): it is cut out of
decoding, and together they are what the instants say. ``cutting`` does it, for ``histories``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from batchscope.ledger.iteration_lines import Ints, Mask


class Part(StrEnum):
    """What a piece of a request's life was; the first three are told apart by who held it meanwhile."""

    QUEUED = "queued"
    """Waited to be scheduled for the first time, after at least one attempt to admit had left it out."""
    STOOD_STILL = "stood_still"
    """Held a place and was in no batch."""
    PREEMPTED = "preempted"
    """Evicted, waiting to be scheduled again."""
    ARRIVING = "arriving"
    """The rest of the iteration in which it arrived: nobody could be admitted."""
    PREFILL = "prefill"
    """Took part in iterations up to its first token."""
    RECOMPUTED = "recomputed"
    """Took part in iterations after an eviction, up to its next token: computed again."""
    DECODE = "decode"
    """Took part in iterations after its first token, without what is modelled as stretched."""
    STRETCHED = "stretched"
    """Modelled: what prefill of other requests took of the iterations in which it decoded."""
    BETWEEN = "between_iterations"
    """Nothing ran: the engine idled, or did something else than iterate."""
    PREFILL_PHASE = "prefill_phase"
    """No span says what it did: from first scheduled to its first token, whatever it was."""
    DECODE_PHASE = "decode_phase"
    """Likewise from its first to its last token; without what is modelled as stretched, on one rank."""
    AFTER = "after_last_token"
    """From its last part in an iteration to its end."""
    UNKNOWN = "unknown"
    """The record does not say: iterations of that time are missing."""


HELD = (Part.QUEUED, Part.STOOD_STILL, Part.PREEMPTED)
OTHERS = tuple(part for part in Part if part not in HELD)


class Column(NamedTuple):
    """A part, and the limiter that held it where there is one."""

    part: Part
    limiter: str | None = None

    @property
    def modelled(self) -> bool:
        """Whether it is a model's; the others follow from instants."""
        return self.part in {Part.STRETCHED, Part.DECODE, Part.DECODE_PHASE}


class Cut(NamedTuple):
    """Requests (``rows`` of the table) cut into parts: ticks, a row a request, a column a part.

    ``before`` and ``after`` the first token; of one that never emitted all is before. ``gap``: the longest time between
    two emissions of each, cut likewise, where it was asked for; 0 with a single emission.
    """

    rows: Ints
    before: Ints
    after: Ints
    gap: Ints | None
    gap_within: tuple[Ints, Ints] | None
    """When that gap began and ended; where it is not known: the first and the last token."""


class Phase(StrEnum):
    """What a request is in from one instant to another, whatever holds it meanwhile; ``PHASES`` has them by code."""

    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"
    PREEMPTED = "preempted"
    RECOMPUTED = "computed again"


PHASES = tuple(Phase)


class Pieces(NamedTuple):
    """Lives as phases, by request and time: ``row`` of the table, from ``begin`` to ``end`` (ticks), code of the phase.

    A request that stands still stays in its phase. What comes after its last iteration is in none.
    """

    row: Ints
    begin: Ints
    end: Ints
    phase: Ints


class Spans(NamedTuple):
    """By request and time; ``first`` and ``last`` are places of ``Lines``."""

    request: Ints
    first: Ints
    last: Ints
    tokens: Ints
    evicted: Mask
