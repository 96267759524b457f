"""A writer for each thread; the rings of a thread that ended go on with the next one."""

from __future__ import annotations

import threading
from collections import deque

from batchscope.recording.rings import ProducerContext, Rings
from batchscope.recording.writer import Writer


class Writers:
    """All writers of a collector. ``local.writer`` is the calling thread's, once it has one.

    ``local.request_result`` is its method of that name: one look-up less a record.
    """

    def __init__(self, shared: ProducerContext) -> None:
        self.local = threading.local()
        self.rings: list[Rings] = []
        self._shared = shared
        self._orphans: deque[Rings] = deque()

    def own(self) -> Writer:
        """The calling thread's writer, made when it first asks."""
        try:
            writer: Writer = self.local.writer
        except AttributeError:
            try:
                rings = self._orphans.popleft()
            except IndexError:
                rings = Rings(self._shared)
                self.rings.append(rings)
            writer = self.local.writer = Writer(self._shared, rings, self._orphans)
            self.local.request_result = writer.request_result
        return writer
