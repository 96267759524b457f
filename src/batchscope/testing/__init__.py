"""For the tests of an engine's author: a recording double, and checks that what an integration reports fits together.

    recorded = RecordingMetrics()
    run_my_engine(metrics=recorded)          # or RequestTracker(recorded)
    assert_conforms(recorded, drained=True)

``assert_conforms`` takes the double, or the snapshot of a real collector, and lists everything that contradicts.
"""

from batchscope.testing.conformance import ConformanceError, assert_conforms, violations
from batchscope.testing.double import BatchRecord, ErrorRecord, RecordingMetrics

__all__ = ["BatchRecord", "ConformanceError", "ErrorRecord", "RecordingMetrics", "assert_conforms", "violations"]
