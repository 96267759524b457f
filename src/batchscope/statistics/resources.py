"""Resources (GPUs, the process) of one cut, and of several engines together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from batchscope.aggregation.resources import ResourceAggregate, Series, Tokens
from batchscope.aggregation.state import State
from batchscope.errors import MergeError
from batchscope.rows import Floats
from batchscope.statistics.distributions import span_of, summarize
from batchscope.statistics.merge_parts import added, measured
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.statistics.summaries import EMPTY, DistributionSummary, EnergyStatistics, ResourceStatistics
from batchscope.statistics.totals import TokensByEngine, chosen, counted_once

T = TypeVar("T")


def resource_statistics(resources: ResourceAggregate, now: float, *, summarized: bool) -> dict[str, ResourceStatistics]:
    """Every quantity by name (``gpu.0.power_watts``); distributions only where asked for."""
    return {name: _statistics(series, now, summarized) for name, series in resources.series.items()}


def _statistics(series: Series, now: float, summarized: bool) -> ResourceStatistics:
    about = series.about
    return ResourceStatistics(
        resource=about.resource,
        device=about.device,
        quantity=about.quantity,
        unit=about.unit,
        last=series.last if series.growing or series.present(now) else math.nan,
        last_sampled_seconds_ago=series.age(now),
        summary=_summary(series.samples()) if summarized else EMPTY,
        identity=about.identity,
    )


def _summary(samples: Floats) -> DistributionSummary:
    return summarize(samples[:, 1], span_of(samples[:, 0])) if len(samples) else EMPTY


def energy_statistics(state: State, instance_id: str, engine: str) -> EnergyStatistics:
    """Energy and output tokens of one span, those of ``engine``."""
    resources = state.resources
    joules: dict[str, float] = {}
    for name, used in resources.energy().items():
        gpu = resources.series[name].about.identity or f"{instance_id}/{name}"
        joules[gpu] = max(used, joules.get(gpu, 0.0))
    tokens = resources.tokens()
    return _energy(joules, tokens, {engine: state.recent_tokens(tokens)})


def _energy(joules: dict[str, float], tokens: Tokens, by_engine: TokensByEngine) -> EnergyStatistics:
    total = math.fsum(joules.values()) if joules else math.nan
    generated = counted_once(by_engine)
    return EnergyStatistics(
        joules_by_gpu=joules,
        joules=total,
        tokens_of_iterations=tokens.of_iterations,
        tokens_of_requests=tokens.of_requests,
        tokens_by_engine=by_engine,
        joules_per_token=total / generated if generated > 0 else math.nan,
    )


def merge_energy(snapshots: Sequence[MetricsSnapshot]) -> EnergyStatistics:
    """Energy of all distinct GPUs over the tokens of all engines.

    A GPU that several processes sampled is known by its UUID and counts once, with the most that one of them saw.
    """
    found = [snapshot.energy_stats for snapshot in snapshots]
    gpus = dict.fromkeys(gpu for part in found for gpu in part.joules_by_gpu)
    joules = {
        gpu: max(measured(part.joules_by_gpu[gpu] for part in found if gpu in part.joules_by_gpu), default=0.0)
        for gpu in gpus
    }
    of_iterations = added(part.tokens_of_iterations for part in found)
    of_requests = added(part.tokens_of_requests for part in found)
    by_engine = chosen(added(part.tokens_by_engine for part in found))
    return _energy(joules, Tokens(of_iterations, of_requests), by_engine)


def merge_resources(snapshots: Sequence[MetricsSnapshot]) -> dict[str, ResourceStatistics]:
    """All resources, as ``instance_id/name``: a name does not depend on who else is merged."""
    return _by_owner([(snapshot, snapshot.resource_stats) for snapshot in snapshots])


def merge_facts(snapshots: Sequence[MetricsSnapshot]) -> dict[str, str]:
    """What could not be sampled, as ``instance_id/name``."""
    return _by_owner([(snapshot, snapshot.resource_facts) for snapshot in snapshots])


def _by_owner(tables: Sequence[tuple[MetricsSnapshot, dict[str, T]]]) -> dict[str, T]:
    resources: dict[str, T] = {}
    for snapshot, table in tables:
        prefix = "" if snapshot.merged_from or not snapshot.instance_id else f"{snapshot.instance_id}/"
        for name, found in table.items():
            if prefix + name in resources:
                raise MergeError(f"resource {prefix + name!r} comes twice: expected snapshots with an instance_id")
            resources[prefix + name] = found
    return resources
