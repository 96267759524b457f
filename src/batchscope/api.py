"""What ``batchscope`` promises: every name here is public there, and nothing else is."""

from batchscope.aggregation.circular_buffer import CircularBuffer
from batchscope.aggregation.exponential_histogram import ExponentialHistogram
from batchscope.aggregation.sliding_window import SlidingWindowCounter
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
    WorkloadError,
)
from batchscope.recording.tracker import RequestTracker
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
