"""The workload as the simulator consumes it: one request is known ahead, no more."""

from __future__ import annotations

import math
from collections.abc import Iterator

from batchscope.errors import WorkloadError
from batchscope.simulator.workload import RequestSpec, Workload


class Arrivals:
    """Reads the workload when it must. A request that comes before the one ahead of it is an error."""

    def __init__(self, workload: Workload, start: float) -> None:
        self._start = start
        self._specs = _in_order(workload)
        self._ahead: RequestSpec | None = None
        self._instant: float | None = None  # of the one ahead; None: nobody has looked

    @property
    def next_instant(self) -> float:
        """When the next request arrives; ``inf`` when there is none."""
        if self._instant is None:
            self._ahead = next(self._specs, None)
            self._instant = math.inf if self._ahead is None else self._start + self._ahead.arrival
        return self._instant

    def until(self, now: float) -> Iterator[tuple[RequestSpec, float]]:
        """The requests that have arrived by ``now``, each with its instant."""
        while (instant := self.next_instant) <= now and (spec := self._ahead) is not None:
            self._instant = None
            yield spec, instant


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
