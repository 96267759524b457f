"""Checks that are a line each, and go on after one that does not hold."""

from __future__ import annotations

from typing import Any


class Checks:
    """Counts what does not hold; ``of`` stands before each line."""

    def __init__(self, of: str = "vllm") -> None:
        self.failures = 0
        self._of = of

    def equal(self, what: str, ours: Any, expected: Any) -> None:
        """Both are the same."""
        self.holds(what, f"{ours}" if ours == expected else f"{ours}, expected {expected}", ours == expected)

    def holds(self, what: str, detail: str, good: bool) -> None:
        """One line."""
        self.failures += not good
        print(f"{'ok ' if good else 'NOT'} {self._of}: {what}: {detail}", flush=True)
