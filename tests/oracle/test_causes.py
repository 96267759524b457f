"""Why the batch was not fuller, inferred beside what the scheduler itself says, for schedulers of many kinds.

Each case names its cause, which has to bind a fair share of the time: else the case would prove nothing.
"""

import pytest
from scripted_scheduler import Engine, Ways

from batchscope import BatchLimiter

CLOSE = 0.05
"""How far an inferred share of busy time may be from the reported one."""
FAIR = 0.25

KNOWN = {
    "nobody waits": (BatchLimiter.DEMAND, Ways()),
    "few places": (BatchLimiter.REQUEST_SLOTS, Ways(places=8, rate=9)),
    "a small budget, prompts in chunks": (BatchLimiter.TOKEN_BUDGET, Ways(budget=64, rate=2.2, prompts=(100, 400))),
    "a prompt does not fit the rest of the budget": (
        BatchLimiter.TOKEN_BUDGET,
        Ways(prefill_first=True, whole_prompts=True, budget=450, bunches=20, prompts=(200, 400), rate=6, places=256),
    ),
    "evictions": (BatchLimiter.KV_CACHE, Ways(blocks=90, rate=6)),
    "blocks that an admission leaves free": (BatchLimiter.KV_CACHE, Ways(blocks=150, watermark=40, rate=6)),
    "room reserved for the answer": (BatchLimiter.KV_CACHE, Ways(blocks=120, reserves=True, rate=9)),
    "room reserved and not told as used": (
        BatchLimiter.KV_CACHE,
        Ways(blocks=120, reserves=True, tells_used=True, rate=9),
    ),
    "decodes make way for prompts": (BatchLimiter.POLICY, Ways(prefill_first=True, whole_prompts=True, rate=6)),
    "prompts first, a small cache": (
        BatchLimiter.KV_CACHE,
        Ways(prefill_first=True, whole_prompts=True, rate=6, blocks=100),
    ),
    "prompts first, few places": (
        BatchLimiter.REQUEST_SLOTS,
        Ways(prefill_first=True, whole_prompts=True, rate=6, places=8),
    ),
    "held back": (BatchLimiter.DEFERRED, Ways(held_back=0.5, rate=1)),
    "two stages, nobody waits": (BatchLimiter.DEMAND, Ways(stages=2, rate=2)),
    "two stages, few places": (BatchLimiter.REQUEST_SLOTS, Ways(stages=2, rate=8, places=16)),
    "two stages, a small cache": (BatchLimiter.KV_CACHE, Ways(stages=2, rate=6, blocks=100)),
    "four stages": (BatchLimiter.REQUEST_SLOTS, Ways(stages=4, rate=6, places=32)),
    "two ranks, few places": (BatchLimiter.REQUEST_SLOTS, Ways(ranks=2, rate=20, places=8)),
    "two ranks, a small cache": (BatchLimiter.KV_CACHE, Ways(ranks=2, rate=12, blocks=100)),
    "overlap, nobody waits": (BatchLimiter.DEMAND, Ways(overlaps=True, rate=2)),
    "overlap, few places": (BatchLimiter.REQUEST_SLOTS, Ways(overlaps=True, rate=9, places=8)),
    "overlap, a small cache": (BatchLimiter.KV_CACHE, Ways(overlaps=True, rate=6, blocks=100)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_inferred_share_of_every_limiter_is_close_to_the_reported_one(name):
    cause, ways = KNOWN[name]
    reported, inferred = Engine(ways).run()
    assert reported[cause] > FAIR
    for limiter in BatchLimiter:
        assert inferred[limiter] == pytest.approx(reported[limiter], abs=CLOSE), limiter


def test_a_cap_on_admissions_cannot_be_told_from_a_refusal_by_the_cache():
    reported, inferred = Engine(Ways(prefills=1, rate=6, bunches=10)).run()
    assert reported["policy"] > FAIR
    assert inferred["policy"] == 0.0
    assert inferred["kv_cache"] == pytest.approx(reported["policy"] + reported["kv_cache"], abs=CLOSE)


def test_room_that_is_asked_before_the_budget_makes_no_difference_where_only_one_of_them_is_short():
    """Where both are short, the budget is inferred: the order in which an engine asks cannot be seen."""
    reported, inferred = Engine(Ways(blocks=150, budget=96, rate=6, prompts=(100, 400), room_first=True)).run()
    both = {"token_budget", "kv_cache"}
    assert sum(inferred[name] for name in both) == pytest.approx(sum(reported[name] for name in both), abs=CLOSE)
    assert inferred["token_budget"] > reported["token_budget"] + CLOSE


@pytest.mark.parametrize(("stages", "places"), [(1, 8), (2, 16), (4, 32)])
def test_a_pipeline_reads_as_full_as_its_batches_are_of_their_share(stages, places):
    engine = Engine(Ways(stages=stages, places=places, rate=30))
    engine.run()
    found = engine.told.get_snapshot()
    assert found.iteration_stats.time_weighted_utilization == pytest.approx(0.9, abs=0.1)
    lost = sum(found.iteration_stats.lost_slot_seconds.values())
    assert found.totals.used_slot_seconds + lost == pytest.approx(found.totals.slot_seconds)
    assert found.batch_stats.average_utilization == pytest.approx(found.iteration_stats.average_utilization)
