"""What the tests of the specification share: a clock that stands still until told, and short records."""

from math import nan

from batchscope import CompletionReason, IterationResult, RequestResult, SchedulerMetricsCollector

EOS = CompletionReason.EOS_TOKEN_REACHED


class FakeClock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds
        return self.now


def make(configuration=None, **options):
    """A collector and the clock it reads."""
    clock = options.setdefault("clock", FakeClock())
    return SchedulerMetricsCollector(configuration, **options), clock


def request(request_id="r", tokens=10, reason=EOS, processing_time=1.0, **fields):
    return RequestResult(request_id, tokens, reason, processing_time, **fields)


def iteration(number=1, requests=4, tokens=4, completed=0, processing_time=0.5, **fields):
    return IterationResult(number, requests, tokens, completed, processing_time, **fields)


def same(one, other):
    """Equal, with nan equal to nan."""
    return repr(one) == repr(other)


NAN = nan
