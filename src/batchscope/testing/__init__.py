"""For the tests of an engine's author: a recording double, and checks that what an integration reports fits together.

    recorded = RecordingMetrics()
    run_my_engine(metrics=recorded)          # or RequestTracker(recorded)
    assert_conforms(recorded, drained=True)

``assert_conforms`` takes the double, or the snapshot of a real collector, lists everything that contradicts, and
warns of figures that cannot be had from what was reported.
"""

from batchscope.testing.conformance import (
    ConformanceError,
    ConformanceWarning,
    assert_conforms,
    missing_figures,
    violations,
)
from batchscope.testing.double import BatchRecord, ErrorRecord, RecordingMetrics

__all__ = [
    "BatchRecord",
    "ConformanceError",
    "ConformanceWarning",
    "ErrorRecord",
    "RecordingMetrics",
    "assert_conforms",
    "missing_figures",
    "violations",
]
