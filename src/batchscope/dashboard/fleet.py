"""Several engines in one table, the worst first: how each stands, and what held its batch over the last ten minutes.

What is told of an engine is of the last minute: differences of counts between two looks, ten seconds apart at least.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from batchscope.dashboard.counts import LIMITERS
from batchscope.dashboard.engines import Engine, Engines, Found, counted
from batchscope.dashboard.figures import WINDOW
from batchscope.statistics.snapshot import MetricsSnapshot
from batchscope.text import readable, shown
from batchscope.views.numbers import MISSING, amount, count, duration, percent
from batchscope.views.samples import MAX, tells
from batchscope.views.verdict import State, verdict
from batchscope.views.words import limiter_name

if TYPE_CHECKING:
    from batchscope.publishing.liveness import Processes

RULE = "worst first: gone, stalled, share of requests that missed their SLO, slot-seconds lost in the last minute"
TEXTS = ("state", "batch", "held", "lost", "waiting", "ttft", "slo")
"""Of each engine, besides its id and its name."""
_SHORT_NAME = 12
_CURSOR = re.compile(r"(\d{1,12})-([0-9a-f]{1,8})")


@runtime_checkable
class EngineReader(Protocol):
    """A source that is the merge of several engines, and tells of each."""

    def snapshots(self) -> Sequence[Found]:
        """Each engine's own snapshot, and whether it lives."""


@runtime_checkable
class LivingSource(Protocol):
    """A source that knows who of its processes lives."""

    def processes(self) -> Processes:
        """Who does, and how many are gone."""


class Known(NamedTuple):
    """What an asker has: strips up to so many ``looks``, and names by their fingerprint."""

    looks: int = 0
    names: str = ""


def known_of(cursor: str) -> Known:
    """What ``cursor`` says; what is none means that the asker has nothing."""
    found = _CURSOR.fullmatch(cursor)
    return Known(int(found[1]), found[2]) if found else Known()


class _Row(NamedTuple):
    """An engine in the table; ``order``: where it stands."""

    id: str
    name: str
    texts: tuple[str, ...]
    order: tuple[Any, ...]
    engine: Engine


def table(engines: Engines, found: Sequence[Found], whole: MetricsSnapshot, gone: int, known: Known) -> bytes:
    """All engines, and all of them together: merged, not averaged. ``gone``: how many of all that ever were.

    Columns in the order of the ids; ``order`` is who is worst. Names come where they differ from the ``known``, and of
    the strips what is new.
    """
    told = engines.told(found)
    living = sum(lives for _, lives in found)
    together = _row(engines.together(), whole, lives=living > 0 or not (found or gone))
    rows = sorted((_row(engine, snapshot, lives=lives) for engine, snapshot, lives in told), key=lambda row: row.id)
    names = [[row.id, row.name] for row in rows]
    fingerprint = f"{zlib.crc32(msgspec.json.encode(names), engines.salt):x}"
    same = known.names == fingerprint and known.looks <= engines.looks
    new = engines.looks - known.looks if same else engines.looks
    document: dict[str, Any] = {
        "cursor": f"{engines.looks}-{fingerprint}",
        "rule": RULE,
        "all": dict(zip(TEXTS, together.texts, strict=True)),
        "order": sorted(range(len(rows)), key=lambda place: rows[place].order),
        "texts": [[row.texts[place] for row in rows] for place in range(len(TEXTS))],
        "new": new,
        "strips": [_strip(row.engine, new) for row in (together, *rows)] if new else [],
        "living": living,
        "gone": max(gone, len(rows) - living),
    }
    if not same:
        document |= {"names": names, "fields": TEXTS}
    return msgspec.json.encode(document)


def _strip(engine: Engine, new: int) -> list[str]:
    """Of the last ``new`` looks: what held it, and how full it was."""
    return ["".join(values)[-new:] for values in (engine.letters, engine.levels)]


def _row(engine: Engine, snapshot: MetricsSnapshot, *, lives: bool) -> _Row:
    last = engine.minute(counted(snapshot))
    judged = verdict(snapshot, gone=not lives)
    rated = last.met + last.missed
    attained = last.met / rated if rated else math.nan
    busy, lost = sum(last.busy), sum(last.lost)
    most = max(range(len(LIMITERS)), key=last.busy.__getitem__)
    texts = (
        str(judged.state),
        percent(last.used / last.slots if last.slots > 0 else math.nan),
        f"{limiter_name(LIMITERS[most])} {percent(last.busy[most] / busy)}" if busy > 0 else MISSING,
        amount(lost) if last.slots > 0 else MISSING,
        count(snapshot.gauges.requests_waiting) if lives else MISSING,
        _ttft(snapshot) if lives else MISSING,
        f"{percent(attained)}, n={count(rated)}" if rated else MISSING,
    )
    ranked = {State.GONE: 0, State.STALLED: 1}.get(judged.state, 2)
    order = (ranked, attained if rated else 1.0, -lost, snapshot.instance_id)
    return _Row(snapshot.instance_id, readable(shown(_name(snapshot), 60)), texts, order, engine)


def _name(snapshot: MetricsSnapshot) -> str:
    """Its labels, and where there are none the instance."""
    labels = ", ".join(f"{name}={value}" for name, value in snapshot.labels.items())
    return labels or snapshot.instance_id[:_SHORT_NAME]


def _ttft(snapshot: MetricsSnapshot) -> str:
    """p95 of the last minute with its n; of too few the maximum."""
    window = snapshot.windowed.get(WINDOW)
    summary = window.summaries.get("time_to_first_token") if window else None
    if summary is None or not summary.count:
        return MISSING
    if tells("p95", summary.count):
        return f"{duration(summary.p95)}, n={count(summary.count)}"
    return f"{MAX} {duration(summary.max)}, n={count(summary.count)}"
