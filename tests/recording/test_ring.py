"""Ring: one writer, one reader, linked blocks; bounded, and what does not fit is counted."""

from __future__ import annotations

import gc
import struct
import threading

import numpy as np
import pytest

from batchscope import SchedulerMetricsCollector
from batchscope.recording.block import Block
from batchscope.recording.ring import Pressure, Ring
from batchscope.recording.rings import GapLog
from batchscope.rows import COLUMNS, GapColumn, RowKind, Rows

WIDTH = len(COLUMNS[RowKind.ERROR])
_pack = struct.Struct("d").pack_into


class Writer:
    """Writes numbers into a ring as producers do."""

    def __init__(self, *, block_rows: int = 4, max_blocks: int = 6, drains: bool = False) -> None:
        self.drained: list[float] = []
        self.relieved = 0
        self.drains = drains
        self.ring = Ring(RowKind.ERROR, block_rows=block_rows, max_blocks=max_blocks, relieve=self.relieve)

    def relieve(self) -> None:
        self.relieved += 1
        if self.drains:
            self.drained += self.read()

    def write(self, value: float) -> bool:
        block = self.ring.block
        row = block.head
        if row == block.size:
            fresh = self.ring.next_block()
            if fresh is None:
                return False
            block, row = fresh, 0
        _pack(block.buffer, row * 8, value)
        block.objects[row] = str(value)
        block.head = row + 1
        return True

    def read(self) -> list[float]:
        return [float(value) for rows in taken(self.ring) for value in rows.values[:, 0]]


def taken(ring: Ring, *, at_once: int = 1000) -> list[Rows]:
    """Everything published, in pieces of ``at_once`` rows, as a drain takes it."""
    unread, found = ring.unread(), []
    while unread is not None and unread.size:
        columns = np.empty((len(COLUMNS[ring.kind]), min(unread.size, at_once)))
        objects = unread.take(columns)
        found.append(Rows(ring.kind, columns.T, objects))
    ring.release()
    return found


def test_a_ring_has_no_memory_before_its_first_record():
    assert Writer().ring.block.size == 0
    assert Writer().read() == []


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11, 12])
def test_rows_come_out_once_in_the_order_they_were_written(count):
    writer = Writer()
    assert all(writer.write(float(value)) for value in range(count))
    assert writer.read() == list(range(count))
    assert writer.read() == []


def test_a_block_that_is_half_written_is_read_on_from_where_the_reader_stopped():
    writer, seen = Writer(), []
    for value in range(10):
        writer.write(float(value))
        if value in (1, 2, 6):
            seen.append(writer.read())
    assert seen == [[0, 1], [2], [3, 4, 5, 6]]
    assert writer.read() == [7, 8, 9]


def test_what_is_read_is_a_copy_with_its_objects_beside():
    writer = Writer()
    writer.write(1.0)
    (rows,) = taken(writer.ring)
    assert rows.kind is RowKind.ERROR
    assert rows.objects == ["1.0"]
    writer.ring.block.values[0, 0] = 9.0
    assert rows.values.tolist() == [[1.0]]
    assert rows.values.shape == (1, WIDTH)


def test_a_ring_that_nobody_drains_is_bounded_and_counts_what_it_drops():
    writer = Writer(block_rows=4, max_blocks=6)
    written = [writer.write(float(value)) for value in range(32)]
    assert written == [True] * 24 + [False] * 8
    assert writer.ring.dropped == 8
    assert writer.relieved > 0
    assert writer.read() == list(range(24))
    assert writer.write(99.0)
    assert writer.read() == [99.0]


def test_a_ring_that_runs_full_drains_itself_and_uses_its_blocks_again():
    writer = Writer(drains=True)
    blocks: set[int] = set()
    for value in range(1000):
        assert writer.write(float(value))
        blocks.add(id(writer.ring.block))
    assert writer.drained + writer.read() == list(range(1000))
    assert writer.ring.dropped == 0
    assert len(blocks) <= 6


def test_a_reader_beside_the_writer_sees_every_row_once_and_in_order():
    writer, total = Writer(block_rows=16, max_blocks=10_000), 60_000
    seen: list[float] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.extend(writer.read())

    reader = threading.Thread(target=read)
    reader.start()
    accepted = [float(value) for value in range(total) if writer.write(float(value))]
    done.set()
    reader.join()
    seen.extend(writer.read())
    assert seen == accepted
    assert writer.ring.dropped == total - len(accepted)


def test_a_block_is_rows_of_float64_over_one_buffer():
    block = Block(3, 2)
    _pack(block.buffer, 8 * 3, 7.0)
    assert block.values[1, 1] == 7.0
    assert block.values.dtype == np.float64


def test_a_gap_log_gives_values_back_by_column_with_their_instants():
    log = GapLog(lambda: None)
    log.append(1.0, GapColumn.INTER_TOKEN_LATENCY, np.array([0.5, 0.25]).tobytes())
    log.append(2.0, GapColumn.INTER_EMISSION_LATENCY, np.array([4.0]).tobytes())
    log.append(3.0, GapColumn.INTER_TOKEN_LATENCY, np.array([0.125]).tobytes())
    token, emission = log.drain()
    assert (token.values.tolist(), token.at.tolist()) == ([0.5, 0.25, 0.125], [1.0, 1.0, 3.0])
    assert (emission.values.tolist(), emission.at.tolist()) == ([4.0], [2.0])
    assert list(log.drain()) == []


def test_a_gap_log_that_nobody_drains_is_bounded_and_counts_what_it_drops():
    log = GapLog(lambda: None)
    for _ in range(5000):
        log.append(0.0, GapColumn.INTER_TOKEN_LATENCY, b"\0" * 8)
    pieces = [len(gaps.values) for gaps in log.drain()]
    assert sum(pieces) + log.tally["dropped"] == 5000
    assert max(pieces) <= 256
    assert log.tally["dropped"] > 0


def test_a_gap_log_gives_a_large_array_back_in_pieces_that_bound_its_memory():
    log = GapLog(lambda: None)
    values = np.arange(400_000.0)
    log.append(7.0, GapColumn.INTER_TOKEN_LATENCY, values.tobytes())
    pieces = list(log.drain())
    assert max(piece.values.nbytes for piece in pieces) <= 1024 * 1024
    assert np.array_equal(np.concatenate([piece.values for piece in pieces]), values)
    assert all((piece.at == 7.0).all() for piece in pieces)


def test_the_rings_of_ended_threads_are_continued_by_new_ones_and_nothing_is_lost():
    collector = SchedulerMetricsCollector()
    for number in range(15):
        thread = threading.Thread(target=collector.record_error, args=(f"e{number % 5}",))
        thread.start()
        thread.join()
        gc.collect()
    assert len(collector._draining.writers.rings) <= 2
    assert collector.get_error_statistics().total_errors == 15


def test_threads_alive_at_once_have_rings_of_their_own():
    collector, ready = SchedulerMetricsCollector(), threading.Barrier(4)

    def record() -> None:
        collector.record_error("e")
        ready.wait(timeout=30)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(collector._draining.writers.rings) == 4
    assert collector.get_error_statistics().total_errors == 4


@pytest.fixture
def pauses(monkeypatch):
    """What a ring asks ``time.sleep`` for, without sleeping."""
    asked = []
    monkeypatch.setattr("batchscope.recording.ring.time.sleep", asked.append)
    return asked


def fill(ring, blocks):
    for _ in range(blocks):
        block = ring.next_block()
        block.head = block.size


def test_a_full_ring_waits_50_ms_once_and_not_again_while_the_drain_is_stuck(pauses):
    ring = Ring(RowKind.ERROR, block_rows=4, max_blocks=3, relieve=lambda: None)
    fill(ring, 3)
    assert ring.next_block() is None
    assert sum(pauses) == pytest.approx(0.05)
    assert ring.next_block() is None
    assert sum(pauses) == pytest.approx(0.05)
    assert ring.dropped == 2


def test_a_ring_that_drops_pauses_half_a_millisecond_each_512_records(pauses):
    ring = Ring(RowKind.ERROR, block_rows=4, max_blocks=3, relieve=lambda: None)
    fill(ring, 3)
    for _ in range(1025):
        ring.next_block()
    assert (ring.dropped, len(pauses)) == (1025, 102)


def test_a_ring_nearly_full_leaves_the_gil_for_a_moment_to_somebody_else_who_drains(pauses):
    ring = Ring(RowKind.ERROR, block_rows=4, max_blocks=10, relieve=lambda: False)
    fill(ring, 8)
    assert pauses == []
    fill(ring, 1)
    assert pauses == [0.0005]


def test_when_one_writer_has_no_room_left_the_others_leave_the_gil_to_the_drain_too(pauses):
    pressure = Pressure()
    full, other = (
        Ring(RowKind.ERROR, block_rows=4, max_blocks=3, relieve=lambda: False, pressure=pressure) for _ in range(2)
    )
    fill(other, 1)
    assert pauses == []
    fill(full, 3)
    assert full.next_block() is None
    pauses.clear()
    fill(other, 1)
    assert pauses == [0.0005]
    taken(full)
    fill(other, 1)
    assert pauses == [0.0005]


def test_rows_taken_in_pieces_are_those_published_before_and_the_rest_stays_for_the_next_drain():
    writer = Writer(max_blocks=20)
    for value in range(18):
        writer.write(float(value))
    unread = writer.ring.unread()
    writer.write(18.0)
    columns = np.empty((WIDTH, 7))
    assert unread.take(columns) == [f"{value}.0" for value in range(7)]
    assert columns[0].tolist() == list(range(7))
    assert (unread.size, unread.instants(5).tolist()) == (11, [7, 8, 9, 10, 11])
    unread.release()
    assert writer.read() == list(range(7, 19))


def test_what_is_skipped_is_gone_and_its_blocks_are_free_again():
    writer = Writer(block_rows=4, max_blocks=6)
    for value in range(24):
        writer.write(float(value))
    writer.ring.unread().skip()
    assert all(writer.write(float(value)) for value in range(20))
    assert writer.read() == list(range(20))


def test_a_block_that_was_read_holds_no_objects():
    writer = Writer()
    for value in range(9):
        writer.write(float(value))
    first = writer.ring._first.next
    writer.read()
    assert first.objects == [None] * 4


def test_a_full_ring_goes_on_as_soon_as_the_drain_has_moved_and_is_patient_again(pauses):
    drained = []

    def relieve():
        if len(pauses) >= 3:  # somebody else drains until the third pause
            drained.extend(taken(ring))

    ring = Ring(RowKind.ERROR, block_rows=4, max_blocks=4, relieve=relieve)
    fill(ring, 4)
    assert ring.next_block() is not None
    assert (len(pauses), ring.dropped, sum(len(rows.values) for rows in drained)) == (3, 0, 16)
