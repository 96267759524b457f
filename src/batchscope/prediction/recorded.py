"""A recorded run as a fit reads it; what it lacks for a prediction is said in one line."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from batchscope.configuration import SchedulerLimits
from batchscope.engines.forward_pass import is_forward_pass
from batchscope.ledger import Run, open_run
from batchscope.ledger.instants import instant_to_time
from batchscope.ledger.prefixes import read_prefixes
from batchscope.ledger.schema import Table
from batchscope.prediction.figures import RequestInstants
from batchscope.prediction.observed import NEVER_BINDING, Gone, IterationsSeen, NotEnoughError, Observed
from batchscope.prediction.timeline import contexts_of, floats, instants_of
from batchscope.records import CompletionReason, Outcome
from batchscope.simulator import RequestSpec, SchedulerOptions

Floats = npt.NDArray[np.float64]

MOST_KNOWN = 0.9
"""Of the iterations: with less of them, requests alone say more."""
LONG_AGO = dt.datetime(1971, 1, 1, tzinfo=dt.UTC)
"""Runs whose clock nobody related to the one on the wall begin before it."""
POLICY_OF_ENGINE = {"vllm": "vllm", "sglang": "sglang", "transformers": "transformers"}


def read_observed(path: Path, iterations: Path | None = None, **settings: Any) -> Observed:
    """``observed_run`` of the runs at these paths, each a folder or a root that has just one."""
    return observed_run(open_run(path), None if iterations is None else open_run(iterations), **settings)


def observed_run(run: Run, iterations: Run | None = None, **settings: Any) -> Observed:
    """What ``run`` says; ``settings`` stand for those of ``SchedulerOptions`` that it does not know.

    ``iterations``: the run that has the same engine's, recorded meanwhile in another process. NotEnoughError: lengths
    were not recorded, settings changed half-way, several replicas, rows are missing, or the KV cache is smaller than
    what was served from it.
    """
    _check_whole(run)
    if iterations is not None:
        _check_whole(iterations)
    table = run.requests()
    columns = {name: floats(table, name) for name in _COLUMNS} | instants_of(table, run.iterations())
    usable = _usable(run, columns)
    classes, gave_up = table["request_class"].to_pylist(), _given_up(table["reason"].to_pylist())
    order = usable[np.lexsort((columns["request"][usable], columns["arrived_at"][usable]))]
    unserved = np.setdiff1d(np.arange(len(classes)), order)
    unserved_at = columns["arrived_at"][unserved]
    columns = {name: values[order] for name, values in columns.items()}
    origin = columns["arrived_at"][0] if len(order) else 0.0
    preemptions = columns["preemptions"]
    counted = None if np.isnan(preemptions).all() else int(np.nansum(preemptions))
    prefixes = read_prefixes(run.path)
    options, assumed = _options(run, counted, prefixes.block_tokens, settings)
    priorities = priorities_of(run)
    ran = run if iterations is None else iterations
    moved, apart = (0.0, ()) if iterations is None else _moved(run, iterations, columns)
    blocks = [prefixes.blocks.get(int(number), ()) for number in columns["request"]]
    workload = tuple(_specs(columns, origin, blocks, options, [classes[index] for index in order], priorities))
    _check_cache(run, workload, options)
    return Observed(
        name=run.path.name,
        engine=f"{run.header.engine.kind} {run.header.engine.version}".strip(),
        workload=workload,
        instants=RequestInstants(
            arrived=columns["arrived_at"] - origin,
            first_scheduled=columns["first_scheduled_at"] - origin,
            first_token=columns["first_token_at"] - origin,
            last_token=columns["last_token_at"] - origin,
            output_tokens=columns["tokens_generated"],
            max_emission_gap=None if np.isnan(gaps := columns["max_emission_gap"]).all() else gaps,
        ),
        options=options,
        preemptions=counted,
        iterations=_iterations(ran, origin - moved, columns if iterations is None else None),
        assumed=(*assumed, *_not_told(run, len(set(classes)) if not priorities else 0), *apart),
        left_out=len(unserved),
        limited_by=_limited_by(run),
        slo=dict(run.header.slo),
        forward_passes=_of_forward_passes(ran),
        gone=Gone(
            given_up=gave_up[order],
            unserved=tuple(
                (max(0.0, float(at - origin)), classes[index])
                for at, index in zip(unserved_at, unserved, strict=True)
                if not math.isnan(at)
            ),
        ),
    )


_COLUMNS = (
    "request", "tokens_generated", "prompt_tokens", "cached_tokens", "preemptions", "max_emission_gap",
)  # fmt: skip


def _check_whole(run: Run) -> None:
    if run.problems:
        raise NotEnoughError(f"{run.path}: {run.problems[0]}: a prediction needs every request of its time")
    limits = {header.limits for header in run.headers}
    if len(limits) > 1:
        raise NotEnoughError(
            f"{run.path}: the settings changed half-way ({len(limits)} kinds of limits): record a run under one of them"
        )
    unneeded = {Table.ITERATIONS.value} if _of_forward_passes(run) else set()  # each tells its own work and time
    gaps = int(sum(count or 0 for kind, of, count in _events(run) if kind == "gap" and of not in unneeded))
    if gaps:
        raise NotEnoughError(f"{run.path}: {gaps} rows were lost while it was recorded: record it again")
    ranks = {rank for rank in run.iterations()["rank"].to_pylist() if rank is not None}
    if len(ranks) > 1:
        raise NotEnoughError(f"{run.path}: {len(ranks)} replicas in one run: what is predicted is one engine's")


def _events(run: Run) -> Iterator[tuple[str, str, int]]:
    table = run.events()
    return zip(*(table[name].to_pylist() for name in ("kind", "name", "count")), strict=True)


def _of_forward_passes(run: Run) -> bool:
    return any(is_forward_pass(header.definitions) for header in run.headers)


def _moved(run: Run, iterations: Run, columns: dict[str, Floats]) -> tuple[float, tuple[str, ...]]:
    """How far the clock of ``run`` is before that of its ``iterations``, and what is assumed of it."""
    ended = floats(iterations.iterations(), "finished_at")
    if not len(ended):
        raise NotEnoughError(f"{iterations.path}: no iteration in it: expected the run that has them")
    first, last = (float(np.nanmin(columns["arrived_at"])), float(np.nanmax(columns["last_token_at"])))
    headers = (run.header, iterations.header)
    if any(header.anchor_time < LONG_AGO for header in headers):
        told = f"when {iterations.path.name} was is not known beside {run.path.name}: taken as of the same time"
        return float(first - ended.min()), (told,)
    here, there = (header.anchor_time.timestamp() - header.anchor_instant for header in headers)
    moved = there - here
    if ended.max() + moved < first or ended.min() + moved > last:
        times = [instant_to_time(header, at) for header, at in zip(headers, (first, float(ended.min())), strict=True)]
        raise NotEnoughError(
            f"{iterations.path}: its iterations begin at {times[1]:%Y-%m-%d %H:%M:%S}, the requests of {run.path} at "
            f"{times[0]:%Y-%m-%d %H:%M:%S}, and they do not overlap: expected the same engine's, of the same time"
        )
    return moved, ()


def _given_up(reasons: list[str | None]) -> npt.NDArray[np.bool_]:
    """Whose request did not end with its answer."""
    completed = {reason.value for reason in CompletionReason if reason.outcome is Outcome.COMPLETED}
    return np.array([reason is not None and reason not in completed for reason in reasons], np.bool_)


def _usable(run: Run, columns: dict[str, Floats]) -> npt.NDArray[np.int64]:
    """The requests that had a place and emitted; lengths have to be known of all of them."""
    served = (
        ~np.isnan(columns["arrived_at"]) & ~np.isnan(columns["last_token_at"]) & ~np.isnan(columns["first_token_at"])
    )
    lengths = (columns["prompt_tokens"] > 0) & (columns["tokens_generated"] > 0)
    if served.any() and not lengths[served].all():
        without = int((served & ~lengths).sum())
        raise NotEnoughError(
            f"{run.path}: {without} of {int(served.sum())} requests have no lengths (prompt_tokens, tokens_generated): "
            "record them, or import a log that has them"
        )
    return np.flatnonzero(served & lengths)


def _specs(
    columns: dict[str, Floats],
    origin: float,
    blocks: list[tuple[int, ...]],
    options: SchedulerOptions,
    classes: list[str | None],
    priorities: dict[str, int],
) -> list[RequestSpec]:
    specs = []
    for index, names in enumerate(blocks):
        prompt = int(columns["prompt_tokens"][index])
        cached = columns["cached_tokens"][index]
        known = names[: prompt // options.hash_block_tokens]
        specs.append(
            RequestSpec(
                index,
                float(columns["arrived_at"][index] - origin),
                prompt,
                int(columns["tokens_generated"][index]),
                known,
                classes[index],
                priority=priorities.get(classes[index] or "", 0),
                cached_tokens=0 if known or math.isnan(cached) else min(int(cached), prompt - 1),
            )
        )
    return specs


def _check_cache(run: Run, workload: Sequence[RequestSpec], options: SchedulerOptions) -> None:
    """What was served had room: a cache in which it has none is not the one that the run had."""
    had = options.usable_blocks * options.block_size
    larger = [spec.longest_context for spec in workload if spec.longest_context > had]
    if larger:
        raise NotEnoughError(
            f"{run.path}: {len(larger)} of {len(workload)} requests that it served are larger than its KV cache of "
            f"{had:,} tokens (kv_cache_blocks = {options.kv_cache_blocks}, block_size = {options.block_size}), the "
            f"largest {max(larger):,}: name the right size with --kv-cache-blocks of replay, --assume "
            "kv_cache_blocks=N of fit and whatif"
        )


def priorities_of(run: Run) -> dict[str, int]:
    """Of request classes, the larger first, where its configuration says them."""
    told = run.document.configuration.get("priorities")
    if not isinstance(told, dict):
        return {}
    return {name: value for name, value in told.items() if isinstance(value, int)}


def _not_told(run: Run, classes_alike: int) -> Iterator[str]:
    """What of its requests a run does not tell; ``classes_alike``: classes whose priorities are not known."""
    if classes_alike > 1:
        yield f"priorities of {classes_alike} classes are not recorded: first come, first served"
    if run.document.in_flight:
        yield (
            f"requests that had not ended when the run did: {run.document.in_flight:,} are left out, and with them "
            "what they took of the engine"
        )


def _options(
    run: Run, preemptions: int | None, prefix_block: int, settings: dict[str, Any]
) -> tuple[SchedulerOptions, tuple[str, ...]]:
    """The recorded settings, what is not recorded as it never binds, and which those are."""
    limits: SchedulerLimits = run.header.limits
    assumed: list[str] = []
    policy = (
        settings.get("policy")
        or run.document.configuration.get("policy")
        or POLICY_OF_ENGINE.get(run.header.engine.kind.lower())
    )
    if policy is None:
        policy = "sarathi"
        assumed.append(
            f"the policy of {run.header.engine.kind or 'this engine'} is not known: sarathi (name it with "
            "--policy of replay, --assume policy=... of fit and whatif)"
        )
    block = settings.get("block_size") or limits.kv_block_size or (1 if policy == "sglang" else 16)
    known: dict[str, Any] = {
        "policy": policy,
        "max_running_requests": limits.max_running_requests,
        "max_scheduled_tokens": limits.max_scheduled_tokens,
        "kv_cache_blocks": limits.kv_cache_blocks,
        "block_size": block,
        "hash_block_tokens": prefix_block or block * max(1, 16 // block),
        "prefix_caching": _prefix_caching(run),
    }
    known |= settings
    if known["kv_cache_blocks"] is None and preemptions:
        raise NotEnoughError(
            f"{run.path}: {preemptions} preemptions, but the size of the KV cache is not recorded: "
            "name it with --kv-cache-blocks of replay, --assume kv_cache_blocks=N of fit and whatif"
        )
    return _complete(known, assumed)


def _prefix_caching(run: Run) -> bool:
    """Whether blocks are found again, where its configuration says it: in our words, or in vLLM's."""
    told = run.document.configuration
    cache = told.get("cache_config")
    theirs = cache.get("enable_prefix_caching") if isinstance(cache, dict) else None
    return told.get("prefix_caching", theirs) is not False


def _complete(known: dict[str, Any], assumed: list[str]) -> tuple[SchedulerOptions, tuple[str, ...]]:
    if known["kv_cache_blocks"] is None:
        known["kv_cache_blocks"] = NEVER_BINDING
        assumed.append("kv_cache_blocks is not known: taken as never binding")
    if known["max_running_requests"] is None:
        known["max_running_requests"] = NEVER_BINDING
        assumed.append("max_running_requests is not known: taken as never binding")
    if known["max_scheduled_tokens"] is None:
        known["max_scheduled_tokens"] = 2048
        assumed.append("max_scheduled_tokens is not known: 2,048 is assumed")
    if known["max_scheduled_tokens"] < known["max_running_requests"] == NEVER_BINDING:
        known["max_running_requests"] = known["max_scheduled_tokens"]
    return SchedulerOptions(**known), tuple(assumed)


def _limited_by(run: Run) -> dict[str, float]:
    """Shares of busy time; empty where nobody said what limited the batch."""
    table = run.iterations()
    busy = np.nan_to_num(floats(table, "busy_time"))
    causes = [cause or "unknown" for cause in table["limited_by"].to_pylist()]
    seconds: dict[str, float] = {}
    for cause, spent in zip(causes, busy.tolist(), strict=True):
        seconds[cause] = seconds.get(cause, 0.0) + spent
    whole = sum(seconds.values())
    return {cause: spent / whole for cause, spent in sorted(seconds.items())} if whole else {}


def _iterations(run: Run, origin: float, requests: dict[str, Floats] | None) -> IterationsSeen | None:
    """Where what each computed is known, and how long it took; ``None`` otherwise."""
    table = run.iterations()
    prefill, decoding, context = (
        floats(table, name) for name in ("prefill_tokens", "decode_tokens", "decode_context_tokens")
    )
    started, finished = floats(table, "started_at"), floats(table, "finished_at")
    if requests is not None and np.isnan(context).all():
        context = contexts_of(finished, decoding, requests)
    known = ~np.isnan(prefill + decoding + context + started + finished)
    if not len(known) or known.mean() < MOST_KNOWN:
        return None
    took = finished - started
    if not _of_forward_passes(run):
        took = _seconds(started, finished, floats(table, "running_requests"), floats(table, "requests_completed"))
    seen = IterationsSeen(finished - origin, took, prefill, decoding, context)
    return seen.where(known & (took > 0))


def _seconds(started: Floats, finished: Floats, running: Floats, completed: Floats) -> Floats:
    """From the end of the one before, where that left somebody running: what lies between is the engine's, too."""
    before = np.concatenate([[-math.inf], finished[:-1]])
    went_on = np.concatenate([[False], (running - np.nan_to_num(completed))[:-1] > 0])
    return finished - np.where(went_on, before, np.maximum(started, before))
