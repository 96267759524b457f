"""Time between tokens, of every token of a run, from its spans: no token is looked at by itself.

A request that decodes in each of n iterations running is one span, and its n - 1 gaps are those between the ends of
these iterations, which all requests share that decode in both. So they are counted an iteration each, with how many
requests had them; only the gap before a span's first token is a request's own. Of a request that moved to another
rank no span says that there was nothing between: its iterations count one by one, in the order of their ends.
"""

from __future__ import annotations

from typing import NamedTuple

from batchscope.ledger.analysis.tables import RunTables, Table, import_ibis
from batchscope.recording.rings import Numbering


def inter_token_latencies(tables: RunTables) -> Table:
    """``at``, ``value`` and ``weight``: an emission of k tokens, gap g after the one before, is g / k, k times."""
    return per_token(emission_gaps(tables))


def inter_emission_latencies(tables: RunTables) -> Table:
    """Likewise the gaps themselves, one an emission."""
    return per_emission(emission_gaps(tables))


def emission_gaps(tables: RunTables) -> Table:
    """``at``, ``gap`` before an emission of ``tokens``, ``times``: of how many requests; of the run's stretch."""
    spans = _spans(tables)
    gaps = _shared(tables, spans.of_one_rank).union(_own(tables, spans.of_one_rank))
    if spans.moved is not None:
        gaps = gaps.union(_one_by_one(tables, spans.moved))
    if tables.cut_of is None:
        return gaps
    return gaps.filter((gaps.at > tables.began) & (gaps.at <= tables.ended))


def per_token(gaps: Table) -> Table:
    """Of ``emission_gaps``: ``inter_token_latencies``."""
    return gaps.select(at=gaps.at, value=gaps.gap / gaps.tokens, weight=gaps.tokens * gaps.times)


def per_emission(gaps: Table) -> Table:
    """Of ``emission_gaps``: ``inter_emission_latencies``."""
    return gaps.select(at=gaps.at, value=gaps.gap, weight=gaps.times)


def emitting(spans: Table) -> Table:
    """The spans in which tokens were emitted: not those of prefills that go on, nor evictions."""
    return spans.filter((spans.tokens > 0) & ~spans.evicted)


class _Spans(NamedTuple):
    """Those in which tokens were emitted, of requests of one rank and of those that moved; None: of none did."""

    of_one_rank: Table
    moved: Table | None


def _spans(tables: RunTables) -> _Spans:
    spans = emitting(tables.spans)
    last = spans.first_iteration.max().to_pyarrow().as_py()
    if last is None or last <= Numbering.LINE:  # all of it on one rank: who moved need not be looked for
        return _Spans(spans, None)
    line = ((spans.first_iteration - 1) / Numbering.LINE).floor()
    lines = spans.group_by("request").agg(lines=line.nunique())
    moved = spans.request.isin(lines.filter(lines["lines"] > 1).request)
    return _Spans(spans.filter(~moved), spans.filter(moved))


def _one_by_one(tables: RunTables, spans: Table) -> Table:
    """Of each emission of these requests but their first: the gap before it, and how many tokens it had."""
    ibis = import_ibis()
    each = ibis.range(spans.first_iteration, spans.first_iteration + spans.iterations)
    emissions = spans.select(request=spans.request, iteration=each.unnest(), tokens=spans.tokens.cast("int64"))
    emissions = emissions.inner_join(_ends(tables), "iteration")
    order = ibis.window(group_by="request", order_by=["finished_at", "iteration"])
    found = emissions.mutate(before=emissions.finished_at.lag().over(order))
    found = found.filter(found.before.notnull())
    return found.select(
        at=found.finished_at, gap=found.finished_at - found.before, tokens=found.tokens, times=ibis.literal(1, "int64")
    )


def _shared(tables: RunTables, spans: Table) -> Table:
    """Of each iteration the gap since the one before, and how many requests emitted in both, one token each."""
    ibis = import_ibis()
    several = spans.filter(spans.iterations > 1)
    begin = several.select(iteration=several.first_iteration + 1, change=ibis.literal(1, "int64"))
    end = several.select(iteration=several.first_iteration + several.iterations, change=ibis.literal(-1, "int64"))
    changes = begin.union(end).group_by("iteration").agg(change=lambda t: t.change.sum())
    ends = _ends(tables).select("iteration", "finished_at")
    both = ends.outer_join(changes, "iteration")
    both = both.select(
        iteration=ibis.coalesce(both.iteration, both.iteration_right),
        finished_at=both.finished_at,
        change=ibis.coalesce(both.change, 0),
    )
    order = ibis.window(order_by="iteration")
    found = both.mutate(
        weight=both.change.sum().over(ibis.window(order_by="iteration", preceding=None, following=0)).cast("int64"),
        before=ibis.ifelse(
            both.iteration.lag().over(order) == both.iteration - 1,
            both.finished_at.lag().over(order),
            ibis.null("float64"),
        ),
    )
    found = found.filter((found.weight > 0) & found.finished_at.notnull() & found.before.notnull())
    return found.select(
        at=found.finished_at,
        gap=found.finished_at - found.before,
        tokens=ibis.literal(1, "int64"),
        times=found.weight,
    )


def _own(tables: RunTables, spans: Table) -> Table:
    """Of each span but a request's first: the gap before its first tokens, and how many these are."""
    ibis = import_ibis()
    order = ibis.window(group_by="request", order_by="first_iteration")
    spans = spans.mutate(last_before=(spans.first_iteration + spans.iterations - 1).lag().over(order))
    spans = spans.filter(spans.last_before.notnull()).select("first_iteration", "last_before", "tokens")
    ends = _ends(tables)
    first = ends.select(first_iteration=ends.iteration, at=ends.finished_at)
    before = ends.select(last_before=ends.iteration, before=ends.finished_at)
    found = spans.inner_join(first, "first_iteration").inner_join(before, "last_before")
    return found.select(
        at=found.at, gap=found.at - found.before, tokens=found.tokens.cast("int64"), times=ibis.literal(1, "int64")
    )


def _ends(tables: RunTables) -> Table:
    return tables.run.iterations.select("iteration", "finished_at")
