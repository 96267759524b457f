"""Batch utilization records: each says at least its utilization or its size."""

from math import isnan, nan

from batchscope import MetricsConfiguration, SchedulerMetricsCollector


def collector(**configuration):
    return SchedulerMetricsCollector(MetricsConfiguration(**configuration), clock=lambda: 1.0)


def test_a_record_of_a_size_alone_counts_and_its_utilization_is_not_averaged_in():
    batches = collector()
    batches.record_batch_utilization(nan, request_count=6)
    batches.record_batch_utilization(0.5)
    found = batches.get_batch_statistics()
    assert (found.total_batches, found.average_utilization, found.average_batch_size) == (2, 0.5, 6.0)


def test_a_record_that_says_nothing_is_rejected():
    batches = collector()
    batches.record_batch_utilization(nan, batch_id=3)
    assert batches.get_batch_statistics().total_batches == 0
    assert batches.get_request_statistics().rejected_records == {"not_a_number": 1}


def test_sizes_and_averages_are_of_the_last_samples_and_the_total_of_all():
    batches = collector(max_batch_samples=2)
    for size in (100, 2, 4):
        batches.record_batch_utilization(size / 100, request_count=size)
    found = batches.get_batch_statistics()
    assert (found.total_batches, found.min_batch_size, found.max_batch_size) == (3, 2, 4)
    assert found.average_batch_size == 3.0
    assert isnan(found.average_memory_bytes_per_batch)
