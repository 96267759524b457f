"""What SGLang's settings say: limits of one rank, role, label, endpoint."""

from types import SimpleNamespace

import pytest

from batchscope import SchedulerLimits
from batchscope.engines.sglang.config import endpoint_of, labels_of, limits_of, role_of


def settings(**values):
    return SimpleNamespace(**values)


def test_limits_are_those_of_a_prefill_batch_and_of_the_places():
    found = limits_of(settings(max_running_requests=32, chunked_prefill_size=2048, max_prefill_tokens=16384), 500)
    assert found == SchedulerLimits(32, 2048, 500)
    assert limits_of(settings(page_size=64), 500) == SchedulerLimits(kv_cache_blocks=500, kv_block_size=64)


@pytest.mark.parametrize("chunk", [-1, None])
def test_without_chunks_the_token_budget_is_that_of_all_prefill(chunk):
    assert limits_of(settings(chunked_prefill_size=chunk, max_prefill_tokens=16384)).max_scheduled_tokens == 16384


def test_places_are_shared_by_the_ranks_of_data_parallel_attention():
    assert limits_of(settings(max_running_requests=33, dp_size=4)).max_running_requests == 33
    shared = settings(max_running_requests=33, dp_size=4, enable_dp_attention=True)
    assert limits_of(shared).max_running_requests == 8


@pytest.mark.parametrize("value", [None, 0, -5, "64", True, 2.5])
def test_what_is_no_count_is_no_limit(value):
    assert limits_of(settings(max_running_requests=value, max_prefill_tokens=value), value) == SchedulerLimits()


@pytest.mark.parametrize(
    ("mode", "role"), [("null", "unified"), ("prefill", "prefill"), ("decode", "decode"), (None, "unified")]
)
def test_the_role_is_that_of_the_disaggregated_half(mode, role):
    assert role_of(settings(disaggregation_mode=mode)) == role


def test_the_model_names_the_series():
    assert labels_of({"model_name": "tiny", "tp_rank": 0}) == {"model_name": "tiny"}
    assert labels_of({"model_name": None}) == labels_of(None) == {}


@pytest.mark.parametrize(
    ("values", "labels", "found"),
    [
        ({}, {}, (False, None)),
        ({"forward_pass_metrics_ipc_name": "ipc://x"}, {}, (False, None)),
        ({"enable_forward_pass_metrics": True, "forward_pass_metrics_ipc_name": None}, {}, (True, None)),
        ({"enable_forward_pass_metrics": True, "forward_pass_metrics_ipc_name": "ipc://x"}, {}, (True, "ipc://x.0")),
        (
            {"enable_forward_pass_metrics": True, "forward_pass_metrics_ipc_name": "ipc://x"},
            {"dp_rank": 3},
            (True, "ipc://x.3"),
        ),
    ],
)
def test_a_ranks_endpoint_is_the_base_name_and_its_number(values, labels, found):
    assert endpoint_of(settings(**values), labels) == found
