"""What ``batchscope`` promises: every name here is public there, and nothing else is."""

from batchscope.collector import SchedulerMetricsCollector
from batchscope.configuration import MetricsConfiguration, SchedulerLimits, SloTargets
from batchscope.errors import (
    BatchscopeError,
    BusyError,
    ConfigurationError,
    DecodeError,
    InvalidRecordError,
    MergeError,
    MissingExtraError,
    MissingPackageError,
    WorkloadError,
)
from batchscope.histograms.circular_buffer import CircularBuffer
from batchscope.histograms.exponential_histogram import ExponentialHistogram
from batchscope.histograms.sliding_window import SlidingWindowCounter
from batchscope.records import (
    BatchLimiter,
    BatchMetrics,
    CompletionReason,
    IterationMetrics,
    IterationResult,
    RequestMetrics,
    RequestResult,
    SchedulerMetrics,
)
from batchscope.statistics.snapshot import MetricsSnapshot, decode_snapshot
from batchscope.statistics.summaries import (
    BatchStatistics,
    DistributionSummary,
    ErrorStatistics,
    IterationStatistics,
    RequestStatistics,
)
from batchscope.tracking.tracker import RequestTracker
from batchscope.version import __version__

__all__ = [
    "BatchLimiter",
    "BatchMetrics",
    "BatchStatistics",
    "BatchscopeError",
    "BusyError",
    "CircularBuffer",
    "CompletionReason",
    "ConfigurationError",
    "DecodeError",
    "DistributionSummary",
    "ErrorStatistics",
    "ExponentialHistogram",
    "InvalidRecordError",
    "IterationMetrics",
    "IterationResult",
    "IterationStatistics",
    "MergeError",
    "MetricsConfiguration",
    "MetricsSnapshot",
    "MissingExtraError",
    "MissingPackageError",
    "RequestMetrics",
    "RequestResult",
    "RequestStatistics",
    "RequestTracker",
    "SchedulerLimits",
    "SchedulerMetrics",
    "SchedulerMetricsCollector",
    "SlidingWindowCounter",
    "SloTargets",
    "WorkloadError",
    "__version__",
    "decode_snapshot",
]
