"""MSER-5: the warm-up that a run is known to have is found, the drain begins with the last arrival."""

import numpy as np
import pyarrow as pa
import pytest

from batchscope.ledger.steady_state import cut_of, mser_cut, steady_state

SHAPES = {
    "ramp": lambda u: np.minimum(1, u),
    "empty, then full": lambda u: (u >= 1).astype(float),
    "twice as full": lambda u: np.where(u < 1, 2 - u, 1),
}


def synthetic(seed):
    """Requests present in each second, and which share of the run its warm-up is."""
    random = np.random.default_rng(seed)
    seconds, share = int(random.integers(200, 1200)), random.uniform(0.05, 0.4)
    noise, correlation = np.zeros(seconds), random.uniform(0, 0.8)
    for second in range(1, seconds):
        noise[second] = correlation * noise[second - 1] + random.normal() * 0.1 * np.sqrt(1 - correlation**2)
    shape = SHAPES[sorted(SHAPES)[seed % len(SHAPES)]]
    return random.uniform(10, 60) * np.maximum(0, shape(np.arange(seconds) / (share * seconds)) + noise), share


def test_the_cut_of_fifty_runs_lies_within_a_tenth_of_the_run_of_the_truth():
    missing = 0
    for seed in range(50):
        present, truth = synthetic(seed)
        cut = mser_cut(present)
        missing += cut is None
        assert cut is None or abs(cut / len(present) - truth) <= 0.1, seed
    assert missing <= 5


def test_a_run_without_warm_up_loses_little():
    cuts = [mser_cut(30 + np.random.default_rng(seed).normal(size=600)) for seed in range(50)]
    assert max(cuts) <= 90


def test_a_backlog_that_only_grows_is_no_steady_state():
    for seed in range(20):
        growing = np.linspace(0, 100, 500) + np.random.default_rng(seed).normal(size=500)
        assert mser_cut(growing) is None


def test_large_counts_are_cut_as_small_ones_are():
    present, _ = synthetic(3)
    assert mser_cut(present + 1e9) == mser_cut(present)


def test_a_constant_run_is_steady_from_its_start():
    assert mser_cut(np.full(300, 7.0)) == 0


@pytest.mark.parametrize("values", [[], [1.0] * 24])
def test_a_handful_of_values_has_no_steady_state(values):
    assert mser_cut(np.array(values)) is None


def table(**columns):
    return pa.table({name: pa.array(values, pa.float64()) for name, values in columns.items()})


NO_ITERATIONS = table(
    **{name: [] for name in ("started_at", "finished_at", "waiting_requests", "running_requests", "rank")}
)
NO_REQUESTS = table(arrived_at=[], finished_at=[])


def poisson(seed=0, rate=4.0, seconds=600.0, service=15.0):
    """A service with as many places as needed: full after some service times, draining after the last arrival."""
    random = np.random.default_rng(seed)
    arrived = np.sort(random.uniform(0, seconds, int(rate * seconds)))
    return table(arrived_at=100 + arrived, finished_at=100 + arrived + random.exponential(service, len(arrived)))


def test_by_requests_alone_warm_up_and_drain_are_cut():
    requests = poisson()
    found = steady_state(requests, NO_ITERATIONS)
    assert found.found
    assert 10 <= found.start - found.first < 70
    assert found.end == max(requests["arrived_at"].to_pylist()) < found.last
    assert abs(found.backlog_slope) < 0.05


def as_iterations(requests, step=0.05, ranks=1):
    """What a scheduler with that many ranks would have counted, every ``step`` seconds."""
    arrived, finished = (requests[name].to_numpy() for name in ("arrived_at", "finished_at"))
    at = np.arange(arrived.min(), finished.max(), step)
    present = np.searchsorted(np.sort(arrived), at, "right") - np.searchsorted(np.sort(finished), at, "right")
    return table(
        started_at=np.tile(at, ranks),
        finished_at=np.tile(at + step, ranks),
        waiting_requests=np.tile(present * 0.25 / ranks, ranks),
        running_requests=np.tile(present * 0.75 / ranks, ranks),
        rank=np.repeat(np.arange(ranks), len(at)),
    )


@pytest.mark.parametrize("ranks", [1, 2])
def test_by_iterations_the_cut_is_that_by_requests(ranks):
    requests = poisson(seed=3)
    by_requests = steady_state(requests, NO_ITERATIONS)
    by_iterations = steady_state(requests, as_iterations(requests, ranks=ranks))
    assert by_iterations.start == pytest.approx(by_requests.start, abs=2)
    assert by_iterations.end == pytest.approx(by_requests.end)


def test_without_requests_the_drain_is_not_known():
    iterations = as_iterations(poisson())
    found = steady_state(NO_REQUESTS, iterations)
    assert found.end == found.last


def test_between_iterations_far_apart_nobody_is_counted():
    busy = np.arange(0, 400, 0.05)
    busy = busy[busy % 10 < 5]  # five seconds of work, five of silence
    ten = np.full(len(busy), 10.0)
    found = steady_state(
        NO_REQUESTS,
        table(started_at=busy, finished_at=busy + 0.05, waiting_requests=0 * ten, running_requests=ten, rank=0 * ten),
    )
    assert found.found
    assert found.start - found.first < 40


def test_what_was_not_measured_is_named():
    assert steady_state(NO_REQUESTS, NO_ITERATIONS).missing
    at_once = steady_state(table(arrived_at=[5.0, 5.0], finished_at=[6.0, 9.0]), NO_ITERATIONS)
    assert "at once" in at_once.missing


def test_without_a_steady_part_all_of_the_run_is_covered():
    instants = np.linspace(0, 300, 301)
    none = cut_of(instants, instants**2)
    assert "more than half" in none.missing
    assert none.covers(instants).all()
    some = cut_of(instants, 8 * instants, last_arrival=200.0)
    assert not some.covers(instants)[201:].any()
    assert some.covers(instants)[:201].all()


def test_a_clock_that_jumped_by_thousands_of_years_takes_no_memory():
    instants = np.array([0.0, 1.0, 1e12, 1e12 + 1])
    found = cut_of(instants, np.array([0.0, 1.0, 1.0, 2.0]), last_arrival=1e12)
    assert (found.first, found.last) == (0.0, 1e12 + 1)
