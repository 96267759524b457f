"""Spans that go on each other as one: a request that decodes in every iteration is one, over however many drains."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchscope.ledger.schema import SCHEMAS, Table
from batchscope.recording.rings import Numbering
from batchscope.rows import Floats

Ints = npt.NDArray[np.int64]


def joined(spans: pa.Table) -> pa.Table:
    """``spans``, in any order, by request and iteration, those joined of which one goes on the other."""
    spans = spans.combine_chunks()
    if not len(spans):
        return spans
    spans = spans.sort_by([("request", "ascending"), ("first_iteration", "ascending"), ("evicted", "descending")])
    request, first, iterations, tokens = (
        spans.column(name).to_numpy() for name in ("request", "first_iteration", "iterations", "tokens")
    )
    scheduled = pc.fill_null(spans.column("scheduled_tokens"), -1).to_numpy()
    plain = (tokens == 1) & ~spans.column("evicted").to_numpy()
    opens = np.ones(len(spans), dtype=np.bool_)
    opens[1:] = ~(
        plain[1:] & plain[:-1] & (scheduled[1:] == 1)
        & (request[1:] == request[:-1]) & (first[1:] == first[:-1] + iterations[:-1])
    )  # fmt: skip
    begins = np.flatnonzero(opens)
    ends = np.append(begins[1:], len(opens)) - 1
    found = spans.take(pa.array(begins))
    place = SCHEMAS[Table.SPANS].get_field_index("iterations")
    lengths = first[ends] + iterations[ends] - first[begins]
    return found.set_column(place, SCHEMAS[Table.SPANS].field(place), pa.array(lengths))


def token_instants(spans: pa.Table, iterations: pa.Table) -> tuple[Ints, Floats]:
    """Of each emitted token its request and its instant (``nan``: that iteration has no row), by request, in order."""
    request, first, count, tokens = (
        spans.column(name).to_numpy() for name in ("request", "first_iteration", "iterations", "tokens")
    )
    emits = tokens > 0
    request, first, count, tokens = request[emits], first[emits], count[emits], tokens[emits]
    order = np.lexsort((first, request))
    request, first, count, tokens = request[order], first[order], count[order], tokens[order]
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    ordinal = np.repeat(first, count) + within
    at = instants_of(ordinal, iterations)
    each = np.repeat(tokens, count)
    request, at = np.repeat(np.repeat(request, count), each), np.repeat(at, each)
    if len(ordinal) and ordinal.max() >= Numbering.LINE:  # several ranks: their numbers are in no common order
        order = np.lexsort((at, request))
        request, at = request[order], at[order]
    return request, at


def instants_of(ordinals: Ints, iterations: pa.Table) -> Floats:
    """When each of these iterations ended; ``nan`` where it has no row."""
    known = iterations.column("iteration").to_numpy()
    ended = pc.fill_null(iterations.column("finished_at"), np.nan).to_numpy()
    if not len(known):
        return np.full(len(ordinals), np.nan)
    order = np.argsort(known, kind="stable")
    known, ended = known[order], ended[order]
    places = np.searchsorted(known, ordinals)
    places[places == len(known)] = 0
    return np.where(known[places] == ordinals, ended[places], np.nan)
