"""States for a history: a collector on a clock of the test's, and the worst that one may hold."""

import random

from batchscope import MetricsConfiguration, SchedulerLimits, SchedulerMetricsCollector, SloTargets
from batchscope.records import CompletionReason as Reason
from batchscope.records import IterationResult, RequestResult, ResourceSample

LIMITERS = ("request_slots", "token_budget", "kv_cache", "deferred", "policy", "paused", "demand", "unknown")


class Hands:
    """A clock that the test moves."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def collector(clock, classes=("interactive",), **configuration):
    slo = {name: SloTargets(time_to_first_token=0.5, time_per_output_token=0.05) for name in classes}
    limits = SchedulerLimits(max_running_requests=64, max_scheduled_tokens=2048, kv_cache_blocks=5000, kv_block_size=16)
    return SchedulerMetricsCollector(MetricsConfiguration(slo=slo, **configuration), limits=limits, clock=clock)


def second(into, clock, chance, *, classes=("interactive",), errors=(), gpus=0, iterations=20):
    """One second of work: iterations back to back, some requests, errors and readings."""
    end = clock.now + 1.0
    for place in range(iterations):
        began = end - 1.0 + place / iterations
        into.record_iteration(
            IterationResult(
                place, chance.randrange(1, 65), chance.randrange(1, 65), 1, 1.0 / iterations,
                started_at=began, finished_at=began + 1.0 / iterations, running_requests=60,
                waiting_requests=chance.randrange(40), prefill_tokens=chance.randrange(900),
                scheduled_tokens=chance.randrange(960, 2048), kv_cache_usage=chance.random(),
                limited_by=chance.choice(LIMITERS), inter_token_latencies=[chance.lognormvariate(-3.5, 0.8) for _ in range(40)],
            )
        )  # fmt: skip
    for number in range(12):
        first = chance.lognormvariate(-1.0, 1.2)
        into.record_request_completion(
            RequestResult(
                f"{end}-{number}", 100, Reason.EOS_TOKEN_REACHED, first + 3.0, queue_time=first / 2,
                time_to_first_token=first, decode_time=99 * chance.lognormvariate(-3.5, 0.5), prompt_tokens=500,
                request_class=chance.choice(classes), total_time=first + 3.0 + chance.random(),
            )
        )  # fmt: skip
    for error in errors:
        into.record_error(error)
    if gpus:
        into.record_resources([
            ResourceSample("gpu", str(gpu), quantity, value, unit, f"GPU-{gpu}")
            for gpu in range(gpus)
            for quantity, unit, value in (
                ("utilization_ratio", "ratio", chance.random()), ("power_watts", "watts", 700 * chance.random()),
                ("memory_used_bytes", "bytes", 8e10 * chance.random()), ("memory_total_bytes", "bytes", 8e10),
            )
        ], interval=1.0)  # fmt: skip
    clock.now = end


def seeded():
    return random.Random(7)
