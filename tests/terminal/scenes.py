"""Fixed scenes for the tests: the demo's engine and others made from it, at a frozen clock."""

import datetime as dt
from functools import lru_cache

import msgspec

from batchscope.cli.demo_engine import demo_seconds
from batchscope.statistics.summaries import ResourceStatistics
from batchscope.terminal.engine import Engine
from batchscope.terminal.frame import Scene, Viewing
from batchscope.terminal.sources import Look

NOON = dt.datetime(2026, 11, 28, 12, 0, 0, tzinfo=dt.UTC)
END = 100


def text_of(line):
    """A line of styled text without its styles."""
    return "".join(text for text, _ in line)


@lru_cache
def demo():
    """The demo's snapshots of seconds 60 to 100."""
    begun = {"started_at": NOON - dt.timedelta(seconds=END)}
    return [msgspec.structs.replace(snapshot, **begun) for snapshot in demo_seconds(END, first=60)]


def with_gpu(snapshot):
    figures = {"utilization_ratio": 0.87, "memory_used_bytes": 61.2 * 2**30, "memory_total_bytes": 80 * 2**30,
               "power_watts": 412.0, "temperature_celsius": 61.0}  # fmt: skip
    stats = {
        f"gpu.{device}.{name}": ResourceStatistics("gpu", str(device), name, "", value)
        for device in range(2)
        for name, value in figures.items()
    }
    return msgspec.structs.replace(snapshot, resource_stats=stats)


def engine(name="e1", *, snapshots=None, last=END, interval=1.0):
    """An engine that has been watched for as many seconds as there are snapshots."""
    one = Engine(name, f"http://{name}:9464/metrics", interval)
    snapshots = demo() if snapshots is None else snapshots
    for place, snapshot in enumerate(snapshots):
        one.looked(Look(with_gpu(snapshot)), float(last - len(snapshots) + 1 + place))
    return one


def scene(*engines, merged=None, now=END, **fields):
    shown = [one.shown(now) for one in engines]
    whole = None if merged is None else merged.shown(now)
    fields = {"interval": 1.0, "cost": 0.012, "clock": NOON} | fields
    return Scene(shown, whole, shown, whole, **fields)


def fleet(number=30):
    """Engines in every state, of different load; the clock is that of their last looks."""
    engines = []
    for place in range(number):
        name = f"gpu{place}"
        one = engine(name, snapshots=[
            msgspec.structs.replace(snapshot, instance_id=name) for snapshot in demo()[place % 7 : place % 7 + 12]
        ])  # fmt: skip
        engines.append(one)
    engines[3].failed("connection refused")
    engines[5].failed("no complete answer within 2 s", late=True)
    never = Engine("gpu-never", "http://gpu-never:9464/metrics", 1.0)
    never.failed("connection refused")
    return [*engines, never]


def merged_of(engines):
    """All of them as one row."""
    whole = Engine("all engines", "all engines", 1.0)
    snapshots = [one.last.snapshot for one in engines if one.last is not None]
    whole.looked(Look(msgspec.structs.replace(snapshots[-1], merged_from=["a", "b"])), END)
    return whole


@lru_cache
def scenes():
    """By name: the scene, and what was chosen."""
    live, one = engine(), Viewing(detail=True)
    gone, late, stalled, other = engine(), engine(), engine(), engine()
    gone.failed("connection refused")
    late.failed("no complete answer within 2 s", late=True)
    gauges = msgspec.structs.replace(demo()[-1].gauges, seconds_since_last_iteration=95.0, requests_waiting=7)
    stalled.looked(Look(msgspec.structs.replace(demo()[-1], gauges=gauges, elapsed_seconds=101.0)), END)
    other.looked(Look(msgspec.structs.replace(demo()[0], instance_id="another")), END)
    empty = Engine("e1", "http://e1:9464/metrics", 1.0)
    empty.looked(Look(next(demo_seconds(0))), END)
    down = Engine("e1", "http://e1:9464/metrics", 1.0)
    down.failed("[Errno 111] Connection refused")
    several = fleet()
    frozen = [live.shown(END - 38)]
    return {
        "live": (scene(live), one),
        "starting": (scene(empty), one),
        "stalled": (scene(stalled), one),
        "stale": (scene(late, now=END + 7), one),
        "gone": (scene(gone, now=END + 12), one),
        "restarted": (scene(other), one),
        "down": (scene(down), one),
        "help": (scene(live), one._replace(help=True)),
        "paused": (scene(live)._replace(engines=frozen, paused_at=NOON - dt.timedelta(seconds=38)), one),
        "fleet": (scene(*several, merged=merged_of(several), now=END), Viewing(selected="http://gpu7:9464/metrics")),
        "filter": (scene(*several, merged=merged_of(several)), Viewing(wanted="gpu1", typing=True, sort="waiting")),
    }
