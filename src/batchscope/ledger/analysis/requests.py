"""Figures of finished requests: counts, tokens, latencies of the completed ones, SLO attainment."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Any

from batchscope.aggregation.request_histograms import AT_FINISH, AT_START
from batchscope.aggregation.slo import FAILED_TARGET, SloResult
from batchscope.configuration import SloTargets
from batchscope.ledger.analysis.tables import Table, import_ibis
from batchscope.records import CompletionReason, Outcome

LATENCIES = (*AT_START, *AT_FINISH)
"""Of completed requests; each is a column."""
MEANS = {"tokens_per_request": "tokens_generated", "processing_time": "processing_time", "queue_time": "queue_time"}
"""Means of completed requests by the snapshot's name for them, and their columns."""


def ended(table: Table, outcome: Outcome) -> Any:
    """Whether a request ended so."""
    return table.reason.isin([reason.value for reason in CompletionReason if reason.outcome is outcome])


def completed(requests: Table) -> Table:
    """Those whose latencies are told."""
    return requests.filter(ended(requests, Outcome.COMPLETED))


def by_reason(requests: Table) -> Table:
    """``reason`` and ``n``."""
    return requests.group_by("reason").agg(n=requests.count())


def sums(requests: Table) -> Table:
    """One row: tokens, and of prompts what was computed and what came from a cache; null where nobody said.

    Prompts count where the prefill ended: a request that left before had none computed. ``unclaimed_prompts`` are of
    requests that do not say what the cache supplied: iterations may.
    """
    ibis = import_ibis()
    t = requests
    prefilled = (t.tokens_generated > 0) | t.first_token_at.notnull()
    prompt = ibis.ifelse(prefilled, ibis.coalesce(t.prompt_tokens, 0), 0)
    cached = ibis.least(ibis.ifelse(prefilled, ibis.coalesce(t.cached_tokens, 0), 0), prompt)
    return t.agg(
        tokens_generated=t.tokens_generated.sum(),
        prompt_tokens=prompt.sum(),
        prompts_said=t.prompt_tokens.count(),
        cached_tokens=cached.sum(),
        cached_said=t.cached_tokens.count(),
        unclaimed_prompts=ibis.ifelse(t.cached_tokens.isnull(), prompt, 0).sum(),
        recomputed_tokens=t.recomputed_tokens.sum(),
    )


def means(requests: Table) -> Table:
    """One row: of each of ``MEANS`` the sum and the count, of completed requests; and the span of their instants."""
    t = completed(requests)
    parts = {f"{name}_sum": t[column].sum() for name, column in MEANS.items()}
    parts |= {f"{name}_count": t[column].count() for name, column in MEANS.items()}
    return t.agg(first_at=t.at.min(), last_at=t.at.max(), **parts)


def judged(requests: Table, slo: Mapping[str, SloTargets]) -> Table:
    """Each request with ``missed_TARGET`` and ``missed_failed``, and its ``result``: an ``SloResult``'s name.

    As ``aggregation.slo.evaluate``: all targets by the same request; TPOT with fewer than two tokens passes; of a
    cancelled one counts, too, how long it had waited when it gave up.
    """
    ibis = import_ibis()
    t = requests
    failed, cancelled = ended(t, Outcome.FAILED), ended(t, Outcome.CANCELLED)
    targets = [name for name in SloTargets.__struct_fields__ if any(name in one.declared for one in slo.values())]
    quantities = {name: _quantity(name, t, cancelled) for name in targets}
    limits = {name: _limit(name, t, slo) for name in targets}
    missed = {name: ibis.coalesce((quantities[name] > limits[name]) & ~failed, ibis.literal(False)) for name in targets}
    missed[FAILED_TARGET] = failed
    unmeasured = [limits[name].notnull() & quantities[name].isnull() for name in targets]
    declared = t.request_class.isin([name for name, one in slo.items() if one.declared])
    result = ibis.cases(
        (~declared, SloResult.NOT_EVALUATED.name),
        (reduce(or_, missed.values()), SloResult.MISSED.name),
        (cancelled, SloResult.NOT_EVALUATED.name),
        (reduce(or_, unmeasured, ibis.literal(False)), SloResult.UNMEASURED.name),
        else_=SloResult.MET.name,
    )
    return t.mutate(result=result, **{f"missed_{name}": value for name, value in missed.items()})


def attainment(requests: Table, slo: Mapping[str, SloTargets]) -> Table:
    """By ``request_class``: how many requests had each result, and missed each target."""
    t = judged(requests, slo)
    results = {result.name.lower(): (t.result == result.name).sum() for result in SloResult}
    missed = {name: t[name].sum() for name in t.columns if name.startswith("missed_")}
    return t.group_by("request_class").agg(**results, **missed)


def _limit(target: str, table: Table, slo: Mapping[str, SloTargets]) -> Any:
    """The target of a request's class; null where it has none."""
    ibis = import_ibis()
    declared = [
        (table.request_class == name, one.declared[target]) for name, one in slo.items() if target in one.declared
    ]
    return ibis.cases(*declared, else_=ibis.null("float64"))


def _quantity(target: str, table: Table, cancelled: Any) -> Any:
    """What a target is compared with; null where it was not measured."""
    ibis = import_ibis()
    t = table
    if target == "time_per_output_token":
        return ibis.ifelse(t.tokens_generated < 2, 0.0, t.time_per_output_token)
    if target == "e2e_latency":
        return t.total_time
    if target == "time_to_first_token":
        return ibis.ifelse(cancelled & t.time_to_first_token.isnull(), t.total_time, t.time_to_first_token)
    few = (t.tokens_generated < 2) | ibis.coalesce(t.decode_time == 0, ibis.literal(False))
    gap = ibis.ifelse(few & t.max_emission_gap.isnull(), 0.0, t.max_emission_gap)
    stalled = t.finished_at - t.last_token_at
    return ibis.ifelse(cancelled, ibis.greatest(ibis.coalesce(gap, stalled), ibis.coalesce(stalled, gap)), gap)
