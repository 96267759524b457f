"""What only vLLM's own statistics tell: prefix cache, KV connector, graph padding, NaNs; and who uses which adapter.

All of it comes with the scheduler's statistics or the outputs that every step has; nothing has to be switched on but
``--cudagraph-metrics`` for the padding and ``VLLM_COMPUTE_NANS_IN_LOGITS`` for the NaNs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from batchscope.engines.vllm.facts import Event, Fact
from batchscope.engines.vllm.fields import SCHEDULER
from batchscope.recording.producer import EngineCounts
from batchscope.rows import Floats

DEVICE = "device"
"""vLLM's own word (``CacheHitSource``) for the engine's own cache; a connector's tiers have theirs."""
UNSPECIFIED = "external_unspecified"
OTHER = "other"
_MOST_NAMES = 16
_CONNECTOR, _RUNNING, _WAITING = (
    SCHEDULER.index(name) for name in ("connector_prefix_cache_stats", "running_lora_adapters", "waiting_lora_adapters")
)


class StatisticsCounts:
    """Adds up what the statistics of one front end say, since the last reset; ``by_adapter`` is of the last ones."""

    def __init__(self) -> None:
        self.by_adapter: dict[str, dict[str, int]] = {}
        self.reset()

    def reset(self) -> None:
        """Count anew; who uses which adapter stays."""
        self.total = EngineCounts()

    def add(self, facts: Floats, events: Sequence[Event]) -> None:
        """Count the steps of ``events``, as read into ``facts``."""
        told = {fact: _sum(facts[:, fact]) for fact in _SUMMED}
        hits: Counter[str] = Counter({DEVICE: told[Fact.CACHE_HITS] or 0})
        for place in np.flatnonzero(facts[:, Fact.CONNECTOR_HITS] > 0).tolist():
            statistics = events[place][3] or ()
            hits.update(_by_source(statistics[_CONNECTOR], int(facts[place, Fact.CONNECTOR_HITS])))
        last = next((event[3] for event in reversed(events) if event[3] is not None), None)
        if last is not None:
            self.by_adapter = _adapters(last[_RUNNING], last[_WAITING])
        whole = self.total.plus(
            EngineCounts(
                told[Fact.CACHE_QUERIES],
                {source: tokens for source, tokens in hits.items() if tokens > 0},
                told[Fact.GRAPH_TOKENS],
                told[Fact.GRAPH_PADDING],
                told[Fact.CORRUPTED],
            )
        )
        self.total = whole._replace(prefix_cache_hit_tokens=_bounded(whole.prefix_cache_hit_tokens))


_SUMMED = (Fact.CACHE_QUERIES, Fact.CACHE_HITS, Fact.GRAPH_TOKENS, Fact.GRAPH_PADDING, Fact.CORRUPTED)


def _sum(values: Floats) -> int | None:
    """None where nobody said anything; vLLM says 0 where it does not look (no prefix cache, no search for NaNs)."""
    return int(np.nansum(values)) or None


def _by_source(connector: Any, hits: int) -> dict[str, int]:
    """The connector's hits by tier; without a word on that, or one that does not add up, as unspecified ones."""
    said = getattr(connector, "hits_by_source", None)
    if not isinstance(said, Mapping):
        return {UNSPECIFIED: hits}
    found = {str(getattr(tier, "value", tier)): count for tier, count in said.items() if isinstance(count, int)}
    adds_up = all(count >= 0 for count in found.values()) and sum(found.values()) == hits
    return found if adds_up else {UNSPECIFIED: hits}


def _adapters(running: Any, waiting: Any) -> dict[str, dict[str, int]]:
    told = {"running": running, "waiting": waiting}
    counts: dict[str, dict[str, int]] = {}
    for state, by_name in told.items():
        for name, count in by_name.items() if isinstance(by_name, Mapping) else ():
            if isinstance(count, int) and count > 0:
                counts.setdefault(str(name), {})[state] = count
    if len(counts) <= _MOST_NAMES:
        return counts
    named = dict(sorted(counts.items())[:_MOST_NAMES])
    for name in counts.keys() - named.keys():
        others = named.setdefault(OTHER, {})
        for state, count in counts[name].items():
            others[state] = others.get(state, 0) + count
    return named


def _bounded(tokens: Mapping[str, int]) -> Mapping[str, int]:
    """The first names seen stay; whatever comes after is ``other``."""
    if len(tokens) <= _MOST_NAMES:
        return tokens
    kept = dict(list(tokens.items())[:_MOST_NAMES])
    kept[OTHER] = kept.get(OTHER, 0) + sum(list(tokens.values())[_MOST_NAMES:])
    return kept
