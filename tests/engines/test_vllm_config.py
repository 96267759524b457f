"""What a VllmConfig says, as far as it says it."""

from types import SimpleNamespace as Section

import pytest

from batchscope import SchedulerLimits
from batchscope.engines.vllm.config import front_end_of, labels_of, limits_of, max_model_len_of
from batchscope.engines.vllm.source import FrontEnd


def config(**sections):
    return Section(**{name: Section(**values) for name, values in sections.items()})


def test_limits_are_the_ones_that_bind_the_scheduler():
    plain = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}
    bound = plain | {"max_num_active_seqs": 64, "max_num_scheduled_tokens": 2048}
    unset = plain | {"max_num_active_seqs": None, "max_num_scheduled_tokens": None}
    for section, expected in ((plain, (256, 8192)), (unset, (256, 8192)), (bound, (64, 2048))):
        limits = limits_of(config(scheduler_config=section))
        assert (limits.max_running_requests, limits.max_scheduled_tokens) == expected


def test_blocks_are_one_ranks_though_vllm_adds_them_up():
    assert limits_of(config(cache_config={"num_gpu_blocks": 1000}), ranks=4).kv_cache_blocks == 250
    assert limits_of(config(cache_config={"block_size": 32})).kv_block_size == 32


@pytest.mark.parametrize("nonsense", [None, 0, -1, "many", True, 1.5])
def test_what_is_no_limit_is_none(nonsense):
    section = {"max_num_seqs": nonsense, "max_num_batched_tokens": nonsense}
    assert limits_of(config(scheduler_config=section, cache_config={"num_gpu_blocks": nonsense})) == SchedulerLimits()


@pytest.mark.parametrize(
    ("name", "labels"),
    [("tiny", {"model_name": "tiny"}), (["tiny", "alias"], {"model_name": "tiny"}), ([], {}), (None, {}), (7, {})],
)
def test_the_label_is_the_name_under_which_the_model_is_served(name, labels):
    assert labels_of(config(model_config={"served_model_name": name})) == labels


def test_a_front_end_knows_how_many_there_are():
    assert front_end_of(config(parallel_config={"_api_process_rank": 2, "_api_process_count": 4})) == FrontEnd(2, 4)
    assert front_end_of(config(parallel_config={"_api_process_rank": -1})) == FrontEnd(0, 1)


def test_of_a_configuration_that_says_nothing_nothing_is_known():
    empty = Section()
    assert limits_of(empty) == SchedulerLimits()
    assert (labels_of(empty), max_model_len_of(empty), front_end_of(empty)) == ({}, None, FrontEnd(0, 1))
