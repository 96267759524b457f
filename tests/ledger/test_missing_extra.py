"""Without pyarrow everything else works, and what records or lists says which extra it needs."""

import subprocess
import sys

PROGRAM = """
import sys
sys.modules["pyarrow"] = None
from batchscope import SchedulerMetricsCollector
from batchscope.cli import run
from batchscope.errors import MissingExtraError

with SchedulerMetricsCollector() as collector:
    try:
        collector.record_to("runs")
    except MissingExtraError as error:
        print(error)
    collector.record_error("late")
    assert collector.get_error_statistics().total_errors == 1
assert run(["runs", "."]) == 2
"""


def test_the_extra_is_named_and_the_collector_goes_on(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    wanted = "A recorded run needs an extra: pip install 'batchscope[ledger]'"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{wanted}\n", f"error: {wanted}\n")
    assert list(tmp_path.iterdir()) == []
