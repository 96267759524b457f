"""The tables of a run as Ibis expressions, whatever engine computes them; a stretch of time of them is such again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from batchscope.errors import MissingExtraError
from batchscope.sinks import RunHeader

Table = Any
"""An ``ibis.expr.types.Table``; its package is imported where tables are made."""


class RunTables(NamedTuple):
    """What was recorded, with the columns that docs/ledger.md names, from ``began`` to ``ended`` of the run's clock.

    ``headers`` by segment: the limits that held, targets, classes, whose figures these are.
    """

    requests: Table
    iterations: Table
    spans: Table
    events: Table
    headers: Sequence[RunHeader]
    began: float
    ended: float
    in_flight: int | None = None
    """Requests that had not finished at its end, where it says so."""
    cut_of: RunTables | None = None
    """Of a stretch: the whole run."""

    @property
    def run(self) -> RunTables:
        """The whole run, whatever stretch of it this is."""
        return self if self.cut_of is None else self.cut_of

    @property
    def header(self) -> RunHeader:
        """The last one."""
        return self.headers[-1]

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return self.ended - self.began

    def between(self, first: float | None, last: float | None) -> RunTables:
        """What was recorded in (first, last] of the run's clock; None: from its beginning, to its end.

        A request belongs to the stretch in which it finished, an iteration, a token and an event to that in which they
        ended. Spans stay whole: the gap before a token may begin earlier.
        """
        if first is None and last is None:
            return self
        began = self.began if first is None else max(first, self.began)
        ended = self.ended if last is None else min(last, self.ended)

        def inside(table: Table) -> Table:
            chosen = table
            if first is not None:
                chosen = chosen.filter(chosen.at > first)
            return chosen if last is None else chosen.filter(chosen.at <= last)

        return self._replace(
            requests=inside(self.requests),
            iterations=inside(self.iterations),
            events=inside(self.events),
            began=began,
            ended=max(began, ended),
            in_flight=self.in_flight if last is None or last >= self.ended else None,
            cut_of=self.run,
        )


def import_ibis() -> Any:
    """The package; MissingExtraError names the extra."""
    try:
        import ibis  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("the analysis of recorded runs", "analysis") from error
    return ibis


def duckdb_connection(memory_limit: str | None = None, threads: int | None = None) -> Any:
    """A DuckDB of one's own, in memory; ``memory_limit``, as ``"256MB"``: beyond it, it uses the disk."""
    ibis = import_ibis()
    options = {"memory_limit": memory_limit, "threads": threads}
    try:
        return ibis.duckdb.connect(**{name: value for name, value in options.items() if value is not None})
    except (ImportError, AttributeError) as error:  # ibis without the backend
        raise MissingExtraError("the analysis of recorded runs", "analysis") from error
