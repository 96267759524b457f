"""What a tracker was told, as it was told: one immutable event a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import msgspec


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A request entered the system."""

    at: float
    handle: int
    request_id: Any
    prompt_tokens: float
    request_class: str | None
    rank: float | None


class Iteration(msgspec.Struct, frozen=True, gc=False):
    """An iteration, or several in a row with one batch: handles, tokens, scheduled tokens as packed int64.

    The ``scalars``, packed float64: its start, its finish, ``iteration_batch.FIELDS``; ``nan`` is what was not given.
    ``formed``: its slots were told when the batch was formed; who has left since was a wasted place, no mistake.
    ``head``: the handle of the request that was refused, -1 where nobody says.
    ``repeats``: how many iterations it is; each but the first began when the one before ended. ``each``: of several,
    the values that differ, packed float64: their ends, then those of ``iteration_batch.EACH``.
    """

    scalars: bytes
    handles: bytes
    tokens: bytes | None
    scheduled: bytes | None
    preempted: bytes
    formed: bool = False
    head: int = -1
    repeats: int = 1
    each: tuple[bytes, ...] = ()


class Formed(msgspec.Struct, gc=False):
    """What a tracker was told before an iteration ended: of a batch that was formed, or only why admission stopped.

    Opaque to engines, who give it to ``tracker.iteration`` in the place of the slots. ``handles`` None: no batch, only
    a stop. ``told``: the iteration was reported; without scalars forming it was a mistake, which was counted.
    """

    handles: bytes | None
    scalars: tuple[float, ...]
    scheduled: bytes | None = None
    preempted: bytes = b""
    head: int = -1
    told: bool = False


class Finish(msgspec.Struct, frozen=True, gc=False):
    """A request left; ``reason`` is its code. Tokens that only the engine knows come with it, else ``nan``."""

    at: float
    handle: int
    reason: float
    cached_tokens: float
    recomputed_tokens: float


class Loss(msgspec.Struct, frozen=True, gc=False):
    """A request is gone and nobody will say how it ended."""

    at: float
    handle: int


Event: TypeAlias = Arrival | Iteration | Finish | Loss


@runtime_checkable
class Telling(Protocol):
    """A source that keeps what it was told until it is drained: a tracker."""

    def undrained(self) -> Sequence[Event]:
        """What was reported since it was last drained, as it was said."""
