"""A process that is killed loses what it recorded in the last interval, and the run says so; never a whole write.

A seeded part of the matrix; BATCHSCOPE_CRASH=1 (``make crash``) runs all of it: 200 positions of each file, 50 moments.
"""

from __future__ import annotations

import os
import random
import shutil

import numpy as np
import pytest
from engines_that_die import record_and_kill

from batchscope import CompletionReason, RequestTracker, SchedulerLimits, SchedulerMetricsCollector
from batchscope.ledger import open_run
from batchscope.ledger.document import NAME
from batchscope.ledger.parts import parts
from batchscope.ledger.recording import record
from batchscope.ledger.schema import Table
from batchscope.ledger.staging import read_staged

ALL = bool(os.environ.get("BATCHSCOPE_CRASH"))
POSITIONS = 200 if ALL else 12
MOMENTS = 50 if ALL else 1
INTERVAL = 0.1
LATE = 1.0
"""Seconds that the writer's thread may wait for a core that others use."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours is called any more."""


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A run as a killed process leaves it, with some converted part and staged rest of many writes; and the whole of it."""
    root = tmp_path_factory.mktemp("killed")
    now = [0.0]
    collector = SchedulerMetricsCollector(limits=SchedulerLimits(max_running_requests=4), clock=lambda: now[0])
    recording = record(
        collector, root, instance_id="killed", clock=lambda: now[0], interval=60, part_seconds=8.0, pace=lambda: now[0]
    )  # fmt: skip
    tracker = RequestTracker(collector)
    handles = [tracker.arrived(f"r{slot}", prompt_tokens=slot) for slot in range(4)]
    for step in range(1, 161):
        now[0] += 0.1
        tracker.iteration(handles, [1, 1, 2, 0 if step % 3 else 1])
        if step % 9 == 0:
            tracker.finished(handles[step % 4], CompletionReason.STOP_STRING)
            handles[step % 4] = tracker.arrived(f"s{step}", prompt_tokens=step)
            collector.record_error("late")
        if step % 5 == 0:
            recording._hand_over._hand_over()  # the thread's own look, at an instant of ours
    left = root / "left"
    shutil.copytree(recording.path, left)
    yield left
    recording.close()


def _same_beginning(table, whole):
    assert table.num_rows <= whole.num_rows
    assert table.equals(whole.slice(0, table.num_rows))


def test_all_that_was_written_is_read_from_what_a_kill_leaves(unfinished):
    run = open_run(unfinished)
    assert run.state == "interrupted"
    assert run.iterations().column("iteration").to_pylist() == list(range(1, 161))
    (problem,) = run.problems
    assert "at most the last 60 s" in problem
    kinds = {(part.table, part.staged) for part in parts(unfinished)}
    assert {(Table.ITERATIONS, False), (Table.ITERATIONS, True)} <= kinds


@pytest.mark.parametrize("table", list(Table))
def test_a_file_cut_anywhere_gives_every_whole_write_and_the_rest_is_named(unfinished, tmp_path, table):
    whole = open_run(unfinished)
    generator = random.Random(table.value)
    (staged,) = [part for part in parts(unfinished) if part.staged and part.table is table]
    content = staged.path.read_bytes()
    written = len(whole._contents.table(table))
    for position in sorted(generator.sample(range(len(content)), min(POSITIONS, len(content) - 1))):
        copy = tmp_path / str(position)
        shutil.copytree(unfinished, copy)
        (copy / staged.path.name).write_bytes(content[:position])
        run = open_run(copy)
        table_of_it = {Table.REQUESTS: run.requests, Table.ITERATIONS: run.iterations, Table.EVENTS: run.events}
        if table in table_of_it:
            _same_beginning(table_of_it[table](), getattr(whole, table.value)())
        kept = read_staged(copy / staged.path.name)
        complete = sum(len(batch) for batch in kept.batches)
        before = written - sum(len(batch) for batch in read_staged(staged.path).batches)
        assert len(run._contents.table(table)) == before + complete
        absent = written - before - complete
        said = [problem for problem in run.problems if f"{absent} rows of {table.value} were written" in problem]
        # The last writes of every table but this one say what this one had; its own last rows are in run.json or nowhere.
        assert said or absent == 0 or _told(run, table) <= before + complete
        shutil.rmtree(copy)


def _told(run, table):
    marks = [mark for _, staged in run._contents._staged for mark in staged.marks] + run._contents._marks
    return max([mark.rows.get(table.value, 0) for mark in marks] + [run.document.rows.get(table.value, 0)])


@pytest.mark.parametrize("table", [Table.REQUESTS, Table.ITERATIONS, Table.SPANS])
def test_a_parquet_file_cut_anywhere_is_left_out_and_named(unfinished, tmp_path, table):
    generator = random.Random(table.value)
    converted = next(part for part in parts(unfinished) if not part.staged and part.table is table)
    content = converted.path.read_bytes()
    for position in generator.sample(range(len(content)), POSITIONS):
        copy = tmp_path / str(position)
        shutil.copytree(unfinished, copy)
        (copy / converted.path.name).write_bytes(content[:position])
        run = open_run(copy)
        problems = " ".join(run.problems)
        assert f"{converted.path.name}: left out" in problems
        assert f"rows of {table.value} were written and are missing" in problems
        shutil.rmtree(copy)


def test_an_engine_killed_at_any_moment_loses_no_more_than_the_interval(tmp_path):
    generator = random.Random(11)
    for moment in range(MOMENTS):
        root = tmp_path / str(moment)
        after = generator.uniform(0.2, 1.5)
        steps, finished, began, at = record_and_kill(
            root, after, interval=INTERVAL, part_seconds=generator.choice([0.3, 600])
        )
        run = open_run(root)
        assert run.state == "interrupted"
        assert any("interrupted" in problem for problem in run.problems)
        iterations = run.iterations()
        numbers = iterations.column("iteration").to_numpy()
        np.testing.assert_array_equal(numbers, np.arange(1, len(numbers) + 1))
        ended = [began, *iterations.column("finished_at").to_pylist()]
        assert ended[-1] >= at - INTERVAL - LATE
        assert len(numbers) <= steps + 10 + 1
        requests = run.requests()
        assert len(requests) <= finished + 8 * 11
        assert not [problem for problem in run.problems if "left out" in problem]
        tokens = run.tokens()
        if not any("missing" in p and "rows" in p for p in run.problems):
            emitted = np.bincount(tokens.column("request").to_numpy(), minlength=1)
            known = requests.filter(requests.column("tokens_generated").is_valid())
            for request, count in zip(
                known.column("request").to_pylist(), known.column("tokens_generated").to_pylist(), strict=True
            ):
                assert emitted[request] == count


def test_a_kill_between_conversion_and_the_removal_of_the_stream_counts_nothing_twice(unfinished, tmp_path):
    copy = tmp_path / "both"
    shutil.copytree(unfinished, copy)
    whole = open_run(unfinished)
    (staged,) = [part for part in parts(copy) if part.staged and part.table is Table.ITERATIONS]
    from batchscope.ledger.parts import convert

    content = staged.path.read_bytes()
    convert(copy, staged.number)
    staged.path.write_bytes(content)
    again = open_run(copy)
    assert again.iterations().equals(whole.iterations())
    assert again.tokens().equals(whole.tokens())
    assert again.problems == whole.problems


def test_what_a_kill_in_the_middle_of_a_conversion_leaves_is_no_part(unfinished, tmp_path):
    copy = tmp_path / "tmp"
    shutil.copytree(unfinished, copy)
    (copy / ".spans-000002.tmp").write_bytes(b"PAR1")
    (copy / f".{NAME}.tmp").write_bytes(b"{")
    assert open_run(copy).tokens().equals(open_run(unfinished).tokens())
