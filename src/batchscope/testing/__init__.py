"""For the tests of an engine's author: a recording double, and checks that what an integration reports fits together.

    recorded = RecordingMetrics()
    run_my_engine(metrics=recorded)          # or RequestTracker(recorded)
    assert_conforms(recorded, drained=True)

``assert_conforms`` takes the double, or the snapshot of a real collector, lists everything that contradicts, and
warns of figures that cannot be had from what was reported. ``RecordingSink`` keeps the rows of a real collector.
"""

from batchscope.testing.conformance import (
    ConformanceError,
    ConformanceWarning,
    assert_conforms,
    missing_figures,
    violations,
)
from batchscope.testing.double import BatchRecord, ErrorRecord, RecordingMetrics
from batchscope.testing.sink import RecordedRun, RecordingSink

__all__ = [
    "BatchRecord",
    "ConformanceError",
    "ConformanceWarning",
    "ErrorRecord",
    "RecordedRun",
    "RecordingMetrics",
    "RecordingSink",
    "assert_conforms",
    "missing_figures",
    "violations",
]
