"""How many requests vLLM started, and how many of them it lost sight of.

vLLM counts no arrivals, and a request whose client went away leaves without a trace: ``abort`` removes it from
the front end before any statistics of it are made (``OutputProcessor.abort_requests``, vLLM 0.32.0; 60 requests
started, 6 of them aborted: 54 in ``request_success``, none under ``abort``). What can be known is a lower bound,
from four counts that are exact:

* finished requests,
* requests that got a first token (every finished one is among them),
* new requests that the scheduler admitted (``prefix_cache_stats.requests``),
* requests that the engine holds after a step: running, waiting, deferred.

Started is at least the first tokens, the admitted, and finished + held + those already known to be lost; what of
it is neither finished nor held is lost. So a request aborted after its first token is found at the latest when
the engine is idle, one aborted in the queue when the step's arrivals do not make up for it.
"""

from __future__ import annotations

from collections import deque
from math import isnan, nan
from typing import NamedTuple

_STEPS_IN_DOUBT = 64
"""A stop string is found by the front end, so the engine holds that request for a few more steps."""


class Step(NamedTuple):
    """Counts of one ``record`` call; ``held`` is None where the scheduler's statistics did not come with it.

    ``running`` of the ``held`` requests have a place in the batch. ``stopped`` of the ``finished`` ended by a stop
    token or a stop string: vLLM does not say by which. ``deferred`` and ``kv_cache_usage`` are ``nan`` where unknown.
    """

    rank: float
    held: int | None
    running: int
    admitted: int
    first_tokens: int
    finished: int
    stopped: int
    deferred: float = nan
    kv_cache_usage: float = nan


class StartedRequests:
    """The account of one front end. ``alone``: no other front end sends requests to the same engine.

    Where there are others, what the engine holds and admits are everybody's: then only first tokens tell of
    started requests, and losses show when the whole engine is idle.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self._alone = alone
        self._held: dict[float, int] = {}
        self._last: dict[float, Step] = {}
        self.held = 0
        self.reset()

    def reset(self) -> None:
        """Count anew; the requests that the engine holds stay, and count as received."""
        self.lost = 0
        self.finished = 0
        self._first_tokens = 0
        self._admitted = 0
        self._in_doubt = deque([0] * _STEPS_IN_DOUBT, maxlen=_STEPS_IN_DOUBT)
        self._doubtful = 0
        self._outdated: set[float] = set()
        self.received = self.held if self._alone else 0

    @property
    def running(self) -> int:
        """Those of the ``held`` (all ranks, as of their last steps) that have a place in the batch."""
        return sum(step.running for step in self._last.values())

    @property
    def deferred(self) -> int | None:
        """Those of the ``held`` that something else holds back; None where no rank said."""
        known = [int(step.deferred) for step in self._last.values() if not isnan(step.deferred)]
        return sum(known) if known else None

    @property
    def kv_cache_usage(self) -> float:
        """The ranks' mean, for their caches are of one size; ``nan`` where one does not say, and with nobody held."""
        usages = [step.kv_cache_usage for step in self._last.values()]
        return sum(usages) / len(usages) if usages and self.held else nan

    def add(self, step: Step) -> None:
        """Count one call, in the order in which they came."""
        self.finished += step.finished
        self._first_tokens += step.first_tokens
        self._admitted += step.admitted
        self._doubtful += step.stopped - self._in_doubt[0]
        self._in_doubt.append(step.stopped)
        self.received = max(self.received, self._first_tokens)
        if step.held is None:
            if step.finished:
                self._outdated.add(step.rank)  # it may have been held: wait for the next statistics
            return
        self.held += step.held - self._held.get(step.rank, 0)
        self._held[step.rank], self._last[step.rank] = step.held, step
        self._outdated.discard(step.rank)
        if not self._outdated:
            self._balance()

    def _balance(self) -> None:
        """All counts are of one moment."""
        if self._alone:
            surely_gone = self.finished - self._doubtful
            self.received = max(self.received, self._admitted, surely_gone + self.held + self.lost)
        self.lost = max(self.lost, self.received - self.finished - self.held)
