"""Latencies to measure percentiles of: made up, and real ones of ``../shared/traces``."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SEED = 20_240_612
TRACES = Path(__file__).resolve().parents[3] / "shared" / "traces"


class Data(NamedTuple):
    """Seconds; ``kind`` is which of an engine's metrics they stand for: ttft, itl or e2e."""

    name: str
    kind: str
    values: npt.NDArray[np.float64]


def synthetic(n: int) -> Iterator[Data]:
    generator = np.random.default_rng(SEED)
    yield Data("lognormal", "itl", generator.lognormal(math.log(0.03), 0.6, n))
    yield Data("gamma", "ttft", generator.gamma(2.0, 0.2, n))
    slow = generator.random(n) < 0.03
    yield Data("bimodal", "itl", generator.normal(np.where(slow, 0.4, 0.025), np.where(slow, 0.03, 0.002)).clip(1e-4))
    yield Data("heavy tail", "e2e", 0.5 * (1 + generator.pareto(1.3, n)))


def traces(folder: Path, say: Callable[[str], None]) -> Iterator[Data]:
    """What is there; ``say`` is told what is not."""
    yield from _vidur(folder / "vidur_conv_sarathi", say)
    for pattern, read in (("vllm_burstgpt/detail_log_scale*.json", _burstgpt), ("llmperf/individual_*.json", _llmperf)):
        paths = sorted(folder.glob(pattern))
        if not paths:
            say(f"skipped: no {folder}/{pattern}")
        for path in paths:
            yield from read(path)


def _vidur(folder: Path, say: Callable[[str], None]) -> Iterator[Data]:
    """A real scheduler's event log in simulated time: TTFT, e2e and every gap between two tokens."""
    if not (folder / "requests.csv").exists():
        say(f"skipped: no {folder}/requests.csv")
        return
    rows = list(csv.DictReader((folder / "requests.csv").read_text(encoding="utf-8").splitlines()))
    for kind, end in (("ttft", "prefill_completed_at"), ("e2e", "completed_at")):
        yield Data(f"vidur {kind}", kind, np.array([float(row[end]) - float(row["arrived_at"]) for row in rows]))
    yield Data("vidur itl", "itl", _vidur_gaps(folder))


def _vidur_gaps(folder: Path) -> npt.NDArray[np.float64]:
    """A batch emits one token of each request whose prefill it found complete, when it completes."""
    with gzip.open(folder / "batches.csv.gz", "rt", encoding="utf-8", newline="") as file:
        ends = {row["batch_id"]: float(row["completed_at"]) for row in csv.DictReader(file)}
    last: dict[str, float] = {}
    gaps = []
    with gzip.open(folder / "batch_requests.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["prefill_complete"] != "1":
                continue
            request, end = row["request_id"], ends[row["batch_id"]]
            if request in last:
                gaps.append(end - last[request])
            last[request] = end
    return np.array(gaps)


def _burstgpt(path: Path) -> Iterator[Data]:
    """A real vLLM server, seen from its client."""
    records = json.loads(path.read_text(encoding="utf-8")).values()
    name = path.stem.removeprefix("detail_log_scale").removesuffix("_prompt500")
    yield _named(f"burstgpt {name}", "ttft", records, "first_chunk_time")
    yield _named(f"burstgpt {name}", "e2e", records, "total_chunk_time")


def _llmperf(path: Path) -> Iterator[Data]:
    """A hosted service, seen from its client; failed requests left out."""
    records = [record for record in json.loads(path.read_text(encoding="utf-8")) if record["error_code"] is None]
    name = path.stem.removeprefix("individual_")
    yield _named(name, "ttft", records, "ttft_s")
    yield _named(name, "e2e", records, "end_to_end_latency_s")


def _named(name: str, kind: str, records: Any, key: str) -> Data:
    return Data(f"{name} {kind}", kind, np.array([record[key] for record in records], dtype=np.float64))
