"""Any history of a fleet: what was published is what is counted, once, by every reader, and never less."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from fleet_doubles import Clock, Engine, reader_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batchscope.publishing import archive, compaction
from batchscope.publishing.compaction import Compactor

WHICH = st.integers(0, 7)
DEAD_AFTER = 10.0


class Crash(Exception):
    """A reader that ends in the middle of its work."""


class Life:
    """One process: its engine, what it counted, and how much of that was published."""

    def __init__(self, directory, rank):
        self.engine = Engine(directory, labels={"model": "m", "rank": rank})
        self.counted = 0
        self.published = 0

    def serve(self, requests):
        self.engine.serve(requests)
        self.counted += requests

    def publish(self):
        self.engine.publish()
        self.published = self.counted


class Fleet(RuleBasedStateMachine):
    """Processes that come, count, publish, reset, fall silent, wake, end; readers that look, tidy and crash."""

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.lives = []
        self.started = 0
        self.labels = None
        self.ended = 0
        self.readers = [self.reader(), self.reader()]
        self.seen = [0, 0]

    def reader(self):
        return reader_of(self.directory, self.clock, dead_after=DEAD_AFTER)

    @property
    def expected(self):
        return self.ended + sum(life.published for life in self.lives)

    def of(self, which):
        return self.lives[which % len(self.lives)]

    @initialize()
    def first(self):
        self.start()

    @precondition(lambda self: len(self.lives) < 4)
    @rule()
    def start(self):
        self.lives.append(Life(self.directory, str(self.started % 3)))
        self.started += 1

    @precondition(lambda self: self.lives)
    @rule(which=WHICH, requests=st.integers(1, 3))
    def serve(self, which, requests):
        self.of(which).serve(requests)

    @precondition(lambda self: self.lives)
    @rule(which=WHICH)
    def publish(self, which):
        self.of(which).publish()

    @precondition(lambda self: self.lives)
    @rule(which=WHICH)
    def reset(self, which):
        """What nobody had looked at is forgotten; what was published is not."""
        life = self.of(which)
        life.engine.collector.reset()
        life.counted = life.published

    @precondition(lambda self: self.lives)
    @rule(which=WHICH)
    def close(self, which):
        life = self.of(which)
        life.engine.publisher.close()
        self.lives.remove(life)
        self.ended += life.counted

    @precondition(lambda self: self.lives)
    @rule(which=WHICH)
    def kill(self, which):
        life = self.of(which)
        self.lives.remove(life)
        self.ended += life.published

    @rule(seconds=st.sampled_from([1.0, 6.0, DEAD_AFTER]))
    def wait(self, seconds):
        self.clock.now += seconds

    @rule(which=st.integers(0, 1))
    def look(self, which):
        found = self.readers[which].get_snapshot()
        assert self.labels is None or found.labels.items() <= self.labels.items()  # labels only ever shrink
        assert found.labels["model"] == "m"
        self.labels = found.labels
        total = found.request_stats.total_requests
        assert total == self.expected
        assert found.totals.generation_tokens_of_iterations == 10 * total
        if total:
            assert found.histograms["total_time"]["default"].count == total
        assert total >= self.seen[which]
        self.seen[which] = total

    @rule(which=st.integers(0, 1), where=st.sampled_from(["claimed", "archived", "deleting"]))
    def crash(self, which, where):
        """A reader that ends after a step of its tidying, or in the middle of deleting."""
        discard = mock.Mock(side_effect=[None, None, Crash])
        patched = {
            "claimed": mock.patch.object(archive, "write", side_effect=Crash),
            "archived": mock.patch.object(Compactor, "delete", side_effect=Crash),
            "deleting": mock.patch.multiple(compaction, discard_folder=discard, discard_file=discard),
        }
        with patched[where], contextlib.suppress(Crash, StopIteration):
            self.readers[which].get_snapshot()
        self.readers[which] = self.reader()

    @precondition(lambda self: self.lives)
    @rule(which=WHICH, reader=st.integers(0, 1), before=st.booleans(), later=st.sampled_from([0.0, DEAD_AFTER]))
    def publish_while_a_reader_tidies(self, which, reader, before, later):
        """A reader's whole work between a publisher's steps: its look for its file, its writing, its deleting."""
        life = self.of(which)
        writer = life.engine.publisher._writer
        write, writes = writer._write, []

        def interrupted(name, data):
            if before and not writes:
                self.clock.now += later
                self.look(reader)
            write(name, data)
            if not before and not writes:
                self.clock.now += later
                total = self.readers[reader].get_snapshot().request_stats.total_requests
                assert self.expected <= total <= self.expected + life.counted - life.published
                self.seen[reader] = total
            writes.append(name)

        with mock.patch.object(writer, "_write", interrupted):
            life.publish()

    @invariant()
    def the_directory_holds_no_more_than_the_living_and_an_archive_or_two(self):
        names = [path.name for path in self.directory.iterdir()]
        assert len([name for name in names if name.endswith(".tmp")]) == 0

    def teardown(self):
        for which in (0, 1):
            self.look(which)
            self.clock.now += DEAD_AFTER
        self.look(0)
        self.look(0)
        assert len(list(self.directory.iterdir())) <= 1
        shutil.rmtree(self.directory)


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("later", [0.0, DEAD_AFTER])
def test_the_machine_itself_runs_every_kind_of_step(later):
    """A fixed history through all rules, so that none is dead code."""
    fleet = Fleet()
    fleet.first()
    for where in ("claimed", "archived", "deleting"):
        fleet.serve(0, 2)
        fleet.publish(0)
        fleet.look(0)
        fleet.wait(DEAD_AFTER)
        fleet.crash(0, where)
        fleet.look(1)
    for before in (True, False):
        fleet.serve(0, 1)
        fleet.publish_while_a_reader_tidies(0, 1, before, later)
    fleet.reset(0)
    fleet.start()
    fleet.close(0)
    fleet.kill(0)
    fleet.teardown()
