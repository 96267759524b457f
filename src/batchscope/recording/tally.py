"""Where ``reasons`` was: for its last importers."""

from __future__ import annotations

from batchscope.reasons import DROPPED, RejectReason, Tally

WRONG_TYPE = RejectReason.WRONG_TYPE

__all__ = ["DROPPED", "WRONG_TYPE", "Tally"]
