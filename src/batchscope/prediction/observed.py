"""What is known of a run, in the columns that a fit reads: its requests, iterations and settings."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from batchscope.configuration import SloTargets
from batchscope.errors import BatchscopeError
from batchscope.prediction.figures import RequestInstants
from batchscope.simulator import RequestSpec, SchedulerOptions

Floats = npt.NDArray[np.float64]

NEVER_BINDING = 2**20
"""Blocks or places: what is assumed where the run does not say and shows no sign of a limit."""


def setting_in_words(value: object) -> str:
    """As it is shown: what never binds has no number that means anything."""
    return "never binds" if value == NEVER_BINDING and not isinstance(value, bool) else str(value)


class NotEnoughError(BatchscopeError):
    """A run from which nothing can be foretold; the message says what it lacks."""


class OtherEngineError(BatchscopeError):
    """A model that was fitted to another engine than the run's."""


class IterationsSeen(msgspec.Struct, frozen=True):
    """Iterations that ran, aligned: when they ended, how long each took, and what it computed."""

    finished_at: Floats
    seconds: Floats
    prefill_tokens: Floats
    decoding_requests: Floats
    kv_tokens_read: Floats

    def __len__(self) -> int:
        return len(self.seconds)

    def until(self, instant: float) -> IterationsSeen:
        """Those that ended by ``instant``."""
        return self.where(self.finished_at <= instant)

    def where(self, chosen: npt.NDArray[np.bool_]) -> IterationsSeen:
        """Those that are ``chosen``."""
        return IterationsSeen(*(getattr(self, field)[chosen] for field in self.__struct_fields__))


class Gone(msgspec.Struct, frozen=True):
    """Who had gone when recorded: they have missed their targets, whatever the engine does.

    ``given_up``, aligned with the workload: which of its requests were cancelled, timed out or failed after their first
    token. ``unserved``: arrival and class of each that got none, and so is not in the workload.
    """

    given_up: npt.NDArray[np.bool_] | None = None
    unserved: tuple[tuple[float, str | None], ...] = ()


class Observed(msgspec.Struct, frozen=True):
    """A run: requests in order of arrival, the first at 0; ``instants`` aligned with ``workload``.

    ``options`` are the settings it was recorded under, ``assumed`` what of them was not recorded, a sentence each.
    ``preemptions`` is ``None`` where nobody counted them. ``limited_by``: shares of busy time, empty where they are not
    recorded. ``forward_passes``: iterations are told without what the engine does between one's forward pass and the
    next. ``slo``: the targets it was recorded with, by request class. ``left_out`` requests got no token, or do not
    say when.
    """

    name: str
    engine: str
    workload: tuple[RequestSpec, ...]
    instants: RequestInstants
    options: SchedulerOptions
    preemptions: int | None = None
    iterations: IterationsSeen | None = None
    assumed: tuple[str, ...] = ()
    left_out: int = 0
    limited_by: dict[str, float] = {}
    slo: dict[str, SloTargets] = {}
    gone: Gone = Gone()
    forward_passes: bool = False

    @property
    def end(self) -> float:
        """When the last request ended."""
        return float(np.nanmax(self.instants.last_token, initial=0.0))
