"""What a file is, by what stands in it, never by its name."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from batchscope.errors import WorkloadError
from batchscope.simulator.trace_lines import BadRowError, is_packed, read_lines
from batchscope.text import quoted


class Content(Enum):
    """Kinds of files; the value says what one is, in words."""

    FORWARD_PASSES = "a dynamo.fpm.trace.v1 trace"
    BENCHMARK = "a result of a serving benchmark with its details"
    BENCHMARK_SUMMARY = "a result of a serving benchmark without its details"
    VLLM_REQUESTS = "requests of vLLM with their instants"
    VLLM_SETTINGS = "the settings of a vLLM run"
    VIDUR_REQUESTS = "requests of vidur with their instants"
    VIDUR_BATCHES = "batches of vidur with their instants"
    VIDUR_MEMBERS = "which request was in which batch of vidur"
    VIDUR_REQUEST_METRICS = "vidur's request_metrics.csv"
    VIDUR_BATCH_METRICS = "vidur's batch_metrics.csv"


FORWARD_PASS_SCHEMA = "dynamo.fpm.trace.v1"  # noqa: S105
LARGEST_DOCUMENT = 1 << 30
"""Bytes of one JSON document: a benchmark of some 100,000 requests."""

_KEYS = {
    Content.VLLM_REQUESTS: {"request_id", "input_toks", "output_toks", "queued_ts", "first_token_ts", "last_token_ts"},
    Content.VLLM_SETTINGS: {"vllm_version", "engine_kwargs"},
    Content.BENCHMARK: {"input_lens", "output_lens", "ttfts", "itls"},
    Content.BENCHMARK_SUMMARY: {"request_throughput", "completed"},
}
_COLUMNS = {
    Content.VIDUR_REQUESTS: {"request_id", "arrived_at", "scheduled_at", "prefill_completed_at", "completed_at"},
    Content.VIDUR_MEMBERS: {"batch_id", "request_id", "num_tokens", "prefill_complete"},
    Content.VIDUR_BATCHES: {"batch_id", "scheduled_at", "completed_at", "size", "num_prefill_tokens"},
    Content.VIDUR_REQUEST_METRICS: {"Request Id", "request_e2e_time", "prefill_e2e_time", "request_scheduling_delay"},
    Content.VIDUR_BATCH_METRICS: {"Batch Id", "batch_execution_time"},
}


def content_of(path: Path) -> Content:
    """What the file is; ``WorkloadError`` for anything that is not known here."""
    text = _first_line(path)
    names = _names(text, path)
    if names is None:
        raise WorkloadError(f"{path}: begins with {quoted(text)}: expected {_expected()}")
    if "event" in names or "fpm" in names:
        return Content.FORWARD_PASSES
    for content, required in {**_KEYS, **_COLUMNS}.items():
        if required <= names:
            return content
    shown = ", ".join(map(quoted, sorted(names)[:8]))
    if not names:
        raise WorkloadError(f"{path}: is an empty object: expected {_expected()}")
    raise WorkloadError(f"{path}: has {shown}{', ...' if len(names) > 8 else ''}: expected {_expected()}")


def _expected() -> str:
    return "one of: " + "; ".join(content.value for content in Content if content is not Content.BENCHMARK_SUMMARY)


def _first_line(path: Path) -> str:
    try:
        for line in read_lines(path):
            return line.text
    except BadRowError:  # one long line: a document
        return "{"
    raise WorkloadError(f"{path}: the file is empty, expected {_expected()}")


def _names(first_line: str, path: Path) -> set[str] | None:
    """The keys of the first object, or the columns of the header; ``None``: it is neither."""
    if first_line.startswith("{"):
        try:
            return set(msgspec.json.decode(first_line, type=dict[str, msgspec.Raw]))
        except (msgspec.MsgspecError, UnicodeError):
            return set(document(path))
    try:
        columns = {cell.strip() for cell in next(csv.reader([first_line], strict=True))}
    except csv.Error:
        return None
    return columns if len(columns) > 1 else None


def document(path: Path) -> dict[str, Any]:
    """A file that is one JSON object; ``WorkloadError`` where it is not."""
    try:
        with gzip.open(path) if is_packed(path) else path.open("rb") as file:
            text = file.read(LARGEST_DOCUMENT + 1)
        if len(text) > LARGEST_DOCUMENT:
            raise WorkloadError(f"{path}: larger than {LARGEST_DOCUMENT >> 20} MiB, expected one JSON document")
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise WorkloadError(f"{path}: not JSON ({error}{_there(error, text)}), expected {_expected()}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise WorkloadError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _there(error: Exception, text: bytes) -> str:
    """What stands at the byte that the error names."""
    place = re.search(r"byte (\d+)", str(error))
    return f": {quoted(text[int(place[1]) :][:20].decode(errors='replace'))}" if place else ""
