"""The workload as the simulator consumes it: one request is known ahead, no more."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import islice

from batchscope.errors import WorkloadError
from batchscope.simulator.workload import RequestSpec, Workload


class Arrivals:
    """Reads the workload when it must. A request that comes before the one ahead of it is an error."""

    def __init__(self, workload: Workload, start: float) -> None:
        self._start = start
        self._specs = _in_order(workload)
        self._ahead: deque[RequestSpec] = deque()

    @property
    def next_instant(self) -> float:
        """When the next request arrives; ``inf`` when there is none."""
        if not self._ahead:
            self._ahead.extend(islice(self._specs, 1))
        return self._start + self._ahead[0].arrival if self._ahead else math.inf

    def until(self, now: float) -> Iterator[tuple[RequestSpec, float]]:
        """The requests that have arrived by ``now``, each with its instant."""
        while (instant := self.next_instant) <= now:
            yield self._ahead.popleft(), instant


def _in_order(workload: Workload) -> Iterator[RequestSpec]:
    latest = 0.0
    for spec in workload:
        if spec.arrival < latest:
            raise WorkloadError(
                f"request {spec.request_id}: arrival = {spec.arrival}: time goes backwards, "
                f"expected {latest} or later (the arrival of the request before it)"
            )
        latest = spec.arrival
        yield spec
