"""Workloads from real traces: Azure's, BurstGPT's, Mooncake's, recognised by their columns and streamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from batchscope.checks import LARGEST, check_positive, check_whole
from batchscope.errors import WorkloadError
from batchscope.simulator.trace_formats import Row, TraceFormat, detect
from batchscope.simulator.trace_lines import BadRowError, Line, read_lines
from batchscope.simulator.workload import RequestSpec


def open_trace(
    path: str | os.PathLike[str],
    *,
    limit: int | None = None,
    rate_scale: float = 1.0,
    skip_bad_rows: bool = False,
) -> Trace:
    """The trace at ``path``, a CSV or JSONL, plain or gzip; its format is recognised at once.

    ``limit``: only its first so many good rows. ``rate_scale`` 2: everything arrives twice as fast. Whatever
    is wrong with the file, here or while it is read, is a ``WorkloadError`` that says "FILE, line N: what is
    wrong, what was expected". ``skip_bad_rows`` goes on behind a bad row, but not behind damaged gzip.
    """
    if limit is not None:
        check_whole("limit", limit, 1, LARGEST, ", or None for all of it")
    check_positive("rate_scale", rate_scale, "a factor")
    return Trace(Path(path), limit, rate_scale, skip_bad_rows=skip_bad_rows)


class Trace:
    """The requests of a trace, read from its file, row by row, whenever they are iterated over."""

    def __init__(self, path: Path, limit: int | None, rate_scale: float, *, skip_bad_rows: bool) -> None:
        self.path = path
        self._limit = limit
        self._rate_scale = rate_scale
        self._skip_bad_rows = skip_bad_rows
        self._format = self._recognise()
        self.skipped_rows = 0
        """Bad rows that the latest iteration has passed over so far."""

    @property
    def format(self) -> str:
        """``azure``, ``burstgpt`` or ``mooncake``."""
        return self._format.name

    def __iter__(self) -> Iterator[RequestSpec]:
        """Requests named by the number of their line; the first one arrives at 0."""
        self.skipped_rows = 0
        origin: Row | None = None
        for count, (number, row) in enumerate(self._good_rows(), start=1):
            origin = origin or row
            yield self._request(number, row, origin)
            if count == self._limit:
                return
        if origin is None:
            rows = "bad row was" if self.skipped_rows == 1 else "bad rows were"
            bad = f" ({self.skipped_rows} {rows} skipped)" if self.skipped_rows else ""
            raise WorkloadError(f"{self.path}: there is no request in it{bad}, expected one or more rows")

    def _request(self, number: int, row: Row, origin: Row) -> RequestSpec:
        seconds = (row.time - origin.time) / self._format.ticks_per_second
        return RequestSpec(
            number,
            seconds / self._rate_scale,
            row.prompt_tokens,
            row.output_tokens,
            row.prefix_hashes,
            row.request_class,
        )

    def _good_rows(self) -> Iterator[tuple[int, Row]]:
        latest: Row | None = None
        with closing(read_lines(self.path)) as lines:  # an error's traceback would hold the file open
            if self._format.has_header:
                next(lines)
            for line in lines:
                try:
                    row = self._format.parse(line.text)
                    self._check_order(row, latest)
                except BadRowError as error:
                    if not self._skip_bad_rows:
                        raise self._located(error, line) from None
                    self.skipped_rows += 1
                else:
                    latest = row
                    yield line.number, row

    def _check_order(self, row: Row, latest: Row | None) -> None:
        if latest is not None and row.time < latest.time:
            seconds = (latest.time - row.time) / self._format.ticks_per_second
            raise BadRowError(f"time goes backwards by {seconds:g} s, expected rows in order of arrival")

    def _recognise(self) -> TraceFormat:
        with closing(read_lines(self.path)) as lines:
            for line in lines:
                try:
                    return detect(line.text)
                except BadRowError as error:
                    raise self._located(error, line) from None
        raise WorkloadError(f"{self.path}: the file is empty, expected a trace")

    def _located(self, error: BadRowError, line: Line) -> WorkloadError:
        return WorkloadError(f"{self.path}, line {line.number}: {error}")
