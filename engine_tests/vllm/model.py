"""A model small enough for any machine: a byte-level tokenizer and a configuration; vLLM makes up the weights.

Not the smallest: a step has to take some milliseconds, or the server's event loop is never idle on a busy machine
and hears of a client that went away only when its answer is complete.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
VOCABULARY = 512


def write_model(directory: Path) -> None:
    """Write config.json and the tokenizer to ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    names = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet())
    names += [f"<extra_{number}>" for number in range(len(names), VOCABULARY)]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))  # noqa: S106  (not a password)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
            "pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": 2048,
        })
    )  # fmt: skip
    (directory / "config.json").write_text(
        json.dumps({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY,
            "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
            "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 2048, "hidden_act": "silu",
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True, "bos_token_id": 1,
            "eos_token_id": 2, "pad_token_id": 0, "torch_dtype": "bfloat16",
        })
    )  # fmt: skip
