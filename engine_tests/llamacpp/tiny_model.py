"""A llama of two layers with random weights, as a GGUF file: it talks nonsense at the speed of a real engine's loop."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

VOCABULARY = 512
WIDTH, INNER, LAYERS, HEADS, KEY_HEADS = 64, 128, 2, 4, 2
CONTEXT = 2048
FIRST_WORD, LAST_WORD = 4, 259
"""The tokens that stand for bytes: what a prompt may be made of."""
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_NORMAL, _CONTROL = 1, 3
_SCALE = 0.1


def write_model(path: Path, seed: int = 0) -> None:
    """The file at ``path``, the same for the same seed."""
    writer = gguf.GGUFWriter(str(path), "llama")
    _describe(writer)
    _add_vocabulary(writer)
    _add_weights(writer, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter) -> None:
    writer.add_name("tiny")
    writer.add_file_type(0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    words = [*_byte_characters(), "ĠĠ"]
    fillers = [f"<extra_{index}>" for index in range(VOCABULARY - len(_SPECIAL) - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*_SPECIAL, *words, *fillers])
    writer.add_token_types([_CONTROL] * len(_SPECIAL) + [_NORMAL] * len(words) + [_CONTROL] * len(fillers))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte: itself where it prints, else a character from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (byte for byte in range(256) if byte not in printable)
    stand_in = {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [stand_in.get(byte, chr(byte)) for byte in (*sorted(printable), *sorted(stand_in))]


def _add_weights(writer: gguf.GGUFWriter, random: np.random.Generator) -> None:
    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, (random.standard_normal((rows, columns)) * _SCALE).astype(np.float32))

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(WIDTH, np.float32))

    keys = WIDTH * KEY_HEADS // HEADS
    matrix("token_embd.weight", VOCABULARY, WIDTH)
    matrix("output.weight", VOCABULARY, WIDTH)
    ones("output_norm.weight")
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        ones(f"{prefix}attn_norm.weight")
        ones(f"{prefix}ffn_norm.weight")
        for name, rows, columns in (
            ("attn_q", WIDTH, WIDTH), ("attn_k", keys, WIDTH), ("attn_v", keys, WIDTH), ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", INNER, WIDTH), ("ffn_up", INNER, WIDTH), ("ffn_down", WIDTH, INNER),
        ):  # fmt: skip
            matrix(f"{prefix}{name}.weight", rows, columns)
