"""The variables that ask for a recorded run: a wrong one is told, and none of them fails an engine."""

import os

import pytest

from batchscope import SchedulerMetricsCollector
from batchscope.asked import AskedRecord, read_record, record_as_asked
from batchscope.ledger import open_run
from batchscope.ledger.schema import Level


def read(**variables):
    said = []
    return read_record({f"BATCHSCOPE_{name}": value for name, value in variables.items()}, said.append), said


def test_nothing_set_asks_for_nothing():
    assert read() == read(RECORD=" ") == read(RECORD_LEVEL="lean") == (None, [])


def test_everything_set_is_taken():
    asked, said = read(RECORD="/runs", RECORD_LEVEL="Lean", RECORD_DAYS="7", RECORD_GIB="0.5")
    assert (asked, said) == (AskedRecord("/runs", "lean", 7 * 86_400, 2**29), [])


def test_the_levels_are_the_ledgers():
    assert [read(RECORD="/runs", RECORD_LEVEL=level)[0].level for level in Level] == list(Level)


@pytest.mark.parametrize("name", ["RECORD_DAYS", "RECORD_GIB", "RECORD_LEVEL"])
@pytest.mark.parametrize("value", ["-1", "nan", "full", "1e9", "0"])
def test_a_wrong_value_is_told_and_left_out(name, value):
    asked, (line,) = read(**{"RECORD": "/runs", name: value})
    assert asked == AskedRecord("/runs")
    assert line.startswith(f"BATCHSCOPE_{name} = ")


def test_a_collector_is_recorded_once(tmp_path):
    said = []
    with SchedulerMetricsCollector() as collector:
        asked = AskedRecord(str(tmp_path))
        recording = record_as_asked(collector, asked, said.append, {"cache_config": {"block_size": 16}})
        assert record_as_asked(collector, asked, said.append) is None
        assert collector.recordings == (recording,)
    assert said == []
    assert open_run(tmp_path).document.configuration == {"cache_config": {"block_size": 16}}


def test_where_it_cannot_be_recorded_that_is_told_and_the_engine_goes_on(tmp_path):
    said = []
    (tmp_path / "file").write_text("")
    with SchedulerMetricsCollector() as collector:
        assert record_as_asked(collector, AskedRecord(str(tmp_path / "file")), said.append) is None
        assert record_as_asked(object(), AskedRecord(str(tmp_path)), said.append) is None
    (line,) = said
    assert "not recording a run to BATCHSCOPE_RECORD" in line
    assert os.fspath(tmp_path) in line
