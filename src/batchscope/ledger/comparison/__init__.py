"""Do runs differ: figure by figure, with statistics that hold for requests, which are not independent.

``compare_runs`` gives a ``Comparison``; docs/how-to/compare-runs.md says how to read it.
"""

from batchscope.ledger.comparison.compare import Settings, compare_runs
from batchscope.ledger.comparison.condition import Condition, Outcome, parse_condition
from batchscope.ledger.comparison.document import Comparison, Difference, Verdict, Window
from batchscope.ledger.comparison.window import Portion

__all__ = [
    "Comparison",
    "Condition",
    "Difference",
    "Outcome",
    "Portion",
    "Settings",
    "Verdict",
    "Window",
    "compare_runs",
    "parse_condition",
]
