"""A trace, decoded by Perfetto's own classes: slices nest, lanes do not overlap, counters are the ledger's."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from heard_tables import HeardRun
from hypothesis import given, settings
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos
from planted_engine import Scripted, simulated
from random_histories import random_run

from batchscope import BatchLimiter
from batchscope.ledger import chrome_trace, perfetto
from batchscope.ledger.instants import began_at
from batchscope.ledger.trace import COUNTERS, Trace, Window, trace
from batchscope.simulator import RequestSpec

NANOSECOND = 1e-9


class Decoded:
    """The packets, put together as a viewer does."""

    def __init__(self, drawn: Trace) -> None:
        document = protos.Trace()
        content = b"".join(perfetto.encode(drawn))
        document.ParseFromString(content)
        assert document.SerializeToString() == content, "not as the protobuf runtime writes it"
        self.size = len(zlib.compress(content, 6))
        self.paths: dict[int, tuple[str, ...]] = {}
        self.slices: list[tuple[tuple[str, ...], int, int, str, int]] = []  # path, begin, end, name, depth
        self.counts: dict[tuple[str, ...], list[tuple[int, float]]] = defaultdict(list)
        names: dict[int, str] = {}
        stacks: dict[int, list[tuple[int, str]]] = defaultdict(list)
        before = 0
        for packet in document.packet:
            names |= {one.iid: one.name for one in packet.interned_data.event_names}
            if packet.HasField("track_descriptor"):
                track = packet.track_descriptor
                self.paths[track.uuid] = (*self.paths.get(track.parent_uuid, ()), track.name)
            if not packet.HasField("track_event"):
                continue
            event = packet.track_event
            assert packet.timestamp >= before, "events are in the order of time"
            before = packet.timestamp
            path = self.paths[event.track_uuid]
            if event.type == event.TYPE_SLICE_BEGIN:
                stacks[event.track_uuid].append((packet.timestamp, names[event.name_iid]))
            elif event.type == event.TYPE_SLICE_END:
                begin, name = stacks[event.track_uuid].pop()
                assert packet.timestamp > begin
                self.slices.append((path, begin, packet.timestamp, name, len(stacks[event.track_uuid])))
            else:
                value = event.counter_value if event.HasField("counter_value") else event.double_counter_value
                self.counts[path].append((packet.timestamp, value))
        assert not any(stacks.values()), "every slice ends"

    def of(self, *path: str, depth: int | None = None) -> list[tuple[int, int, str]]:
        """Slices of the track with this path, or of all below it."""
        return sorted(
            (begin, end, name) for where, begin, end, name, deep in self.slices
            if where[: len(path)] == path and depth in {None, deep}
        )  # fmt: skip


def ns(seconds: float) -> int:
    return round(seconds / NANOSECOND)


def origin(run: HeardRun) -> float:
    return began_at(run.headers[0])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((1, 2)))
def test_slices_nest_lanes_do_not_overlap_and_requests_are_where_they_were(seed, ranks):
    run = HeardRun(random_run(seed, 50, ranks=ranks))
    if not len(run.requests()):
        return
    decoded = Decoded(trace(run))
    began = origin(run)
    expected = sorted(
        (ns(row["arrived_at"] - began), ns(row["finished_at"] - began), row["request_id"])
        for row in run.requests().to_pylist() if row["finished_at"] > row["arrived_at"]
    )  # fmt: skip
    assert decoded.of("requests", depth=0) == expected
    lanes = {path for path, *_ in decoded.slices if path[0] == "requests"}
    for lane in lanes:
        ends = 0
        for begin, end, _ in decoded.of(*lane, depth=0):
            assert begin >= ends
            ends = end
    assert max((deep for *_, deep in decoded.slices), default=0) <= 1
    for rank in range(ranks):
        ends = 0
        for begin, end, _ in decoded.of(f"rank {rank}", "iterations"):
            assert begin >= ends
            ends = end


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((1, 2)))
def test_counters_are_the_ledgers_at_every_iterations_start(seed, ranks):
    run = HeardRun(random_run(seed, 40, ranks=ranks))
    decoded = Decoded(trace(run))
    began = origin(run)
    for name, column in COUNTERS.items():
        told: dict[int, dict[int, float]] = defaultdict(dict)
        for row in sorted(run.iterations().to_pylist(), key=lambda row: row["iteration"]):
            if row[column] is not None:
                told[int(row["rank"])][ns(row["started_at"] - began)] = row[column]
        for rank, values in told.items():
            steps = dict(decoded.counts[f"rank {rank}", name])
            held = None
            for at in sorted(values):
                held = steps.get(at, held)
                assert held == values[at]
            assert set(steps) <= set(values)


def test_a_requests_phases_and_the_limiters_are_slices_with_their_names():
    engine = Scripted()
    engine.arrive("a", "b")
    engine.step("a", prefill={"a": 100}, limiter=BatchLimiter.TOKEN_BUDGET)
    engine.step("a", "b", prefill={"b": 100})
    engine.step("a", evict=["b"], limiter=BatchLimiter.KV_CACHE)
    engine.step("a", limiter=BatchLimiter.KV_CACHE)
    engine.step("a", "b", prefill={"b": 101})
    engine.step("a", "b")
    engine.finish("a", "b")
    decoded = Decoded(trace(engine.run()))
    ms = 1_000_000
    (lane,) = {path for path, *_, name, _ in decoded.slices if name == "b"}
    assert decoded.of(*lane, depth=1) == [
        (0, 20 * ms, "queued"), (20 * ms, 40 * ms, "prefill"), (40 * ms, 60 * ms, "preempted"),
        (60 * ms, ns(0.0801), "computed again"), (ns(0.0801), ns(0.0901), "decode"),
    ]  # fmt: skip
    assert [name for _, _, name in decoded.of("rank 0", "held by")] == [
        "token_budget", "demand", "kv_cache", "demand",
    ]  # fmt: skip
    assert [name for _, _, name in decoded.of("rank 0", "iterations")] == [
        "prefill", "prefill and decode", "decode", "decode", "prefill and decode", "decode",
    ]  # fmt: skip


def workload(count: int) -> list[RequestSpec]:
    return [RequestSpec(f"chat-{one}", one * 0.2, 200 + 37 * (one % 11), 20 + one % 50) for one in range(count)]


def test_an_event_takes_at_most_12_bytes_compressed():
    drawn = trace(simulated(workload(300)))
    assert drawn.events > 9_000
    assert Decoded(drawn).size <= 12 * drawn.events


def test_a_window_has_what_lies_in_it_cut_at_its_edges():
    run = simulated(workload(100))
    whole, part = Decoded(trace(run)), Decoded(trace(run, Window(begin=5.0, end=6.5)))
    low, high = ns(5.0), ns(6.5)
    expected = sorted(
        (max(begin, low), min(end, high), name) for _, begin, end, name, _ in whole.slices
        if min(end, high) > max(begin, low) and name.startswith("chat")
    )  # fmt: skip
    assert part.of("requests", depth=0) == expected
    assert all(low <= at < high for values in part.counts.values() for at, _ in values)


def test_of_too_many_events_the_first_are_written_and_the_rest_is_named():
    run = simulated(workload(100))
    drawn = trace(run, Window(max_events=2000))
    assert 1900 < drawn.events <= 2000
    (told,) = drawn.left_out
    assert "at most 2,000 are written" in told
    assert "--from" in told
    Decoded(drawn)
    assert trace(run).left_out == ()


def test_only_the_requests_that_are_asked_for_are_drawn_by_id_or_number():
    drawn = trace(simulated(workload(100)), Window(requests=frozenset({"chat-7", "#12"})))
    decoded = Decoded(drawn)
    assert [name for _, _, name in decoded.of("requests", depth=0)] == ["chat-7", "chat-11"]
    assert drawn.drawn_requests == 2
    assert decoded.of("rank 0", "iterations")[0][1] > decoded.of("requests", depth=0)[0][0]


def test_a_run_of_durations_alone_is_drawn_as_one_of_instants():
    run = simulated(workload(20))
    run._spans = run.spans().slice(0, 0)
    table = run.requests()
    by_instants = trace(run)
    for name in ("arrived_at", "first_scheduled_at", "first_token_at", "last_token_at"):
        table = table.set_column(table.schema.get_field_index(name), name, pa.nulls(len(table), pa.float64()))
    run._requests = table
    by_durations = trace(run)
    assert by_durations.drawn_requests == by_instants.drawn_requests == 20
    for one in ("begin", "end"):
        apart = np.sort(getattr(by_durations.slices, one)) - np.sort(getattr(by_instants.slices, one))
        assert np.abs(apart).max() <= 10  # nanoseconds


def test_a_run_without_spans_is_drawn_by_instants_and_says_so():
    run = simulated(workload(20))
    run._spans = run.spans().slice(0, 0)
    drawn = trace(run)
    assert "not recorded: spans" in drawn.left_out[0]
    names = {name for *_, name, depth in Decoded(drawn).slices if depth}
    assert names == {"queued", "prefill", "decode"}


def test_chromes_json_tells_the_same_with_colours_for_limiters_and_phases():
    drawn = trace(HeardRun(random_run(4, 40)))
    events = json.loads(b"".join(chrome_trace.encode(drawn)))["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    told = sorted((round(one["ts"] * 1e3), round((one["ts"] + one["dur"]) * 1e3), one["name"]) for one in slices)
    assert told == sorted((begin, end, name) for _, begin, end, name, _ in Decoded(drawn).slices)
    assert len([event for event in events if event["ph"] == "C"]) == len(drawn.counts.at)
    assert {one["cname"] for one in slices if one["name"] == "kv_cache"} == {"terrible"}


@pytest.mark.parametrize("name", ["\x1b[2Jgone", "a\nb", "x" * 500, "\u202eright", "demand"])
def test_an_id_is_written_as_it_can_be_shown(name):
    engine = Scripted()
    engine.arrive(name)
    engine.step(name, prefill={name: 8})
    engine.finish(name)
    run = engine.run()
    (_, _, told), *_ = Decoded(trace(run)).of("requests", depth=0)
    assert told.isprintable()
    assert len(told) <= 200
    assert json.loads(b"".join(chrome_trace.encode(trace(run))))
