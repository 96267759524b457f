"""Which prompts of a run begin alike: ``prefixes.parquet``, beside its tables where somebody knows it.

One row a request that is listed: ``request`` (as in requests) and ``blocks``, the names of its prompt's full blocks,
from its start. Equal names are equal content behind equal content: what a prefix cache could have kept. The file's
metadata say how many tokens a block has (``block_tokens``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batchscope.errors import DecodeError

NAME = "prefixes.parquet"
_SCHEMA = pa.schema(
    [
        pa.field(
            "request",
            pa.int64(),
            metadata={"unit": "number", "meaning": "the request's own in this run, as in requests"},
        ),
        pa.field(
            "blocks", pa.list_(pa.int64()), metadata={"meaning": "names of its prompt's full blocks, from its start"}
        ),
    ]
)


class Prefixes(NamedTuple):
    """``blocks`` by the request's number; each stands for ``block_tokens`` tokens."""

    block_tokens: int
    blocks: dict[int, tuple[int, ...]]


def write_prefixes(folder: Path, block_tokens: int, requests: pa.Table, by_id: Mapping[str, list[int]]) -> None:
    """Write those of the run in ``folder`` whose ``requests`` are given; ``by_id``: blocks by request id."""
    numbers, ids = requests["request"].to_pylist(), requests["request_id"].to_pylist()
    known = [(number, by_id[name]) for number, name in zip(numbers, ids, strict=True) if name in by_id]
    schema = _SCHEMA.with_metadata({"block_tokens": str(block_tokens)})
    columns = [
        pa.array([row[0] for row in known], pa.int64()),
        pa.array([row[1] for row in known], pa.list_(pa.int64())),
    ]
    written = folder / f".{NAME}.tmp"
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), written, compression="zstd")
    written.replace(folder / NAME)


def read_prefixes(folder: Path) -> Prefixes:
    """Those of the run in ``folder``; none where nobody wrote any. DecodeError for a file that is none of ours."""
    path = folder / NAME
    if not path.exists():
        return Prefixes(0, {})
    try:
        table = pq.read_table(path)
        block_tokens = int((table.schema.metadata or {})[b"block_tokens"])
        numbers, blocks = table["request"].to_pylist(), table["blocks"].to_pylist()
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        raise DecodeError(f"{path}: no prefixes of a run ({error})") from error
    return Prefixes(block_tokens, {number: tuple(names) for number, names in zip(numbers, blocks, strict=True)})
