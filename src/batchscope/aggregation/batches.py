"""Batch utilization records: what was not given is not averaged in."""

from __future__ import annotations

import numpy as np

from batchscope.aggregation.checks import Rejections, Verdict
from batchscope.configuration import MetricsConfiguration
from batchscope.histograms.row_buffer import RowBuffer
from batchscope.reasons import RejectReason
from batchscope.rows import COLUMNS, BatchColumn, Floats, RowKind, Rows

C = BatchColumn


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
