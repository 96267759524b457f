"""A faster scheduler forms the same batches: everything a run reports, to the last bit, as it was before.

The digests were taken from the scheduler that formed every batch anew and are of what a tracker is told:
who takes part, tokens, instants, what is evicted, what limits. Change one only when the schedule is meant
to change: ``python tests/simulator/test_schedule_digests.py`` prints them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from batchscope.simulator import Disturbances, RequestSpec, SchedulerOptions, Simulator


class _Digest:
    """Hashes all that it is told."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._slots = 0

    def arrived(self, request_id: Any, **facts: Any) -> int:
        self._slots += 1
        self._add("arrived", request_id, facts)
        return self._slots

    def iteration(self, slots: Sequence[int], tokens: Sequence[int] | None = None, **facts: Any) -> None:
        self._add("iteration", list(slots), tokens and list(tokens), facts)

    def finished(self, slot: int, reason: Any, **facts: Any) -> None:
        self._add("finished", slot, reason, facts)

    def _add(self, *told: Any) -> None:
        self._hash.update(repr(told).encode())

    @property
    def text(self) -> str:
        return self._hash.hexdigest()[:16]


def _workload(seed: int, requests: int = 120) -> list[RequestSpec]:
    """Bursts, shared prefixes, priorities, a few that failed."""
    random, arrival, out = Random(seed), 0.0, []
    for number in range(requests):
        arrival += random.choice([0.0, 0.0, 0.05, 0.4, 3.0])
        prompt = random.randint(1, 400)
        family, forks_at = random.randint(0, 3), random.randint(0, 12)
        hashes = [1000 * (family if k < forks_at else 10 + number) + k for k in range(-(-prompt // 32))]
        output = random.choice([0, 1, 2, 15, 60, 200]) if seed % 2 else random.randint(1, 90)
        out.append(RequestSpec(number, arrival, prompt, output, tuple(hashes), priority=random.randint(0, 2)))
    return out


def _options(seed: int) -> SchedulerOptions:
    random = Random(1000 + seed)
    places = random.choice([1, 4, 16, 64])
    return SchedulerOptions(
        max_running_requests=places,
        max_scheduled_tokens=places + random.choice([0, 30, 300, 2000]),
        kv_cache_blocks=random.choice([40, 90, 400, 5000]),
        hash_block_tokens=32,
        prefix_caching=random.random() < 0.7,
        watermark_ratio=random.choice([0.0, 0.01, 0.2]),
        max_prefill_requests=random.choice([None, None, 1, 2]),
        pauses=random.choice([(), (), ((2.0, 9.0), (12.0, 12.5))]),
    )


_TROUBLE = Disturbances(
    cancel_probability=0.1,
    timeout_probability=0.2,
    timeout_seconds=8.0,
    deferral_probability=0.1,
    deferral_seconds=0.7,
)

DIGESTS = {
    0: "6db68a8de521b8d9",
    1: "37b2110da9f8d5f3",
    2: "8574f235cd0a64a6",
    3: "74e65fdb4faef213",
    4: "0544b33afd492afc",
    5: "36e46f7268f3445d",
    6: "c100f6bc3b954392",
    7: "ea443ed33e890a62",
    8: "394de7eda4c27db3",
    9: "68a45dbb83d2fc28",
    10: "f060d84a4c0c848e",
    11: "034309ed3a7ad9a7",
    12: "3654050c9f21cdb2",
    13: "55c1ad75274be90a",
    14: "887c20eb68d020a7",
    15: "77e3f2826b8a05b8",
    16: "b28118f9afb2e20b",
    17: "675948a86f2a1105",
    18: "c6daff9697d8cc2f",
    19: "30aa61913c2b2815",
    20: "fe8d11d92024c11c",
    21: "74ddf4da734752f8",
    22: "d1b219993b8d3578",
    23: "9eef8ccb354808ec",
}


def _digest(seed: int) -> str:
    digest = _Digest()
    trouble = _TROUBLE if seed % 3 == 0 else None
    Simulator(_workload(seed), digest, options=_options(seed), disturbances=trouble, seed=seed).run()
    return digest.text


@pytest.mark.parametrize("seed", DIGESTS)
def test_the_schedule_is_the_one_that_was_recorded(seed):
    assert _digest(seed) == DIGESTS[seed]


if __name__ == "__main__":
    for number in range(24):
        print(f'    {number}: "{_digest(number)}",')
