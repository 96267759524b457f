"""What is kept of an engine's settings holds no path, address, prompt or secret."""

from enum import Enum
from types import SimpleNamespace

from batchscope.engines.settings import plain_settings
from batchscope.engines.vllm.config import configuration_of


class Policy(Enum):
    FCFS = "fcfs"


def test_numbers_switches_and_the_names_asked_for_are_kept():
    section = SimpleNamespace(
        max_num_seqs=8, watermark=0.25, enable_prefix_caching=True, policy=Policy.FCFS, dtype="torch.bfloat16"
    )
    assert plain_settings(section, ("policy", "dtype")) == {
        "max_num_seqs": 8, "watermark": 0.25, "enable_prefix_caching": True, "policy": "fcfs", "dtype": "bfloat16",
    }  # fmt: skip


def test_what_may_be_private_is_not():
    section = SimpleNamespace(
        model="/home/someone/model", hf_token="hf_secret", api_key="key", download_dir="/data", policy="/etc/passwd",
        master_addr="10.0.0.1", master_port=29500, data_parallel_rpc_port=1, _api_process_rank=0, prompt="Hello",
        dtype="float16 of someone", inner=SimpleNamespace(secret=1), numbers=[1, 2], ratio=float("nan"),
    )  # fmt: skip
    assert plain_settings(section, ("policy", "dtype")) == {}
    assert plain_settings(None, ()) == plain_settings(3, ()) == {}


def test_vllms_configuration_is_kept_by_section():
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=8, policy="fcfs"),
        cache_config=SimpleNamespace(num_gpu_blocks=24, block_size=16, cache_dtype="auto"),
        model_config=SimpleNamespace(served_model_name="tiny", tokenizer="/somewhere", max_model_len=512),
        kv_transfer_config=None,
    )
    assert configuration_of(config) == {
        "scheduler_config": {"max_num_seqs": 8, "policy": "fcfs"},
        "cache_config": {"num_gpu_blocks": 24, "block_size": 16, "cache_dtype": "auto"},
        "model_config": {"max_model_len": 512},
    }
