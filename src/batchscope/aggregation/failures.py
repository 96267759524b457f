"""Errors by name, in bounded memory: exceptions are never kept, since their tracebacks pin tensors."""

from __future__ import annotations

from collections.abc import Sequence

from batchscope.rows import Floats

OTHER = "other"


class ErrorAggregate:
    """Errors since the last reset. The first ``max_types`` names seen are told apart, the rest are ``other``."""

    def __init__(self, max_types: int) -> None:
        self._max_types = max_types
        self.by_type: dict[str, int] = {}
        self.last_at: float | None = None

    def consume(self, at: Floats, names: Sequence[str]) -> None:
        """Count errors by name."""
        for name in names:
            known = name in self.by_type or len(self.by_type) < self._max_types
            key = name if known else OTHER
            self.by_type[key] = self.by_type.get(key, 0) + 1
        if len(at):
            latest = float(at.max())
            self.last_at = latest if self.last_at is None else max(latest, self.last_at)

    @property
    def total(self) -> int:
        """How many errors were recorded."""
        return sum(self.by_type.values())
