"""Engines that count tokens, and the clocks that readers of them go by."""

from batchscope.collector import SchedulerMetricsCollector
from batchscope.configuration import MetricsConfiguration, SloTargets
from batchscope.publishing import SnapshotDirectory, SnapshotPublisher
from batchscope.records import CompletionReason, IterationResult, RequestResult

CONFIGURATION = MetricsConfiguration(
    slo=SloTargets(e2e_latency=2.0), max_request_samples=10, max_iteration_samples=10, max_batch_samples=10
)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now=100.0):
        self.now = now

    def __call__(self):
        return self.now


class Engine:
    """A process's collector and its publisher, without a thread."""

    def __init__(self, target, *, clock=None, configuration=CONFIGURATION, **arguments):
        self.clock = clock or Clock()
        self.collector = SchedulerMetricsCollector(configuration, clock=self.clock, **arguments)
        self.target = str(target)
        self.publisher = SnapshotPublisher(self.collector, self.target, interval=None)

    def serve(self, requests=1, seconds=1.0):
        """Finish ``requests`` of 10 tokens each."""
        for _ in range(requests):
            self.collector.record_request_completion(
                RequestResult("r", 10, CompletionReason.EOS_TOKEN_REACHED, seconds, time_to_first_token=seconds / 4)
            )
        self.collector.record_iteration(
            IterationResult(1, 2, 10 * requests, requests, 0.125, running_requests=2, waiting_requests=1)
        )
        return self

    def publish(self):
        assert self.publisher.publish_now()
        return self


def reader_of(directory, clock, **arguments):
    return SnapshotDirectory(directory, clock=clock, max_age=0.0, **{"dead_after": 10.0, **arguments})


def files(directory):
    return sorted(path.name for path in directory.iterdir())
