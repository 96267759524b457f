"""Batch utilization records, what was not given not averaged in; and errors by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from batchscope.aggregation.checks import Rejections, Verdict
from batchscope.configuration import MetricsConfiguration
from batchscope.histograms.row_buffer import RowBuffer
from batchscope.reasons import RejectReason
from batchscope.rows import COLUMNS, BatchColumn, Floats, RowKind, Rows

C = BatchColumn
OTHER = "other"


class BatchAggregate:
    """All that is known of batch records since the last reset."""

    def __init__(self, configuration: MetricsConfiguration, rejections: Rejections) -> None:
        self._rejections = rejections
        self.samples = RowBuffer(configuration.max_batch_samples, len(COLUMNS[RowKind.BATCH]))
        self.count = 0

    def consume(self, values: Floats) -> Rows:
        """Check and count rows; a record says at least its utilization or its size."""
        verdict = Verdict(values, self._rejections)
        with np.errstate(invalid="ignore"):
            empty = np.isnan(values[:, C.UTILIZATION]) & np.isnan(values[:, C.REQUEST_COUNT])
            verdict.refuse(empty, RejectReason.NOT_A_NUMBER, (C.UTILIZATION,))
            verdict.refuse(np.isinf(values[:, C.BATCH_ID]), RejectReason.INFINITE, (C.BATCH_ID,))
            verdict.amounts((C.UTILIZATION, C.REQUEST_COUNT, C.MEMORY_BYTES_USED), due=(), whole=(C.REQUEST_COUNT,))
        values, _ = verdict.keep(None)
        self.count += len(values)
        if len(values):
            self.samples.append(values, None)
        return Rows(RowKind.BATCH, values)


class ErrorAggregate:
    """Errors since the last reset. The first ``max_types`` names seen are told apart, the rest are ``other``.

    Bounded memory: exceptions are never kept, since their tracebacks pin tensors.
    """

    def __init__(self, max_types: int) -> None:
        self._max_types = max_types
        self.by_type: dict[str, int] = {}
        self.last_at: float | None = None

    def consume(self, at: Floats, names: Sequence[str]) -> None:
        """Count errors by name."""
        for name in names:
            known = name in self.by_type or len(self.by_type) < self._max_types
            key = name if known else OTHER
            self.by_type[key] = self.by_type.get(key, 0) + 1
        if len(at):
            latest = float(at.max())
            self.last_at = latest if self.last_at is None else max(latest, self.last_at)

    @property
    def total(self) -> int:
        """How many errors were recorded."""
        return sum(self.by_type.values())
