"""A view of the processes that publish into one directory: they come and go, and are merged by whoever reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.terminal.engine import Engine
from batchscope.terminal.polling import Looked
from batchscope.terminal.session import Session
from batchscope.terminal.sources import Directory, Look

_SHORT = 8
ENDED = "its process has ended, or is silent"
ALL_ENDED = "no process lives here any more"


class Published(Session):
    """As any view; an engine is a process. One that was seen to end stays, and is gone.

    One that ended before is in the sum only, where a reader has archived it: a note says how many those are.
    """

    def __init__(self, path: Path, interval: float, **clocks: Any) -> None:
        self._directory = Directory(path)
        super().__init__([self._directory], interval, **clocks)
        self._whole = self.engines[0]
        self._by_id: dict[str, Engine] = {}
        self._told: dict[str, tuple[int, int]] = {}

    def _take(self, found: Looked) -> None:
        processes, gone = list(self._directory.processes), self._directory.gone
        shown, self.engines = self.engines, [self._whole]  # what was found is of all processes together
        dead = found.look is not None and not any(living for _, living in processes)
        first = self._whole.last is None
        if not dead or first:
            super()._take(found)
        if found.look is not None and dead:  # the files of the dead can be read as ever
            if first:
                silent = (self._wall_clock() - found.look.snapshot.snapshot_time).total_seconds()
                self._whole.seen(found.at - max(0.0, silent))
            self._whole.failed(f"{ALL_ENDED}; {gone} ended")
        self.engines = shown
        if found.look is None:
            return
        self._processes(processes, found.at)
        several = len(self._by_id) > 1
        self._merged = self._whole if several else None
        if several and len(self.engines) == 1:
            self.viewing = self.viewing._replace(detail=False)
        self.engines = list(self._by_id.values()) if several else [self._whole]
        shown_as_gone = sum(not living for _, living in processes) + len(self._by_id.keys() - self._present(processes))
        archived = gone - shown_as_gone
        self._notes = [f"{archived} more ended before: they are in the sum only"] if archived > 0 and not dead else []

    @staticmethod
    def _present(processes: list[tuple[MetricsSnapshot, bool]]) -> set[str]:
        return {snapshot.instance_id for snapshot, _ in processes}

    def _processes(self, processes: list[tuple[MetricsSnapshot, bool]], at: float) -> None:
        for snapshot, living in processes:
            self._process(snapshot, at, living=living)
        for name in self._by_id.keys() - self._present(processes):
            self._by_id[name].failed(ENDED)  # it was archived

    def _process(self, snapshot: MetricsSnapshot, at: float, *, living: bool) -> None:
        name = snapshot.instance_id
        if name not in self._by_id:
            labels = " ".join(f"{key}={value}" for key, value in snapshot.labels.items())
            self._by_id[name] = Engine(f"{name[:_SHORT]} {labels}".strip(), name, self.interval)
            self._by_id[name].choose(self._whole.window)
        engine, told = self._by_id[name], (snapshot.generation, snapshot.sequence)
        if self._told.get(name) != told:
            engine.looked(Look(snapshot), at)
            self._told[name] = told
        if living:
            engine.seen(at)
        else:
            engine.failed(ENDED)

    def _merge(self) -> None:
        """Whoever reads the directory merges."""

    @property
    def merging(self) -> bool:
        """Never: what was read is merged."""
        return False
